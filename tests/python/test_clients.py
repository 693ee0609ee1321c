"""llama-server through the clients that people use: openai, anthropic, Instructor; and what it says as Python does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lil
import pytest

pytest.importorskip("openai")
anthropic = pytest.importorskip("anthropic")
pydantic = pytest.importorskip("pydantic")

from test_serve import BIN, Server  # noqa: E402

pytestmark = pytest.mark.skipif(not BIN.is_dir(), reason="built without the programs (LIL_PROGRAMS=OFF)")

TEMPLATE = Path(__file__).resolve().parents[1] / "data" / "tools.jinja"
GUARDIAN = {"rule": "paper", "every": 20, "threshold": 1e6}  # no text adds as much: the first check ends it
POEM = "Write a poem about the sea."
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


class Person(pydantic.BaseModel):
    name: str
    age: int


@pytest.fixture(scope="module")
def server(model_path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("clients") / "log"
    options = ("--chat-template-file", str(TEMPLATE), "--temp", "0", "-np", "1", "-t", "1")
    started = Server("-m", model_path, "--sparse", "none", *options, log=log)
    try:
        yield started.wait()
    finally:
        started.stop()


@pytest.fixture
def claude(server: Server) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=server.address, api_key="none", max_retries=0) as client:
        yield client


def ask(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


# openai


def test_openai_chat(server: Server) -> None:
    options: dict[str, Any] = {"model": "any", "max_tokens": 60, "extra_body": {"guardian": GUARDIAN}}
    whole = server.client.chat.completions.create(messages=ask(POEM), **options).choices[0]
    assert (whole.finish_reason, whole.stop_reason, whole.guardian["tokens"]) == ("stop", "guardian", 20)

    chunks = list(server.client.chat.completions.create(messages=ask(POEM), stream=True, **options))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole.message.content
    end = next(chunk.choices[0] for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason)
    assert (end.finish_reason, end.stop_reason, end.guardian) == ("stop", "guardian", whole.guardian)

    with server.client.chat.completions.stream(messages=ask(POEM), **options) as events:
        seen = [event.chunk.choices[0] for event in events if event.type == "chunk" and event.chunk.choices]
        final = events.get_final_completion().choices[0]
    assert (final.finish_reason, final.message.content) == ("stop", whole.message.content)
    assert seen[-1].stop_reason == "guardian"


def test_openai_responses(server: Server) -> None:
    options: dict[str, Any] = {"model": "any", "input": POEM, "max_output_tokens": 60}
    whole = server.client.responses.create(**options, extra_body={"guardian": GUARDIAN})
    assert (whole.status, whole.guardian["stopped"]) == ("completed", True)
    *_, last = server.client.responses.create(**options, stream=True, extra_body={"guardian": GUARDIAN})
    assert (last.type, last.response.guardian) == ("response.completed", whole.guardian)


def test_openai_structured_output(server: Server) -> None:
    choice = server.client.chat.completions.parse(
        model="any",
        messages=ask("Bob is 30 years old. Who is it?"),
        response_format=Person,
        max_tokens=80,
        extra_body={"guardian": True},
    ).choices[0]
    assert choice.message.parsed == Person(name="Bob", age=30)
    assert (choice.finish_reason, choice.stop_reason, choice.guardian["stopped"]) == ("stop", None, False)


def test_openai_tools(server: Server) -> None:
    messages: list[dict[str, Any]] = []
    for name in ("Rome", "Oslo"):  # how it is done, without which so small a model tells a story
        function = {"name": "weather", "arguments": json.dumps({"city": name})}
        messages += [
            *ask(f"What is the weather in {name}?"),
            {"role": "assistant", "tool_calls": [{"id": name, "type": "function", "function": function}]},
            {"role": "tool", "tool_call_id": name, "content": "sunny"},
            {"role": "assistant", "content": "It is sunny."},
        ]
    tool = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
    options: dict[str, Any] = {
        "model": "any",
        "messages": [*messages, *ask("What is the weather in Paris?")],
        "tools": [tool],
        "max_tokens": 60,
        "extra_body": {"guardian": True},
    }
    for choice in ("auto", "required"):
        answer = server.client.chat.completions.create(tool_choice=choice, **options).choices[0]
        (call,) = answer.message.tool_calls
        assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Paris"})
        assert (answer.finish_reason, answer.stop_reason, answer.guardian["stopped"]) == ("tool_calls", None, False)
    with server.client.chat.completions.stream(**options) as events:
        for _ in events:
            pass
        (call,) = events.get_final_completion().choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Paris"}


def test_instructor(server: Server) -> None:
    instructor = pytest.importorskip("instructor")
    client = instructor.from_openai(server.client, mode=instructor.Mode.JSON_SCHEMA)
    person, answer = client.chat.completions.create_with_completion(
        model="any",
        response_model=Person,
        messages=ask("Bob is 30 years old. Who is it?"),
        max_tokens=80,
        max_retries=0,
        extra_body={"guardian": True},
    )
    assert (person.name, person.age) == ("Bob", 30)
    assert answer.choices[0].guardian["stopped"] is False


# anthropic


def test_anthropic(claude: Any) -> None:
    options: dict[str, Any] = {"model": "any", "max_tokens": 60, "messages": ask(POEM)}
    message = claude.messages.create(**options, extra_body={"guardian": GUARDIAN})
    assert (message.stop_reason, message.guardian["stopped"], message.guardian["tokens"]) == ("end_turn", True, 20)

    with claude.messages.stream(**options, extra_body={"guardian": GUARDIAN}) as events:
        deltas = [event.delta for event in events if event.type == "message_delta"]
        final = events.get_final_message()
    assert (final.stop_reason, final.content[0].text) == ("end_turn", message.content[0].text)
    assert [delta.guardian for delta in deltas] == [message.guardian]

    message = claude.messages.create(**{**options, "max_tokens": 5})
    assert message.stop_reason == "max_tokens" and not hasattr(message, "guardian")
    with pytest.raises(anthropic.BadRequestError, match="'evry' is no option of guardian: did you mean every"):
        claude.messages.create(**options, extra_body={"guardian": {"evry": 1}})


def test_anthropic_tools(claude: Any) -> None:
    messages: list[dict[str, Any]] = []
    for name in ("Rome", "Oslo"):
        use = {"type": "tool_use", "id": name, "name": "weather", "input": {"city": name}}
        result = {"type": "tool_result", "tool_use_id": name, "content": "sunny"}
        messages += [
            *ask(f"What is the weather in {name}?"),
            {"role": "assistant", "content": [use]},
            {"role": "user", "content": [result]},
            {"role": "assistant", "content": "It is sunny."},
        ]
    options: dict[str, Any] = {
        "model": "any",
        "max_tokens": 60,
        "messages": [*messages, *ask("What is the weather in Paris?")],
        "tools": [{"name": "weather", "input_schema": CITY}],
        "extra_body": {"guardian": True},
    }
    message = claude.messages.create(**options)
    (use,) = [block for block in message.content if block.type == "tool_use"]
    assert (use.name, use.input, message.stop_reason) == ("weather", {"city": "Paris"}, "tool_use")
    assert message.guardian["stopped"] is False
    with claude.messages.stream(**options) as events:
        final = events.get_final_message()
    assert [block.input for block in final.content if block.type == "tool_use"] == [{"city": "Paris"}]


# the same story as Python's


@pytest.mark.parametrize(
    ("options", "guardian", "ends"),
    [
        ({}, {"rule": "paper", "every": 24, "threshold": 12}, ("stop", "guardian")),
        ({}, {"rule": "paper", "every": 30, "action": "flag"}, ("length", None)),
        ({"stop": [" sat"]}, GUARDIAN, ("stop", None)),
        ({"max_tokens": 10}, GUARDIAN, ("length", None)),
    ],
    ids=["guardian", "flag", "stop", "length"],
)
def test_as_in_python(
    server: Server,
    make_llama: Callable[..., lil.Llama],
    options: dict[str, Any],
    guardian: dict[str, Any],
    ends: tuple[str, str | None],
) -> None:
    asked: dict[str, Any] = {"prompt": "The cat sat on the mat. " * 20, "temperature": 0, "max_tokens": 80, **options}
    ours = make_llama().create_completion(**asked, guardian=lil.Guardian(**guardian))["choices"][0]
    theirs = server.client.completions.create(model="any", **asked, extra_body={"guardian": guardian}).choices[0]
    assert (theirs.finish_reason, theirs.stop_reason) == (ours["finish_reason"], ours["stop_reason"]) == ends
    assert theirs.text == ours["text"]
    for key in set(theirs.guardian) & set(ours["guardian"]) - {"bytes", "size", "curve"}:
        assert theirs.guardian[key] == ours["guardian"][key], key
