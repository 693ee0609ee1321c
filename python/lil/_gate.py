from __future__ import annotations

import threading
from collections.abc import Callable

from ._errors import ClosedError


class Gate:
    """Calls into a model pass one at a time, and none once it is closing.

    `with gate:` may nest. A thread that closes waits for the call in progress, whose next nested `with` raises. Closing
    from within a call (a callback, say) takes effect when the call ends.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._lock = threading.RLock()
        self._claim = threading.Lock()  # taken once, by whoever closes
        self._depth = 0
        self._closing = False
        self._free: Callable[[], None] | None = None

    def check(self) -> None:
        """
        Raises:
            ClosedError: It is closed, or another thread waits to close it.
        """
        if self._closing:
            raise ClosedError(f"{self._what} is closed; make a new Llama")

    def __enter__(self) -> None:
        self.check()
        self._lock.acquire()
        if self._closing:
            self._lock.release()
            self.check()
        self._depth += 1

    def __exit__(self, *exc: object) -> None:
        self._depth -= 1
        free = None
        if self._depth == 0:
            free, self._free = self._free, None
        try:
            if free is not None:
                free()
        finally:
            self._lock.release()

    def close(self, free: Callable[[], None]) -> None:
        """Runs `free` once no call is in progress. Later calls do nothing."""
        if not self._claim.acquire(blocking=False):
            return
        self._closing = True  # before the wait: it is what ends a generation in progress
        with self._lock:
            if self._depth:
                self._free = free
            else:
                free()
