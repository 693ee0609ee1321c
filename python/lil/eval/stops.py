"""When each of the ways to deal with loops that exist today would have acted on a recorded answer.

They see the answer as recorded, and each says after how many generated tokens it acts for the first time. Three of
them end the answer there. DRY does not: it makes tokens less likely, and what the model would have written from there
on is not in the recording.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .._guardian import Guardian
from .records import Answer
from .replay import replay


class Detector(Protocol):
    """One way at one setting."""

    @property
    def name(self) -> str: ...

    @property
    def settings(self) -> str: ...

    @property
    def ends(self) -> bool:
        """Whether the answer is over where it acts."""

    def first(self, answer: Answer) -> int | None:
        """Tokens generated when it acts for the first time; None: never."""


@dataclass(frozen=True, kw_only=True)
class GuardianStop:
    """Guardian, as `replay` has it. It looks every `guardian.interval` tokens."""

    guardian: Guardian

    name = "Guardian"
    ends = True

    @property
    def settings(self) -> str:
        one = self.guardian
        return f"rule {one.rule}, every {one.every}, threshold {one.threshold:g}, patience {one.patience}"

    def first(self, answer: Answer) -> int | None:
        stop = replay(answer, self.guardian)
        return None if stop.tokens_at_alarm is None else stop.n_tokens


@dataclass(frozen=True, kw_only=True)
class NGrams:
    """Exact repetition at the end of the generated tokens, as vLLM's `RepetitionDetectionParams` (0.17 and later).

    After every token: do the last `min_count * size` tokens consist of one pattern of `size` tokens, `min_count` times?
    Any size from `min_size` to `max_size` will do. It is off by default there, and there is no default setting.

    Args:
        max_size: Tokens of the longest pattern.
        min_size: Tokens of the shortest.
        min_count: Times that it stands there, at least 2.
    """

    max_size: int
    min_size: int
    min_count: int

    name = "n-grams"
    ends = True

    @property
    def settings(self) -> str:
        return f"{self.min_size} to {self.max_size} tokens, {self.min_count} times"

    def first(self, answer: Answer) -> int | None:
        tokens = np.asarray(answer.tokens, np.int64)
        found, limit = None, len(tokens)
        for size in range(self.min_size, self.max_size + 1):
            if size * self.min_count > limit:  # longer patterns can only be complete later
                break
            need = size * (self.min_count - 1)
            same = tokens[size:limit] == tokens[: limit - size]
            if np.count_nonzero(same) < need:
                continue
            at = np.arange(len(same))
            streak = at - np.maximum.accumulate(np.where(same, -1, at))
            hits = np.flatnonzero(streak >= need)
            if len(hits):
                found = limit = size + int(hits[0]) + 1
        return found


@dataclass(frozen=True, kw_only=True)
class ZlibRatio:
    """Bytes of the text over bytes of its zlib stream, above a threshold: Whisper's `compression_ratio_threshold`.

    Whisper asks once, when a segment of at most 224 tokens is finished, and then decodes the segment again at another
    temperature. Here it is asked as the answer grows, and ends it.

    Args:
        threshold: Whisper's is 2.4.
        window: Tokens that are looked at, the last ones; None: the whole answer so far. 224 is as long as a segment of
            Whisper's.
        every: Generated tokens between two looks.
    """

    threshold: float = 2.4
    window: int | None = None
    every: int = 25

    name = "zlib ratio"
    ends = True

    @property
    def settings(self) -> str:
        what = "the answer so far" if self.window is None else f"the last {self.window} tokens"
        return f"above {self.threshold:g}, {what}"

    def first(self, answer: Answer) -> int | None:
        data = answer.data
        for n in range(self.every, answer.n_tokens + 1, self.every):
            begin = 0 if self.window is None or n <= self.window else answer.ends[n - self.window - 1]
            text = data[begin : answer.ends[n - 1]]
            if len(text) / len(zlib.compress(text)) > self.threshold:
                return n
        return None


@dataclass(frozen=True, kw_only=True)
class Dry:
    """llama.cpp's DRY sampler: when it would first have lowered the logit of the token that came, by at least `least`.

    A token that would continue a repetition of m tokens, m at least `allowed_length`, loses
    multiplier * base^(m - allowed_length). A token with one of the breakers in its text loses nothing, and no
    repetition reaches across one.

    llama.cpp counts tokens of the prompt too, which the recording does not have: what repeats the prompt goes unseen.

    Args:
        multiplier: 0, off, in llama.cpp; its manual recommends 0.8.
        base: llama.cpp's default.
        allowed_length: llama.cpp's default.
        last_n: Tokens that are searched; None: all that were generated. llama.cpp's default is 64, and it takes no
            negative number any more.
        breakers: llama.cpp's default. Single bytes.
        least: Smaller penalties do not count. 0: any does. The token's odds against all others fall by e^penalty.
    """

    multiplier: float = 0.8
    base: float = 1.75
    allowed_length: int = 2
    last_n: int | None = 64
    breakers: bytes = b'\n:"*'
    least: float = 0.0

    name = "DRY"
    ends = False

    _MOST = 158  # of the exponent; llama.cpp keeps its float32 from overflowing at the same place

    @property
    def settings(self) -> str:
        where = "the answer so far" if self.last_n is None else f"the last {self.last_n} tokens"
        much = f"by {self.least:g} or more" if self.least else "at all"
        return f"{self.multiplier:g} * {self.base:g}^(m - {self.allowed_length}), {where}; a logit lowered {much}"

    def first(self, answer: Answer) -> int | None:
        tokens = np.asarray(answer.tokens, np.int64)
        data, begins = answer.data, [0, *answer.ends[:-1]]
        breaks = [
            any(byte in self.breakers for byte in data[begin:end])
            for begin, end in zip(begins, answer.ends, strict=True)
        ]
        length = np.zeros(len(tokens) + 1, np.int64)  # [j]: how many tokens before j equal those before i
        last_break = -1
        for i in range(1, len(tokens)):
            length[1:i] = np.where(tokens[: i - 1] == tokens[i - 1], length[: i - 1] + 1, 0)
            if breaks[i - 1]:
                last_break = i - 1
            start = 0 if self.last_n is None else max(0, i - self.last_n)
            limit = i - max(start, last_break + 1)
            if breaks[i] or limit < self.allowed_length:
                continue
            places = start + 1 + np.flatnonzero(tokens[start + 1 : i] == tokens[i])
            if not len(places):
                continue
            longest = min(limit, int(np.minimum(length[places], places - start).max()))
            over = min(longest - self.allowed_length, self._MOST)
            if over >= 0 and self.multiplier * self.base**over >= self.least:
                return i
        return None


def usual(guardians: Sequence[Guardian]) -> list[Detector]:
    """The given Guardians, and the others at settings that their own projects name.

    Of n-grams: what vLLM's pull requests 40097 (structured output) and 52677 (thinking) and llama.cpp's 26039 propose.
    Of DRY: the recommended strength, over 64 tokens (the default) and over everything; any penalty, and one of 10, by
    which a token's odds fall to 1/22000: where a loop has no other way out than to end.
    """
    return [
        *(GuardianStop(guardian=guardian) for guardian in guardians),
        NGrams(min_size=1, max_size=20, min_count=3),
        NGrams(min_size=4, max_size=128, min_count=4),
        NGrams(min_size=16, max_size=1024, min_count=4),
        ZlibRatio(),
        ZlibRatio(window=224),
        *(Dry(last_n=last_n, least=least) for last_n in (64, None) for least in (0.0, 10.0)),
    ]
