"""The memory of a context follows the tokens in it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import lil
import pytest
from lil import H2O, InfLLM, Quest, Sink, _context, _native

ROW = 30 * 3 * (64 + 64) * 2  # bytes of a token: layers, KV heads, K and V, F16
SLACK = 2**20  # the last page of every tensor
LONG = "The river went slowly under the bridge, and nobody saw the boat. " * 60

needs_pages = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="other systems' pages are larger, or not counted"
)


def resident(llama: lil.Llama) -> int:
    found = llama.sparse_info().kv_resident
    assert found is not None
    return found


@needs_pages
@pytest.mark.parametrize(
    "sparse", [None, Sink(budget=64), H2O(budget=64), Quest(budget=64), InfLLM(budget=64)], ids=str
)
@pytest.mark.parametrize("type_kv", [1, 8], ids=["f16", "q8_0"])
def test_a_context_takes_what_its_tokens_need(make_llama: Callable[..., lil.Llama], sparse: Any, type_kv: int) -> None:
    llama = make_llama(n_ctx=32768, sparse=sparse, type_k=type_kv, type_v=type_kv, flash_attn=True)
    info = llama.sparse_info()
    assert info.kv_bytes is not None and info.kv_resident == 0
    tokens = llama.tokenize(LONG.encode())[:600]
    for _ in range(2):
        llama.eval(tokens)
        row = ROW if type_kv == 1 else ROW * 34 // 64
        assert 600 * row <= resident(llama) <= 600 * row * 1.35 + 3 * SLACK
        llama._ctx.kv_cache_clear()
        llama.reset()
        assert resident(llama) == 0


@needs_pages
@pytest.mark.parametrize("sparse", [Sink(budget=64, kept_prompts=0), H2O(budget=64, kept_prompts=0)], ids=str)
def test_a_cut_prompt_gives_its_memory_back(make_llama: Callable[..., lil.Llama], sparse: Any) -> None:
    llama = make_llama(n_ctx=32768, sparse=sparse)
    tokens = llama.tokenize(LONG.encode())[:700]
    llama.eval(tokens)
    assert resident(llama) >= 700 * ROW
    llama.eval(tokens[:1])
    assert resident(llama) <= 64 * ROW + 3 * SLACK
    llama.create_completion(LONG, max_tokens=20, temperature=0)
    assert resident(llama) <= (64 + 256) * ROW + 3 * SLACK  # fewer than 256 free slots are kept
    first = llama.create_completion(LONG, max_tokens=20, temperature=0)["choices"]
    assert llama.create_completion(LONG, max_tokens=20, temperature=0)["choices"] == first


def test_states_are_as_long_as_their_tokens(make_llama: Callable[..., lil.Llama]) -> None:
    llama = make_llama(n_ctx=8192, flash_attn=True)
    tokens = llama.tokenize(LONG.encode())
    llama.eval(tokens[:50])
    state = llama.save_state()
    llama.eval(tokens[50:51])
    want = llama.sample(temp=0.0)
    llama.eval(tokens[51:600])
    before = resident(llama)
    llama.load_state(state)
    llama.eval(tokens[50:51])
    assert llama.sample(temp=0.0) == want
    assert resident(llama) < before


def test_a_context_that_does_not_fit_is_said_not_to(
    make_llama: Callable[..., lil.Llama], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = _context.memory_info

    def little(context: Any) -> _native.MemoryInfo | None:
        memory = real(context)
        assert memory is not None and memory.available > 0
        memory.available = 1023 * ROW
        return memory

    with warnings.catch_warnings():
        warnings.simplefilter("error", lil.MemoryWarning)
        make_llama(n_ctx=1024)
        monkeypatch.setattr(_context, "memory_info", little)
        make_llama(n_ctx=512)
    with pytest.warns(
        lil.MemoryWarning,
        match=r"n_ctx=1024: the KV cache takes 22 MiB once it is full, and 22 MiB of memory are left; use",
    ):
        make_llama(n_ctx=1024)
