"""Right or wrong, by `math-verify`: whether two expressions are equal, however they are written."""

from __future__ import annotations

import importlib.util
import logging
import re
import threading
from functools import lru_cache
from typing import Any, NamedTuple

from .._errors import ConfigError
from .quantity import plain_signs, quantity, several
from .tasks import EXTRA

SECONDS = 5  # for one parse or comparison; 9^9^9^9 would take for ever

_BRACES = re.compile(r"(?P<box>\\(?:boxed|fbox)\s*\{)|\\.|[{}]", re.DOTALL)
_COMMAND = re.compile(r"\\[A-Za-z]+(?:\{[^{}]*\})?")
_WORD = re.compile(r"[A-Za-z]{3,}")
_HASHES = re.compile(r"####[ \t]*([^\n]*)")
# "#### 2. Add the eggs" and "#### Step 2" are headlines
_HEADLINE = re.compile(
    r"\d+\s*[.):]\s*[A-Za-z*]|\d+\s+[A-Z][a-z]"
    r"|(?!\W*(?:[Tt]he\s+|[Ff]inal\s+)*[Aa]nswer\b)(?:(?!\\)\W)*[A-Za-z]{3,}"
)
_SAID = re.compile(
    r"(?:\banswer\s+is\b|^\W*(?:the\s+|final\s+)*answer\W{0,3}:)([^\n]*?)(?=[.!?](?:\s|\Z)|$)",
    re.IGNORECASE | re.MULTILINE,
)
# how an invented next question begins, and how an answer goes on that corrects itself
_LABEL = re.compile(
    r"^[ \t>*#]*(?:(?:next|new|another)\s+)?(?:question|problem|exercise|example|task|instruction|input|human|user|q)"
    r"[ \t]*\d*[ \t]*[*]*[:.)]|<\|(?:im_start|im_end|eot_id|start_header_id|endoftext|end|user)\|>",
    re.IGNORECASE | re.MULTILINE,
)
_CORRECTION = re.compile(
    r"\W*(?:wait|hmm|but|no\b|actually|let|check|however|so\b|alternatively|therefore|thus|this|that|we|i\b|is\b"
    r"|sorry)",
    re.IGNORECASE,
)
_ASKED = re.compile(r"\b(?:how|what|which|who|when|where|find|calculate|compute|determine)\b[^?]*\?", re.IGNORECASE)


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

    The last \boxed{...} counts; where there is none, the number behind the last "####"; where there is none either, the
    number of the last "the answer is ..."; and then what `math-verify` finds, which is the last expression or number.
    A question that the model asks itself after its answer, and what follows, does not count.

    One number, in whatever writing and unit, is compared by value (`quantity`), everything else by `math-verify`.

    Works in any thread; only in the main one it gives up after `SECONDS`, which is then a wrong answer.

    Args:
        gold: The right answer: a number or a formula, as LaTeX without dollar signs.
    """
    text = _own(text)
    wanted = quantity(gold)
    stated = last_boxed(text)
    if stated is None:
        stated = _last_hashes(text)
    if stated is None:
        said = _SAID.findall(text)
        found = quantity(said[-1]) if said else None
        if found is not None and wanted is not None:
            return Verdict(found.text, found.same(wanted))
        return _verify(None, plain_signs(text), gold)
    if _plain(stated) == _plain(gold):
        return Verdict(stated, True)
    if wanted is not None:
        found = quantity(stated)
        if found is not None:
            return Verdict(stated, found.same(wanted))
        if several(stated):  # "20 minutes and 30 seconds" is not 20
            return Verdict(stated, False)
    clean = plain_signs(stated)
    return _verify(stated, clean if _is_prose(clean) else rf"\boxed{{{clean}}}", gold)


def _verify(stated: str | None, text: str, gold: str) -> Verdict:
    found = _parse(text)
    if not found:
        return Verdict(stated, False)
    # math-verify gives the expression and the text that it read it from, or one of the two
    read = next((item for item in reversed(found) if isinstance(item, str)), None)
    return Verdict(stated or read or str(found[0]), _equal(_parse_gold(gold), found))


def _own(text: str) -> str:
    """The text up to the first answer after which the model asks itself another question."""
    hashes = [match.end() for match in _HASHES.finditer(text) if _marked(match[1]) is not None]
    others = [end + 1 for _, end in _boxes(text)] + [match.end() for match in _SAID.finditer(text)]
    ends = sorted([*hashes, *others])
    for end, following in zip(ends, [*ends[1:], len(text)], strict=False):
        after = text[end:following]
        if _LABEL.search(after) or (end in hashes and _asks(after)):
            return text[:end]
    return text


def _asks(text: str) -> bool:
    """Whether it holds a question, and does not go on with the answer before it. "####" ends a solution, a box may
    not.
    """
    return bool(_ASKED.search(text)) and not _CORRECTION.match(text)


def _last_hashes(text: str) -> str | None:
    marked = [stated for line in _HASHES.findall(text) if (stated := _marked(line)) is not None]
    return marked[-1] if marked else None


def _marked(line: str) -> str | None:
    """What stands behind "####", where it is a number, with a unit or without."""
    stated = line.strip().strip("*").strip().removesuffix(".")
    if _HEADLINE.match(plain_signs(stated)) or quantity(stated) is None:
        return None
    return stated


def last_boxed(text: str) -> str | None:
    r"""What the last \boxed{...} that is closed and not empty holds, or None."""
    boxes = [text[begin:end].strip() for begin, end in _boxes(text)]
    return next((box for box in reversed(boxes) if box), None)


def _boxes(text: str) -> list[tuple[int, int]]:
    r"""Where the insides of all closed \boxed{...} begin and end, in order of their ends."""
    boxes: list[tuple[int, int]] = []
    opened: list[int | None] = []  # where a box's inside begins; None for other braces
    for match in _BRACES.finditer(text):
        if match["box"]:
            opened.append(match.end())
        elif match[0] == "{":
            opened.append(None)
        elif match[0] == "}" and opened:
            begin = opened.pop()
            if begin is not None:
                boxes.append((begin, match.start()))
    return boxes


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

    return parse(text, parsing_timeout=_seconds())


@lru_cache(maxsize=4096)
def _parse_gold(gold: str) -> list[Any]:
    return _parse(rf"\boxed{{{plain_signs(gold)}}}")


def _equal(gold: list[Any], found: list[Any]) -> bool:
    from math_verify import verify

    return bool(gold) and bool(verify(gold, found, timeout_seconds=_seconds()))
