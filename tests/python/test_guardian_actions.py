from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lil
import pytest
from conftest import LOOP
from lil import Alarm, Guardian, Quest

NEVER = 1e9  # no text adds as much: every check raises an alarm

TOOL: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Say something long."}],
    "tools": [
        {
            "type": "function",
            "function": {"name": "say", "parameters": {"type": "object", "properties": {"words": {"type": "string"}}}},
        }
    ],
    "tool_choice": {"type": "function", "function": {"name": "say"}},
    "max_tokens": 60,
    "temperature": 0,
}


def events(choice: dict[str, Any]) -> list[tuple[str, int]]:
    return [(event["did"], event["tokens"]) for event in choice["guardian"]["events"]]


def complete(llama: lil.Llama, prompt: str, guardian: Guardian, **kwargs: Any) -> dict[str, Any]:
    kwargs = {"temperature": 0, "max_tokens": 200, **kwargs}
    choice: dict[str, Any] = llama.create_completion(prompt, guardian=guardian, **kwargs)["choices"][0]
    return choice


# Landing


def test_lands_at_an_end(shared_llama: lil.Llama) -> None:
    config = Guardian(rule="paper", every=20, threshold=NEVER, action="close_think", message="\nEnough.\n")
    choice = complete(shared_llama, "The sea is wide. <think>\nThe sea", config)
    (first, at), (landed, where), *rest = events(choice)
    assert (first, at, landed) == ("alarm", 20, "close_think")
    assert 20 <= where <= 45
    thought, answer = choice["text"].split("\nEnough.\n</think>")
    assert where == 45 or thought.rstrip(" ").endswith((".", "!", "?", "\n"))
    assert answer
    assert [did for did, _ in rest] == ["alarm", "stop"]
    assert choice["guardian"]["think_closed"]


def test_lands_in_a_stream(shared_llama: lil.Llama) -> None:
    config = Guardian(rule="paper", every=20, threshold=NEVER, action="close_think")
    kwargs = {"temperature": 0, "max_tokens": 200, "guardian": config}
    prompt = "The sea is wide. <think>\nThe sea"
    chunks = [chunk["choices"][0] for chunk in shared_llama.create_completion(prompt, stream=True, **kwargs)]
    whole = shared_llama.create_completion(prompt, **kwargs)["choices"][0]
    assert "".join(chunk["text"] for chunk in chunks) == whole["text"]
    assert chunks[-1]["guardian"] == whole["guardian"]


@pytest.mark.parametrize("prompt", ["The sea", "<think>So.</think>\nThe sea is wide. The sea"])
def test_stops_where_nothing_is_thought(shared_llama: lil.Llama, prompt: str) -> None:
    choice = complete(shared_llama, prompt, Guardian(rule="paper", every=20, threshold=NEVER, action="close_think"))
    assert events(choice) == [("alarm", 20), ("stop", 20)]
    assert choice["stop_reason"] == "guardian"
    assert "</think>" not in choice["text"]


# What an agent can tell


@pytest.mark.parametrize("reason", ["stop", "length", "guardian"])
def test_finish_reason(shared_llama: lil.Llama, reason: Any) -> None:
    config = Guardian(rule="paper", every=10, threshold=NEVER, finish_reason=reason)
    kwargs: dict[str, Any] = {"temperature": 0, "max_tokens": 50, "guardian": config}
    choices = [
        shared_llama.create_completion("The sea", **kwargs)["choices"][0],
        list(shared_llama.create_completion("The sea", stream=True, **kwargs))[-1]["choices"][0],
        shared_llama.create_chat_completion(LOOP, **kwargs)["choices"][0],
        list(shared_llama.create_chat_completion(LOOP, stream=True, **kwargs))[-1]["choices"][0],
    ]
    for choice in choices:
        assert (choice["finish_reason"], choice["stop_reason"]) == (reason, "guardian")
        assert choice["guardian"]["stopped"]
        assert choice["guardian"]["incomplete"] is None
    free = shared_llama.create_completion("The sea", max_tokens=5, guardian=config)["choices"][0]
    assert (free["finish_reason"], free["stop_reason"]) == ("length", None)


@pytest.mark.parametrize(("reason", "seen"), [("stop", "tool_calls"), ("guardian", "guardian"), ("length", "length")])
def test_tool_call_that_is_cut(shared_llama: lil.Llama, reason: Any, seen: str) -> None:
    config = Guardian(rule="paper", every=12, threshold=NEVER, finish_reason=reason)
    whole = shared_llama.create_chat_completion(**TOOL, guardian=config)["choices"][0]
    last = list(shared_llama.create_chat_completion(**TOOL, stream=True, guardian=config))[-1]["choices"][0]
    for choice in (whole, last):
        assert (choice["finish_reason"], choice["stop_reason"]) == (seen, "guardian")
        assert choice["guardian"]["incomplete"] in ("tool_call", "json")
    assert whole["message"]["tool_calls"]
    if reason == "stop":
        assert whole["guardian"]["incomplete"] == last["guardian"]["incomplete"] == "tool_call"


def test_json_that_is_cut(shared_llama: lil.Llama) -> None:
    kwargs: dict[str, Any] = {"response_format": {"type": "json_object"}, "temperature": 0, "max_tokens": 60}
    chat = [{"role": "user", "content": "Describe the sea as JSON."}]
    config = Guardian(
        rule="paper", every=9, threshold=NEVER, action="close_think"
    )  # and under a grammar nothing is thought
    choice = shared_llama.create_chat_completion(chat, **kwargs, guardian=config)["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "guardian")
    assert choice["guardian"]["incomplete"] == "json"


# The callback


def test_on_alarm_decides(shared_llama: lil.Llama) -> None:
    seen: list[Alarm] = []

    def decide(alarm: Alarm) -> Any:
        seen.append(alarm)
        return "flag" if alarm.alarms < 3 else None

    choice = complete(shared_llama, "The sea", Guardian(rule="paper", every=10, threshold=NEVER, on_alarm=decide))
    assert events(choice) == [("alarm", 10), ("alarm", 20), ("alarm", 30), ("stop", 30)]
    said = [(alarm.action, alarm.tokens, alarm.thinking) for alarm in seen]
    assert said == [("stop", n, False) for n in (10, 20, 30)]
    assert choice["text"] == "".join(alarm.text for alarm in seen)
    assert seen[-1].growth == choice["guardian"]["last_growth"]


def test_on_alarm_closes_thinking(shared_llama: lil.Llama) -> None:
    config = Guardian(
        rule="paper",
        every=20,
        threshold=NEVER,
        grace=0,
        on_alarm=lambda alarm: "close_think" if alarm.thinking else None,
    )
    choice = complete(shared_llama, "<think>\nThe sea", config)
    assert [did for did, _ in events(choice)] == ["alarm", "close_think", "alarm", "stop"]
    assert "</think>" in choice["text"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("halt", "on_alarm's answer='halt'"),
        (1, "on_alarm's answer=1"),
        ("close_think", "'close_think' at token 20.*thinking is not open"),
        ("widen", "no budget|full attention"),
    ],
)
def test_on_alarm_answers_nonsense(shared_llama: lil.Llama, answer: Any, words: str) -> None:
    config = Guardian(rule="paper", every=20, threshold=NEVER, on_alarm=lambda alarm: answer)
    with pytest.raises(lil.ConfigError, match=words):
        complete(shared_llama, "The sea", config)
    assert complete(shared_llama, "The sea", Guardian(), max_tokens=3)["finish_reason"] == "length"


def test_on_alarm_raises(shared_llama: lil.Llama) -> None:
    def fail(alarm: Alarm) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        complete(shared_llama, "The sea", Guardian(rule="paper", every=20, threshold=NEVER, on_alarm=fail))
    assert complete(shared_llama, "The sea", Guardian(), max_tokens=3)["finish_reason"] == "length"


# One action after another


def test_widens_then_stops(make_llama: Callable[..., lil.Llama]) -> None:
    llama = make_llama(sparse=Quest(budget=64))
    config = Guardian(rule="paper", every=20, threshold=NEVER, action=("widen", "close_think", "stop"))
    prompt = "The sea is wide. " * 20
    choice = complete(llama, prompt, config)
    assert events(choice) == [("alarm", 20), ("widen", 20), ("alarm", 60), ("stop", 60)]
    assert choice["guardian"]["action"] == ["widen", "close_think", "stop"]
    assert llama.sparse_info().budget == 64

    budgets = []
    for _ in zip(range(30), llama.generate(llama.tokenize(prompt.encode()), temp=0, guardian=config), strict=False):
        budgets.append(llama.sparse_info().budget)
    assert budgets == [64] * 19 + [128] * 11
    llama.eval(llama.tokenize(b"a"))  # the stream was left
    assert llama.sparse_info().budget == 64


def test_narrows_when_the_text_gains(make_llama: Callable[..., lil.Llama]) -> None:
    llama = make_llama(sparse=Quest(budget=64))
    # nothing gains by 4 tokens of a known text; a whole sentence of something else does
    grammar = lil.llama_cpp.LlamaGrammar.from_string(
        'root ::= "the sea the sea the sea the sea the sea the sea a quick brown fox jumps over lazy dogs" root',
        verbose=False,
    )
    config = Guardian(rule="paper", every=8, threshold=8, action=("widen", "flag"), widen=None)
    choice = complete(llama, "the sea the sea " * 20, config, grammar=grammar, max_tokens=40)
    did = [did for did, _ in events(choice)]
    assert did[:3] == ["alarm", "widen", "narrow"]
    assert llama.sparse_info().budget == 64


def test_widen_is_refused(shared_llama: lil.Llama, make_llama: Callable[..., lil.Llama]) -> None:
    config = Guardian(action=("widen", "stop"))
    with pytest.raises(lil.ConfigError, match=r"full attention has none|no budget"):
        complete(shared_llama, "The sea", config)
    with pytest.raises(lil.ConfigError, match="select family"):
        make_llama(sparse=lil.H2O(budget=64), guardian=config)


# Taking the tail back


def test_rewinds(make_llama: Callable[..., lil.Llama]) -> None:
    llama = make_llama(sparse=Quest(budget=64), n_ctx=2048)
    loop = "one two three four. " * 30
    config = Guardian(rule="paper", every=40, action=("widen", "stop"), rewind=True, widen=None)
    result = llama.create_completion(loop, temperature=0, max_tokens=300, guardian=config)
    choice = result["choices"][0]
    did = events(choice)
    assert did[:2] == [("alarm", 40), ("widen", 40)]
    assert did[2] == ("rewind", 0)  # all of it added nothing
    assert did[3:] in ([("alarm", 80), ("stop", 80)], did[3:4]) or did[3][0] == "narrow"

    # what is left is one text: the tokens that were taken back are in neither usage nor text
    assert result["usage"]["completion_tokens"] == choice["guardian"]["tokens"]
    text = llama.tokenize(choice["text"].encode(), add_bos=False)
    assert abs(len(text) - choice["guardian"]["tokens"]) <= 2
    prompt = llama.tokenize(loop.encode())
    assert llama.n_tokens - len(prompt) in (choice["guardian"]["tokens"] - 1, choice["guardian"]["tokens"])

    # with everything read from the first token on, the answer is full attention's
    full = make_llama(n_ctx=2048)
    n = choice["guardian"]["tokens"]
    whole = full.create_completion(loop, temperature=0, max_tokens=n)["choices"][0]["text"]
    assert choice["text"] == whole


def test_rewinds_to_an_end(make_llama: Callable[..., lil.Llama]) -> None:
    """Sound text first, which stays."""
    llama = make_llama(sparse=Quest(budget=64), n_ctx=2048)
    grammar = lil.llama_cpp.LlamaGrammar.from_string(
        'root ::= "A brown fox jumps over a lazy dog near the old river bank. " loop\nloop ::= "and so on " loop',
        verbose=False,
    )
    config = Guardian(rule="paper", every=40, threshold=10, action=("widen", "stop"), rewind=True)
    choice = complete(llama, "Go.", config, grammar=grammar, max_tokens=300)
    (alarm, at), (widen, _), (rewind, left), *_ = events(choice)
    assert (alarm, widen, rewind) == ("alarm", "widen", "rewind")
    assert 0 < left <= at - 40
    said = "A brown fox jumps over a lazy dog near the old river bank. " + "and so on " * 200
    assert said.startswith(choice["text"])  # the grammar went on where it was
    assert len(choice["text"]) > 80


def test_rewind_is_refused(shared_llama: lil.Llama, make_llama: Callable[..., lil.Llama]) -> None:
    config = Guardian(action=("widen", "stop"), rewind=True)
    llama = make_llama(sparse=Quest(budget=64))
    for ask in (
        lambda: llama.create_completion("The sea", stream=True, guardian=config),
        lambda: list(llama.create_chat_completion(LOOP, stream=True, guardian=config)),
        lambda: llama.generate([1], guardian=config),
    ):
        with pytest.raises(lil.ConfigError, match="rewind=True cannot work with a stream"):
            ask()
    with pytest.raises(lil.ConfigError, match=r"full attention has none|no budget"):
        complete(shared_llama, "The sea", config)
    assert complete(llama, "The sea", config, max_tokens=4)["finish_reason"] == "length"
