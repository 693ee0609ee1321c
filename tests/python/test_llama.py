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
    with pytest.raises(ConfigError, match=r"'streaming' is no method.*quest"):
        lil.Llama(model_path, sparse="streaming")
    with pytest.raises(lil.ConfigTypeError, match="sparse=512"):
        lil.Llama(model_path, sparse=512)  # type: ignore[arg-type]
    with pytest.raises(lil.ConfigTypeError, match="guardian=5"):
        lil.Llama(model_path, guardian=5)  # type: ignore[arg-type]


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


@pytest.mark.parametrize("sparse", [None, H2O(budget=96)], ids=str)
def test_closing_between_two_parts_of_a_prompt(make_llama: Callable[..., lil.Llama], sparse: Any) -> None:
    llama = make_llama(n_batch=64, n_ubatch=64, sparse=sparse)
    parts = []

    def check() -> None:
        parts.append(llama.n_tokens)
        if len(parts) == 2:
            raise lil.ClosedError("closed meanwhile")

    llama._before_decode = check
    with pytest.raises(lil.ClosedError, match="closed meanwhile"):
        llama.eval(list(range(3, 203)))
    assert parts == [0, 64]


def test_closing_from_a_callback(make_llama: Callable[..., lil.Llama]) -> None:
    llama = make_llama()

    def close(tokens: Any, scores: Any) -> Any:
        llama.close()
        return scores

    with pytest.raises(lil.ClosedError):
        llama.create_completion(PROMPT, logits_processor=lil.llama_cpp.LogitsProcessorList([close]))


@pytest.mark.parametrize("guardian", [False, True])
def test_errors_of_logits_processors_are_raised(make_llama: Callable[..., lil.Llama], guardian: bool) -> None:
    """They are called from C, which knows no exceptions: the token would be sampled as if there were no processor."""
    llama = make_llama(guardian=guardian)
    want = llama.create_completion(PROMPT, max_tokens=5, temperature=0)["choices"][0]["text"]
    calls = []

    def late(tokens: Any, scores: Any) -> Any:
        calls.append(len(tokens))
        if len(calls) == 3:
            raise KeyError("no such token")
        return scores

    for processor, error, words in (
        (late, KeyError, "no such token"),
        (lambda tokens, scores: scores[:3], lil.ConfigError, r"returned an array of shape \(3,\); it must be"),
    ):
        processors = lil.llama_cpp.LogitsProcessorList([processor])
        with pytest.raises(error, match=words):
            llama.create_completion(PROMPT, max_tokens=5, temperature=0, logits_processor=processors)
        llama.eval(llama.tokenize(PROMPT.encode()))
        with pytest.raises(lil.ConfigError if error is lil.ConfigError else AssertionError):
            llama.sample(logits_processor=processors)
            raise AssertionError
    assert len(calls) == 4
    assert llama.create_completion(PROMPT, max_tokens=5, temperature=0)["choices"][0]["text"] == want


@pytest.mark.filterwarnings("error::UserWarning")
def test_keywords_that_others_still_pass(make_llama: Callable[..., lil.Llama]) -> None:
    make_llama(f16_kv=True, n_parts=-1)


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
    for fused_dense, method, form in ((False, None, None), (None, "dense", "fused")):
        check_full_info(make_llama(n_ctx=1024, fused_dense=fused_dense), method, form)


def check_full_info(llama: lil.Llama, method: str | None, form: str | None) -> None:
    info = llama.sparse_info()
    assert (info.method, info.budget, info.form) == (method, None, form)
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
    slots = info.capacity + 2 * 32  # two ends of prompts are kept
    assert info.kv_bytes is not None and info.kv_bytes <= full * slots / 1024 * 1.05
    assert info.dense_steps == 32 - len(tokens)
    assert info.sparse_steps == 99 - info.dense_steps
    evaluated = len(tokens) + 99
    assert info.evicted in (evaluated - 32, evaluated - 31)  # after a step, or before the next
    dense_rows = sum(range(len(tokens) + 1, 33))
    assert info.rows_read == (dense_rows + 32 * info.sparse_steps) * 30 * 3
    assert info.form in ("fused", "portable")


@pytest.mark.parametrize("sparse", [Sink(budget=512), H2O(budget=512)], ids=str)
def test_within_the_budget_it_is_full_attention(make_llama: Callable[..., lil.Llama], sparse: Any) -> None:
    full = make_llama(logits_all=True, flash_attn=True, fused_dense=False)
    ours = make_llama(logits_all=True, sparse=sparse, fused_dense=False)
    op = make_llama(logits_all=True, sparse=sparse)
    tokens = full.tokenize(PROMPT.encode())
    for llama in (full, ours, op):
        llama.eval(tokens)
        for token in tokens[:8]:
            llama.eval([token])
    assert np.abs(full._scores - ours._scores).max() < 0.05
    assert ours.sparse_info().sparse_steps == op.sparse_info().sparse_steps == 0
    assert op.sparse_info().fused_dense
    assert np.median(np.abs(full._scores - op._scores)[len(tokens) : op.n_tokens]) < 0.15  # other rounding


@pytest.mark.parametrize("sparse", METHODS, ids=str)
def test_same_answer_twice(make_llama: Callable[..., lil.Llama], sparse: Any) -> None:
    """The second prompt shares a prefix with a cache from which tokens are gone: it is evaluated anew. (A kept end of
    the prompt would be gone back to, and its last token then be counted twice in H2O's scores.)"""
    llama = make_llama(n_ubatch=64, sparse=dataclasses.replace(sparse, kept_prompts=0))
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


# Streams


HELLO = [{"role": "user", "content": "Say hello."}]


def _text(chunks: Any) -> str:
    return "".join(chunk["choices"][0]["text"] for chunk in chunks)


def test_a_stream_owns_the_model(make_llama: Callable[..., lil.Llama]) -> None:
    llama = make_llama()
    greedy = {"max_tokens": 16, "temperature": 0}
    want = llama.create_completion(PROMPT, **greedy)["choices"][0]["text"]
    others: list[Callable[[], Any]] = [
        lambda: llama.create_completion("x"),
        lambda: llama("x"),
        lambda: next(llama.create_completion("x", stream=True)),
        lambda: llama.create_chat_completion(HELLO),
        lambda: next(llama.create_chat_completion(HELLO, stream=True)),
        lambda: next(llama.generate([5])),
        lambda: llama.eval([5]),
        lambda: llama.sample(),
        llama.reset,
        lambda: llama.load_state(state),
    ]
    state = llama.save_state()
    stream = llama.create_completion(PROMPT, stream=True, **greedy)
    got = [next(stream)]
    for other in others:
        for run in (lambda other=other: other(), lambda other=other: _in_thread(other)):
            with pytest.raises(lil.BusyError, match="in the middle of another request"):
                run()
        got.append(next(stream))
    assert llama.detokenize(llama.tokenize(b"x y")) == b"x y"  # these change nothing
    assert llama.save_state().n_tokens == llama.n_tokens < len(state.input_ids)
    assert _text([*got, *stream]) == want
    assert llama.create_completion(PROMPT, **greedy)["choices"][0]["text"] == want


def _in_thread(call: Callable[[], Any]) -> Any:
    result: list[Any] = []

    def run() -> None:
        try:
            result.append(call())
        except BaseException as error:  # noqa: BLE001  what it raised is the result
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


@pytest.mark.parametrize("kind", ["completion", "chat", "generate"])
def test_a_stream_lets_go(make_llama: Callable[..., lil.Llama], kind: str) -> None:
    """When it is exhausted, closed or collected, and not before."""
    llama = make_llama()

    def start() -> Any:
        if kind == "completion":
            stream = llama.create_completion(PROMPT, max_tokens=6, stream=True)
        elif kind == "chat":
            stream = llama.create_chat_completion(HELLO, max_tokens=6, stream=True)
        else:
            stream = llama.generate(llama.tokenize(PROMPT.encode()))
        llama.create_completion("not begun yet", max_tokens=1)
        next(stream)
        with pytest.raises(lil.BusyError):
            llama.create_completion("x")
        return stream

    for end in ("close", "collect", *(["exhaust"] if kind != "generate" else [])):
        stream = start()
        if end == "close":
            _in_thread(stream.close)
        elif end == "exhaust":
            for _ in range(20):
                if _in_thread(lambda stream=stream: next(stream, None)) is None:
                    break
        del stream
        assert llama.create_completion("free", max_tokens=1)["choices"]
    with pytest.raises(lil.PromptError):
        next(llama.create_completion("", stream=True))
    assert llama.create_completion("after an error", max_tokens=1)["choices"]


def test_a_request_within_a_request(make_llama: Callable[..., lil.Llama]) -> None:
    llama = make_llama()
    seen: list[str] = []

    def ask(tokens: Any, scores: Any) -> Any:
        seen.append(llama.detokenize([5]).decode())
        with pytest.raises(lil.BusyError):
            llama.create_completion("x")
        with pytest.raises(lil.BusyError):
            next(llama.generate([5]))
        with pytest.raises(lil.BusyError):
            llama.create_chat_completion(HELLO)
        return scores

    processors = lil.llama_cpp.LogitsProcessorList([ask])
    for stream in (False, True):
        want = llama.create_completion(PROMPT, max_tokens=4, temperature=0)["choices"][0]["text"]
        got = llama.create_completion(PROMPT, max_tokens=4, temperature=0, logits_processor=processors, stream=stream)
        assert (_text(got) if stream else got["choices"][0]["text"]) == want
        assert llama.create_chat_completion(HELLO, max_tokens=4, logits_processor=processors)["choices"]
    assert len(seen) >= 16


def test_who_waits_and_who_is_refused(make_llama: Callable[..., lil.Llama]) -> None:
    """Plain requests wait for each other in their order; behind a stream that begins, they are refused at once."""
    llama = make_llama()
    order: list[str] = []
    held, go = threading.Event(), threading.Event()

    def hold(tokens: Any, scores: Any) -> Any:
        held.set()
        go.wait(60)
        return scores

    def plain(name: str, processor: Any = None) -> None:
        processors = None if processor is None else lil.llama_cpp.LogitsProcessorList([processor])
        try:
            llama.create_completion(PROMPT, max_tokens=1, logits_processor=processors)
            order.append(name)
        except lil.BusyError:
            order.append(f"{name} refused")

    stream = llama.create_completion(PROMPT, max_tokens=4, stream=True)

    def begin() -> None:
        next(stream)
        order.append("stream")

    threads = []
    for target in (lambda: plain("first", hold), lambda: plain("second"), begin, lambda: plain("third")):
        threads.append(threading.Thread(target=target))
        threads[-1].start()
        held.wait(60)
        time.sleep(0.1)
    assert order == []
    go.set()
    for thread in threads:
        thread.join()
    assert order[:2] == ["first", "second"] and set(order[2:]) == {"stream", "third refused"}
    assert list(stream)


def test_closing_between_two_chunks(make_llama: Callable[..., lil.Llama]) -> None:
    llama = make_llama()
    stream = llama.create_completion(PROMPT, stream=True)
    next(stream)
    _in_thread(llama.close)
    with pytest.raises(lil.ClosedError):
        next(stream)


# States that do not fit


def _continue(llama: lil.Llama, n: int = 8) -> list[int]:
    llama.eval([5])
    tokens = []
    for _ in range(n):
        tokens.append(llama.sample(temp=0.0))
        llama.eval([tokens[-1]])
    return tokens


def _filled(llama: lil.Llama) -> lil.Llama:
    llama.eval(llama.tokenize(PROMPT.encode()))
    for _ in range(36):
        llama.eval([llama.sample(temp=0.0)])
    return llama


MAKES: dict[str, dict[str, Any]] = {
    "sink": {"sparse": Sink(budget=32)},
    "sink-48": {"sparse": Sink(budget=48)},
    "h2o": {"sparse": H2O(budget=32)},
    "infllm": {"sparse": lil.InfLLM(budget=64)},
    "quest": {"sparse": lil.Quest(budget=32)},
    "full": {"flash_attn": True},
    "full, no FlashAttention": {"flash_attn": False},
    "full, as it comes": {},
    "full, Q8_0": {"flash_attn": True, "type_k": 8, "type_v": 8},
}
# what goes into what, besides itself
EXCHANGED = {
    ("quest", "full"),
    ("full", "quest"),
    ("full, no FlashAttention", "full"),  # values that lie transposed are turned
    ("full, no FlashAttention", "quest"),
    *((name, "full, as it comes") for name in ("quest", "full", "full, no FlashAttention")),
    *(("full, as it comes", name) for name in ("quest", "full", "full, no FlashAttention")),
}


@pytest.fixture(scope="module")
def states(model_path: str) -> dict[str, bytes]:
    """Pickles of states, one for each of `MAKES`."""
    saved = {}
    for name, keywords in MAKES.items():
        llama = _filled(lil.Llama(model_path, n_ctx=1024, n_ubatch=64, verbose=False, **keywords))
        saved[name] = pickle.dumps(llama.save_state())
        llama.close()
    return saved


@pytest.mark.parametrize("into", MAKES)
def test_a_state_that_does_not_fit_changes_nothing(
    make_llama: Callable[..., lil.Llama], states: dict[str, bytes], into: str
) -> None:
    llama = _filled(make_llama(n_ubatch=64, **MAKES[into]))
    twin = _filled(make_llama(n_ubatch=64, **MAKES[into]))
    for name, saved in states.items():
        state = pickle.loads(saved)
        if name == into or (name, into) in EXCHANGED:
            twin.load_state(state)
            assert twin.n_tokens == state.n_tokens and len(_continue(twin)) == 8
            twin.load_state(pickle.loads(states[into]))
            continue
        with pytest.raises(lil.StateError, match=r"does not fit: .{8}"):
            llama.load_state(state)
    twin.load_state(pickle.loads(states[into]))
    assert llama.n_tokens == twin.n_tokens and (llama._input_ids == twin._input_ids).all()
    assert _continue(llama) == _continue(twin)


def test_damaged_states(make_llama: Callable[..., lil.Llama]) -> None:
    llama, twin = _filled(make_llama()), _filled(make_llama())
    good = llama.save_state()
    for change, words in (
        ({"llama_state": good.llama_state[:-100]}, "damaged"),
        ({"llama_state": good.llama_state[:-100], "llama_state_size": good.llama_state_size - 100}, "does not fit"),
        ({"llama_state": good.llama_state + b"x", "llama_state_size": good.llama_state_size + 1}, "does not fit"),
        ({"input_ids": good.input_ids[:5]}, "damaged"),
        ({"saved_by": {**good.saved_by, "model": "another file"}}, "saved by another file, and this is .* bytes"),
    ):
        bad = pickle.loads(pickle.dumps(good))
        bad.__dict__.update(change)
        with pytest.raises(lil.StateError, match=words):
            llama.load_state(bad)
    with pytest.raises(lil.StateError, match="int is no state"):
        llama.load_state(5)  # type: ignore[arg-type]
    assert _continue(llama) == _continue(twin)


@pytest.mark.parametrize("sparse", [None, "quest", *METHODS], ids=str)
def test_states_and_other_context_sizes(make_llama: Callable[..., lil.Llama], sparse: Any) -> None:
    llama = _filled(make_llama(n_ctx=256, n_ubatch=64, n_batch=128, sparse=sparse))
    state = llama.save_state()
    want = _continue(llama)
    for n_ctx in (1024, 200):
        other = make_llama(n_ctx=n_ctx, n_ubatch=64, sparse=sparse)
        other.load_state(state)
        assert _continue(other) == want
        other.eval([5] * (n_ctx - other.n_tokens))  # to its own end
    small = make_llama(n_ctx=48, n_batch=32, n_ubatch=32)
    small.eval([5, 6, 7])
    with pytest.raises(lil.StateError, match=f"holds {state.n_tokens} tokens, and n_ctx is 48"):
        small.load_state(state)
    assert small._input_ids.tolist() == [5, 6, 7]
    keeps = make_llama(n_ctx=256, logits_all=True)
    with pytest.raises(lil.StateError, match="logits_all"):
        keeps.load_state(state)


def test_sampling_from_nothing(make_llama: Callable[..., lil.Llama]) -> None:
    llama = make_llama()
    with pytest.raises(lil.PromptError, match="nothing to sample from"):
        llama.sample()
    llama.eval([5])
    llama.load_state(llama.save_state())
    with pytest.raises(lil.PromptError, match="nothing to sample from"):
        llama.sample()


@pytest.mark.parametrize("disk", [False, True])
def test_a_cache_entry_that_does_not_fit_is_a_miss(
    make_llama: Callable[..., lil.Llama], tmp_path: Path, disk: bool
) -> None:
    def caches() -> Any:
        if disk:
            return lil.llama_cpp.LlamaDiskCache(str(tmp_path / "cache"))
        return lil.llama_cpp.LlamaRAMCache()

    cache = caches()
    greedy = {"max_tokens": 12, "temperature": 0}
    first = make_llama(n_ubatch=64, sparse=METHODS[0])
    first.set_cache(cache)
    want = [first.create_completion(PROMPT, **greedy)["choices"][0]["text"]]
    other = make_llama(n_ubatch=64, sparse=METHODS[1])
    want.append(other.create_completion(PROMPT, **greedy)["choices"][0]["text"])
    other.reset()
    other._ctx.kv_cache_clear()
    cache = caches() if disk else cache
    other.set_cache(cache)
    assert other.create_completion(PROMPT, **greedy)["choices"][0]["text"] == want[1]
    first.reset()
    first.set_cache(cache)
    assert first.create_completion(PROMPT, **greedy)["choices"][0]["text"] == want[0]
