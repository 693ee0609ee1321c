"""From which length on a sparse step is the faster one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from ..methods import Select
from ._session import Context, Session


@dataclass(frozen=True)
class Timing:
    """Medians of single decode steps after `n_tokens` tokens, in seconds, measured side by side."""

    n_tokens: int
    dense: float
    sparse: float


def _seconds(context: Context, token: int, n: int) -> list[float]:
    """The times of `n` steps, which are taken back."""
    at, times = context.n_tokens, []
    for _ in range(n):
        begin = time.perf_counter()
        context.eval([token])
        times.append(time.perf_counter() - begin)
    context.keep(at)
    return times


def step_times(
    session: Session,
    method: Select,
    tokens: Sequence[int],
    lengths: Sequence[int],
    *,
    rounds: int = 4,
    steps: int = 4,
    tick: Callable[[], None] = lambda: None,
) -> list[Timing]:
    """Decode steps of full attention and of a method, at growing lengths.

    Args:
        tokens: A text; it is repeated where it is shorter than the longest length.
        lengths: Ascending.
        tick: Called after each length.
    """
    n = max(lengths)
    text = (list(tokens) * (n // len(tokens) + 1))[:n]
    result: list[Timing] = []
    room = n + steps + 1
    with session.context(None, n_ctx=room) as dense, session.context(method, n_ctx=room) as sparse:
        for length in lengths:
            part = text[dense.n_tokens : length]
            dense.eval(part)
            if not (sparse.takes_full and sparse.load(dense.save())):
                sparse.eval(text[sparse.n_tokens : length])
            times: tuple[list[float], list[float]] = ([], [])
            for context in (dense, sparse):
                _seconds(context, text[0], 1)  # the first step of a shape is slower
            for _ in range(rounds):
                for context, into in zip((dense, sparse), times, strict=True):
                    into += _seconds(context, text[0], steps)
            result.append(Timing(length, median(times[0]), median(times[1])))
            tick()
    return result


def break_even(timings: Sequence[Timing]) -> int | None:
    """The first length from which on every sparse step was the faster one. None: there is none."""
    found = None
    for timing in reversed(timings):
        if timing.sparse > timing.dense:
            break
        found = timing.n_tokens
    return found
