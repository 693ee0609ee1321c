from __future__ import annotations

import dataclasses
import inspect
import pickle
import shutil
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lil
import numpy as np
import pytest
from lil import H2O, ConfigError, Guardian, Sink
from lil._detokenize import Detokenizer, char_offsets

PROMPT = "The old captain stood at the rail and looked out over the water, and said"
METHODS = [Sink(budget=32, capacity=128), H2O(budget=32, capacity=128)]


# Construction


@pytest.mark.parametrize("name", ["embedding", "vocab_only", "draft_model"])
def test_refuses_combinations(model_path: str, name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        lil.Llama(model_path, sparse="sink", **{name: True})


def test_refuses_names_and_types(model_path: str) -> None:
    with pytest.raises(ConfigError, match="'quest'"):
        lil.Llama(model_path, sparse="streaming")
    with pytest.raises(lil.ConfigTypeError, match="sparse=512"):
        lil.Llama(model_path, sparse=512)  # type: ignore[arg-type]
    with pytest.raises(lil.ConfigTypeError, match="guardian='on'"):
        lil.Llama(model_path, guardian="on")  # type: ignore[arg-type]


def test_refuses_a_small_capacity(model_path: str) -> None:
    with pytest.raises(ConfigError, match=r"budget \+ n_ubatch"):
        lil.Llama(model_path, n_ctx=2048, verbose=False, sparse=Sink(budget=64, capacity=300))
    lil.Llama(model_path, n_ctx=2048, n_ubatch=128, verbose=False, sparse=Sink(budget=64, capacity=300)).close()


def test_unknown_keywords_warn(make_llama: Callable[..., lil.Llama]) -> None:
    with pytest.warns(UserWarning, match="n_thread=2 is ignored; did you mean 'n_threads'"):
        make_llama(n_thread=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        make_llama(n_threads=2, rpc_servers=None)


def test_signature_is_stock_and_three_more() -> None:
    stock = inspect.signature(lil.llama_cpp.llama.Llama.__init__).parameters
    ours = inspect.signature(lil.Llama.__init__).parameters
    assert set(ours) == set(stock) - {"kwargs"} | {"sparse", "guardian", "fused_dense"}
    assert "guardian" in inspect.signature(lil.Llama.create_chat_completion).parameters
    assert "messages" in inspect.signature(lil.Llama.create_chat_completion).parameters


# Bad input


def test_missing_and_broken_files(model_path: str, tmp_path: Path) -> None:
    with pytest.raises(lil.ModelError, match="does not exist"):
        lil.Llama(str(tmp_path / "none.gguf"))
    with pytest.raises(lil.ModelError, match="directory"):
        lil.Llama(str(tmp_path), verbose=False)
    text = tmp_path / "text.gguf"
    text.write_text("no model")
    with pytest.raises(lil.ModelError, match="not a GGUF file"):
        lil.Llama(str(text), verbose=False)
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(lil.ModelError, match="0 bytes"):
        lil.Llama(str(tmp_path / "empty.gguf"), verbose=False)
    for size in (100, 200_000, 20_000_000):
        cut = tmp_path / "cut.gguf"
        with open(model_path, "rb") as source, open(cut, "wb") as target:
            target.write(source.read(size))
        with pytest.raises(lil.ModelError, match="cut short"):
            lil.Llama(str(cut), verbose=False)
    shutil.rmtree(tmp_path, ignore_errors=True)


def test_prompts_that_cannot_be(make_llama: Callable[..., lil.Llama]) -> None:
    llama = make_llama(n_ctx=256)
    before = llama.create_completion(PROMPT, max_tokens=4, temperature=0)["choices"]
    for empty in ("", []):
        with pytest.raises(lil.PromptError, match="no tokens"):
            llama.create_completion(empty)
    with pytest.raises(ValueError, match="context window of 256"):
        llama.create_completion([5] * 300)
    with pytest.raises(lil.ContextFullError, match="300 tokens"):
        list(llama.generate([5] * 300))
    with pytest.raises(lil.ContextFullError):
        llama.eval([5] * 300)
    assert llama.create_completion(PROMPT, max_tokens=4, temperature=0)["choices"] == before


def test_generate_to_the_end_of_the_context(make_llama: Callable[..., lil.Llama]) -> None:
    llama = make_llama(n_ctx=40)
    tokens = []
    with pytest.raises(lil.ContextFullError):
        tokens.extend(llama.generate(llama.tokenize(b"one two one two"), temp=0.0))
    assert len(tokens) > 20
    result = llama.create_completion("one two one two", max_tokens=100, temperature=0)
    assert result["choices"][0]["finish_reason"] == "length"


# Closing


def test_closed(make_llama: Callable[..., lil.Llama]) -> None:
    llama = make_llama()
    llama.close()
    llama.close()
    for call in (
        lambda: llama.create_completion("x"),
        lambda: llama("x", stream=True),
        lambda: llama.create_chat_completion([]),
        lambda: llama.tokenize(b"x"),
        lambda: llama.detokenize([1]),
        lambda: list(llama.generate([1])),
        lambda: llama.eval([1]),
        llama.n_ctx,
        llama.sparse_info,
        llama.save_state,
        llama.reset,
    ):
        with pytest.raises(lil.ClosedError, match="closed"):
            call()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("sparse", [None, *METHODS], ids=str)
def test_closing_during_generation(make_llama: Callable[..., lil.Llama], stream: bool, sparse: Any) -> None:
    llama = make_llama(n_ubatch=64, sparse=sparse)
    begun = threading.Event()

    def count(tokens: Any, scores: Any) -> Any:
        begun.set()
        return scores

    processors = lil.llama_cpp.LogitsProcessorList([count])

    def close() -> None:
        begun.wait(60)
        time.sleep(0.05)
        llama.close()

    thread = threading.Thread(target=close)
    thread.start()
    with pytest.raises(lil.ClosedError):
        while True:
            result = llama.create_completion(PROMPT, max_tokens=900, stream=stream, logits_processor=processors)
            if stream:
                list(result)
    thread.join()


def test_closing_from_a_callback(make_llama: Callable[..., lil.Llama]) -> None:
    llama = make_llama()

    def close(tokens: Any, scores: Any) -> Any:
        llama.close()
        return scores

    with pytest.raises(lil.ClosedError):
        llama.create_completion(PROMPT, logits_processor=lil.llama_cpp.LogitsProcessorList([close]))


def test_threads_take_turns(make_llama: Callable[..., lil.Llama]) -> None:
    llama = make_llama()
    want = llama.create_completion(PROMPT, max_tokens=12, temperature=0)["choices"]
    got: list[Any] = []
    threads = [
        threading.Thread(
            target=lambda: got.append(llama.create_completion(PROMPT, max_tokens=12, temperature=0)["choices"])
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [want] * 4


# Sparse attention


def test_info_of_full_attention(make_llama: Callable[..., lil.Llama]) -> None:
    llama = make_llama(n_ctx=1024)
    info = llama.sparse_info()
    assert (info.method, info.budget, info.form) == (None, None, None)
    assert info.kv_bytes == 1024 * 30 * 3 * (64 + 64) * 2  # tokens, layers, KV heads, K and V, F16
    llama.eval(llama.tokenize(PROMPT.encode()))
    llama.eval([5])
    assert llama.sparse_info().dense_steps == 1
    assert llama.sparse_info().rows_read == llama.n_tokens * 30 * 3


@pytest.mark.parametrize("sparse", METHODS, ids=str)
def test_bounded_memory_and_counts(make_llama: Callable[..., lil.Llama], sparse: Any) -> None:
    llama = make_llama(n_ctx=1024, n_ubatch=64, sparse=sparse)
    full = 1024 * 30 * 3 * (64 + 64) * 2
    tokens = llama.tokenize(PROMPT.encode())
    llama.create_completion(tokens, max_tokens=100, temperature=0)
    info = llama.sparse_info()
    assert (info.method, info.budget, info.n_layer) == (sparse.name, 32, 30)
    assert sparse.capacity <= info.capacity <= 256
    assert info.kv_bytes is not None and info.kv_bytes <= full * info.capacity / 1024 * 1.05
    assert info.dense_steps == 32 - len(tokens)
    assert info.sparse_steps == 99 - info.dense_steps
    evaluated = len(tokens) + 99
    assert info.evicted in (evaluated - 32, evaluated - 31)  # after a step, or before the next
    dense_rows = sum(range(len(tokens) + 1, 33))
    assert info.rows_read == (dense_rows + 32 * info.sparse_steps) * 30 * 3
    assert info.form in ("fused", "portable")


@pytest.mark.parametrize("sparse", [Sink(budget=512), H2O(budget=512)], ids=str)
def test_within_the_budget_it_is_full_attention(make_llama: Callable[..., lil.Llama], sparse: Any) -> None:
    full = make_llama(logits_all=True, flash_attn=True)
    ours = make_llama(logits_all=True, sparse=sparse)
    tokens = full.tokenize(PROMPT.encode())
    for llama in (full, ours):
        llama.eval(tokens)
        for token in tokens[:8]:
            llama.eval([token])
    assert np.abs(full._scores - ours._scores).max() < 0.05
    assert ours.sparse_info().sparse_steps == 0


@pytest.mark.parametrize("sparse", METHODS, ids=str)
def test_same_answer_twice(make_llama: Callable[..., lil.Llama], sparse: Any) -> None:
    """The second prompt shares a prefix with a cache from which tokens are gone."""
    llama = make_llama(n_ubatch=64, sparse=sparse)
    first = llama.create_completion(PROMPT, max_tokens=60, temperature=0)["choices"]
    assert llama.create_completion(PROMPT, max_tokens=60, temperature=0)["choices"] == first


@pytest.mark.parametrize("sparse", [Sink(budget=96), H2O(budget=96), lil.TOVA(budget=96)], ids=str)
def test_the_same_request_again_is_not_hollow(make_llama: Callable[..., lil.Llama], sparse: Any) -> None:
    def words(llama: lil.Llama, max_tokens: int) -> str:
        return llama.create_completion(PROMPT * 7, max_tokens=max_tokens, temperature=0.0)["choices"][0]["text"]

    llama = make_llama(sparse=sparse)
    words(llama, 120)
    assert llama.sparse_info().kept == 1
    again = words(llama, 24)
    assert llama.sparse_info().restored == 1

    # after an answer of another length the same end is restored, so the same words follow
    words(llama, 200)
    assert words(llama, 24) == again

    # with no end kept the prompt is evaluated anew, as in a fresh context
    fresh = make_llama(sparse=dataclasses.replace(sparse, kept_prompts=0))
    first = words(fresh, 120)
    assert words(fresh, 120) == first
    assert fresh.sparse_info().kept == fresh.sparse_info().restored == 0


@pytest.mark.parametrize("sparse", [None, *METHODS], ids=str)
def test_state_goes_round(make_llama: Callable[..., lil.Llama], sparse: Any) -> None:
    llama = make_llama(n_ubatch=64, sparse=sparse)
    llama.eval(llama.tokenize(PROMPT.encode()))
    for _ in range(40):
        llama.eval([llama.sample(temp=0.0)])
    state = llama.save_state()
    after = []
    for _ in range(2):
        llama.load_state(state)
        llama.eval([5])
        tokens = []
        for _ in range(10):
            tokens.append(llama.sample(temp=0.0))
            llama.eval([tokens[-1]])
        after.append(tokens)
    assert after[0] == after[1]


def test_pickle_keeps_the_keywords(make_llama: Callable[..., lil.Llama]) -> None:
    llama = make_llama(n_ubatch=64, sparse=METHODS[0], guardian=Guardian(every=9))
    twin = pickle.loads(pickle.dumps(llama))
    assert (twin.sparse, twin.guardian) == (llama.sparse, llama.guardian)
    assert twin.sparse_info().capacity == llama.sparse_info().capacity
    twin.close()


# Detokenising


class _Bytes:
    """A tokenizer whose tokens are bytes, and a log of how many it was given."""

    def __init__(self) -> None:
        self.given = 0

    def detokenize(self, tokens: list[int], prev_tokens: Any = None, special: bool = False) -> bytes:
        self.given += len(tokens) + len(prev_tokens or [])
        return bytes(tokens)


@pytest.mark.parametrize("text", ["plain", "naïve — “quotes” 🜁🜂 日本語", "\ufffd\ufffd"])
def test_detokenizer_is_exact(text: str) -> None:
    data = text.encode()
    tokens: list[int] = []
    output = Detokenizer(_Bytes(), [1, 2, 3], tokens)
    for n, byte in enumerate(data):
        assert output.chars(n) <= len(data[:n].decode("utf-8", "ignore"))
        tokens.append(byte)
        assert output.update() == data[: n + 1][-3:]
    assert char_offsets(_Bytes(), list(data))[-1] <= len(text)


@pytest.mark.parametrize("stop", [b"END", b"\n", "é".encode()])
def test_stops_are_found_when_they_are_complete(stop: bytes) -> None:
    data = "some words é and END\n".encode()
    tokens: list[int] = []
    output = Detokenizer(_Bytes(), [], tokens)
    found = None
    for n, byte in enumerate(data):
        tokens.append(byte)
        output.update()
        if found is None and output.find([b"never", stop]):
            found = n + 1
    assert found == data.index(stop) + len(stop)


def test_garbage_is_not_held_back() -> None:
    tokens: list[int] = []
    counter = _Bytes()
    output = Detokenizer(counter, [], tokens)
    for _ in range(2000):
        tokens.append(0xF0)
        output.update()
    assert counter.given < 2000 * 100


class _Canned(lil.Llama):
    """Yields tokens that cost nothing, so that what is left is the completion loop."""

    def generate(self, tokens: Any, *args: Any, **kwargs: Any) -> Any:
        words = self.tokenize(" and so on — for ever".encode(), add_bos=False)
        self.n_tokens = len(tokens)
        while True:
            for word in words:
                self.n_tokens += 1
                yield word


@pytest.mark.parametrize("stream", [False, True])
def test_cost_per_token_is_flat(model_path: str, stream: bool) -> None:
    llama = _Canned(model_path, n_ctx=20_000, vocab_only=True, verbose=False)

    def seconds(n: int) -> float:
        best = float("inf")
        for _ in range(3):
            start = time.perf_counter()
            result = llama.create_completion("x", max_tokens=n, stop=["###", "\n\n"], stream=stream)
            if stream:
                list(result)
            best = min(best, time.perf_counter() - start)
        return best

    short, long = seconds(1000) / 1000, seconds(16_000) / 16_000
    llama.close()
    assert long < 2 * short, f"{short * 1e6:.0f} and {long * 1e6:.0f} microseconds a token"


def test_tokens_of_more_than_32_bytes(shared_llama: lil.Llama) -> None:
    text = b"x" + b"=" * 64 + b" " * 40 + b"y"
    assert shared_llama.detokenize(shared_llama.tokenize(text)) == text
