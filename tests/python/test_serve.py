"""llama-server and the other programs of the wheel, with real clients over a small model."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lil
import pytest
import serving
from lil._programs import program

openai = pytest.importorskip("openai")

BIN = Path(lil.__file__).parent / "bin"

pytestmark = pytest.mark.skipif(not BIN.is_dir(), reason="built without the programs (LIL_PROGRAMS=OFF)")

LOOP = "The cat sat on the mat. " * 20
LOOP_ASKED = "Write a poem about the sea that has one hundred lines."
GUARDIAN = {"rule": "paper", "every": 24, "threshold": 12}


class Server(serving.Server):
    def __init__(self, *options: str, **kwargs: Any) -> None:
        super().__init__(*options, **kwargs)
        self.client = openai.OpenAI(base_url=f"{self.address}/v1", api_key="none", max_retries=0)

    def stop(self) -> None:
        self.client.close()
        super().stop()


@pytest.fixture(scope="module", params=["quest:budget=64", "h2o:budget=128,capacity=1024", "none"])
def server(
    request: pytest.FixtureRequest, model_path: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "log"
    started = Server("-m", model_path, "--sparse", request.param, "--metrics", "--slots", "-ub", "256", log=log)
    try:
        started.wait()
        yield started
    finally:
        started.stop()


def ask(server: Server, text: str, **options: Any) -> Any:
    return server.client.chat.completions.create(
        model="any", messages=[{"role": "user", "content": text}], temperature=0, **{"max_tokens": 16, **options}
    )


def test_chat(server: Server) -> None:
    choice = ask(server, "What is the capital of France?").choices[0]
    said = choice.message.content
    assert said and not hasattr(choice, "guardian")
    choice = ask(server, "What is the capital of France?", extra_body={"guardian": True}).choices[0]
    assert choice.message.content == said
    assert choice.stop_reason is None
    assert choice.guardian["stopped"] is False
    assert choice.guardian["checks"] == 0


def test_stream(server: Server) -> None:
    chunks = list(ask(server, "Count to five.", stream=True, extra_body={"guardian": {"every": 4, "action": "flag"}}))
    assert sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in chunks) > 4
    ends = [chunk.choices[0] for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]
    assert len(ends) == 1
    assert ends[0].guardian["checks"] >= 2
    assert ends[0].guardian["tokens"] >= 8


def test_guardian_ends_a_loop(server: Server) -> None:
    options = {"prompt": LOOP, "temperature": 0, "max_tokens": 200}
    answer = server.client.completions.create(model="any", **options, extra_body={"guardian": GUARDIAN})
    choice = answer.choices[0]
    assert (choice.finish_reason, choice.stop_reason) == ("stop", "guardian")
    assert choice.guardian["stopped"]
    assert answer.usage.completion_tokens == choice.guardian["tokens"] + 1 <= 2 * GUARDIAN["every"] + 1
    assert len(choice.guardian["curve"]) == choice.guardian["checks"] + 1
    assert choice.guardian["action"] == "stop" and choice.guardian["alarms"] == 1
    assert [event["did"] for event in choice.guardian["events"]] == ["alarm", "stop"]

    status, native = server.post(
        "/completion", {"prompt": LOOP, "temperature": 0, "n_predict": 60, "guardian": GUARDIAN}
    )
    assert (status, native["stop_type"], native["guardian"]["stopped"]) == (200, "guardian", True)
    status, native = server.post("/completion", {"prompt": LOOP, "temperature": 0, "n_predict": 60})
    assert (status, native["stop_type"]) == (200, "limit")
    assert "guardian" not in native


def test_other_routes(server: Server) -> None:
    status, answer = server.post("/v1/responses", {"input": "Hello", "max_output_tokens": 8, "guardian": "every=100"})
    assert (status, answer["guardian"]["stopped"]) == (200, False)
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "guardian": True}
    status, answer = server.post("/v1/messages", body)
    assert (status, answer["guardian"]["stopped"]) == (200, False)
    assert answer["stop_reason"] in ("end_turn", "max_tokens")


def test_tools(server: Server) -> None:
    weather = {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
    answer = ask(
        server,
        "What is the weather in Paris?",
        tools=[weather],
        tool_choice="required",
        max_tokens=100,
        extra_body={"guardian": True},
    )
    choice = answer.choices[0]
    if choice.finish_reason == "tool_calls":
        assert choice.message.tool_calls[0].function.name == "weather"
        assert "city" in json.loads(choice.message.tool_calls[0].function.arguments)
    else:
        assert choice.finish_reason == "length"
    assert choice.guardian["stopped"] is False


@pytest.mark.parametrize(
    ("guardian", "words"),
    [
        (1, "true, false"),
        ([], "true, false"),
        ("gaurdian", "did you mean guardian"),
        ({"evry": 3}, "did you mean every"),
        ({"every": 0}, "at least 1"),
        ({"every": -1}, "at least 1"),
        ({"every": 1.5}, "whole number"),
        ({"every": 1e400}, ""),
        ({"every": "many"}, "every must be a number"),
        ({"action": 5}, "action must be a text"),
        ({"widen": True}, "widen must be a number"),
        ({"every": None}, "every must be"),
        ({"every": {"every": 3}}, "every must be"),
        ({"action": "halt"}, "stop, close_think, flag and widen"),
        ({"every=1,action": "flag"}, "no name of an option"),
        ({"think_end": "a\0b", "action": "close_think"}, "zero byte"),
        ({"threshold": -1}, "at least 0"),
    ],
)
def test_bad_guardian(server: Server, guardian: Any, words: str) -> None:
    for path, body in (
        ("/completion", {"prompt": "Hello"}),
        ("/v1/completions", {"prompt": "Hello"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}]}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}),
    ):
        status, message = server.post(path, body | {"guardian": guardian})
        assert status == 400, (path, message)
        assert words in message


def first_token(server: Server, said: Sequence[str]) -> tuple[float, int]:
    """The log-probability of the first token of an answer to what user and assistant said in turn, on one slot; and how
    much of the prompt came from its cache."""
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]
    body = {"messages": messages, "max_tokens": 12, "temperature": 0, "id_slot": 1, "logprobs": True, "top_logprobs": 1}
    status, answer = server.post("/v1/chat/completions", body)
    assert status == 200, answer
    return answer["choices"][0]["logprobs"]["content"][0]["logprob"], answer["timings"]["cache_n"]


def test_edits_and_regenerations(server: Server) -> None:
    story = "Here is a story. " + "Ann went to the market and bought an apple, a pear and a plum. " * 12
    first = [story + "Go on."]
    logprob, _ = first_token(server, first)
    evicts = "h2o" in json.loads(server.get("/props"))["sparse"]
    for said in (first, [*first, "She went home.", "Why?"], first, [story + "What did Ann buy?"], ["Hello"], first):
        found, _ = first_token(server, said)
        if said is first:
            assert found == pytest.approx(logprob, abs=0.3 if evicts else 0.05)
    assert server.process.poll() is None


def test_a_kept_end_of_a_prompt_comes_back(server: Server) -> None:
    said = ["Once upon a time. " * 40 + "Write a long story."]
    first_token(server, said)
    _, cached = first_token(server, said)
    assert cached > 150


def test_what_runs(server: Server) -> None:
    server.post("/completion", {"prompt": LOOP, "temperature": 0, "n_predict": 60, "guardian": GUARDIAN})
    props = json.loads(server.get("/props"))
    slots = json.loads(server.get("/slots"))
    metrics: dict[str, float] = {}  # summed over slots
    for name, value in re.findall(r"^(lil:\w+)\S* (\S+)$", server.get("/metrics"), re.MULTILINE):
        metrics[name] = metrics.get(name, 0.0) + float(value)
    method = props["sparse"].partition(":")[0]
    assert len(slots) == 4
    assert {slot["sparse"]["method"] for slot in slots} == {"dense" if method == "none" else method}
    assert metrics["lil:guardian_alarms_total"] >= metrics["lil:guardian_stops_total"] >= 1
    assert metrics["lil:guardian_tokens_total"] >= GUARDIAN["every"]
    assert metrics["lil:kv_bytes"] > 0
    assert metrics["lil:rows_read_total"] > 0
    if method != "none":
        assert metrics["lil:sparse_steps_total"] > 0
    if method == "h2o":
        assert metrics["lil:evicted_total"] > 0
        assert {slot["n_ctx"] for slot in slots} == {2048}


def test_metrics_while_asleep(model_path: str, tmp_path: Path) -> None:
    options = ("-m", model_path, "--sparse", "quest:budget=64", "--metrics", "--sleep-idle-seconds", "1")
    server = Server(*options, log=tmp_path / "log")
    try:
        server.wait()
        server.post("/completion", {"prompt": LOOP, "temperature": 0, "n_predict": 60, "guardian": GUARDIAN})
        awake = [line for line in server.get("/metrics").splitlines() if line.startswith("lil:")]
        for _ in range(100):
            if json.loads(server.get("/props"))["is_sleeping"]:
                break
            time.sleep(0.1)
        asleep = [line for line in server.get("/metrics").splitlines() if line.startswith("lil:")]
        assert json.loads(server.get("/props"))["is_sleeping"]
        assert asleep == awake and any(re.fullmatch(r'lil:guardian_stops_total\{slot="\d"\} 1', s) for s in awake)
    finally:
        server.stop()


# thinking

THINKING = """{%- for m in messages -%}
{{- '<|im_start|>' + m.role + '\\n' -}}
{%- if m.role == 'assistant' and m.reasoning_content -%}{{- '<think>\\n' + m.reasoning_content + '\\n</think>\\n\\n' -}}
{%- endif -%}
{{- m.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n<think>\\n' -}}{%- endif -%}
"""


@pytest.mark.parametrize("stream", [False, True])
def test_thinking_is_closed(thinker: Server, stream: bool) -> None:
    """An alarm ends it with the template's own words, in one answer that upstream's parser takes apart."""
    guardian = {**GUARDIAN, "action": "close_think"}
    options = {"max_tokens": 90, "extra_body": {"guardian": guardian, "ignore_eos": True}}
    if stream:
        reasoning = content = ""
        for chunk in ask(thinker, LOOP_ASKED, stream=True, **options):
            for choice in chunk.choices:
                reasoning += getattr(choice.delta, "reasoning_content", None) or ""
                content += choice.delta.content or ""
                report = getattr(choice, "guardian", None)
    else:
        choice = ask(thinker, LOOP_ASKED, **options).choices[0]
        reasoning, content, report = choice.message.reasoning_content, choice.message.content, choice.guardian
    assert report["think_closed"] and report["action"] == "close_think"
    assert [event["did"] for event in report["events"]][:2] == ["alarm", "close_think"]
    assert len(reasoning) > 20 and content.strip()
    assert "think>" not in reasoning + content
    metrics = thinker.get("/metrics")
    assert re.search(r'^lil:guardian_think_closed_total\{slot="\d"\} [1-9]', metrics, re.MULTILINE)


@pytest.fixture(scope="module")
def thinker(model_path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("thinker")
    (folder / "template").write_text(THINKING)
    options = ("-m", model_path, "--jinja", "--chat-template-file", str(folder / "template"), "--metrics")
    started = Server(*options, log=folder / "log")
    try:
        started.wait()
        yield started
    finally:
        started.stop()


# arguments


def run(name: str, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program(name), *args], capture_output=True, text=True, timeout=120, env={**os.environ, **environment}
    )


@pytest.mark.parametrize("name", ["llama-server", "llama-batched-bench", "llama-perplexity", "llama-bench"])
def test_a_bad_notation_is_refused(name: str, model_path: str) -> None:
    for out in (run(name, "-m", model_path, "--sparse", "qest"), run(name, "-m", model_path, LIL_SPARSE="qest")):
        assert out.returncode != 0
        assert "did you mean quest" in out.stdout + out.stderr


def test_what_sparse_attention_refuses(model_path: str) -> None:
    out = run("llama-imatrix", "-m", model_path, "--sparse", "quest")  # it looks at prompts, which are dense
    assert out.returncode != 0 and "--sparse" in out.stdout + out.stderr
    out = run("llama-server", "-m", model_path, "--sparse", "quest", "--embedding", "--port", "1")
    assert out.returncode != 0 and "embeddings" in out.stdout + out.stderr
    out = run("llama-server", "-m", model_path, "--sparse", "h2o", "--spec-type", "ngram-simple", "--port", "1")
    assert out.returncode != 0 and "speculative decoding" in out.stdout + out.stderr


def test_environment(model_path: str, tmp_path: Path) -> None:
    environment = {"LIL_SPARSE": "quest:budget=64", "LIL_GUARDIAN": "rule=paper,every=24,threshold=12"}
    server = Server("-m", model_path, environment=environment, log=tmp_path / "log")
    try:
        server.wait()
        assert json.loads(server.get("/props"))["sparse"] == "quest:budget=64"
        body = {"prompt": LOOP, "temperature": 0, "n_predict": 60}
        assert server.post("/completion", body)[1]["stop_type"] == "guardian"
        assert server.post("/completion", body | {"guardian": False})[1]["stop_type"] == "limit"
    finally:
        server.stop()
    assert "LIL_SPARSE=quest:budget=64 in the environment is taken" in (tmp_path / "log").read_text()


def test_bench(model_path: str) -> None:
    args = ("-m", model_path, "-p", "0", "-n", "8", "-d", "96", "-r", "1", "-o", "json", "--sparse", "quest:budget=64")
    out = run("llama-bench", *args)
    assert out.returncode == 0, out.stderr
    assert json.loads(out.stdout)[0]["sparse"] == "quest:budget=64"
    out = run(
        "llama-batched-bench",
        "-m",
        model_path,
        "-c",
        "512",
        "-npp",
        "64",
        "-ntg",
        "8",
        "-npl",
        "2",
        "--sparse",
        "h2o:budget=32",
    )
    assert out.returncode == 0, out.stdout + out.stderr
    assert "h2o, budget 32" in out.stdout + out.stderr


def test_lil_serve(model_path: str, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "lil", "serve", model_path, "--port", port, "-c", "512", "--guardian", "on"]
    with (tmp_path / "log").open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        for _ in range(1200):
            if "lil: ready at" in (tmp_path / "log").read_text():
                break
            assert process.poll() is None, (tmp_path / "log").read_text()[-2000:]
            time.sleep(0.1)
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
        answer = client.chat.completions.create(model="any", messages=[{"role": "user", "content": "Hi"}], max_tokens=4)
        assert answer.choices[0].guardian["stopped"] is False
        client.close()
    finally:
        process.terminate()
        assert process.wait(timeout=30) is not None


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nothing.gguf"], "nothing.gguf: no such file"),
        (["/"], "/: it is a directory; give the .gguf file in it"),
        ([__file__], "it is not a GGUF file: it begins with b"),
        (["hf:nobody"], "'nobody' is no repository"),
        (["hf:nobody/nothing:Q4_0"], "is in no cache and cannot be fetched"),
        (["MODEL", "--sparse", "qest"], "did you mean quest"),
        (["MODEL", "--guardian", "onn"], "did you mean on"),
        (["MODEL", "--port", "0"], "port"),
    ],
)
def test_lil_serve_refuses(
    args: list[str], words: str, model_path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lil.cli import main

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["serve", *(model_path if arg == "MODEL" else arg for arg in args)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("lil: ") and error.count("\n") == 1
    assert words in error


def test_lil_serve_at_a_port_that_is_taken(model_path: str, capsys: pytest.CaptureFixture[str]) -> None:
    from lil.cli import main

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", model_path, "--port", port]) == 2
    assert f"cannot listen at 127.0.0.1, port {port}: Address already in use; give another" in capsys.readouterr().err
