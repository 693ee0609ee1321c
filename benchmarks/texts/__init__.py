"""Loops and sound texts, made from a seed: what Guardian's rules are measured on.

Nothing is copied and nothing is fetched; the same seed gives the same bytes. A family is a function that writes one
kind of text. Every family is in one part: what is chosen on the families of "choose" is reported on those of "report",
and on those of "later", which were written when it had been chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from . import formulas, later, loops, sound_code, sound_data, sound_language
from .language import Pieces, filled

PARTS = ("choose", "report", "later")
LEADS = (800, 8_000, 32_000)  # bytes before a loop sets in: some 200, 2,000 and 8,000 tokens
LOOP_BYTES = 24_000  # of a loop
SOUND_BYTES = (1_500, 6_000, 16_000)  # of a sound text, where its family has no end of its own

Family = Callable[[Random], Pieces]
_LEADS: dict[str, Family] = {
    "prose": sound_language.prose,
    "reasoning": sound_language.reasoning,
    "contract": sound_language.contract,
    "python": sound_code.python,
    "table": sound_data.table,
}


@dataclass(frozen=True, kw_only=True)
class Text:
    """
    Args:
        family: What kind of text.
        part: One of `PARTS`.
        data: UTF-8.
        onset: Bytes before the loop sets in; None: a sound text.
    """

    family: str
    part: str
    data: bytes
    onset: int | None

    @property
    def is_loop(self) -> bool:
        return self.onset is not None


def families() -> Iterator[tuple[str, str, Family]]:
    """ "loop" or "sound", the part, and the family."""
    for room in (loops, sound_language, sound_code, sound_data):
        kind = "loop" if room is loops else "sound"
        yield from ((kind, "choose", one) for one in room.CHOOSE)
        yield from ((kind, "report", one) for one in room.REPORT)
    yield from (("loop", "choose", one) for one in formulas.CHOOSE_LOOPS)
    yield from (("loop", "report", one) for one in formulas.REPORT_LOOPS)
    yield from (("sound", "choose", one) for one in formulas.CHOOSE)
    yield from (("sound", "report", one) for one in formulas.REPORT)
    yield from (("loop", "later", one) for one in later.LOOPS)
    yield from (("sound", "later", one) for one in later.SOUND)


def make_texts(seed: int = 0) -> Iterator[Text]:
    """The set: each loop family after a lead of each length, each sound family at each length."""
    for kind, part, write in families():
        sizes = LEADS if kind == "loop" else SOUND_BYTES
        for i, size in enumerate(sizes):
            rng = Random(f"{seed}/{kind}/{write.__name__}/{i}")
            if kind == "loop":
                lead = filled(_LEADS[rng.choice(sorted(_LEADS))](rng), size).encode()
                data = lead + filled(write(rng), LOOP_BYTES).encode()
                yield Text(family=write.__name__, part=part, data=data, onset=len(lead))
            else:
                data = filled(write(rng), size).encode()
                yield Text(family=write.__name__, part=part, data=data, onset=None)
