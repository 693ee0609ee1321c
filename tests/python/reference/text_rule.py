"""Guardian's rule "text" from its definition (src/guardian/text-rule.h): everything anew at every check."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lil import LZ77
from lil._text_rule import Stretch

PUNCTUATION = set(".,!?'\":;-()*#$%")
FRESH = 5  # bytes in new words per 1000 that count as none
SETTLED = 2  # stretches of a streak with new words
RICH = 12  # words of a streak
FORMULA_END = re.compile(rb"\\[][()]|\$\$")
FORMULAS = 4  # ends of them in a stretch that works with formulas


@dataclass(frozen=True)
class Condition:
    """What has to hold for `checks` in a row.

    Args:
        kinds: Classes of a stretch.
        rate: Own growth is less, per 1000 bytes.
        checks: In a row.
        most_new: Stretches of the streak that may have new words where the last may not. None: any, and the last too.
        words: That the streak has at least.
        exact: The whole text's growth is less as well.
        formulas: Ends of formulas that the stretch has at least.
        letters: Share of the stretch's bytes that are at least letters.
        endless: No line ends in the stretch.
    """

    kinds: set[str]
    rate: int
    checks: int
    most_new: float | None = None
    words: int = 0
    exact: bool = False
    formulas: int = 0
    letters: float = 0
    endless: bool = False


PROSE, WORDY, ANY = {"text", "blank"}, {"text", "blank", "rows"}, {"text", "blank", "rows", "numbers"}
CONDITIONS = (
    Condition(PROSE, 20, 1, most_new=SETTLED, exact=True),
    Condition(PROSE, 110, 2, most_new=math.inf),
    Condition(PROSE, 135, 4, most_new=math.inf),
    Condition(ANY, 40, 2, most_new=math.inf, words=RICH, exact=True),
    Condition(ANY, 80, 2, most_new=math.inf, exact=True, formulas=FORMULAS),
    Condition(WORDY, 40, 6, exact=True),
    Condition(ANY, 30, 3, exact=True, endless=True),
    Condition(ANY, 30, 6, exact=True, letters=0.1),
    Condition(WORDY, 60, 16),
    Condition(ANY, 30, 16),
)


def kinds(text: str) -> list[str]:
    """What each byte of a well-formed text counts as."""
    found = []
    for char in text:
        point = ord(char)
        if char in " \n\t\r":
            kind = "white"
        elif char.isascii() and char.isalpha():
            kind = "letter"
        elif char.isascii() and char.isdigit():
            kind = "digit"
        elif point < 0x80:
            kind = "punctuation" if char in PUNCTUATION else "mark"
        elif point < 0xC0 or 0x2000 <= point < 0x2080 or 0x3000 <= point < 0x3040 or 0xF000 <= point < 0x10000:
            kind = "punctuation"
        else:
            kind = "mark" if 0x2080 <= point < 0x3000 or point >= 0x10000 else "letter"
        found += [kind] * len(char.encode())
    return found


def classify(kinds: Sequence[str], n: int, after_white: bool) -> str:
    """Of a stretch of n bytes, some of which may not count yet; after_white: what counted before them was."""
    before = ["white" if after_white else "mark", *kinds]
    indent = sum(one == two == "white" for one, two in itertools.pairwise(before))
    count = {kind: kinds.count(kind) for kind in ("white", "letter", "digit", "mark")}
    if 100 * count["white"] >= 95 * n:
        return "blank"
    n -= indent
    if 100 * count["letter"] >= 55 * n and 100 * count["digit"] <= 10 * n and 100 * count["mark"] <= 2 * n:
        return "text"
    return "rows" if 100 * count["letter"] >= 25 * n else "numbers"


def fold(data: bytes) -> bytes:
    """The streak's text, without a number at its very end."""
    parts = re.findall(rb"\d{1,18}|\D+", data)
    if parts and parts[-1].isdigit():
        parts.pop()
    seen: dict[int, tuple[bytes, list[int]]] = {}
    out = context = b""
    for part in parts:
        if not part.isdigit():
            out += part
            context = (context + part)[-12:]
            continue
        # places share 1,024 entries; what else falls on one takes it over
        value = 0xCBF29CE484222325
        for byte in context:
            value = (value ^ byte) * 0x100000001B3 % 2**64
        entry, tag = value % 1024, (value >> 32).to_bytes(4, "big")
        known = seen.get(entry, (b"", []))
        values = known[1] if known[0] == tag else []
        steps = [after - before for before, after in itertools.pairwise([*values, int(part)])]
        out += b"#" if len(steps) >= 2 and steps[-1] == steps[-2] else part
        seen[entry] = (tag, [*values, int(part)][-3:])
        context = (context + b"0")[-12:]
    return out


def fresh(data: bytes, kinds: Sequence[str], start: int, begin: int, end: int) -> tuple[int, int]:
    """Bytes of the words that end in a stretch, begin to end, and that the streak, which starts at start, did not have;
    and how many words it has then.

    The first byte of a character counts with the second, and a letter of three bytes begins a word.
    """
    ready = [i + 1 if byte >= 0xC0 else i for i, byte in enumerate(data)]
    known: set[bytes] = set()
    word, found = b"", 0
    for i, byte in enumerate(data):
        if not start <= ready[i] < end:
            continue
        if word and (kinds[i] != "letter" or byte >= 0xE0):
            found += len(word) if word not in known and ready[i] >= begin else 0
            known.add(word)
            word = b""
        word += data[i : i + 1] if kinds[i] == "letter" else b""
    return found, len(known)


def stretches(data: bytes, ends: Sequence[int], *, threshold: float = 20.0, patience: int = 1) -> Iterator[Stretch]:
    """What the rule sees at each check of a well-formed text; a stretch's end may be anywhere."""
    kind_at = kinds(data.decode())
    scale = threshold / 20.0
    begin, start, age, before = 0, None, 0, 0.0
    counts, n_new = [0] * len(CONDITIONS), 0
    counted = 0  # bytes of characters whose second byte is there
    for end in ends:
        n = end - begin
        growth = LZ77(data[:end]).size - LZ77(data[:begin]).size
        # the first byte of a character waits for the second
        ready = end - 1 if end and data[end - 1] >= 0xC0 else end
        bytes_at = kind_at[counted:ready]
        kind = classify(bytes_at, n, after_white=counted > 0 and kind_at[counted - 1] == "white")
        counted = ready
        own, alarm = None, False
        if start is not None:  # not at its first stretch
            age += 1
            size = LZ77(fold(data[start:end])).size
            own, before = size - before, size
            n_fresh, n_words = fresh(data, kind_at, start, begin, end)
            new = 1000 * n_fresh >= FRESH * scale * max(n, 1)
            n_new += new
            n_ends = sum(begin < match.end() <= end for match in FORMULA_END.finditer(data[:end]))
            for i, one in enumerate(CONDITIONS):
                most = one.rate * scale * max(n, 1)
                holds = kind in one.kinds and 1000 * own < most and (not one.exact or 1000 * growth < most)
                holds = holds and (one.most_new is None or (not new and n_new <= one.most_new)) and n_words >= one.words
                holds = holds and n_ends >= one.formulas
                holds = holds and bytes_at.count("letter") >= one.letters * n
                holds = holds and not (one.endless and b"\n" in data[begin:end])
                counts[i] = counts[i] + 1 if holds else 0
                alarm = alarm or counts[i] >= one.checks * patience
        yield Stretch(bytes=n, growth=growth, own_growth=own, age=age if own is not None else 0, kind=kind, alarm=alarm)
        if 1000 * growth >= 250 * max(n, 1):
            start, age, before, counts = None, 0, 0.0, [0] * len(CONDITIONS)
        elif start is None or age == 32:
            start, age, before, n_new = begin, 0, LZ77(fold(data[begin:end])).size, 1  # all of its words are new
        begin = end
