"""What the answers of one method and budget come to, without and with Guardian. No words, no drawing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ..._guardian import Guardian
from ..._lz77 import LZ77
from ..records import Answer, case_label
from ..replay import Stop, check_action, replay
from ..splits import ALL, CaseResult, Judge, Verdicts, by_case, count
from . import stats
from .load import Group
from .palette import FULL
from .stats import Estimate

Ints = npt.NDArray[np.int64]


def compressed_ratio(answer: Answer) -> float:
    """The LZ77-compressed size of an answer by its size, prompt excluded; NaN where it is empty.

    The information that a text holds per byte, as figure 2 of https://arxiv.org/abs/2601.03043 has it.
    """
    text = LZ77(answer.data)
    return text.size / text.bytes if text.bytes else float("nan")


@dataclass(frozen=True)
class Case:
    """The answers of one method and budget.

    Attributes:
        answers: [n]
        stops: What Guardian does to each, [n].
        right_after: Whether each is right with Guardian, [n].
        result: Their counts.
        ratios: Compressed size by size of each, [n].
    """

    method: str
    budget: int | None
    answers: list[Answer]
    stops: list[Stop]
    right_after: list[bool]
    result: CaseResult
    ratios: list[float]

    @property
    def label(self) -> str:
        return case_label(self.method, self.budget)

    @property
    def n(self) -> int:
        return len(self.answers)

    @cached_property
    def before(self) -> Ints:
        """Tokens without Guardian, [n]."""
        return np.array([answer.n_tokens for answer in self.answers], np.int64)

    @cached_property
    def after(self) -> Ints:
        """Tokens with Guardian, [n]."""
        return np.array([stop.n_tokens for stop in self.stops], np.int64)

    @cached_property
    def right_before(self) -> list[bool]:
        return [answer.correct for answer in self.answers]

    def tokens(self, *, guardian: bool) -> Estimate:
        """Mean tokens of an answer."""
        return stats.mean(self.after if guardian else self.before)

    def accuracy(self, *, guardian: bool) -> Estimate:
        right = self.right_after if guardian else self.right_before
        return stats.proportion(sum(right), len(right))

    @cached_property
    def accuracy_change(self) -> Estimate:
        """With Guardian against without, as a difference of shares, on the same answers."""
        return stats.change(self.right_before, self.right_after)

    @cached_property
    def saved(self) -> Estimate:
        """The share of this case's own tokens that Guardian saves."""
        left = stats.ratio(self.after, self.before)
        return Estimate(1 - left.value, 1 - left.high, 1 - left.low)

    @cached_property
    def ratio(self) -> Estimate:
        """Mean compressed ratio of the answers that are not empty."""
        return stats.mean([ratio for ratio in self.ratios if ratio == ratio])

    def length_against(self, other: Case, *, guardian: bool = False) -> Estimate:
        """This case's tokens by another's, on the problems that both answered."""
        mine, theirs = self.common(other)
        return stats.ratio(self._tokens(guardian)[mine], other._tokens(guardian)[theirs])

    def accuracy_against(self, other: Case) -> Estimate:
        """This case's accuracy less another's, on the problems that both answered, without Guardian."""
        mine, theirs = self.common(other)
        return stats.change([other.right_before[i] for i in theirs], [self.right_before[i] for i in mine])

    def common(self, other: Case) -> tuple[Ints, Ints]:
        """Where the problems that both answered lie in each, in the same order."""
        places = {answer.id: i for i, answer in enumerate(other.answers)}
        pairs = [(i, places[answer.id]) for i, answer in enumerate(self.answers) if answer.id in places]
        both = np.array(pairs, np.int64).reshape(-1, 2)
        return both[:, 0], both[:, 1]

    def _tokens(self, guardian: bool) -> Ints:
        return self.after if guardian else self.before


@dataclass(frozen=True)
class Measured:
    """A group's cases, "full" first, methods in their order of appearance, budgets ascending.

    Attributes:
        total: The counts of all cases together.
    """

    group: Group
    guardian: Guardian
    cases: list[Case]
    total: CaseResult

    @cached_property
    def full(self) -> Case | None:
        """Full attention, where the runs have it."""
        return next((case for case in self.cases if case.method == FULL), None)

    @cached_property
    def sparse(self) -> list[Case]:
        return [case for case in self.cases if case.method != FULL]

    @cached_property
    def methods(self) -> list[str]:
        """Without full attention."""
        return list(dict.fromkeys(case.method for case in self.sparse))

    def of(self, method: str) -> list[Case]:
        return [case for case in self.cases if case.method == method]

    @property
    def cap(self) -> int:
        return self.group.run.max_tokens


def measure(
    group: Group,
    guardian: Guardian,
    *,
    judge: Judge | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Measured:
    """Replays Guardian over a group's answers, and counts.

    Args:
        judge: None: `lil.eval.judging.judge`, which is needed only where an answer is cut.
        tick: Called after each answer.

    Raises:
        ConfigError: A Guardian whose action is not "stop".
    """
    check_action(guardian)
    verdicts = Verdicts(judge)
    cases: list[Case] = []
    for (method, budget), answers in by_case(group.answers).items():
        stops, ratios = [], []
        for answer in answers:
            stops.append(replay(answer, guardian))
            ratios.append(compressed_ratio(answer))
            tick()
        kept = [stop.n_tokens for stop in stops]
        cases.append(
            Case(
                method,
                budget,
                answers,
                stops,
                [verdicts.correct(answer, n) for answer, n in zip(answers, kept, strict=True)],
                count(answers, kept, verdicts, method=method, budget=budget),
                ratios,
            )
        )
    every = [answer for case in cases for answer in case.answers]
    kept = [stop.n_tokens for case in cases for stop in case.stops]
    return Measured(group, guardian, cases, count(every, kept, verdicts, method=ALL, budget=None))
