"""Streams of the bindings' server, of Starlette and of LangChain."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import lil
import pytest

PROMPT = "The old captain stood at the rail and looked out over the water, and said"


def test_a_stream_on_any_thread(make_llama: Callable[..., lil.Llama]) -> None:
    """As Starlette fetches it: each chunk on whatever thread is free."""
    concurrency = pytest.importorskip("starlette.concurrency")
    llama = make_llama()
    want = llama.create_completion(PROMPT, max_tokens=12, temperature=0)["choices"][0]["text"]

    async def main() -> str:
        text = ""
        stream = llama.create_completion(PROMPT, max_tokens=12, temperature=0, stream=True)
        async for chunk in concurrency.iterate_in_threadpool(stream):
            text += chunk["choices"][0]["text"]
            if chunk["choices"][0]["finish_reason"] is None:
                with pytest.raises(lil.BusyError):
                    await concurrency.run_in_threadpool(llama.create_completion, "x")
                with pytest.raises(lil.BusyError):
                    llama.create_completion("x")
        return text

    assert asyncio.run(main()) == want
    assert llama.create_completion("free", max_tokens=1)["choices"]


def test_two_streams_in_one_loop(make_llama: Callable[..., lil.Llama]) -> None:
    concurrency = pytest.importorskip("starlette.concurrency")
    llama = make_llama()
    want = llama.create_completion(PROMPT, max_tokens=12, temperature=0)["choices"][0]["text"]

    async def one() -> str:
        stream = llama.create_completion(PROMPT, max_tokens=12, temperature=0, stream=True)
        return "".join([chunk["choices"][0]["text"] async for chunk in concurrency.iterate_in_threadpool(stream)])

    async def both() -> list[Any]:
        return await asyncio.gather(one(), one(), return_exceptions=True)

    got = asyncio.run(both())
    assert sorted(map(str, got), key=len)[0] == want or want in got
    assert [type(item) for item in got].count(lil.BusyError) == 1


def test_langchain(model_path: str) -> None:
    pytest.importorskip("langchain_community.chat_models.llamacpp")
    code = f"""
        import asyncio, lil
        lil.install_as_llama_cpp()
        from langchain_community.chat_models import ChatLlamaCpp
        chat = ChatLlamaCpp(model_path={model_path!r}, n_ctx=512, temperature=0, max_tokens=16, verbose=False)
        want = chat.invoke("Say hello.").content

        async def one(busy):
            text = ""
            async for chunk in chat.astream("Say hello."):
                text += chunk.content
                if busy and not chunk.response_metadata.get("finish_reason"):
                    try:
                        chat.client.create_completion("x")
                    except lil.BusyError:
                        busy += 1
            return text, busy

        async def both():
            return await asyncio.gather(one(0), one(0), return_exceptions=True)

        text, busy = asyncio.run(one(1))
        assert text == want, (text, want)
        assert busy > 8, busy
        got = asyncio.run(both())
        assert [type(item) for item in got].count(lil.BusyError) == 1, got
        assert (want, 0) in got, got
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# The server


@pytest.fixture
def server(model_path: str) -> Any:
    for name in ("fastapi", "pydantic_settings", "sse_starlette", "starlette_context"):
        pytest.importorskip(name)
    from lil.llama_cpp.server import app
    from lil.llama_cpp.server.settings import ModelSettings, ServerSettings

    settings = ModelSettings(model=model_path, n_ctx=512, n_batch=64, verbose=False)
    yield app.create_app(server_settings=ServerSettings(), model_settings=[settings])
    app._llama_proxy().close()


async def _post(
    app: Any, path: str, body: dict[str, Any], on_event: Callable[[int], Any] = lambda n: None
) -> tuple[int, str]:
    """One request. `on_event` sees how many events there were, and answers with "leave" to disconnect."""
    status, text, n_events = 0, "", 0
    sent, gone = False, asyncio.Event()

    async def receive() -> dict[str, Any]:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status, text, n_events
        if message["type"] == "http.response.start":
            status = message["status"]
        elif message["type"] == "http.response.body":
            part = message["body"].decode()
            text += part
            n_events += part.count("data: ")
            if part and on_event(n_events) == "leave":
                gone.set()

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"host", b"lil")],
        "client": ("test", 1),
        "server": ("lil", 80),
    }
    await asyncio.wait_for(app(scope, receive, send), 120)
    gone.set()
    return status, text


LONG = {
    "/v1/completions": {"prompt": "word " * 900},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "word " * 900}]},
}
SHORT = {"prompt": PROMPT, "max_tokens": 3, "temperature": 0}


@pytest.mark.parametrize("path", LONG)
@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_longer_than_the_context(server: Any, path: str, stream: bool) -> None:
    async def main() -> None:
        status, text = await _post(server, path, {**LONG[path], "stream": stream})
        assert status == 400
        error = json.loads(text)["error"]
        assert error["code"] == "context_length_exceeded" and "maximum context length is 512" in error["message"]
        assert (await _post(server, "/v1/completions", {**SHORT, "stream": True}))[0] == 200

    asyncio.run(main())


def test_an_error_after_the_response_has_begun(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from lil.llama_cpp.server import app

    async def main() -> None:
        monkeypatch.setattr("lil.server.events.PATIENCE", 0)
        status, text = await _post(server, "/v1/completions", {**LONG["/v1/completions"], "stream": True})
        error = json.loads(text.partition("data: ")[2])["error"]
        assert status == 200 and "exceed context window of 512" in error["message"]

        def on_event(n: int) -> None:
            if n == 2:
                app._llama_proxy().close()

        status, text = await _post(server, "/v1/completions", {**SHORT, "max_tokens": 400, "stream": True}, on_event)
        assert status == 200 and "is closed" in text.rpartition("data: ")[2]

    asyncio.run(main())


def test_a_stream_whose_client_left(server: Any) -> None:
    async def main() -> None:
        endless = {**SHORT, "max_tokens": 450, "stream": True}
        for _ in range(3):
            status, text = await _post(server, "/v1/completions", endless, lambda n: "leave" if n == 3 else None)
            assert status == 200 and 3 <= text.count("data: ") < 60
            status, text = await _post(server, "/v1/completions", SHORT)
            assert status == 200, text

    asyncio.run(main())


def test_a_stream_that_is_interrupted(server: Any) -> None:
    """The app ends a stream when another request comes (`interrupt_requests`)."""

    async def main() -> None:
        others: list[asyncio.Task[Any]] = []

        def on_event(n: int) -> None:
            if n == 3:
                others.append(asyncio.ensure_future(_post(server, "/v1/completions", {**SHORT, "stream": True})))

        status, text = await _post(server, "/v1/completions", {**SHORT, "max_tokens": 450, "stream": True}, on_event)
        assert status == 200 and text.count("data: ") < 100 and text.rstrip().endswith("[DONE]")
        status, text = await others[0]
        assert status == 200 and text.rstrip().endswith("[DONE]") and "error" not in text

    asyncio.run(main())
