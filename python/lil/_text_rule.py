"""Guardian's rule "text", alone: for texts that were recorded."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ._errors import NativeError
from ._native import TextStretch, lib

CLASSES = ("blank", "text", "rows", "numbers")


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """What a check saw; see src/guardian/text-rule.h.

    Args:
        bytes: Of text since the check before.
        growth: Compressed bytes that it added to the whole text.
        own_growth: Compressed bytes that it added to the part that repeats itself; None: nothing does, or it is the
            first of that part.
        age: Stretches of that part after its first, this one included; 0: as None above.
        kind: One of `CLASSES`.
        alarm: Whether the rule says that the text goes round in circles.
    """

    bytes: int
    growth: float
    own_growth: float | None
    age: int
    kind: str
    alarm: bool


class TextRule:
    """Takes a text stretch by stretch. `feed` what was generated, then `check`."""

    def __init__(self) -> None:
        self._handle: int | None = lib.lil_text_rule_init()
        if not self._handle:
            raise NativeError("TextRule: out of memory")

    def feed(self, text: bytes) -> None:
        """Appends to the stretch. Amortised O(1) a byte.

        Raises:
            NativeError: Out of memory.
        """
        if not lib.lil_text_rule_feed(self._handle, text, len(text)):
            raise NativeError(f"TextRule.feed of {len(text)} bytes: out of memory")

    def check(self, growth: float, *, threshold: float = 20.0, patience: int = 1) -> bool:
        """Ends the stretch, and says whether there is an alarm.

        Args:
            growth: What it added to the compressed size of the whole text, prompt included.
            threshold: 20ths of the rule's own thresholds.
            patience: Times its own patience.
        """
        return lib.lil_text_rule_check(self._handle, growth, threshold, patience)

    @property
    def last(self) -> Stretch:
        """The stretch that was checked last."""
        native: TextStretch = lib.lil_text_rule_get(self._handle)
        return Stretch(
            bytes=native.n_bytes,
            growth=native.growth,
            own_growth=None if math.isnan(native.own_growth) else native.own_growth,
            age=native.age,
            kind=CLASSES[native.text_class],
            alarm=native.alarm,
        )

    @property
    def memory(self) -> int:
        """Bytes of memory held."""
        return lib.lil_text_rule_memory(self._handle)

    def __del__(self) -> None:
        handle, self._handle = getattr(self, "_handle", None), None
        if handle and lib is not None:
            lib.lil_text_rule_free(handle)
