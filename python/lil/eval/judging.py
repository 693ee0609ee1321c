"""Right or wrong, by `math-verify`: whether two expressions are equal, however they are written."""

from __future__ import annotations

import importlib.util
import logging
import re
import threading
from functools import lru_cache
from typing import Any, NamedTuple

from .._errors import ConfigError
from .tasks import EXTRA

SECONDS = 5  # for one parse or comparison; 9^9^9^9 would take for ever

_BRACES = re.compile(r"(?P<box>\\(?:boxed|fbox)\s*\{)|\\.|[{}]", re.DOTALL)
_COMMAND = re.compile(r"\\[A-Za-z]+(?:\{[^{}]*\})?")
_WORD = re.compile(r"[A-Za-z]{3,}")
# a number, with a unit or without; "#### 2. Add the eggs" is a headline
_HASHES = re.compile(r"####[ \t]*(\\?\$?-?\d[\d,]*(?:\.\d+)?(?:[ \t%][a-z \t]*)?)\.?[ \t]*$", re.MULTILINE)


class Verdict(NamedTuple):
    """What was read as the answer, None where nothing was, and whether it is right."""

    predicted: str | None
    correct: bool


def check_judge() -> None:
    """
    Raises:
        ConfigError: `math-verify` is not installed.
    """
    if importlib.util.find_spec("math_verify") is None:
        raise ConfigError(f"answers are judged by the package math-verify, which is not installed; {EXTRA}")


def judge(text: str, gold: str) -> Verdict:
    r"""Reads the answer that a text comes to, and compares it.

    The last \boxed{...} counts; where there is none, the number behind the last "####"; where there is none either, what
    `math-verify` finds, which prefers "the answer is ..." and otherwise takes the last expression or number.

    Works in any thread; only in the main one it gives up after `SECONDS`, which is then a wrong answer.

    Args:
        gold: The right answer: a number or a formula, as LaTeX without dollar signs.
    """
    stated = last_boxed(text)
    if stated is None and (marked := _HASHES.findall(text)):
        stated = marked[-1].strip()
    if stated is not None and _plain(stated) == _plain(gold):
        return Verdict(stated, True)
    found = _parse(text if stated is None else stated if _is_prose(stated) else rf"\boxed{{{stated}}}")
    if not found:
        return Verdict(stated, False)
    # math-verify gives the expression and the text that it read it from, or one of the two
    read = next((item for item in reversed(found) if isinstance(item, str)), None)
    return Verdict(stated or read or str(found[0]), _equal(_parse_gold(gold), found))


def last_boxed(text: str) -> str | None:
    r"""What the last \boxed{...} that is closed and not empty holds, or None."""
    last: str | None = None
    opened: list[int | None] = []  # where a box's inside begins; None for other braces
    for match in _BRACES.finditer(text):
        if match["box"]:
            opened.append(match.end())
        elif match[0] == "{":
            opened.append(None)
        elif match[0] == "}" and opened:
            begin = opened.pop()
            if begin is not None:
                last = text[begin : match.start()].strip() or last
    return last


def _is_prose(stated: str) -> bool:
    """Whether it is a number among words, as in "18 dollars per day", which are no product of variables."""
    return any(map(str.isdigit, stated)) and bool(_WORD.search(_COMMAND.sub(" ", stated)))


def _plain(text: str) -> str:
    return "".join(text.split()).strip("$.").casefold()


def _seconds() -> int | None:
    # math-verify's limit is an alarm signal, which only the main thread can set
    return SECONDS if threading.current_thread() is threading.main_thread() else None


def _parse(text: str) -> list[Any]:
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it reports every time-out
    from math_verify import parse

    return parse(text, parsing_timeout=_seconds())  # type: ignore[arg-type]


@lru_cache(maxsize=4096)
def _parse_gold(gold: str) -> list[Any]:
    return _parse(rf"\boxed{{{gold}}}")


def _equal(gold: list[Any], found: list[Any]) -> bool:
    from math_verify import verify

    return bool(gold) and bool(verify(gold, found, timeout_seconds=_seconds()))
