from __future__ import annotations

import ctypes
import dataclasses
import math
import pickle
from typing import Any

import lil
import pytest
from lil import H2O, ConfigError, ConfigTypeError, Guardian, Sink, _native
from lil._resolve import resolve_guardian, resolve_sparse


def test_all_is_sorted_and_there() -> None:
    assert lil.__all__ == sorted(lil.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    for name in lil.__all__:
        assert hasattr(lil, name), name


def test_one_exception_tree() -> None:
    errors = [getattr(lil, name) for name in lil.__all__ if name.endswith("Error")]
    assert errors
    assert all(issubclass(error, lil.LilError) for error in errors)
    assert issubclass(ConfigError, ValueError)
    assert issubclass(ConfigTypeError, TypeError)


@pytest.mark.parametrize("method", [Sink, H2O])
def test_defaults(method: type) -> None:
    config = method()
    assert (config.budget, config.capacity, config.form) == (1024, None, "auto")
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
        (lambda: Guardian(every=0), ["every=0", "at least 1"]),
        (lambda: Guardian(patience=0), ["patience=0", "at least 1"]),
        (lambda: Guardian(threshold=-1), ["threshold=-1", "at least 0"]),
        (lambda: Guardian(threshold=math.nan), ["threshold=nan", "finite"]),
        (lambda: Guardian(action="halt"), ["'halt'", "'stop', 'close_think', 'flag'"]),
        (lambda: Guardian(action="close_think", think_end=""), ["think_end=''"]),
        (lambda: Guardian(action="close_think", think_end="a\0b"), ["zero byte"]),
        (lambda: Guardian(think_end="</think>"), ["no effect", "close_think"]),
        (lambda: resolve_sparse("quest"), ["'quest'", "'h2o'", "'sink'"]),
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
        (lambda: Guardian(every="often"), ["every='often'"]),
        (lambda: Guardian(threshold="20"), ["threshold='20'"]),
        (lambda: Guardian(action=None), ["action=None"]),
        (lambda: Guardian(action="close_think", think_end=b"x"), ["think_end=b'x'", "bytes"]),
        (lambda: resolve_sparse(3), ["sparse=3", "int"]),
        (lambda: resolve_sparse(True), ["sparse=True"]),
        (lambda: resolve_sparse(Sink), ["Sink()"]),
        (lambda: resolve_guardian("yes"), ["guardian='yes'"]),
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


def test_resolve() -> None:
    assert resolve_sparse(None) is None
    assert resolve_sparse("sink") == Sink()
    assert resolve_sparse("h2o") == H2O()
    assert resolve_guardian(None) is None
    assert resolve_guardian(False) is None
    assert resolve_guardian(True) == Guardian()


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


@pytest.mark.skipif(ctypes.sizeof(ctypes.c_void_p) != 8, reason="sizes of a 64-bit platform")
def test_native_layout() -> None:
    assert ctypes.sizeof(_native.SparseParams) == 32
    assert ctypes.sizeof(_native.SparseInfo) == 64
    assert ctypes.sizeof(_native.GuardianParams) == 32
    assert ctypes.sizeof(_native.GuardianReport) == 56


def test_native_defaults_are_ours() -> None:
    for config in (Sink(), H2O()):
        native = _native.lib.lil_sparse_default_params(config.code)
        ours = config.native(n_ctx=4096)
        assert (native.budget, native.capacity, native.form) == (ours.budget, ours.capacity, ours.form)
    assert _native.lib.lil_sparse_default_params(Sink.code).n_sink == Sink().n_sink
    native = _native.lib.lil_guardian_default_params()
    ours = Guardian()
    assert (native.every, native.threshold, native.patience) == (ours.every, ours.threshold, ours.patience)
    assert native.action == 0
