"""Streams of the bindings' FastAPI app (see 0014-errors-of-streams.patch)."""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream
from sse_starlette.sse import EventSourceResponse

PATIENCE = 10.0  # seconds until a response begins that has no first chunk yet; then clients get pings


class _Publisher:
    """What puts the chunks into the channel: a task of its own, that begins before there is a response."""

    def __init__(self, send: Callable[[], Awaitable[None]]) -> None:
        self._scope = anyio.CancelScope()
        self.task = asyncio.ensure_future(self._run(send))

    async def _run(self, send: Callable[[], Awaitable[None]]) -> None:
        with self._scope:  # so that it can be cancelled where anyio allows it: not while a thread makes a chunk
            await send()

    async def stop(self) -> None:
        """Ends it, and waits until it has let go of the model."""
        self._scope.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([self.task])

    async def error(self) -> BaseException | None:
        """What it failed with, once the channel is at its end."""
        await asyncio.wait([self.task])
        return None if self.task.cancelled() else self.task.exception()


class _Events(EventSourceResponse):
    def __init__(self, content: AsyncIterator[Any], publisher: _Publisher, **options: Any) -> None:
        super().__init__(content, **options)
        self._publisher = publisher

    async def __call__(self, *args: Any) -> None:
        try:
            await super().__call__(*args)
        finally:
            await self._publisher.stop()


async def event_response(
    chunks: MemoryObjectReceiveStream[Any], *, data_sender_callable: Callable[[], Awaitable[None]], **options: Any
) -> EventSourceResponse:
    """A response of the chunks, once there is a first one. What fails before it is raised here, where the app can still
    answer with a status; what fails later is the stream's last event, `{"error": ...}`.
    """
    publisher = _Publisher(data_sender_callable)
    first = []
    try:
        with anyio.move_on_after(PATIENCE):
            first.append(await chunks.receive())
    except anyio.EndOfStream:
        error = await publisher.error()
        if error is not None:
            raise error from None
    except BaseException:
        await publisher.stop()
        raise
    return _Events(_content(first, chunks, publisher), publisher, **options)


async def _content(
    first: list[Any], chunks: MemoryObjectReceiveStream[Any], publisher: _Publisher
) -> AsyncIterator[Any]:
    for chunk in first:
        yield chunk
    async with chunks:
        async for chunk in chunks:
            yield chunk
    error = await publisher.error()
    if error is not None:
        traceback.print_exception(error, file=sys.stderr)
        what = {"message": str(error), "type": "internal_server_error", "param": None, "code": None}
        yield {"data": json.dumps({"error": what})}
