"""Malformed requests at random, to llama-server.

    python tests/python/fuzz_server.py model.gguf [--seed 1] [--count 10000] [-- OPTIONS OF llama-server]

Every request is wrong by its making: bytes that are no JSON (noise, a sound body cut short or with bytes changed,
invalid UTF-8, NaN), JSON of another shape or nested without end, a field of a type or size that it cannot have, a
`guardian` that means nothing, a path or an id that is not there, HTTP that is none. The answer must be a status of
400 to 499; to broken HTTP the connection may be closed as well. Between them come `odd` requests, which may be taken
or refused, but no more. None may be answered with 5xx, go without an answer, end the server, or leave a slot at work;
at the end, a sound request is answered as at the beginning.

The same arguments do the same. What fails is printed with its seed: `--seed S --count 1` is it alone.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving import Server

CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
PROMPT = {"prompt": "Hello", "n_predict": 1}
INPUT = {"input": "Hello", "max_output_tokens": 1}

# sound bodies of the routes that read one
BODIES: dict[str, dict[str, Any]] = {
    "/completion": PROMPT,
    "/completions": PROMPT,
    "/v1/completions": {"prompt": "Hello", "max_tokens": 1},
    "/chat/completions": CHAT,
    "/v1/chat/completions": CHAT,
    "/responses": INPUT,
    "/v1/responses": INPUT,
    "/v1/messages": CHAT,
    "/v1/chat/completions/control": {"id": "chatcmpl-none", "action": "reasoning_end"},
    "/infill": {"input_prefix": "a", "input_suffix": "b", "n_predict": 1},
    "/embedding": {"content": "Hello"},
    "/embeddings": {"input": "Hello"},
    "/v1/embeddings": {"input": "Hello"},
    "/rerank": {"query": "a", "documents": ["b"]},
    "/v1/rerank": {"query": "a", "documents": ["b"]},
    "/tokenize": {"content": "Hello"},
    "/detokenize": {"tokens": [1, 2]},
    "/apply-template": CHAT,
    "/chat/completions/input_tokens": CHAT,
    "/v1/chat/completions/input_tokens": CHAT,
    "/responses/input_tokens": INPUT,
    "/v1/responses/input_tokens": INPUT,
    "/v1/messages/count_tokens": CHAT,
    "/slots/0?action=save": {"filename": "slot.bin"},
    "/slots/0?action=restore": {"filename": "slot.bin"},
    "/v1/streams/lookup": {"conversation_ids": []},
}
# what generates text, and so takes every option of it
GENERATE = ("/completion", "/completions", "/v1/completions", "/chat/completions", "/v1/chat/completions")
CHATS = ("/chat/completions", "/v1/chat/completions", "/apply-template", "/v1/chat/completions/input_tokens")
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}

# numbers with the smallest and the largest that are taken
LIMITED = {
    "n_predict": (-1, 2**31 - 1),
    "n_indent": (0, 2**31 - 1),
    "n_keep": (-1, 2**31 - 1),
    "n_discard": (0, 2**31 - 1),
    "n_cmpl": (1, 4),
    "n_cache_reuse": (0, 2**31 - 1),
    "sse_ping_interval": (-1, 2**31 - 1),
    "t_max_predict_ms": (-1, 2**63 - 1),
    "repeat_last_n": (0, 2**31 - 1),
    "dry_allowed_length": (0, 2**31 - 1),
    "dry_penalty_last_n": (0, 2**31 - 1),
    "adaptive_decay": (0, 0.99),
    "min_keep": (0, 2**31 - 1),
}
# numbers that are clamped, or of which any is taken that their type holds
NUMBERS = (
    *("top_k", "top_p", "min_p", "top_n_sigma", "xtc_probability", "xtc_threshold", "typical_p", "temperature"),
    *("dynatemp_range", "dynatemp_exponent", "repeat_penalty", "frequency_penalty", "presence_penalty"),
    *("dry_multiplier", "dry_base", "mirostat", "mirostat_tau", "mirostat_eta", "adaptive_target", "n_probs"),
)
INTEGERS = ("top_k", "mirostat", "n_probs", "seed")
FLAGS = (
    *("verbose", "stream", "cache_prompt", "return_tokens", "return_progress", "timings_per_token"),
    *("post_sampling_probs", "ignore_eos", "backend_sampling", "echo"),
)
GUARDIAN = {"every": 1, "patience": 1, "grace": 0}  # the smallest


NO_PROMPTS = (None, 5, True, {}, {"a": 1}, [{}], [None], [[[1]]], [-1], [10**7], [2**40])
NO_TOKENS = ([-1], [10**7], ["x"], [{}], 5, "x", [2**40])
NO_GRAMMARS = (
    *('x ::= "a"', "root ::= (", 'root ::= "', "root ::= y", ")", 'root ::= "a"{1000000000}'),
    *("root ::= " + "(" * depth for depth in (500, 5000, 100000)),
    "root ::= " + "(" * 20000 + '"a"' + ")" * 20000,
    '# "\nroot ::= ' + "(" * 20000 + '"a"' + ")" * 20000,
    "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1}\n" for i in range(30000)) + 'r30000 ::= "a"',
)
NO_GUARDIANS = ("", "x", "onn", "gardian", "on,on", "every", "every=", "=5", "every==5", "widen=4,action=halt")
NO_NUMBERS = ("x", "-1", "1e999", "nan", "0x10", "99999999999999999999", "", "1 2", "--1")
NO_ACTIONS = ("halt", "", "stop+halt", "stop,stop", 5, [], ["stop"], "widen", {"stop": 1})
NO_PARTS = ("x", 5, None, "image_url", "input_audio")
NO_FILES = ("", "..", "../x", "/etc/passwd", "a/b", "a\0b", ".", 5, None, [], "nul\n", "x" * 5000)


@dataclass
class Request:
    """What is sent, and whether it must be refused."""

    path: str
    body: bytes
    kind: str
    method: str = "POST"
    refused: bool = True
    raw: bytes | None = None  # the whole of it, in the place of HTTP


class Failure(Exception):
    """What was found."""


def nested(depth: int, inner: str, kind: str) -> str:
    if kind == "array":
        return "[" * depth + inner + "]" * depth
    if kind == "object":
        return '{"a":' * depth + inner + "}" * depth
    return '[{"content":' * depth + inner + "}]" * depth


def is_json(body: bytes) -> bool:
    def refuse(word: str) -> None:
        raise ValueError(word)

    try:
        json.loads(body.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError):
        return False
    return True


class Maker:
    """Makes the requests of one seed."""

    def __init__(self, seed: int, routes: dict[str, dict[str, Any]]) -> None:
        self.random = random.Random(seed)
        self.routes = routes

    def choice(self, of: Any) -> Any:
        return self.random.choice(list(of))

    def noise(self, most: int = 200) -> bytes:
        return bytes(self.random.randrange(256) for _ in range(self.random.randrange(most)))

    def text(self, most: int = 20) -> str:
        return "".join(chr(self.random.choice((32, 34, 92, 10, 61, 58, 44, 97, 233, 0x4E00, 0x1F600)))
                       for _ in range(self.random.randrange(1, most)))  # fmt: skip

    def value(self, *but: type) -> Any:
        """Some JSON, of no type of these."""
        kinds: dict[type, Callable[[], Any]] = {
            bool: lambda: self.random.random() < 0.5,
            int: lambda: self.choice((0, -1, 1, 7, -(2**31), 2**31, 2**63, -(2**63), 10**30)),
            float: lambda: self.choice((0.5, -0.5, 1e300, -1e300, 1e-300)),
            str: lambda: self.choice(("", "5", "true", self.text(), "x" * 5000)),
            list: lambda: self.choice(([], [1], ["x"], [[]], [{}], [None], [1, "x", {}])),
            dict: lambda: self.choice(({}, {"a": 1}, {"type": "x"}, {"": None})),
        }
        return self.choice(make for kind, make in kinds.items() if kind not in but)()

    # each returns one request

    def no_json(self) -> Request:
        path = self.choice(self.routes)
        sound = json.dumps(self.routes[path]).encode()
        while True:
            kind = self.choice(("noise", "cut", "bytes", "utf-8", "number", "empty", "twice"))
            if kind == "noise":
                body = self.noise()
            elif kind == "cut":
                body = sound[: self.random.randrange(len(sound))]
            elif kind == "bytes":
                changed = bytearray(sound)
                for _ in range(self.random.randrange(1, 6)):
                    at = self.random.randrange(len(changed))
                    changed[at : at + self.random.randrange(2)] = self.noise(3)
                    changed = changed or bytearray(b"}")
                body = bytes(changed)
            elif kind == "utf-8":
                bad = self.choice((b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\x80"))
                at = sound.rindex(b'"')
                body = sound[:at] + bad + sound[at:]
            elif kind == "number":
                word = self.choice(("NaN", "-Infinity", "1e999", "-1e999", "0x10", "01", "+1", ".5", "1.", "1e", "--1"))
                body = sound[:-1] + f', "temperature": {word}}}'.encode()
                if word in ("1e999", "-1e999"):  # Python reads infinity
                    return Request(path, body, "number")
            elif kind == "empty":
                body = self.choice((b"", b" ", b"\0", b"\xef\xbb\xbf", b"\xff\xfe{\0}\0"))
            else:
                body = sound + sound
            if not is_json(body):
                return Request(path, body, kind)

    def shape(self) -> Request:
        path = self.choice(path for path in self.routes if path != "/v1/streams/lookup")
        body = self.choice((None, True, 5, -1.5, "text", [], [1], ["prompt"], {}, [[]], {"": ""}, {"a": 1}))
        # which take an absent text as none
        return Request(path, json.dumps(body).encode(), "shape", refused=path not in ("/tokenize", "/detokenize"))

    def deep(self) -> Request:
        path = self.choice(self.routes)
        depth = self.choice((1000, 5000, 20000, 200000))
        deep = nested(depth, self.choice(("", "1", '"x"')) or "null", self.choice(("array", "object", "both")))
        if self.random.random() < 0.3:
            return Request(path, deep.encode(), "deep")
        sound = self.routes[path]
        name = self.choice((*sound, "guardian", "tools", "json_schema", "response_format", "chat_template_kwargs",
                            "logit_bias", "metadata"))  # fmt: skip
        rest = json.dumps({key: value for key, value in sound.items() if key != name})[1:-1]
        body = f'{{{rest}{", " if rest else ""}"{name}": {deep}}}'
        return Request(path, body.encode(), "deep")

    def field(self) -> Request:
        """A field of another type, or out of its limits."""
        path = self.choice(GENERATE)
        body = dict(self.routes[path])
        kind = self.choice(("limit", "type", "flag", "big", "other"))
        if kind == "limit":
            name = self.choice(LIMITED)
            least, most = LIMITED[name]
            value = self.choice((least - 1, -(2**31), most + 1, -(10**6)))
            if name != "adaptive_decay":
                value = self.choice((value, 2**64 - 1, 10**30, 1e300, -1e300))
        elif kind == "type":
            name = self.choice((*LIMITED, *NUMBERS))
            value = self.value(int, float, bool)
        elif kind == "flag":
            name = self.choice(FLAGS)
            value = self.value(bool)
        elif kind == "big":  # what the type of the field cannot hold
            name = self.choice((*INTEGERS, *NUMBERS))
            value = self.choice((1e300, -1e300, 10**50, *((2**40, -(2**40)) if name in INTEGERS else ())))
        else:
            other = [
                ("stop", self.choice(([5], [{"a": 1}], [["x"]]))),
                ("grammar", self.choice(NO_GRAMMARS)),
                ("json_schema", self.choice(({"type": "nothing"}, {"$ref": "#/nowhere"}, {"type": 5}))),
                ("json_schema", {"type": "string", "pattern": "^(a$"}),
                ("dry_sequence_breakers", self.choice(([], {}, 5))),
                ("lora", self.choice(({}, 5, "x", True))),
                ("samplers", self.choice(([5], [[]], [{"a": 1}], [True]))),
                ("reasoning_format", self.choice(("nothing", 5, []))),
            ]
            if "prompt" in body:  # the others write these themselves
                other += [
                    ("prompt", self.choice(NO_PROMPTS)),
                    ("preserved_tokens", self.choice(([5], [{}], [True]))),
                    ("reasoning_budget_start_tag", self.value(str)),
                    ("chat_parser", self.choice(("x", "{", "[]", 5))),
                    ("chat_format", self.choice((-1, 10**6, "x"))),
                ]
            else:
                other.append(("messages", self.choice((None, 5, "x", {}, {"a": 1}))))
            name, value = self.choice(other)
        body[name] = value
        return Request(path, json.dumps(body).encode(), f"field {name}")

    def chat(self) -> Request:
        """What a conversation cannot be."""
        path = self.choice(CHATS)
        user = {"role": "user", "content": "Hello"}
        body = self.choice(
            (
                {"messages": self.value(list)},
                {"messages": [self.value(dict)]},
                {"messages": [user, self.value(dict)]},
                {"messages": [{"role": "user"}]},
                {"messages": [{"content": "Hello"}]},
                {"messages": [{"role": self.value(str), "content": "Hello"}]},
                {"messages": [{"role": "user", "content": self.value(str, list)}]},
                {"messages": [{"role": "user", "content": [self.value(dict)]}]},
                {"messages": [{"role": "user", "content": [{"type": self.choice(NO_PARTS)}]}]},
                {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": self.text()}}]}]},
                {"messages": [{"role": "assistant", "tool_calls": self.choice((5, "x", [5], [{"type": "x"}], [{}]))}]},
                {"messages": [user, {"role": "assistant"}]},
                {"messages": [user], "tools": self.choice((5, "x", [5], ["x"], [{}], [{"type": "x"}]))},
                {"messages": [user], "tools": [{"type": "function", "function": self.value(dict)}]},
                {"messages": [user], "tools": [TOOL], "tool_choice": self.choice(("x", "none of them"))},
                {"messages": [user], "tools": [TOOL], "grammar": 'root ::= "a"'},
                {"messages": [user], "response_format": {"type": self.choice(("x", "xml"))}},
                {"messages": [user], "json_schema": {"type": "x"}},
                {"messages": [user], "reasoning_format": self.choice(("x", 5))},
                {"messages": [user], "chat_template_kwargs": {"enable_thinking": "yes"}},
                {"messages": [user], "top_logprobs": 5},
                {"messages": [user], "json_schema": {"type": "object"}, "grammar": 'root ::= "a"'},
            )
        )
        return Request(path, json.dumps({"max_tokens": 1, **body}).encode(), "chat")

    def other_dialects(self) -> Request:
        """What OpenAI's responses and Anthropic's messages cannot be."""
        if self.random.random() < 0.5:
            path = self.choice(("/responses", "/v1/responses", "/v1/responses/input_tokens"))
            body = self.choice(
                (
                    {"input": self.value(str, list)},
                    {"input": [self.value(dict)]},
                    {"input": [{"role": "user", "content": self.value(str, list)}]},
                    {"input": [{"role": "user", "content": [{"type": "x"}]}]},
                    {"input": [{"type": self.choice(("x", 5, None))}]},
                    {"input": "Hello", "tools": self.choice((5, "x"))},
                    {"input": "Hello", "previous_response_id": "x"},
                    {},
                )
            )
            return Request(path, json.dumps({"max_output_tokens": 1, **body}).encode(), "responses")
        path = self.choice(("/v1/messages", "/v1/messages/count_tokens"))
        body = self.choice(
            (
                {"messages": self.value(list)},
                {"messages": [self.value(dict)]},
                {"messages": [{"role": "user", "content": self.value(str, list)}]},
                {},
            )
        )
        return Request(path, json.dumps({"max_tokens": 1, **body}).encode(), "messages")

    def guardian(self) -> Request:
        path = self.choice((*GENERATE, "/v1/responses", "/v1/messages"))
        name = self.choice(GUARDIAN)
        least = GUARDIAN[name]
        value: Any = self.choice(
            (
                self.value(bool, str, dict),
                self.choice((*NO_GUARDIANS, self.text() + "?")),
                f"{name}={self.choice(NO_NUMBERS)}",
                "every=" + "9" * self.choice((20, 400, 100000)),
                "x" * 1000000,
                'on,message="' + "x" * 100,
                'on,message="a\0b"',
                {self.choice(("evry", "Every", "", "every ", self.text() + "?", "x" * 10000)): 5},
                {name: self.value(int, float, bool)},
                {name: self.choice((least - 1, -(10**9), -(10**30), 1e300, 2**33, 10**30, least + 0.5))},
                {"threshold": self.choice((-1, -1e300, "20", True, [20]))},
                {"action": self.choice(NO_ACTIONS)},
                {"action": "close_think", "think_end": self.value(str)},
                {"think_end": "a\0b", "action": "close_think"},
                {"rule": self.choice(("paper ", "x", 5, []))},
                {"every": 100, "evry": 100},
            )
        )
        return Request(path, json.dumps({**self.routes[path], "guardian": value}).encode(), "guardian")

    def address(self) -> Request:
        method, path, body = self.choice(
            (
                ("POST", "/" + "".join(self.random.choice("abc/._-") for _ in range(20)), "{}"),
                ("POST", "/v1/../completion", "{}"),
                ("POST", "/completion/", "{}"),
                ("GET", self.choice(self.routes), ""),
                ("DELETE", self.choice(("/completion", "/slots/0", "/metrics")), ""),
                ("PUT", "/v1/chat/completions", "{}"),
                ("POST", "/metrics", "{}"),
                ("POST", "/slots", "{}"),
                ("POST", f"/slots/{self.choice(('x', '99999999999999999999', '%00', ''))}?action=erase", "{}"),
                ("POST", f"/slots/0?action={self.choice(('', 'x', 'ERASE', '%ff'))}", "{}"),
                ("POST", "/slots/0", "{}"),
                ("POST", f"/slots/0?action={self.choice(('save', 'restore'))}",
                 json.dumps({"filename": self.choice(NO_FILES)})),
                ("POST", "/slots/0?action=restore", '{"filename": "there-is-none"}'),
                ("POST", "/lora-adapters", self.choice(("{}", "5", '"x"', "[5"))),
                ("POST", "/detokenize", json.dumps({"tokens": self.choice(NO_TOKENS)})),
                ("POST", "/tokenize", json.dumps({"content": self.choice((5, {}, [{}], [[1]], True))})),
                ("GET", "/slots?" + "x" * self.choice((1, 9000)), ""),
            )
        )  # fmt: skip
        return Request(path, body.encode(), "address", method, refused=not path.startswith("/slots?x"))

    def http(self) -> Request:
        """Broken HTTP."""
        body = json.dumps(CHAT).encode()
        start = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
        raw = self.choice(
            (
                self.noise(2000) + b"\r\n\r\n",
                b"GET\r\n\r\n",
                b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n",
                b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
                b"GET /slots HTTP/9.9\r\nHost: x\r\n\r\n",
                start + b"Content-Length: -5\r\n\r\n" + body,
                start + b"Content-Length: 99999999999999999999\r\n\r\n" + body,
                start + b"Content-Length: 5\r\n\r\n" + body,
                start + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + body + b"\r\n0\r\n\r\n",
                start + b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 9\r\n\r\n--x\r\n\r\n--",
                start + b"X: " + b"x" * 100000 + b"\r\n\r\n",
                start + b"X: y\r\n" * 500 + b"\r\n",
            )
        )
        return Request("", b"", "http", raw=raw)

    def odd(self) -> Request:
        """Any value of any field: may be taken."""
        path = self.choice(self.routes)
        body = dict(self.routes[path])
        for _ in range(self.random.randrange(1, 4)):
            name = self.choice((*body, *LIMITED, *NUMBERS, *FLAGS, "seed", "stop", "samplers", "logit_bias", "id_slot",
                                "grammar", "json_schema", "tools", "tool_choice", "response_format", "n", "logprobs",
                                "top_logprobs", "guardian", "chat_template_kwargs", "reasoning_budget_tokens",
                                "stream_options", "input_extra", "system", "instructions", "lora", "stop_sequences",
                                "continue_final_message", "message_delimiters", "response_fields", "chat_format",
                                "generation_prompt", "reasoning_budget_message", "thinking", "metadata"))  # fmt: skip
            body[name] = self.value()
        for name in ("n_predict", "max_tokens", "max_output_tokens"):  # no long answers
            if name in self.routes[path]:
                body[name] = 1
        return Request(path, json.dumps(body).encode(), "odd", refused=False)

    def make(self) -> Request:
        kinds = (self.no_json, self.shape, self.deep, self.field, self.chat, self.other_dialects, self.guardian)
        weights = (20, 6, 4, 22, 14, 6, 18, 8, 2, 12)
        (kind,) = self.random.choices((*kinds, self.address, self.http, self.odd), weights)
        return kind()


class Fuzz:
    def __init__(self, server: Server) -> None:
        self.server = server
        self.connection: http.client.HTTPConnection | None = None
        # where a sound request is not implemented, such as embeddings, no other is looked at
        status = {path: self.ask(path, json.dumps(body).encode())[0] for path, body in BODIES.items()}
        self.routes = {path: body for path, body in BODIES.items() if status[path] != 501}
        self.counts: Counter[str] = Counter()

    def ask(self, path: str, body: bytes, method: str = "POST") -> tuple[int, bytes]:
        for attempt in range(2):
            if self.connection is None:
                self.connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
            try:
                self.connection.request(method, path, body, self.server.headers)
                answer = self.connection.getresponse()
                return answer.status, answer.read()
            except TimeoutError as e:
                raise Failure("no answer within 60 s") from e
            except (http.client.HTTPException, OSError) as e:  # one that is kept may be closed between requests
                self.close()
                if attempt:
                    raise Failure(f"no answer: {e}") from e
        raise AssertionError

    def ask_raw(self, data: bytes) -> int | None:
        """The status, or None: the connection was closed."""
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=20) as peer:
            try:
                peer.sendall(data)
                peer.shutdown(socket.SHUT_WR)
                line = peer.makefile("rb").readline(200).split()
            except (ConnectionError, BrokenPipeError):
                return None
            except TimeoutError as e:
                raise Failure("no answer within 20 s") from e
        return int(line[1]) if len(line) > 1 and line[0].startswith(b"HTTP/") else None

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def run(self, seed: int) -> None:
        request = Maker(seed, self.routes).make()
        status: int | None
        try:
            if request.raw is not None:
                status, answer = self.ask_raw(request.raw), b""
            else:
                status, answer = self.ask(request.path, request.body, request.method)
            if self.server.process.poll() is not None:
                raise Failure(f"the server ended, {self.server.process.returncode}")
            if status is None:
                status = 400  # closed
            if status >= 500 or (request.refused and not 400 <= status < 500 and request.kind != "http"):
                raise Failure(f"status {status}: {answer[:300].decode('utf-8', 'replace')}")
        except Failure as failure:
            what = (request.raw or request.body)[:400]
            where = f"{request.method} {request.path}"
            raise Failure(f"--seed {seed}, {request.kind}: {where} {what!r}: {failure}") from None
        self.counts[f"{request.kind.split()[0]} {status}"] += 1

    def is_idle(self) -> bool:
        slots = json.loads(self.server.get("/slots"))
        return not any(slot["is_processing"] for slot in slots)


@contextlib.contextmanager
def serve(model: str, *options: str) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        shown = ("--slots", "--metrics", "--props", "--slot-save-path", f"{folder}/")
        server = Server("-m", model, "-t", "1", *shown, *options, log=Path(folder, "log"))
        try:
            yield server.wait()
        finally:
            server.stop()


def fuzz(server: Server, seed: int, count: int, say: Callable[[str], object] = lambda text: None,
         keep_going: bool = False) -> Counter[str]:  # fmt: skip
    """Sends `count` requests.

    Returns:
        How many of each kind were answered with each status.

    Raises:
        Failure: What was found, with the seed.
    """
    sound = {"prompt": "The capital of France is", "n_predict": 8, "temperature": 0, "cache_prompt": False}
    run = Fuzz(server)
    before = server.post("/completion", sound)[1]["content"]
    failures = 0
    for i in range(seed, seed + count):
        try:
            run.run(i)
        except Failure as failure:
            if not keep_going or server.process.poll() is not None:
                raise Failure(f"{failure}\n{server.log.read_text(errors='replace')[-1500:]}") from None
            failures += 1
            say(str(failure))
        if (i - seed) % 1000 == 999:
            say(f"{i - seed + 1} requests")
    run.close()
    for _ in range(100):
        if run.is_idle():
            break
        time.sleep(0.1)
    else:
        raise Failure("a slot is at work after 10 s")
    status, answer = server.post("/completion", sound)
    if status != 200 or answer["content"] != before:
        raise Failure(f"a sound request is answered otherwise than before: {status}, {answer}")
    if failures:
        raise Failure(f"{failures} of {count} requests failed")
    return run.counts


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--keep-going", action="store_true", help="print what fails, and go on")
    args, options = parser.parse_known_args()
    with serve(args.model, *(option for option in options if option != "--")) as server:
        begin = time.monotonic()
        try:
            counts = fuzz(server, args.seed, args.count, lambda text: print(text, flush=True), args.keep_going)
        except Failure as failure:
            print(failure)
            return 1
    print(f"{args.count} requests in {time.monotonic() - begin:.0f} s")
    for what, n in sorted(counts.items()):
        print(f"  {what}: {n}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
