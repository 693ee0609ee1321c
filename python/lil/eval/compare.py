"""Guardian beside what users have today, on the same recorded run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from .._errors import ConfigError
from .records import Answer
from .splits import Judge, Verdicts
from .stops import Detector


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What one detector does to the answers of a run.

    A runaway is an answer that the length cap ended; a sound one is right and ended by itself.

    Args:
        name: Of the detector.
        settings: In words.
        ends: Whether the answer is over where it acts. Otherwise (DRY) it changes the answer from there on, and nobody
            knows to what: there are no tokens saved and no accuracy.
        n: Answers.
        n_runaway: Runaways.
        n_runaway_met: That it acts on before their end.
        runaway_tokens: Generated when it acts on a runaway, median; None where it never does.
        n_sound: Sound answers.
        n_sound_met: That it acts on before their end.
        tokens_before: Of all answers as recorded.
        tokens_after: With it; None where it does not end them.
        correct_before: Right answers as recorded.
        correct_after: With it; None where it does not end them.
    """

    name: str
    settings: str
    ends: bool
    n: int
    n_runaway: int
    n_runaway_met: int
    runaway_tokens: float | None
    n_sound: int
    n_sound_met: int
    tokens_before: int
    tokens_after: int | None
    correct_before: int
    correct_after: int | None

    @property
    def saved(self) -> float | None:
        """The share of all tokens that it saves, 0 to 1."""
        if self.tokens_after is None:
            return None
        return 1 - self.tokens_after / self.tokens_before if self.tokens_before else 0.0

    def as_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "saved": self.saved}


def _compare(answers: Sequence[Answer], detector: Detector, verdicts: Verdicts) -> Comparison:
    kept = []
    for answer in answers:
        first = detector.first(answer)
        kept.append(answer.n_tokens if first is None else first)
    pairs = list(zip(answers, kept, strict=True))
    runaways = [(answer, n) for answer, n in pairs if answer.stop == "length"]
    sound = [(answer, n) for answer, n in pairs if answer.stop == "end" and answer.correct]
    met = [n for answer, n in runaways if n < answer.n_tokens]
    return Comparison(
        name=detector.name,
        settings=detector.settings,
        ends=detector.ends,
        n=len(answers),
        n_runaway=len(runaways),
        n_runaway_met=len(met),
        runaway_tokens=median(met) if met else None,
        n_sound=len(sound),
        n_sound_met=sum(n < answer.n_tokens for answer, n in sound),
        tokens_before=sum(answer.n_tokens for answer in answers),
        tokens_after=sum(kept) if detector.ends else None,
        correct_before=sum(answer.correct for answer in answers),
        correct_after=sum(verdicts.correct(answer, n) for answer, n in pairs) if detector.ends else None,
    )


def compare(
    answers: Sequence[Answer],
    detectors: Sequence[Detector],
    *,
    judge: Judge | None = None,
    tick: Callable[[], None] = lambda: None,
) -> list[Comparison]:
    """Replays a run under each detector; see `stops.usual`.

    Args:
        judge: None: `lil.eval.judging.judge`.
        tick: Called after each detector.

    Raises:
        ConfigError: No answers.
    """
    if not answers:
        raise ConfigError("no answers to compare on")
    verdicts, found = Verdicts(judge), []
    for detector in detectors:
        found.append(_compare(answers, detector, verdicts))
        tick()
    return found
