r"""One number, however it is written: `\$1,800 per month`, `10\,000`, `5 1/2`, `18~\text{eggs}`, `−5`."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import partial
from typing import NamedTuple

_SIGNS = str.maketrans(
    {
        **dict.fromkeys("−‐‑‒–﹣－", "-"),
        **dict.fromkeys("\u00a0\u2007\u2009\u200a\u202f\u3000", " "),
        **dict.fromkeys("\u200b\u2060\ufeff", ""),
        **dict.fromkeys("’ʼ＇", "'"),
        "，": ",",
        "．": ".",
        "％": "%",
        "＄": "$",
        "＝": "=",
        "＋": "+",
        "⁄": "/",
        "∕": "/",
        "×": r"\times ",
        "÷": r"\div ",
        "·": r"\cdot ",
        "±": r"\pm ",
        "π": r"\pi ",
        "∞": r"\infty ",
        "≤": r"\le ",
        "≥": r"\ge ",
        "≠": r"\ne ",
        "≈": r"\approx ",
        "∪": r"\cup ",
        "∩": r"\cap ",
        "°": r"^\circ ",
        **{chr(0xFF10 + digit): str(digit) for digit in range(10)},
    }
)
_VULGAR = {
    "½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4",
    "⅕": "1/5", "⅖": "2/5", "⅗": "3/5", "⅘": "4/5",
    "⅙": "1/6", "⅚": "5/6", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8",
}  # fmt: skip
_POWERS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")

_TEXT = re.compile(r"\\(?:text(?:bf|it|rm|sf)?|math(?:rm|bf|it|sf)|mbox|operatorname)\s*\{([^{}]*)\}")
_SPACE = re.compile(r"\\[,;:> ]|\\(?:quad|qquad|enspace|thinspace)\b|~|\{\s*\}")
_CURRENCY = re.compile(
    r"\\?\$|\\(?:pounds|euro|yen)\b|[£€¥₹₩₽¢]|\b(?:USD|EUR|GBP|INR|CAD|AUD|JPY|RMB|Rs\.?)(?=[\s\d.-]|$)"
)
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree\b")
_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{\s*(\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))")

# digits in groups: 1,800  1.234.567  1 800  1'800  1_800  1,00,000; and plain ones
_DIGITS = (
    r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d{1,2}(?:,\d{2})+,\d{3}(?:\.\d+)?|\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,}"
    r"|\d{1,3}(?:(?P<%s>[ '_])\d{3})(?:(?P=%s)\d{3})*(?:\.\d+)?|\d+\.?\d*|\.\d+)"
)
_NUMBER = re.compile(
    r"(?P<sign>[+-]?)\s*(?:(?P<whole>\d+)\s+(?:and\s+)?(?P<top>\d+)\s*/\s*(?P<bottom>\d+)"
    r"|(?P<over>" + _DIGITS % ("a", "a") + r")\s*/\s*(?P<under>\d+)"
    r"|(?P<plain>" + _DIGITS % ("b", "b") + r"))(?P<percent>\s*\\?%|\s+\x00?percent\b)?"
)
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}

# words that are no variables: long ones, a few short ones, units
_WORD = re.compile(
    r"(?<![A-Za-z\\])(?!(?:sqrt|cbrt|sin|cos|tan|cot|sec|csc|log|exp|abs|arc[a-z]+|infinity)(?![A-Za-z]))"
    r"(?:[A-Za-z]{3,}|a(?= [A-Za-z]{3})|is|am|pm|of|to|in|at|on|by|or|he|it|we|no|so"
    r"|mm|cm|km|kg|mg|lb|oz|ft|yd|hr|ml|mL|m/s)"
    r"(?:\s*\^\s*\{?[234]\}?)?(?![A-Za-z])"
)
_UNIT = "\x00"  # what stood in \text{...}: words, whatever their length
_REST = re.compile(r"[\s\x00.,:;*()]")
_LIST = re.compile(r"[(\[][^()\[\]]*,[^()\[\]]*[)\]]")


class Quantity(NamedTuple):
    """A number as it was written, its value, and what its words multiply it with: 1/100 for %, a million, ..."""

    text: str
    value: Fraction
    scale: Fraction = Fraction(1)

    def same(self, other: Quantity) -> bool:
        """Whether they are equal. 50 \\% is 50 as well as 1/2, where the other has no such word, and so on."""
        if _near(self.value * self.scale, other.value * other.scale):
            return True
        return 1 in (self.scale, other.scale) and _near(self.value, other.value)


def _near(a: Fraction, b: Fraction) -> bool:
    return abs(a - b) < Fraction(1, 10**6)


def _mixed(fraction: str, found: re.Match[str]) -> str:
    return f"{found[1]} {fraction}" if found[1] else fraction


def plain_signs(text: str) -> str:
    """A text with LaTeX's or ASCII's signs in place of Unicode's: minus signs, spaces, fractions, powers."""
    for sign, fraction in _VULGAR.items():
        text = re.sub(rf"(\d?)\s*{sign}", partial(_mixed, fraction), text)
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda m: "^{" + m[0].translate(_POWERS) + "}", text)
    text = re.sub(r"√\s*(?:(\d+|[A-Za-z])|\(([^()]*)\))", lambda m: rf"\sqrt{{{m[1] or m[2]}}}", text)
    return text.translate(_SIGNS)


def quantity(answer: str) -> Quantity | None:
    r"""An answer that is one number, with or without words, units and currency signs; None for anything else.

    Of an equation, the last side: "9 * 2 = 18 dollars" is 18.
    """
    text = _unwrapped(answer)
    found = _one_number(text)
    return found if found is not None else _one_number(re.split(r"=|\\approx|\\equiv", text)[-1])


def several(answer: str) -> bool:
    """Whether an answer is more than one number among words, such as "20 minutes and 30 seconds"."""
    text = _unwrapped(answer)
    words = _WORD.search(text) or any(c.isalpha() for c in "".join(re.findall(rf"{_UNIT}([^{_UNIT}]*){_UNIT}", text)))
    return bool(words) and len(list(_NUMBER.finditer(re.sub(r"(?<=[A-Za-z])\^?\{?[234]\}?", "", text)))) > 1


def _unwrapped(answer: str) -> str:
    r"""Without \text{}, whose words stand between marks, LaTeX's spaces, currency signs and degrees."""
    text = plain_signs(answer)
    while True:
        inner = _TEXT.sub(lambda m: f" {_marked(m[1])} ", text)
        if inner == text:
            break
        text = inner
    text = re.sub(r"\\left|\\right|\\displaystyle|\\mathord", "", text)
    text = text.replace("{,}", ",").replace(r"{\,}", " ").replace(r"\!", "")
    text = _DEGREES.sub(" ", _CURRENCY.sub("", _SPACE.sub(" ", text)))
    text = re.sub(rf"{_UNIT}\s*\^\s*\{{?[234]\}}?", _UNIT, text)
    text = _FRACTION.sub(lambda m: f" {m[1] or m[2]}/{m[3] or m[4]} ", text)
    text = re.sub(r"^\s*\{(.*)\}\s*$", r"\1", text)
    return re.sub(rf"{_UNIT}?\b(?:minus|negative){_UNIT}?\s+(?=\d)", "-", text, flags=re.IGNORECASE)


def _marked(words: str) -> str:
    """Letters between marks: no variables, however short. Digits stay what they are."""
    return re.sub(r"[A-Za-z]+(?:\s*\^\s*\{?[234]\}?)?", lambda m: _UNIT + re.sub(r"[^A-Za-z]", "", m[0]) + _UNIT, words)


def _one_number(text: str) -> Quantity | None:
    match = _NUMBER.search(text)
    if match is None or _LIST.search(text):
        return None
    before, after = text[: match.start()], text[match.end() :]
    rest = _WORD.sub(_UNIT, re.sub(rf"{_UNIT}[A-Za-z]+{_UNIT}", _UNIT, f"{before} {after}"))
    rest = re.sub(rf"{_UNIT}\s*/\s*[A-Za-z]{{1,2}}(?![A-Za-z])", _UNIT, rest)  # km/h
    if _UNIT in rest:
        rest = rest.replace("/", "")  # miles/hour
    if _REST.sub("", rest):
        return None
    value = _value(match)
    if value is None:
        return None
    scale = Fraction(1, 100) if match["percent"] else Fraction(1)
    for word, factor in _SCALES.items():
        if re.search(rf"\b{word}s?\b", after):
            scale *= factor
    return Quantity(match[0].strip(), value, scale)


def _value(match: re.Match[str]) -> Fraction | None:
    try:
        if match["whole"]:
            value = int(match["whole"]) + Fraction(int(match["top"]), int(match["bottom"]))
        elif match["over"]:
            value = _digits(match["over"]) / int(match["under"])
        else:
            value = _digits(match["plain"])
    except ZeroDivisionError:
        return None
    return -value if match["sign"] == "-" else value


def _digits(text: str) -> Fraction:
    if re.fullmatch(r"\d{1,3}(?:\.\d{3})+,\d+", text):  # 1.234,50
        text = text.replace(".", "").replace(",", ".")
    elif text.count(".") > 1:  # 1.234.567
        text = text.replace(".", "")
    return Fraction(re.sub(r"[, '_]", "", text).strip(".") or "0")
