from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ._errors import BusyError, ClosedError


class _Waiter:
    """A thread in the queue. It is woken when it has the turn, or when it will not get one."""

    def __init__(self, owner: object, reads: bool) -> None:
        self.owner = owner
        self.reads = reads
        self.has_turn = False
        self.woken = threading.Lock()
        self.woken.acquire()


class Gate:
    """Calls into a model pass one at a time, in the order in which they came, and none once it is closing.

    A *turn* is one call. Turns nest: what a call calls in its own thread is part of it. A *request* is one turn, or,
    for a stream, one turn for each chunk. A stream owns the model from its first turn until it is released, whichever
    threads take its turns; every other request is then refused at once. Reading turns pass a stream, between two chunks
    of it.

    A thread that closes waits for the turn in progress, whose next nested one raises. Closing from within a turn takes
    effect when the turn ends.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._mutex = threading.Lock()  # for the queue and who has the turn; held for moments
        self._queue: deque[_Waiter] = deque()
        self._thread: int | None = None  # whose turn it is; 0: handed to a waiter that has not woken yet
        self._depth = 0
        self._owner: object | None = None  # the request in progress
        self._streams = False  # whether it is a stream, which keeps the model between turns
        self._claim = threading.Lock()  # taken once, by whoever closes
        self._closing = False
        self._free: Callable[[], None] | None = None

    def check(self) -> None:
        """
        Raises:
            ClosedError: It is closed, or another thread waits to close it.
        """
        if self._closing:
            raise ClosedError(f"{self._what} is closed; make a new Llama")

    # Three kinds of turn

    def __enter__(self) -> None:
        """A turn that no request asks for: it is part of the one around it, or stands alone.

        Raises:
            BusyError: A stream owns the model.
            ClosedError: The model is closed.
        """
        self._enter(None)

    def __exit__(self, *exc: object) -> None:
        self._leave()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A turn that changes nothing that a stream depends on."""
        self._enter(None, reads=True)
        try:
            yield
        finally:
            self._leave()

    @contextmanager
    def turn(self, owner: object, *, stream: bool = False) -> Iterator[None]:
        """A turn of a request, or one within a turn of it.

        Args:
            owner: What stands for the request.
            stream: The request goes on after this turn, until `release`.

        Raises:
            BusyError: A stream owns the model, or this is called from within another request.
            ClosedError: The model is closed.
        """
        self._enter(owner)
        nested = self._owner is owner
        if not nested:
            self._owner, self._streams = owner, stream
            if stream:
                self._refuse_waiters()
        try:
            yield
        finally:
            if not nested and not stream:
                self._owner = None
            self._leave()

    def owned_by(self, owner: object) -> bool:
        return self._owner is owner

    def release(self, owner: object) -> None:
        """The end of a stream. Takes no lock: a stream may be collected anywhere, and nobody waits for one."""
        if self._owner is owner:
            self._owner = None

    # The queue

    def _refuse(self, owner: object, *, reads: bool, nested: bool) -> None:
        holder = self._owner
        if holder is None or holder is owner or reads:
            return
        # from within a turn: a part of it, unless it is a request of its own. From elsewhere: plain ones are waited for
        if owner is not None if nested else self._streams:
            raise self._busy()

    def _busy(self) -> BusyError:
        return BusyError(
            f"{self._what} is in the middle of another request; take a stream to its end or close() it first, "
            "or make a Llama for each that run side by side"
        )

    def _enter(self, owner: object, *, reads: bool = False) -> None:
        self.check()
        self._refuse(owner, reads=reads, nested=self._thread == threading.get_ident())
        self._acquire(owner, reads=reads)
        try:
            self.check()
            self._refuse(owner, reads=reads, nested=self._depth > 1)
        except BaseException:
            self._leave()
            raise

    def _acquire(self, owner: object, *, reads: bool) -> None:
        me = threading.get_ident()
        if self._thread == me:  # this thread is inside, and called us from there
            self._depth += 1
            return
        with self._mutex:
            if self._thread is None:
                self._thread, self._depth = me, 1
                return
            waiter = _Waiter(owner, reads)
            self._queue.append(waiter)
        try:
            waiter.woken.acquire()
        except BaseException:  # Ctrl-C
            with self._mutex:
                if waiter in self._queue:
                    self._queue.remove(waiter)
            if waiter.has_turn:
                self._thread, self._depth = me, 1
                self._leave()
            raise
        if not waiter.has_turn:
            raise self._busy()
        self._thread, self._depth = me, 1

    def _refuse_waiters(self) -> None:
        with self._mutex:
            refused = [waiter for waiter in self._queue if not waiter.reads and waiter.owner is not self._owner]
            for waiter in refused:
                self._queue.remove(waiter)
                waiter.woken.release()

    def _leave(self) -> None:
        if self._depth > 1:
            self._depth -= 1
            return
        free, self._free = self._free, None
        try:
            if free is not None:
                free()
        finally:
            with self._mutex:
                self._depth = 0
                self._thread = None
                if self._queue:
                    waiter = self._queue.popleft()
                    waiter.has_turn, self._thread = True, 0
                    waiter.woken.release()

    def close(self, free: Callable[[], None]) -> None:
        """Runs `free` once no turn is in progress. Later calls do nothing."""
        if not self._claim.acquire(blocking=False):
            return
        self._closing = True  # before the wait: it is what ends a generation in progress
        self._acquire(None, reads=True)
        if self._depth > 1:
            self._free = free
            self._leave()
            return
        try:
            free()
        finally:
            self._leave()
