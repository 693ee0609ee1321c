"""lil_set_budget: a context whose budget was changed computes what one made with it does."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import lil
import numpy as np
import pytest
from lil._native import last_error, lib
from lil.methods import InfLLM, LessIsMore, Quest, RaaS, Select, Sink, TidalDecode
from reference import write_tiny

WIDE, NARROW = 192, 128
METHODS: list[Callable[..., Select]] = [
    Quest,
    TidalDecode,
    LessIsMore,
    InfLLM,
    RaaS,
    partial(Quest, form="portable", first_page=True),
    partial(LessIsMore, form="portable"),
    partial(InfLLM, positions="clipped"),
]


def decode(llama: lil.Llama, tokens: list[int]) -> np.ndarray:
    """The logits of each, one at a time."""
    rows = []
    for token in tokens:
        llama.eval([token])
        rows.append(np.ctypeslib.as_array(llama._ctx.get_logits_ith(-1), shape=(llama.n_vocab(),)).copy())
    return np.array(rows)


def set_budget(llama: lil.Llama, budget: int) -> bool:
    return bool(lib.lil_set_budget(llama._ctx.ctx, budget))


@pytest.fixture(scope="module")
def text() -> list[int]:
    """Random tokens: what is read matters everywhere."""
    return [int(token) for token in np.random.default_rng(0).integers(1000, 20000, 234)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf", "llama", n_layer=6, head_dim=64)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore::lil.MethodWarning", "ignore::lil.CalibrationWarning")
def test_is_that_of_a_context_made_with_it(
    make_llama: Callable[..., lil.Llama], method: Callable[..., Select], tiny: Path
) -> None:
    text = np.random.default_rng(0).integers(259, 512, 234).tolist()
    narrow, wide = (make_llama(model_path=str(tiny), sparse=method(budget=budget)) for budget in (NARROW, WIDE))
    first, second = text[210:218], text[218:]
    for llama in (narrow, wide):
        llama.eval(text[:210])
    assert not np.array_equal(decode(narrow, first), decode(wide, first))

    # what a method keeps comes from the prompt here
    for llama, budget in ((narrow, WIDE), (wide, NARROW)):
        llama.reset()
        assert set_budget(llama, budget)
        assert llama.sparse_info().budget == budget
        llama.eval(text[:210])
    as_wide, as_narrow = decode(narrow, first), decode(wide, first)
    for llama in (narrow, wide):
        llama.reset()
        assert set_budget(llama, 0)
        llama.eval(text[:210])
    np.testing.assert_array_equal(as_narrow, decode(narrow, first))
    np.testing.assert_array_equal(as_wide, decode(wide, first))

    # up and down again in the middle
    assert set_budget(narrow, WIDE)
    decode(narrow, second[:8])
    assert set_budget(narrow, 0)
    assert np.isfinite(decode(narrow, second[8:])).all()
    assert narrow.sparse_info().budget == NARROW


def test_in_the_middle(make_llama: Callable[..., lil.Llama], text: list[int]) -> None:
    """Quest keeps nothing that depends on the budget: only the steps in between differ."""
    ours, wide = make_llama(sparse=Quest(budget=NARROW)), make_llama(sparse=Quest(budget=WIDE))
    for llama in (ours, wide):
        llama.eval(text[:210])
    assert set_budget(ours, WIDE)
    np.testing.assert_array_equal(decode(ours, text[210:218]), decode(wide, text[210:218]))
    assert set_budget(ours, 0)
    assert set_budget(wide, NARROW)
    np.testing.assert_array_equal(decode(ours, text[218:]), decode(wide, text[218:]))


def test_everything(make_llama: Callable[..., lil.Llama], text: list[int]) -> None:
    ours, full = make_llama(sparse=Quest(budget=64)), make_llama()
    for llama in (ours, full):
        llama.eval(text[:210])
    assert set_budget(ours, 2**32 - 1)
    np.testing.assert_array_equal(decode(ours, text[210:218]), decode(full, text[210:218]))
    assert ours.sparse_info().sparse_steps == 0


def test_refused(make_llama: Callable[..., lil.Llama], shared_llama: lil.Llama) -> None:
    quest = make_llama(sparse=Quest(budget=64, first_page=True))
    for llama, budget, words in (
        (make_llama(sparse=Sink(budget=64)), 128, "budget = 128 cannot be set.*select family"),
        (shared_llama, 128, "full attention|no sparse attention"),
        (quest, 31, "budget = 31.*at least 32"),
    ):
        assert not set_budget(llama, budget)
        assert re.search(words, last_error()), last_error()
    assert quest.sparse_info().budget == 64
