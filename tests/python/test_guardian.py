from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import lil
import pytest
from conftest import LOOP
from lil import Guardian

KEYS = {
    "action",
    "alarmed",
    "alarms",
    "bytes",
    "checks",
    "curve",
    "events",
    "incomplete",
    "last_growth",
    "size",
    "stopped",
    "think_closed",
    "tokens",
    "tokens_at_alarm",
}
QUICK = Guardian(rule="paper", every=60)


def check_stopped(choice: dict[str, Any]) -> dict[str, Any]:
    report = choice["guardian"]
    assert choice["finish_reason"] == "stop"
    assert choice["stop_reason"] == "guardian"
    assert set(report) == KEYS
    assert report["alarmed"] and report["stopped"]
    assert report["tokens_at_alarm"] <= report["tokens"] < 1000
    assert report["last_growth"] < 20
    assert len(report["curve"]) == report["checks"] + 1
    assert report["curve"] == sorted(report["curve"])
    json.dumps(choice)
    return report


def test_ends_a_loop(shared_llama: lil.Llama) -> None:
    result = shared_llama.create_chat_completion(LOOP, temperature=0, max_tokens=1500, guardian=QUICK)
    report = check_stopped(result["choices"][0])
    assert result["usage"]["completion_tokens"] in (report["tokens"], report["tokens"] - 1)


def test_stream_says_so_in_the_last_chunk(shared_llama: lil.Llama) -> None:
    chunks = list(
        shared_llama.create_chat_completion(LOOP, temperature=0, max_tokens=1500, stream=True, guardian=QUICK)
    )
    check_stopped(chunks[-1]["choices"][0])
    assert not any("stop_reason" in chunk["choices"][0] for chunk in chunks[:-1])


def test_text_completion_and_call(shared_llama: lil.Llama) -> None:
    for complete in (shared_llama.create_completion, shared_llama):
        result = complete("one two one two one two one two", temperature=0, max_tokens=900, guardian=QUICK)
        check_stopped(result["choices"][0])
    chunks = list(shared_llama("one two one two one two", temperature=0, max_tokens=900, stream=True, guardian=QUICK))
    check_stopped(chunks[-1]["choices"][0])


def test_ordinary_end_is_not_called_guardian(shared_llama: lil.Llama) -> None:
    choice = shared_llama.create_completion("The sea", temperature=0, max_tokens=5, guardian=True)["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["stop_reason"] is None
    assert choice["guardian"]["tokens"] == 5
    assert choice["guardian"]["last_growth"] is None
    assert choice["guardian"]["tokens_at_alarm"] is None


def test_off_leaves_no_keys(shared_llama: lil.Llama) -> None:
    for guardian in (None, False):
        choice = shared_llama.create_completion("The sea", max_tokens=2, guardian=guardian)["choices"][0]
        assert "stop_reason" not in choice
        assert "guardian" not in choice


def test_request_overrides_constructor(make_llama: Callable[..., lil.Llama]) -> None:
    llama = make_llama(guardian=Guardian(rule="paper", every=7, threshold=0))
    assert llama.create_completion("The sea", max_tokens=15)["choices"][0]["guardian"]["checks"] == 2
    often = Guardian(rule="paper", every=3, threshold=0)
    assert llama.create_completion("The sea", max_tokens=15, guardian=often)["choices"][0]["guardian"]["checks"] == 5
    assert "guardian" not in llama.create_completion("The sea", max_tokens=2, guardian=False)["choices"][0]
    streams = [
        llama("The sea", max_tokens=15, stream=True, guardian=g)
        for g in (Guardian(rule="paper", every=2, threshold=0), False)
    ]
    assert "guardian" not in list(streams[1])[-1]["choices"][0]
    assert list(streams[0])[-1]["choices"][0]["guardian"]["checks"] == 7


def test_wrong_guardian_raises_at_the_call(shared_llama: lil.Llama) -> None:
    for call in (shared_llama, shared_llama.create_completion):
        with pytest.raises(lil.ConfigError, match="'onn' is unknown"):
            call("x", stream=True, guardian="onn")
        with pytest.raises(lil.ConfigTypeError, match="guardian=5"):
            call("x", stream=True, guardian=5)


def test_same_answer_as_long_as_it_is_silent(shared_llama: lil.Llama) -> None:
    texts = {
        shared_llama.create_completion("The sea", temperature=0, max_tokens=40, guardian=guardian)["choices"][0]["text"]
        for guardian in (False, True, Guardian(rule="paper", every=5, threshold=1e9, action="flag"))
    }
    assert len(texts) == 1


def test_flag_only_reports(shared_llama: lil.Llama) -> None:
    flag = Guardian(rule="paper", every=20, threshold=1000, action="flag")
    choice = shared_llama.create_completion("The sea", temperature=0, max_tokens=50, guardian=flag)["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["stop_reason"] is None
    assert choice["guardian"]["alarmed"]
    assert not choice["guardian"]["stopped"]
    assert choice["guardian"]["tokens_at_alarm"] == 20


def test_close_think_then_stop(shared_llama: lil.Llama) -> None:
    config = Guardian(rule="paper", every=30, threshold=1e6, action="close_think", think_end="</thought>", grace=0)
    choice = shared_llama.create_completion("<thought>", temperature=0, max_tokens=400, guardian=config)["choices"][0]
    assert "</thought>" in choice["text"]
    assert choice["guardian"]["think_closed"]
    assert choice["stop_reason"] == "guardian"


def test_prompt_counts_as_text(shared_llama: lil.Llama) -> None:
    line = "The same line again.\n"
    prompt = line * 20
    choice = shared_llama.create_completion(
        prompt, temperature=0, max_tokens=600, guardian=Guardian(rule="paper", every=40)
    )
    assert choice["choices"][0]["guardian"]["tokens"] <= 81


def test_prefix_reuse_changes_nothing(shared_llama: lil.Llama) -> None:
    prompt = "A prompt that is in the cache the second time."
    reports = [
        shared_llama.create_completion(prompt, temperature=0, max_tokens=30, guardian=Guardian(rule="paper", every=10))[
            "choices"
        ][0]
        for _ in range(2)
    ]
    assert reports[0]["guardian"] == reports[1]["guardian"]


def test_generate_ends_with_the_end_token(shared_llama: lil.Llama) -> None:
    prompt = shared_llama.tokenize(b"one two one two one two one two")
    tokens = list(shared_llama.generate(prompt, temp=0.0, guardian=QUICK))
    assert len(tokens) < 600
    eog = lil.llama_cpp.llama_vocab_is_eog
    vocab = shared_llama._model.vocab
    assert eog(vocab, tokens[-1])
    assert not any(eog(vocab, token) for token in tokens[:-1])


@pytest.mark.parametrize("action", ["stop", "close_think"])
def test_stops_inside_a_grammar(shared_llama: lil.Llama, action: str) -> None:
    """The grammar allows no end, so the stop must not ask it."""
    grammar = lil.llama_cpp.LlamaGrammar.from_string('root ::= "ab" root', verbose=False)
    choice = shared_llama.create_completion(
        "Go", temperature=0, max_tokens=900, grammar=grammar, guardian=Guardian(rule="paper", every=50, action=action)
    )["choices"][0]
    assert choice["text"].strip("ab") == ""
    check_stopped(choice)
    again = shared_llama.create_completion("Go", temperature=0, max_tokens=5)
    assert again["choices"][0]["finish_reason"] == "length"


def test_never_cuts_a_character(shared_llama: lil.Llama) -> None:
    """Characters of several tokens: the stop comes between them."""
    grammar = lil.llama_cpp.LlamaGrammar.from_string('root ::= "🜁🜂" root', verbose=False)
    for every in range(20, 28):
        prompt = "🜁🜂" * 10
        config = Guardian(rule="paper", every=every, threshold=1e6)
        choice = shared_llama.create_completion(prompt, temperature=0, max_tokens=200, grammar=grammar, guardian=config)
        choice = choice["choices"][0]
        assert choice["stop_reason"] == "guardian"
        assert set(choice["text"]) <= set("🜁🜂")
        tokens = choice["guardian"]["tokens"]
        assert every <= tokens <= every + 4


def test_function_call_carries_the_keys(shared_llama: lil.Llama) -> None:
    tool = {
        "type": "function",
        "function": {"name": "say", "parameters": {"type": "object", "properties": {"word": {"enum": ["hello"]}}}},
    }
    kwargs: dict[str, Any] = {
        "messages": [{"role": "user", "content": "Say hello."}],
        "tools": [tool],
        "tool_choice": {"type": "function", "function": {"name": "say"}},
        "max_tokens": 60,
        "temperature": 0,
        "guardian": True,
    }
    choice = shared_llama.create_chat_completion(**kwargs)["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert "guardian" in choice
    last = list(shared_llama.create_chat_completion(**kwargs, stream=True))[-1]["choices"][0]
    assert last["finish_reason"] == "tool_calls"
    assert "guardian" in last
