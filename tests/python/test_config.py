from __future__ import annotations

import ctypes
import dataclasses
import math
import pickle
import re
from pathlib import Path
from typing import Any

import lil
import pytest
from lil import (
    H2O,
    RKV,
    TOVA,
    ConfigError,
    ConfigTypeError,
    Guardian,
    InfLLM,
    LessIsMore,
    Quest,
    RaaS,
    Sink,
    TidalDecode,
    _native,
)
from lil._guardian import RULES
from lil._notation import resolve_guardian, resolve_sparse, split_list, written
from lil.methods import FUSED_DENSE_AUTO, METHODS, Evict, Method, Select
from lil.methods._base import smallest_budget
from lil.methods.dense import Dense, Probe
from lil.server import server_keywords

EVICT = [method for method in METHODS.values() if issubclass(method, Evict)]
SELECT = [method for method in METHODS.values() if issubclass(method, Select)]


def test_all_is_there() -> None:
    assert len(set(lil.__all__)) == len(lil.__all__)
    for name in lil.__all__:
        assert hasattr(lil, name), name


def test_one_exception_tree() -> None:
    errors = [getattr(lil, name) for name in lil.__all__ if name.endswith("Error")]
    assert errors
    assert all(issubclass(error, lil.LilError) for error in errors)
    assert issubclass(ConfigError, ValueError)
    assert issubclass(ConfigTypeError, TypeError)


def test_every_method_is_known() -> None:
    names = [_native.lib.lil_sparse_get_name(code) for code in range(1, 64)]
    known = [name.decode() for name in names if name is not None]
    assert {*METHODS, "dense", "probe"} == set(known)
    assert _native.lib.lil_sparse_get_name(0) is None
    for method in (*METHODS.values(), Dense, Probe):
        assert _native.lib.lil_sparse_get_name(method.code()).decode() == method.name
        assert _native.lib.lil_sparse_evicts(method.code()) == issubclass(method, Evict)
    with pytest.raises(ConfigError, match="no method 'none'"):
        type("None_", (Evict,), {"name": "none"}).code()
    for method in METHODS.values():
        assert issubclass(method, Evict) != issubclass(method, Select)
        assert method.__name__ in lil.__all__
        assert "arxiv.org/abs/" in (method.__doc__ or ""), method


@pytest.mark.parametrize("method", [*EVICT, *SELECT])
def test_defaults(method: type) -> None:
    config = method()
    assert (config.budget, config.form) == (1024, "auto")
    assert getattr(config, "capacity", None) is None
    assert getattr(config, "min_ctx", 0) == 0
    assert pickle.loads(pickle.dumps(config)) == config
    assert hash(config) == hash(method())
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.budget = 7


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Sink(budget=0), ["budget=0", "at least 1"]),
        (lambda: Sink(budget=-5), ["budget=-5", "at least 1"]),
        (lambda: Sink(budget=4), ["budget=4", "n_sink + 1 = 5"]),
        (lambda: Sink(budget=2**31), ["at most 2147483647"]),
        (lambda: Sink(n_sink=-1), ["n_sink=-1", "at least 0"]),
        (lambda: Sink(positions="relative"), ["'relative'", "'absolute', 'cache'"]),
        (lambda: Sink(capacity=0), ["capacity=0", "at least 1"]),
        (lambda: Sink(form="fast"), ["'fast'", "'auto', 'portable', 'fused'"]),
        (lambda: H2O(budget=1), ["budget=1", "at least 2"]),
        (lambda: H2O(recent=0), ["recent=0", "at least 1"]),
        (lambda: H2O(budget=8, recent=8), ["recent=8", "less than budget=8"]),
        (lambda: H2O(prompt_scores="all"), ["'all'", "'exact', 'window'"]),
        (lambda: TOVA(budget=1), ["budget=1", "at least 2"]),
        (lambda: TOVA(capacity=-1), ["capacity=-1", "at least 1"]),
        (lambda: RKV(budget=136), ["budget=136", "buffer + observed + 1 = 137"]),
        (lambda: RKV(buffer=0), ["buffer=0", "at least 1"]),
        (lambda: RKV(observed=0), ["observed=0", "at least 1"]),
        (lambda: RKV(lam=1.5), ["lam=1.5", "at most 1"]),
        (lambda: RKV(lam=-0.1), ["lam=-0.1", "at least 0"]),
        (lambda: RKV(threshold=2), ["threshold=2", "at most 1"]),
        (lambda: Quest(budget=15), ["budget=15", "at least 16", "one page"]),
        (lambda: Quest(budget=31, first_page=True), ["budget=31", "at least 32", "page 0"]),
        (lambda: Quest(min_ctx=-1), ["min_ctx=-1", "at least 0"]),
        (lambda: Quest(min_ctx="often"), ["min_ctx='often'", '"auto"']),
        (lambda: InfLLM(budget=36), ["budget=36", "at least 37", "n_init=4", "one block of 8"]),
        (lambda: InfLLM(budget=64, block=16), ["budget=64", "at least 69"]),
        (lambda: InfLLM(block=0), ["block=0", "at least 1"]),
        (lambda: InfLLM(block=512), ["block=512", "at most 256"]),
        (lambda: InfLLM(n_init=-1), ["n_init=-1", "at least 0"]),
        (lambda: InfLLM(n_repr=0), ["n_repr=0", "at least 1"]),
        (lambda: InfLLM(n_repr=17), ["n_repr=17", "at most the tokens of a block, 16"]),
        (lambda: InfLLM(budget=64, n_repr=9), ["n_repr=9", "block, 8"]),
        (lambda: InfLLM(positions="cache"), ["'cache'", "'absolute', 'clipped'"]),
        (lambda: InfLLM(positions="clipped", min_ctx=4096), ["min_ctx=4096", "at most budget=1024"]),
        (lambda: InfLLM(positions="clipped", form="fused"), ["clipped", "portable"]),
        (lambda: TidalDecode(budget=1), ["budget=1", "at least 2"]),
        (lambda: TidalDecode(reselect=0), ["reselect=0", "at least 1", "layer 0 is the first"]),
        (lambda: TidalDecode(reselect=2, dense_layers=2), ["reselect=2", "at least 3", "layer 2 is the first"]),
        (lambda: Quest(dense_layers=-1), ["dense_layers=-1", "at least 0"]),
        (lambda: TidalDecode(reselect="best"), ["reselect='best'", '"auto"']),
        (lambda: LessIsMore(budget=5), ["budget=5", "at least 6", "n_sink=4"]),
        (lambda: LessIsMore(budget=100, ratio=0.005), ["budget=100", "at least 200"]),
        (lambda: LessIsMore(budget=64, n_sink=48), ["budget=64", "at least 65"]),
        (lambda: LessIsMore(ratio=0), ["ratio=0", "above 0 and below 1"]),
        (lambda: LessIsMore(ratio=1), ["ratio=1", "above 0 and below 1"]),
        (lambda: LessIsMore(ratio=1.5), ["ratio=1.5", "at most 1"]),
        (lambda: LessIsMore(reselect=0), ["reselect=0", "at least 1"]),
        (lambda: RaaS(budget=15), ["budget=15", "at least 16"]),
        (lambda: RaaS(ratio=0), ["ratio=0", "above 0"]),
        (lambda: RaaS(ratio=1.01), ["ratio=1.01", "at most 1"]),
        (lambda: RaaS(form="portable"), ["portable", "fused"]),
        (lambda: Guardian(every=0), ["every=0", "at least 1"]),
        (lambda: Guardian(patience=0), ["patience=0", "at least 1"]),
        (lambda: Guardian(threshold=-1), ["threshold=-1", "at least 0"]),
        (lambda: Guardian(threshold=math.nan), ["threshold=nan", "finite"]),
        (lambda: Guardian(action="halt"), ["'halt'", "'stop', 'close_think', 'flag'"]),
        (lambda: Guardian(rule="zlib"), ["'zlib'", "'paper', 'text'"]),
        (lambda: Guardian(action="close_think", think_end=""), ["think_end=''"]),
        (lambda: Guardian(action="close_think", think_end="a\0b"), ["zero byte"]),
        (lambda: Guardian(think_end="</think>"), ["no effect", "close_think"]),
        (lambda: resolve_sparse("snapkv"), ["'snapkv'", *METHODS]),
        (lambda: resolve_sparse("qest"), ["'qest' is no method", "did you mean quest"]),
        (lambda: resolve_sparse("quest:budgte=5"), ["'budgte'", "no option of quest", "did you mean budget"]),
        (lambda: resolve_sparse("quest:budget=many"), ["budget='many'", "whole number"]),
        (lambda: resolve_sparse("probe"), ["probe", "calibrate"]),
        (lambda: resolve_sparse("a\0b"), ["zero byte"]),
        (lambda: resolve_guardian("yes"), ["'yes'", "on", "off", "every=..."]),
        (lambda: resolve_guardian("every=0"), ["every='0'", "at least 1"]),
        (lambda: resolve_guardian("action=halt"), ["action='halt'", "stop, close_think, flag and widen"]),
        (lambda: Guardian(message="Well."), ["message='Well.'", "no effect", "close_think"]),
        (lambda: Guardian(action="close_think", message=""), ["message=''"]),
        (lambda: Guardian(action="widen", grace=3), ["grace=3", "no effect", "'widen'"]),
        (lambda: Guardian(action="close_think", grace=-1), ["grace=-1", "at least 0"]),
        (lambda: Guardian(action="widen", widen=1), ["widen=1", "at least 2", "None"]),
        (lambda: Guardian(rewind=True), ["rewind=True", "no effect", "widen"]),
        (lambda: Guardian(widen=3), ["widen=3", "no effect"]),
        (lambda: Guardian(action=()), ["action=()", "at least one"]),
        (lambda: Guardian(action=("widen", "halt")), ["'halt'", "'widen'"]),
        (lambda: Guardian(finish_reason="loop"), ["finish_reason='loop'", "'guardian'"]),
    ],
)
def test_out_of_range(make: Any, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Sink(budget=True), ["budget=True", "bool"]),
        (lambda: Sink(budget="1024"), ["budget='1024'", "str", "int"]),
        (lambda: Sink(budget=10.5), ["budget=10.5", "float"]),
        (lambda: Sink(budget=None), ["budget=None"]),
        (lambda: Sink(positions=1), ["positions=1", "int"]),
        (lambda: H2O(recent=2.0), ["recent=2.0"]),
        (lambda: TOVA(capacity="all"), ["capacity='all'", "str"]),
        (lambda: RKV(lam="high"), ["lam='high'", "str"]),
        (lambda: RKV(buffer=None), ["buffer=None"]),
        (lambda: Quest(first_page=1), ["first_page=1", "True or False"]),
        (lambda: Quest(min_ctx=1.5), ["min_ctx=1.5"]),
        (lambda: InfLLM(n_init=True), ["n_init=True", "bool"]),
        (lambda: InfLLM(positions=None), ["positions=None"]),
        (lambda: TidalDecode(reselect=None), ["reselect=None", "int"]),
        (lambda: LessIsMore(ratio=True), ["ratio=True"]),
        (lambda: RaaS(ratio=None), ["ratio=None"]),
        (lambda: Guardian(every="often"), ["every='often'"]),
        (lambda: Guardian(threshold="20"), ["threshold='20'"]),
        (lambda: Guardian(action=None), ["action=None"]),
        (lambda: Guardian(rule=None), ["rule=None"]),
        (lambda: Guardian(action="close_think", think_end=b"x"), ["think_end=b'x'", "bytes"]),
        (lambda: Guardian(action=("widen", None)), ["action=None"]),
        (lambda: Guardian(action="close_think", message=3), ["message=3", "int"]),
        (lambda: Guardian(action="close_think", grace=1.5), ["grace=1.5"]),
        (lambda: Guardian(action="widen", rewind=1), ["rewind=1", "True or False"]),
        (lambda: Guardian(on_alarm="stop"), ["on_alarm='stop'", "Alarm"]),
        (lambda: resolve_sparse(3), ["sparse=3", "int"]),
        (lambda: resolve_sparse(True), ["sparse=True"]),
        (lambda: resolve_sparse(b"quest"), ["sparse=b'quest'", "bytes"]),
        (lambda: resolve_sparse(Sink), ["Sink()"]),
        (lambda: resolve_sparse(Quest), ["Quest()"]),
        (lambda: lil.Llama("x.gguf", fused_dense=1), ["fused_dense=1", "True or False"]),
        (lambda: resolve_guardian(1), ["guardian=1"]),
        (lambda: resolve_guardian(Guardian), ["Guardian"]),
    ],
)
def test_wrong_type(make: Any, words: list[str]) -> None:
    with pytest.raises(ConfigTypeError) as caught:
        make()
    for word in words:
        assert word in str(caught.value)


def test_numbers_are_normalised() -> None:
    numpy = pytest.importorskip("numpy")
    config = Sink(budget=numpy.int32(64))
    assert config.budget == 64
    assert type(config.budget) is int
    assert type(Guardian(threshold=3).threshold) is float
    assert Guardian(action=["widen", "stop"]).actions == ("widen", "stop")  # type: ignore[arg-type]
    assert Guardian(action=("stop",)) == Guardian()


def test_resolve() -> None:
    assert resolve_sparse(None) == resolve_sparse(False) == (None, None)
    for name, method in METHODS.items():
        assert resolve_sparse(name) == (method(), None)
        assert resolve_sparse(method(budget=512)) == (method(budget=512), None)
    assert resolve_guardian(None) is None
    assert resolve_guardian(False) is None
    assert resolve_guardian(True) == Guardian()


@pytest.mark.parametrize(
    ("text", "method"),
    [
        ("quest:budget=512,first_page=true", Quest(budget=512, first_page=True)),
        (" quest : budget = 512 : first_page=on ", Quest(budget=512, first_page=True)),
        ("quest:min_ctx=auto", Quest(min_ctx="auto")),
        ("quest:min_ctx=4096,dense_layers=0", Quest(min_ctx=4096, dense_layers=0)),
        ("h2o:recent=30,prompt_scores=window", H2O(recent=30, prompt_scores="window")),
        ("h2o:recent=auto,capacity=none", H2O()),
        ("sink:n_sink=2,positions=cache,capacity=4096", Sink(n_sink=2, positions="cache", capacity=4096)),
        ("tova:kept_prompts=0,form=portable", TOVA(kept_prompts=0, form="portable")),
        ("rkv:buffer=64,observed=4,lam=0.3,threshold=1", RKV(buffer=64, observed=4, lam=0.3, threshold=1.0)),
        ("infllm:block=32,n_repr=2,n_init=8", InfLLM(block=32, n_repr=2, n_init=8)),
        ("infllm:positions=clipped", InfLLM(positions="clipped")),
        ("tidal:reselect=13", TidalDecode(reselect=13)),
        ("lessismore:reselect=auto,ratio=0.123456789,n_sink=1", LessIsMore(ratio=0.12345679, n_sink=1)),
        ("raas:ratio=1", RaaS(ratio=1)),
        ("none", None),
        ("off", None),
        ("full", None),
    ],
)
def test_notation_of_sparse(text: str, method: Method | None) -> None:
    assert resolve_sparse(text) == (method, None)


def test_notation_of_dense_steps() -> None:
    assert resolve_sparse("dense") == (None, True)
    assert resolve_sparse("none:fused_dense=false") == (None, False)
    assert resolve_sparse("none:fused_dense=auto") == (None, None)
    assert resolve_sparse("quest:fused_dense=true") == (Quest(), True)


@pytest.mark.parametrize(
    ("text", "guardian"),
    [
        ("on", Guardian()),
        ("guardian", Guardian()),
        ("off", None),
        ("every=250,threshold=20,action=close_think", Guardian(action="close_think")),
        ("guardian:every=7:threshold=0.1", Guardian(every=7, threshold=0.1)),
        ("on,patience=3,action=flag", Guardian(patience=3, action="flag")),
        (
            'action=close_think,think_end="\\n</t: \\"\u00fc\\">,"',
            Guardian(action="close_think", think_end='\n</t: "\u00fc">,'),
        ),
    ],
)
def test_notation_of_guardian(text: str, guardian: Guardian | None) -> None:
    assert resolve_guardian(text) == guardian


def test_lists_of_notations() -> None:
    found = split_list("h2o, quest:budget=512,first_page=true ,sink")
    assert found == ["h2o", "quest:budget=512,first_page=true", "sink"]
    assert split_list("quest:budget=5:min_ctx=2") == ["quest:budget=5:min_ctx=2"]
    assert written("quest:budget=512, min_ctx = auto", "min_ctx") == "auto"
    assert written("quest:budget=512", "min_ctx") is None


def test_environment(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model_path: str) -> None:
    def made(**keywords: Any) -> lil.Llama:
        return lil.Llama(model_path, n_ctx=256, n_batch=64, n_ubatch=64, **keywords)

    monkeypatch.setenv("LIL_SPARSE", "quest:budget=48")
    monkeypatch.setenv("LIL_GUARDIAN", "every=9")
    llm = made()
    err = capsys.readouterr().err
    assert (llm.sparse, llm.guardian) == (Quest(budget=48), Guardian(every=9))
    assert llm.sparse_info().method == "quest"
    assert "LIL_SPARSE=quest:budget=48" in err and "LIL_GUARDIAN=every=9" in err
    llm.close()
    for keywords, sparse in (({"sparse": False}, None), ({"sparse": "h2o:budget=32"}, H2O(budget=32))):
        llm = made(guardian=False, verbose=False, **keywords)
        assert (llm.sparse, llm.guardian) == (sparse, None)
        llm.close()
    llm = made(embedding=True, verbose=False)  # embeddings are no ordinary context
    assert (llm.sparse, llm.guardian) == (None, None)
    llm.close()
    assert "in the environment" not in capsys.readouterr().err

    monkeypatch.setenv("LIL_SPARSE", "qest")
    with pytest.raises(ConfigError, match=r"LIL_SPARSE in the environment: .*did you mean quest"):
        made()


def test_capacity_against_context() -> None:
    Sink(budget=100, capacity=612).check_context(n_ctx=4096, n_ubatch=512)
    Sink(budget=100, capacity=300).check_context(n_ctx=300, n_ubatch=512)
    Sink(budget=1024).check_context(n_ctx=512, n_ubatch=512)
    with pytest.raises(ConfigError, match=r"capacity=611 must be at least budget \+ n_ubatch = 100 \+ 512 = 612"):
        Sink(budget=100, capacity=611).check_context(n_ctx=4096, n_ubatch=512)


def test_native_params() -> None:
    params = Sink(budget=100, n_sink=2, positions="cache", capacity=700, form="fused").native(n_ctx=4096)
    assert (params.method, params.budget, params.capacity, params.n_sink) == (1, 100, 700, 2)
    assert (params.positions, params.form) == (1, 2)
    params = H2O(budget=100, recent=30, prompt_scores="window", capacity=9000).native(n_ctx=4096)
    assert (params.method, params.budget, params.capacity, params.recent, params.prompt_scores) == (2, 100, 0, 30, 1)


def test_native_params_of_select() -> None:
    params = Quest(budget=64, first_page=True, min_ctx=2048).native(n_ctx=4096, fused_dense=True)
    assert (params.method, params.budget, params.first_page, params.min_ctx, params.fused_dense) == (
        3,
        64,
        True,
        2048,
        True,
    )
    params = InfLLM(budget=512, n_init=8, block=32, n_repr=2, positions="clipped").native(n_ctx=4096)
    assert (params.method, params.n_init, params.block, params.n_repr, params.positions) == (4, 8, 32, 2, 2)
    params = TidalDecode(reselect=13).native(n_ctx=4096)
    assert (params.method, params.reselect, params.min_ctx, params.fused_dense) == (5, 13, 0, FUSED_DENSE_AUTO)
    params = LessIsMore(budget=128, n_sink=2, ratio=0.5, min_ctx="auto").native(n_ctx=4096)
    assert (params.method, params.n_sink, params.ratio, params.reselect, params.min_ctx) == (6, 2, 0.5, 0, 0)
    assert RaaS(ratio=0.75).native(n_ctx=4096).ratio == 0.75
    params = RKV(budget=256, buffer=64, observed=4, lam=0.25, threshold=0.75, capacity=999).native(n_ctx=4096)
    assert (params.method, params.buffer, params.n_obs, params.lambda_, params.threshold) == (8, 64, 4, 0.25, 0.75)
    assert params.capacity == 999
    assert TOVA(budget=9).native(n_ctx=4096).method == 7
    assert (Dense().native(n_ctx=4096).method, Dense().native(n_ctx=4096).fused_dense) == (10, True)
    params = Probe(budget=64, n_sink=1, ratio=0.5).native(n_ctx=4096)
    assert (params.method, params.budget, params.n_sink, params.ratio) == (11, 64, 1, 0.5)


def test_smallest_budget() -> None:
    for least in (1, 2, 3, 100, 4097):
        assert smallest_budget(lambda budget, least=least: budget >= least) == least
    # every message's number is right: it fits, and one less does not
    for make, least in ((InfLLM, 37), (LessIsMore, 6), (RKV, 137), (TOVA, 2), (TidalDecode, 2), (Quest, 16)):
        make(budget=least)
        with pytest.raises(ConfigError, match=f"{least}"):
            make(budget=least - 1)


def test_what_is_auto_is_filled_in() -> None:
    method = LessIsMore(min_ctx="auto")
    assert method.uncalibrated == ("reselect", "min_ctx")
    assert method.calibrated({"reselect": 17, "min_ctx": 900}) == LessIsMore(reselect=17, min_ctx=900)
    assert method.calibrated({"min_ctx": 900}) == LessIsMore(min_ctx=900)
    assert method.calibrated({}) == method
    given = LessIsMore(reselect=5)
    assert given.uncalibrated == ()
    assert given.calibrated({"reselect": 17}) == given
    assert Quest(min_ctx="auto").uncalibrated == ("min_ctx",)
    clipped = InfLLM(positions="clipped", min_ctx="auto").calibrated({"min_ctx": 9000})
    assert clipped.min_ctx == clipped.budget


@pytest.mark.parametrize("name", ["embedding", "vocab_only"])
def test_combinations_that_cannot_work(name: str) -> None:
    for keywords in ({"sparse": "quest"}, {"sparse": "tova"}, {"fused_dense": True}):
        with pytest.raises(ConfigError, match=f"cannot work with {name}"):
            lil.Llama("x.gguf", **keywords, **{name: True})


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.takes_drafts])
def test_methods_that_take_no_drafts(name: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot work with draft_model=True.*use Quest, TidalDecode or LessIsMore"):
        lil.Llama("x.gguf", sparse=name, draft_model=True)


def test_server_keywords() -> None:
    def keywords(**settings: Any) -> dict[str, Any]:
        plain = {"sparse": None, "sparse_budget": 512, "sparse_capacity": None, "guardian": None}
        return server_keywords(type("Settings", (), plain | settings))

    assert keywords() == {"sparse": None, "guardian": None}
    assert keywords(sparse="quest", guardian=True) == {"sparse": Quest(budget=512), "guardian": True}
    assert keywords(sparse="h2o", sparse_capacity=2048)["sparse"] == H2O(budget=512, capacity=2048)
    with pytest.raises(ConfigError, match="sparse_capacity=2048 has no meaning with sparse='quest'"):
        keywords(sparse="quest", sparse_capacity=2048)


@pytest.mark.skipif(ctypes.sizeof(ctypes.c_void_p) != 8, reason="sizes of a 64-bit platform")
def test_native_layout() -> None:
    assert ctypes.sizeof(_native.SparseParams) == 92
    assert ctypes.sizeof(_native.SparseInfo) == 104
    assert ctypes.sizeof(_native.MemoryInfo) == 24
    assert ctypes.sizeof(_native.GuardianParams) == 80
    assert ctypes.sizeof(_native.GuardianReport) == 80
    assert ctypes.sizeof(_native.GuardianEvent) == 16
    assert ctypes.sizeof(_native.TextStretch) == 40


def _fields(header: str, struct: str) -> list[tuple[str, str]]:
    """(type, name) of each field of a struct of lil.h."""
    body = re.search(rf"^struct {struct} {{(.*?)^}};", header, re.DOTALL | re.MULTILINE)
    assert body is not None
    code = re.sub(r"//[^\n]*", "", body[1])
    return [(" ".join(kind.split()), name) for kind, name in re.findall(r"([\w\s*]+?)\s*\b(\w+);", code)]


@pytest.mark.parametrize(
    ("struct", "ours"),
    [
        ("lil_sparse_params", _native.SparseParams),
        ("lil_sparse_info", _native.SparseInfo),
        ("lil_memory_info", _native.MemoryInfo),
        ("lil_guardian_params", _native.GuardianParams),
        ("lil_guardian_report", _native.GuardianReport),
        ("lil_guardian_event", _native.GuardianEvent),
        ("lil_text_stretch", _native.TextStretch),
    ],
)
def test_structs_are_the_headers(struct: str, ours: type[ctypes.Structure]) -> None:
    header = (Path(lil.__file__).parent / "include" / "lil.h").read_text()
    types = {
        "int32_t": ctypes.c_int32,
        "uint32_t": ctypes.c_uint32,
        "uint64_t": ctypes.c_uint64,
        "bool": ctypes.c_bool,
        "float": ctypes.c_float,
        "double": ctypes.c_double,
        "const char *": ctypes.c_char_p,
        "const enum lil_guardian_action *": ctypes.POINTER(ctypes.c_int),
    }
    expected = [
        (name, ctypes.c_int if kind.startswith("enum") else types[kind]) for kind, name in _fields(header, struct)
    ]
    assert [(name.rstrip("_"), kind) for name, kind in ours._fields_] == expected


@pytest.mark.parametrize("method", [*EVICT, *SELECT, Dense, Probe])
def test_native_defaults_are_ours(method: type[Method]) -> None:
    native = _native.lib.lil_sparse_default_params(method.code())
    ours = method().native(n_ctx=4096)
    for name, _ in ours._fields_:
        if not (method is Dense and name == "fused_dense"):
            assert getattr(native, name) == getattr(ours, name), name


def test_native_guardian_defaults_are_ours() -> None:
    native = _native.lib.lil_guardian_default_params()
    ours = Guardian()
    assert (native.every, native.threshold, native.patience) == (ours.every, ours.threshold, ours.patience)
    assert (native.action, native.n_then, native.rule) == (0, 0, RULES.index(ours.rule))
    assert (native.grace, native.widen) == (ours.grace, ours.widen)
    assert (native.think_begin, native.think_end, native.message) == (None, None, None)
