"""The command line, what it measures with, and the calibrations it keeps."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lil
import numpy as np
import pytest
from lil import (
    H2O,
    CalibrationWarning,
    ConfigError,
    LessIsMore,
    NativeError,
    Quest,
    Sink,
    TidalDecode,
    _calibration,
)
from lil import eval as measure
from lil.cli import _common as common
from lil.cli import app, main
from lil.cli.calibrate import _propose
from lil.cli.passkey import _earlier
from lil.eval.calibration import candidates, fallback, worth_trying
from lil.methods import METHODS, Method
from typer.testing import CliRunner

WORDS = (Path(lil.__file__).parent / "data" / "calibration.txt").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def calibrations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the user's own."""
    path = tmp_path / "calibrations" / "mine.json"
    monkeypatch.setenv(_calibration.ENV, str(path))
    return path


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text(WORDS, encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def session(model_path: str) -> Iterator[measure.Session]:
    with measure.Session(model_path) as opened:
        yield opened


def run(*args: str) -> Any:
    return CliRunner().invoke(app, list(args))


# help and bad input


COMMANDS = {
    "bench": "MODEL",
    "calibrate": "MODEL",
    "chat": "MODEL",
    "doctor": "MODEL",
    "eval": "MODEL",
    "models": "get",
    "passkey": "MODEL",
    "ppl": "MODEL",
    "replay": "RUN",
    "report": "RUN",
    "run": "PROMPT",
    "serve": "MODEL",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str) -> None:
    assert command in run("--help").stdout
    assert command in run().stdout
    result = run(command, "--help")
    assert result.exit_code == 0
    assert COMMANDS[command] in result.stdout


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (KeyboardInterrupt(), "lil: interrupted\n"),
        (common.Interrupted("3 of 4 are done"), "lil: interrupted; 3 of 4 are done\n"),
    ],
)
def test_interrupted(
    raised: BaseException, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise raised

    monkeypatch.setattr(common, "read_text", interrupted)
    assert main(["ppl", "model.gguf", "book.txt"]) == 130
    assert capsys.readouterr().err == said


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_in_a_finalizer_is_not_lost(interruptible: None) -> None:
    class Finalized:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), common.progress() as update:
        update(0, 2, "")
        Finalized()  # its KeyboardInterrupt goes nowhere
        update(1, 2, "")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    with pytest.raises(KeyboardInterrupt), common.interrupts():
        signal.raise_signal(signal.SIGINT)


def test_version() -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"lil {lil.__version__}\n")


def test_main_returns_the_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert main(["nothing"]) == 2
    assert capsys.readouterr().err == "lil: No such command 'nothing'.\n"


BAD = [
    (["bogus"], ["'bogus'"]),
    (["ppl"], ["MODEL"]),
    (["ppl", "TEXT", "--bogus"], ["--bogus"]),
    (["ppl", "NONE", "TEXT"], ["does not exist", "none.gguf"]),
    (["ppl", "TEXT", "TEXT"], ["not a GGUF file"]),
    (["ppl", "FOLDER", "TEXT"], ["directory"]),
    (["ppl", "NONE", "NONE"], ["FILE", "No such file"]),
    (["ppl", "NONE", "FOLDER"], ["FILE", "directory"]),
    (["ppl", "NONE", "EMPTY"], ["empty"]),
    (["ppl", "NONE", "BYTES"], ["not UTF-8"]),
    (["ppl", "NONE", "TEXT", "--methods", "snapkv"], ["--methods", "'snapkv'", *METHODS]),
    (["ppl", "NONE", "TEXT", "--methods", "quest:page=8"], ["'page'", "no option of quest", "first_page"]),
    (["ppl", "NONE", "TEXT", "--methods", "quest:first_page"], ["'first_page'", "no value"]),
    (["ppl", "NONE", "TEXT", "--methods", "quest:first_page=2"], ["first_page=2"]),
    (["ppl", "NONE", "TEXT", "--budgets", "64,many"], ["--budgets", "'many'"]),
    (["ppl", "NONE", "TEXT", "--budgets", "0"], ["at least 1"]),
    (["ppl", "NONE", "TEXT", "--methods", "quest", "--budgets", "64,8"], ["Quest: budget=8", "at least 16"]),
    (["ppl", "NONE", "TEXT", "--methods", "rkv", "--budgets", "64"], ["RKV: budget=64", "137"]),
    (["ppl", "NONE", "TEXT", "--prompt", "few"], ["--prompt"]),
    (["passkey", "NONE"], ["does not exist"]),
    (["passkey", "NONE", "--context", "4k"], ["--context", "'4k'"]),
    (["passkey", "NONE", "--text", "NONE"], ["--text", "No such file"]),
    (["passkey", "NONE", "--depths", "0"], ["--depths"]),
    (["calibrate", "NONE"], ["does not exist"]),
    (["calibrate", "NONE", "--method", "quest"], ["--method 'quest'", "tidal, lessismore or both"]),
    (["calibrate", "NONE", "--budget", "600"], ["--prompt 512", "600"]),
    (["calibrate", "NONE", "--budget", "4"], ["LessIsMore: budget=4", "at least 6"]),
]
if not lil.llama_cpp.llama_supports_gpu_offload():
    BAD += [
        ([name, "NONE", *text, "--gpu-layers", "-1"], ["--gpu-layers", "-1 is for a GPU"])
        for name, *text in (("ppl", "TEXT"), ("passkey",), ("calibrate",), ("bench",), ("eval",))
    ]


@pytest.mark.parametrize(("args", "words"), BAD, ids=lambda value: " ".join(value))
def test_bad_input_is_one_line_and_status_2(
    args: list[str], words: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00x")
    names = {
        "NONE": tmp_path / "none.gguf",
        "TEXT": text,
        "FOLDER": tmp_path,
        "EMPTY": tmp_path / "empty.txt",
        "BYTES": tmp_path / "bytes.txt",
    }
    assert main([str(names.get(arg, arg)) for arg in args]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("lil: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err


# what the commands share


def test_lists() -> None:
    assert common.numbers("--x", "64, 128,64") == [64, 128]
    first, second = common.choices("--methods", "h2o:recent=8:prompt_scores=window, lessismore:ratio=0.5:reselect=18")
    assert first.make(64) == H2O(budget=64, recent=8, prompt_scores="window")
    assert second.make(128) == LessIsMore(budget=128, ratio=0.5, reselect=18)
    assert second.label == "lessismore:ratio=0.5:reselect=18"
    quest, sink = common.choices("--methods", "quest:first_page=true:min_ctx=auto,sink:capacity=none")
    assert quest.make(64) == Quest(budget=64, first_page=True, min_ctx="auto")
    cases = common.grid([quest, sink], [64, 128])
    assert [(label, method and method.budget) for label, method in cases] == [
        ("full", None),
        ("quest:first_page=true:min_ctx=auto", 64),
        ("quest:first_page=true:min_ctx=auto", 128),
        ("sink:capacity=none", 64),
        ("sink:capacity=none", 128),
    ]


def test_a_title_may_be_wider_than_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    out = common.table(["", "B = 64"])
    out.add_row("full", "1.25")
    title = "A title of many words, which is not broken because the table under it is narrow"
    common.show(common.console(), title, out)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == title
    assert any("full" in line and "1.25" in line for line in lines)


def test_earlier_answers(tmp_path: Path) -> None:
    settings = {"model": "m", "seed": 0}
    path = tmp_path / "out.jsonl"
    assert _earlier(str(path), settings) == {}
    assert _earlier(None, settings) == {}
    record = {"method": "quest 64", "context": 500, "depth": 0.5, "found": True, "settings": settings}
    other = record | {"settings": {"model": "m", "seed": 1}}
    lines = [json.dumps(record), json.dumps(other), "[]", '{"method": "quest 64", "conte']
    path.write_text("\n".join(lines))
    assert _earlier(str(path), settings) == {("quest 64", 500, 0.5): record}
    assert path.read_text().endswith("\n")  # what is appended does not continue the line that was cut short


# losses


def test_losses_of_a_uniform_model() -> None:
    fed: list[list[int]] = []

    def step(tokens: Sequence[int]) -> Any:
        fed.append(list(tokens))
        return np.zeros(100, np.float32)

    ticks: list[None] = []
    losses = measure.token_losses(step, list(range(20)), n_prompt=15, tick=lambda: ticks.append(None))
    assert losses == pytest.approx([math.log(100)] * 5)
    assert measure.perplexity(losses) == pytest.approx(100)
    assert fed == [list(range(15)), [15], [16], [17], [18]]
    assert len(ticks) == 5
    with pytest.raises(ConfigError, match="n_prompt=20"):
        measure.token_losses(step, list(range(20)), n_prompt=20)


def test_token_loss_does_not_overflow() -> None:
    logits = np.array([1e4, -1e4, 1e4], np.float32)
    assert measure.token_loss(logits, 0) == pytest.approx(math.log(2))
    assert measure.token_loss(logits, 1) == pytest.approx(2e4 + math.log(2))


def test_texts() -> None:
    tokens = [1, *range(100, 200)]
    texts = measure.make_texts(tokens, n_prompt=10, n_tokens=5, n_bos=1)
    assert texts.plain == [1, *range(100, 114)]
    assert texts.recall == [1, *range(100, 109), *range(100, 105)]
    assert texts.n_steps == 10
    assert len(measure.recall_text(tokens, n_prompt=10, n_tokens=50)) == 20
    with pytest.raises(ConfigError, match="the text has 101 tokens, fewer than 100 of the prompt and 5"):
        measure.make_texts(tokens, n_prompt=100, n_tokens=5)


def test_the_default_text_is_long_enough() -> None:
    assert len(WORDS.split()) > 1400


# calibration


def test_candidates() -> None:
    n_layer = 6
    mass = np.zeros((2, n_layer, n_layer))
    for text in range(2):
        for c in range(n_layer):
            mass[text, c, c + 1 :] = 0.1 * c + 0.01 * text
    found = candidates(mass.tolist(), 2)
    assert [c.layer for c in found] == [3, 4, 5]
    assert found[0].after == pytest.approx((0.3, 0.31))
    assert math.isnan(found[0].before[0])
    assert found[1].before == pytest.approx((0.2, 0.21))
    assert found[1].score[0] == pytest.approx((0.2 + 1 + 0.4) / 3)
    assert math.isnan(found[2].after[0])
    assert found[2].score[1] == pytest.approx((0.21 + 0.21 + 1) / 3)
    assert fallback(30, 2) == 17
    assert fallback(3, 0) == 2
    assert fallback(8, 6) == 7
    for c, screen in zip(found, (0.1, 0.3, 0.2), strict=True):
        c.screen = screen
    assert [c.layer for c in worth_trying(found, 1, fallback(n_layer, 2))] == [
        3
    ]  # the best, which is the one by formula
    assert [c.layer for c in worth_trying(found, 2, fallback(n_layer, 2))] == [3, 5]
    assert [c.layer for c in worth_trying(found, 3, fallback(n_layer, 2))] == [3, 4, 5]
    found[1].screen = 0.0
    assert [c.layer for c in worth_trying(found, 1, fallback(n_layer, 2))] == [3, 4]


def test_the_smallest_excess_wins() -> None:
    found = candidates(np.zeros((2, 6, 6)).tolist(), 2)
    calibration = measure.Calibration(LessIsMore(budget=64), 6, (3.0, 0.2), found)
    found[0].loss = (3.0, 2.0)
    found[1].loss = (3.1, 0.3)
    assert calibration.excess(found[1]) == pytest.approx(0.2)
    assert calibration.excess(found[2]) == math.inf
    assert calibration.best is found[1]
    calibration.own = [(0.3, 0.9), (0.8, 0.4), (0.6, 0.7), (0.1, 0.1), (0.9, 0.9), (0.9, 0.9)]
    assert calibration.dense_layers == 2  # a later one that is diffuse does not count
    calibration.own = [(0.9, 0.9)] * 6
    assert calibration.dense_layers == 0
    assert calibration.entry["reselect"] == 4
    assert calibration.entry["budget"] == 64


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ([0.9, 0.2, 0.9, 0.9], "None at the start."),
        ([0.2, 0.2, 0.9, 0.9], "dense_layers=2 keeps the first ones dense."),
        ([0.2, 0.2, 0.2, 0.9], "use a larger budget, or Quest"),  # one that chooses and one that follows must be left
    ],
)
def test_calibrate_proposes_no_more_dense_layers_than_there_can_be(own: list[float], said: str) -> None:
    calibration = measure.Calibration(TidalDecode(), 4, (0.1, 0.1), own=[(x, x) for x in own])
    assert said in _propose(calibration)


class _Scripted:
    """A session and its contexts, whose losses are what `loss` says of a method and of whether the text repeats."""

    def __init__(self, n_layer: int, loss: Callable[[Any, bool], float]) -> None:
        self.n_layer, self.loss = n_layer, loss
        self.made: list[Any] = []
        self.prompts: list[Any] = []  # the methods that were given one
        self.loads = True

    def context(self, method: Any, *, n_ctx: int) -> Any:
        self.made.append(method)
        self.method, self.fed = method, []
        return contextlib.nullcontext(self)

    @property
    def n_tokens(self) -> int:
        return len(self.fed)

    def save(self) -> Any:
        return list(self.fed)

    def load(self, saved: Any) -> bool:
        self.fed = list(saved)
        return self.loads

    def info(self) -> Any:
        return types.SimpleNamespace(n_layer=self.n_layer)

    def probed(self, method: type) -> Any:
        mass = np.zeros((self.n_layer, self.n_layer))
        for c in range(self.n_layer):
            mass[c, c + 1 :] = 0.95 if c == 2 else 1 - abs(c - 5) / 30  # layer 5 holds most
        return mass.tolist()

    def eval(self, tokens: Sequence[int]) -> Any:
        if len(tokens) > 1:
            self.prompts.append(self.method)
        self.fed += tokens
        repeats = len(self.fed) > 20 and self.fed[20] == self.fed[0]
        return _spread(self.loss(self.method, repeats))


def _spread(loss: float) -> Any:
    """Logits of 100 tokens, by which every even one has a loss of `loss` and log 50."""
    p = math.exp(-loss) / 50
    return np.log(np.where(np.arange(100) % 2 == 0, p, (1 - 50 * p) / 50 + 1e-12)).astype(np.float32)


def test_calibrate_tries_the_best_and_takes_the_least_excess() -> None:
    def loss(method: Any, repeats: bool) -> float:
        if method is None or isinstance(method, lil.methods.dense.Probe):
            return 0.1
        return 0.1 + (0.1 * abs(method.reselect - 12) if repeats else 0.2 * abs(method.reselect - 11))

    session = _Scripted(16, loss)
    texts = measure.Texts([*range(0, 40, 2), *range(40, 60, 2)], [*range(0, 40, 2), *range(0, 20, 2)], 20)
    seen: list[tuple[int, int, str]] = []

    def progress(*now: Any) -> None:
        seen.append(now)

    methods = [TidalDecode(budget=12), LessIsMore(budget=12, ratio=0.5)]
    found = measure.calibrate(session, texts, methods, screen=4, tries=3, progress=progress)  # type: ignore[arg-type]
    assert [calibration.method for calibration in found] == methods
    for calibration in found:
        # the prompt, which full attention has read, predicts the first token
        screens = [math.log(50) + 0.1 + 0.1 * abs(c - 12) * 3 / 4 for c in range(3, 16)]
        assert [c.screen for c in calibration.candidates] == pytest.approx(screens, abs=1e-3)
        tried = [c.layer for c in calibration.candidates if c.loss is not None]
        assert tried == [fallback(16, 2), 11, 12, 13]
        assert calibration.best.layer == 11
        assert calibration.excess(calibration.best) == pytest.approx(0.1 * 9 / 10, abs=1e-3)
    probes = [method for method in session.made if isinstance(method, lil.methods.dense.Probe)]
    assert probes == [lil.methods.dense.Probe(budget=12, n_sink=4, ratio=0.5)] * 2
    assert session.prompts == [*probes, None]
    assert seen[-1][0] == seen[-1][1] == 20 + 2 * (13 * 4 + 4 * 20)
    assert [done for done, _, _ in seen] == list(range(1, len(seen) + 1))

    with pytest.raises(ConfigError, match="of one budget"):
        measure.calibrate(session, texts, [TidalDecode(budget=8), LessIsMore(budget=16)])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="1 full-attention layers, 0 of them dense"):
        measure.calibrate(_Scripted(1, loss), texts, methods)  # type: ignore[arg-type]
    session.loads = False
    with pytest.raises(NativeError, match=r"tidal: .*state of the prompt"):
        measure.calibrate(session, texts, methods)  # type: ignore[arg-type]


def test_break_even() -> None:
    def timings(*pairs: tuple[float, float]) -> list[measure.Timing]:
        return [measure.Timing(1024 * (i + 1), dense, sparse) for i, (dense, sparse) in enumerate(pairs)]

    assert measure.break_even(timings((1, 2), (2, 2), (4, 2))) == 2048
    assert measure.break_even(timings((3, 2), (2, 3), (4, 2))) == 3072
    assert measure.break_even(timings((3, 2), (4, 2))) == 1024
    assert measure.break_even(timings((1, 2))) is None


METADATA = {
    "general.architecture": "llama",
    "llama.block_count": "30",
    "llama.embedding_length": "576",
    "general.name": "SmolLM2 135M Instruct",
}


def test_quantisations_share_a_fingerprint() -> None:
    name = "llama-30x576-smollm2-135m-instruct"
    assert _calibration.fingerprint(METADATA) == name
    for added in (" AWQ", " Q4_K_M", " GGUF", " bf16", "-IQ2_XXS", " GPTQ 4bit", " F16 GGUF", " 8-bit"):
        assert _calibration.fingerprint(METADATA | {"general.name": f"SmolLM2 135M Instruct{added}"}) == name, added
    for key, value in (("general.name", "SmolLM2 135M"), ("llama.block_count", "31"), ("general.architecture", "x")):
        assert _calibration.fingerprint(METADATA | {key: value}) != name
    parts = {"general.basename": "SmolLM2", "general.size_label": "135M", "general.finetune": "Instruct"}
    assert _calibration.fingerprint(METADATA | parts | {"general.name": ""}) == name
    assert _calibration.fingerprint({}) == "unknown-0x0-unnamed"


def test_lookup(calibrations: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = LessIsMore(budget=256, min_ctx="auto")
    assert _calibration.lookup("m", LessIsMore()) == {}
    assert _calibration.lookup("m", both) == {"min_ctx": 0}
    assert _calibration.lookup("m", LessIsMore(reselect=4)) == {}
    monkeypatch.setattr(_calibration, "_shipped", lambda: {"m": {"lessismore": {"reselect": 9, "min_ctx": {"1": 7}}}})
    assert _calibration.lookup("m", both) == {"reselect": 9, "min_ctx": 0}  # another machine's times mean nothing
    assert _calibration.lookup("m", TidalDecode()) == {}

    assert _calibration.save("m", "lessismore", {"min_ctx": {"128": 512}}) == calibrations
    assert _calibration.lookup("m", both) == {"reselect": 9, "min_ctx": 512}
    _calibration.save("m", "lessismore", {"reselect": 11, "min_ctx": {"1024": 4096}})
    assert _calibration.lookup("m", both) == {"reselect": 11, "min_ctx": 512}
    assert _calibration.lookup("m", LessIsMore(budget=1000, min_ctx="auto"))["min_ctx"] == 4096
    assert _calibration.lookup("n", LessIsMore()) == {}
    assert sorted(path.name for path in calibrations.parent.iterdir()) == [calibrations.name]


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        "{",
        "[]",
        '{"version": 99, "models": {"m": {"tidal": {"reselect": 9}}}}',
        '{"version": 1, "models": []}',
        '{"version": 1, "models": {"m": 3}}',
        '{"version": 1, "models": {"m": {"tidal": 3}}}',
        '{"version": 1, "models": {"m": {"tidal": {"reselect": "9", "min_ctx": 9}}}}',
        '{"version": 1, "models": {"m": {"tidal": {"reselect": 0, "min_ctx": {"x": 1, "8": "y"}}}}}',
    ],
)
def test_a_damaged_table_is_none(calibrations: Path, damaged: str) -> None:
    calibrations.parent.mkdir()
    calibrations.write_text(damaged)
    assert _calibration.lookup("m", TidalDecode(min_ctx="auto")) == {"min_ctx": 0}
    _calibration.save("m", "tidal", {"reselect": 9})
    assert _calibration.lookup("m", TidalDecode()) == {"reselect": 9}


def test_the_shipped_table_is_sound() -> None:
    table = json.loads((Path(lil.__file__).parent / "calibration.json").read_text())
    assert table["version"] == _calibration.VERSION
    for model, methods in table["models"].items():
        layers = int(model.split("-")[1].split("x")[0])
        for name, entry in methods.items():
            assert name in ("tidal", "lessismore")
            assert 2 < entry["reselect"] < layers
            assert "min_ctx" not in entry


def test_a_table_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(_calibration.ENV, f"{text}/calibration.json")
    with pytest.raises(ConfigError, match="cannot be written"):
        _calibration.save("m", "tidal", {"reselect": 9})


# with a model


def test_session_equals_llama(session: measure.Session, make_llama: Callable[..., lil.Llama]) -> None:
    tokens = session.tokenize(WORDS)[:40]
    llama = make_llama(flash_attn=True)
    llama.eval(tokens)
    theirs = np.ctypeslib.as_array(llama._ctx.get_logits_ith(-1), shape=(llama.n_vocab(),))
    with session.context(None, n_ctx=64) as context:
        ours = context.eval(tokens)
        assert np.abs(ours - theirs).max() < 0.05
        assert context.keep(20)
        assert np.abs(context.eval(tokens[20:]) - ours).max() < 0.2
        with pytest.raises(lil.ContextFullError, match="30 tokens after 40"):
            context.eval(tokens[:30])


def test_session_knows_what_came_of_a_prompt_that_failed(
    session: measure.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = (session.tokenize(WORDS) * 9)[:1000]
    with session.context(None, n_ctx=1024) as context:
        decode, calls = context._native.decode, []

        def fail_once(batch: Any) -> None:
            calls.append(batch)
            if len(calls) == 2:
                raise RuntimeError("out of luck")
            decode(batch)

        with monkeypatch.context() as patch:
            patch.setattr(context._native, "decode", fail_once)
            with pytest.raises(NativeError, match="488 tokens after \\[512\\]: out of luck"):
                context.eval(tokens)
        assert context.n_tokens == 512 == session.n_ubatch
        ours = context.eval(tokens[512:])
    with session.context(None, n_ctx=1024) as fresh:
        assert np.abs(fresh.eval(tokens) - ours).max() == 0


def test_prompts(session: measure.Session) -> None:
    keys = set()
    for n_tokens in (300, 1000):
        for depth in (0.0, 0.4, 1.0):
            for chat in (True, False):
                prompt = measure.make_prompt(session, n_tokens=n_tokens, depth=depth, filler=WORDS, chat=chat)
                assert n_tokens - 64 < len(prompt.tokens) <= n_tokens
                written = session.llama.detokenize(prompt.tokens, special=True).decode()
                assert written.count(f"The pass key is {prompt.key}. Remember it.") == 1
                assert written.endswith("The pass key is")
                question = session.llama.detokenize(prompt.tokens[-prompt.n_question :], special=True).decode()
                assert "What is the pass key?" in question
                assert prompt.key not in question
                keys.add(prompt.key)
    assert len(keys) == 6  # one for each length and depth, whatever the template
    with pytest.raises(ConfigError, match="no room for filler"):
        measure.make_prompt(session, n_tokens=60, depth=0.5)


def test_ppl(model_path: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    args = ["ppl", model_path, text, "--methods", "sink,h2o:recent=8", "--budgets", "16,200", "--prompt", "60"]
    result = run(*args, "--tokens", "12", "--json", str(out))
    assert result.exit_code == 0, result.output
    assert "12 tokens after 60, the text going on" in result.stdout
    record = json.loads(out.read_text())
    assert record["kind"] == "ppl"
    rows = {(r["method"], r["budget"]): r for r in record["results"]}
    assert set(rows) == {("full", None), *((m, b) for m in ("sink", "h2o:recent=8") for b in (16, 200))}
    full = rows["full", None]["perplexity"]
    assert rows["sink", 200]["perplexity"] == pytest.approx(full, rel=0.02)
    assert rows["sink", 16]["sparse_steps"] == 11
    for row in rows.values():
        assert f"{row['perplexity']:.2f}" in result.stdout

    result = run(*args, "--tokens", "12", "--repeat", "--json", str(out))
    assert "the prompt repeated" in result.stdout
    again = {(r["method"], r["budget"]): r["perplexity"] for r in json.loads(out.read_text())["results"]}
    assert again["full", None] < full

    capsys.readouterr()
    assert main([*args, "--tokens", "100000"]) == 2
    assert "fewer than 60 of the prompt and 100000" in capsys.readouterr().err


def test_passkey_goes_on(model_path: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines, out = tmp_path / "lines.jsonl", tmp_path / "out.json"
    args = ["passkey", model_path, "--text", text, "--context", "260", "--methods", "sink", "--budgets", "64,300"]
    args += ["--depths", "2", "--out", str(lines), "--json", str(out)]
    result = run(*args)
    assert result.exit_code == 0, result.output
    assert "Keys found of 2, 260 tokens" in result.stdout
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert len(records) == 6
    assert {r["method"] for r in records} == {"full", "sink 64", "sink 300"}
    answers = {(r["method"], r["depth"]): r["answer"] for r in records}
    assert answers["sink 300", 0.25] == answers["full", 0.25]
    assert all(r["found"] == (r["key"] in r["answer"]) for r in records)
    results = json.loads(out.read_text())["results"]

    lines.write_text("\n".join(lines.read_text().splitlines()[:4]) + '\n{"method": "fu')
    assert run(*args).exit_code == 0
    assert json.loads(out.read_text())["results"] == results
    assert len(lines.read_text().splitlines()) == 7
    before = lines.read_text()
    assert run(*args).exit_code == 0
    assert lines.read_text() == before

    # other words are another test: nothing of the file is taken for an answer to them
    other = ["--hide", "The number is {key}.", "--ask", "", "--begin", "The number is"]
    assert run(*args, *other).exit_code == 0
    assert len(lines.read_text().splitlines()) == 13

    capsys.readouterr()
    assert main(["passkey", model_path, "--context", "60"]) == 2
    assert "no room" in capsys.readouterr().err
    assert main(["passkey", model_path, "--hide", "no place"]) == 2
    assert "'no place': {key} must stand" in capsys.readouterr().err


def test_passkey_words(session: measure.Session) -> None:
    words = measure.Wording(hide="It is {key}, {key}!", ask="", begin="It is")
    prompt = measure.make_prompt(session, n_tokens=300, depth=0.5, wording=words, chat=False)
    text = session.llama.detokenize(prompt.tokens).decode()
    assert text.count(f" It is {prompt.key}, {prompt.key}! ") == 1
    assert text.endswith(".\n\nIt is")
    asked = measure.make_prompt(session, n_tokens=300, depth=0.5, chat=False)
    assert session.llama.detokenize(asked.tokens).decode().endswith("\n\nWhat is the pass key? The pass key is")


@pytest.mark.parametrize("method", [Quest(budget=64), TidalDecode(budget=64), LessIsMore(budget=64)], ids=str)
@pytest.mark.filterwarnings("ignore::lil.CalibrationWarning")
def test_what_full_attention_leaves_is_enough(session: measure.Session, method: Any) -> None:
    """`Select.from_full`: going on from its cache is the same as having processed the prompt."""
    tokens = session.tokenize(WORDS)[:320]
    logits = []
    with session.context(None, n_ctx=400) as full, session.context(method, n_ctx=400) as one:
        full.eval(tokens[:300])
        assert one.load(full.save())
        logits.append([one.eval([token]) for token in tokens[300:]])
    with session.context(method, n_ctx=400) as other:
        other.eval(tokens[:300])
        assert other.keep(299)
        other.eval(tokens[299:300])  # by itself, as load() does: matrix products of other sizes round differently
        logits.append([other.eval([token]) for token in tokens[300:]])
        info = other.info()
        assert info is not None
        assert info.sparse_steps == 20
    assert np.median(np.abs(np.array(logits[0]) - np.array(logits[1]))) < 0.02


def test_every_method_has_a_perplexity(session: measure.Session) -> None:
    """A budget that holds everything is full attention, for every method and for the fused form of full attention."""
    tokens = session.tokenize(WORDS)[:120]

    def loss(method: Method | None, **keywords: Any) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CalibrationWarning)
            with session.context(method, n_ctx=256, **keywords) as context:
                return float(np.mean(measure.token_losses(context.eval, tokens, n_prompt=100)))

    full = loss(None)
    for make in METHODS.values():
        assert loss(make(budget=256)) == pytest.approx(full, abs=0.02), make
    # another order of sums, and quantised weights round what they are multiplied with to 8 bits
    assert loss(None, fused_dense=True) == pytest.approx(full, abs=0.05)


def test_calibrate(
    session: measure.Session,
    model_path: str,
    calibrations: Path,
    make_llama: Callable[..., lil.Llama],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with warnings.catch_warnings():  # the model is one of those that come with the package
        warnings.simplefilter("error", CalibrationWarning)
        assert make_llama(sparse=lil.TidalDecode(budget=32)).sparse_info().reselect == 18
    monkeypatch.setattr(_calibration, "_shipped", dict)
    with pytest.warns(CalibrationWarning, match=r"re-selection layer 17 of 30 is a guess.*lil calibrate"):
        llama = make_llama(sparse=LessIsMore(budget=32))
    assert llama.sparse_info().reselect == 17

    out = tmp_path / "out.json"
    args = ["calibrate", model_path, "--budget=32", "--prompt=64", "--tokens=6", "--screen=4", "--tries=1"]
    result = run(*args, "--no-save", "--json", str(out))
    assert result.exit_code == 0, result.output
    assert not calibrations.exists()
    assert "LessIsMore, budget 32, 30 layers" in result.stdout
    found = json.loads(out.read_text())["results"]
    for name in ("tidal", "lessismore"):
        rows = found["candidates"][name]
        assert [row["layer"] for row in rows] == list(range(3, 30))
        assert all(0 < share <= 1 for row in rows[1:-1] for share in (*row["before"], *row["after"], *row["score"]))
        assert all(row["screen"] > 0 for row in rows)
        tried = [row for row in rows if row["loss"]]
        assert len(tried) in (1, 2)
        assert found["saved"][name]["reselect"] in [row["layer"] for row in tried]

    result = run(*args, "--method", "lessismore", "--min-ctx", "--max-context", "512")
    assert result.exit_code == 0, result.output
    assert str(calibrations) in result.stdout
    assert "a sparse step's time" in result.stdout.lower()
    saved = json.loads(calibrations.read_text())["models"][session.fingerprint]
    assert "tidal" not in saved or "reselect" not in saved["tidal"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", CalibrationWarning)
        llama = make_llama(sparse=LessIsMore(budget=32, min_ctx="auto"))
    assert llama.sparse_info().reselect == saved["lessismore"]["reselect"]
    assert Sink().name not in saved


@pytest.mark.parametrize(
    ("line", "offered"), [("lil mod", ["models"]), ("lil models ", ["get"]), ("lil chat --gu", ["--guardian"])]
)
def test_completion_in_the_shell(line: str, offered: list[str]) -> None:
    asked = {"_LIL_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    assert CliRunner().invoke(app, [], prog_name="lil", env=asked).stdout.split() == offered
