"""What a way to deal with loops does to the set: loops ended, how late, and sound texts cut."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from lil.eval.records import Answer, to_text
from lil.eval.stops import Detector

from . import Text

LOOP_TOKENS = 4_000  # that a loop goes on for, at most


class Tokenizer(Protocol):
    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = False) -> list[int]: ...

    def detokenize(self, tokens: list[int], prev_tokens: list[int] | None = None, special: bool = False) -> bytes: ...


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A text as an answer of a model.

    Args:
        onset: Tokens before the loop sets in; None: a sound text.
    """

    text: Text
    answer: Answer
    onset: int | None


def make_samples(texts: Iterable[Text], tokenizer: Tokenizer) -> list[Sample]:
    """Cut where a loop has gone on for `LOOP_TOKENS`."""
    width: dict[int, int] = {}
    samples = []
    for i, text in enumerate(texts):
        tokens = tokenizer.tokenize(text.data, add_bos=False)
        for token in set(tokens) - width.keys():
            width[token] = len(tokenizer.detokenize([token]))
        ends = list(itertools.accumulate(width[token] for token in tokens))
        onset = None if text.onset is None else bisect_left(ends, text.onset) + 1
        n = len(tokens) if onset is None else min(len(tokens), onset + LOOP_TOKENS)
        answer = Answer(
            id=str(i),
            method="full",
            budget=None,
            prompt="",
            n_prompt=0,
            tokens=tokens[:n],
            ends=ends[:n],
            text=to_text(text.data[: ends[n - 1]]),
            stop="end" if onset is None else "length",
            gold="",
            predicted=None,
            correct=onset is None,
            seconds=0.0,
        )
        samples.append(Sample(text=text, answer=answer, onset=onset))
    return samples


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a detector did to some samples.

    Args:
        n_loops: Loops.
        delays: Tokens from a loop's onset to where it was ended, of those that were, by family.
        n_early: Loops that were cut before they set in; they do not count as ended.
        missed: Families of the loops that went on to the end, each as often.
        n_sound: Sound texts.
        cut: Families of those that were cut, each as often.
    """

    n_loops: int
    delays: dict[str, list[int]]
    n_early: int
    missed: list[str]
    n_sound: int
    cut: list[str]

    @property
    def n_ended(self) -> int:
        return sum(map(len, self.delays.values()))

    @property
    def delay(self) -> float | None:
        """The median; None where no loop was ended."""
        return median(itertools.chain(*self.delays.values())) if self.delays else None


def score(detector: Detector, samples: Sequence[Sample]) -> Score:
    delays: dict[str, list[int]] = {}
    missed, cut, n_early = [], [], 0
    for sample in samples:
        first, family = detector.first(sample.answer), sample.text.family
        if sample.onset is None:
            cut += [family] * (first is not None and first < sample.answer.n_tokens)
        elif first is None:
            missed.append(family)
        elif first <= sample.onset:
            n_early += 1
        else:
            delays.setdefault(family, []).append(first - sample.onset)
    n_loops = sum(sample.text.is_loop for sample in samples)
    return Score(
        n_loops=n_loops, delays=delays, n_early=n_early, missed=missed, n_sound=len(samples) - n_loops, cut=cut
    )
