"""Numbers as the report writes them. Spaces within a number do not break."""

from __future__ import annotations

import math
from collections.abc import Callable

from .stats import Estimate

NONE = "–"
MINUS = "−"
THIN = "\u202f"  # narrow, does not break
SPACE = "\u00a0"


def count(value: float) -> str:
    """1234.5 as "1 234": an absolute number of tokens."""
    if math.isnan(value):
        return NONE
    return f"{round(value):,}".replace(",", THIN).replace("-", MINUS)


def fixed(value: float, digits: int = 2) -> str:
    return NONE if math.isnan(value) else f"{value:.{digits}f}".replace("-", MINUS)


def seconds(value: float) -> str:
    """Three digits that count."""
    if math.isnan(value):
        return NONE
    digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return count(value) if digits == 0 else fixed(value, digits)


def percent(share: float, digits: int = 0) -> str:
    """0.824 as "82 %"."""
    if math.isnan(share):
        return NONE
    text = f"{100 * share:.{digits}f}"
    if float(text) == 0:
        text = text.replace("-", "")
    return f"{text.replace('-', MINUS)}{SPACE}%"


def share(estimate: Estimate) -> str:
    """ "82.5 % (70 to 90)": the interval in per cent as well."""
    low, high = (percent(end).removesuffix(f"{SPACE}%") for end in estimate[1:])
    interval = f" ({low}{SPACE}to{SPACE}{high})" if estimate.known else ""
    return percent(estimate.value, 1) + interval


def points(share: float) -> str:
    """-0.04 as "−4.0": a difference of two shares in percentage points."""
    if math.isnan(share):
        return NONE
    text = f"{100 * share:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", MINUS)


def with_interval(estimate: Estimate, write: Callable[[float], str]) -> str:
    """ "1 234 (1 100 to 1 400)", or the value alone where there is no interval; `write` as those above."""
    if not estimate.known:
        return write(estimate.value)
    return f"{write(estimate.value)} ({write(estimate.low)}{SPACE}to{SPACE}{write(estimate.high)})"


def listed(words: list[str]) -> str:
    """ "a, b and c"."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + f" and {words[-1]}" if words else "none"


def plural(n: int, one: str, many: str | None = None) -> str:
    return f"{count(n)} {one if n == 1 else many or one + 's'}"
