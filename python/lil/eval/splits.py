"""What a stop does to a run: tokens saved, answers won and lost, split as the Guardian paper splits them.

Nothing here knows what stops the answers; see `replay` for Guardian and `compare` for others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .intervals import wilson
from .records import Answer

ALL = "all"  # the label of what holds for the answers of every case together

Judge = Callable[[str, str], tuple[str | None, bool]]
"""(text, gold) -> (what it reads as the answer, whether that is right)."""


class Verdicts:
    """The judge's word on answers that were cut, each asked for once. An answer that is whole keeps its recorded one.

    Args:
        judge: None: `lil.eval.judging.judge`, loaded when the first cut answer needs it.

    Raises:
        ConfigError: From `correct`, where that judge lacks its package.
    """

    def __init__(self, judge: Judge | None = None) -> None:
        self._judge = judge
        self._known: dict[tuple[str, str, str], bool] = {}

    def correct(self, answer: Answer, n_tokens: int) -> bool:
        """Whether the first `n_tokens` tokens of the answer are right."""
        if n_tokens >= answer.n_tokens:
            return answer.correct
        text = answer.data[: answer.ends[n_tokens - 1] if n_tokens else 0].decode("utf-8", "replace")
        key = (answer.id, text, answer.gold)
        if key not in self._known:
            if self._judge is None:
                from .judging import check_judge, judge

                check_judge()
                self._judge = judge
            self._known[key] = self._judge(text, answer.gold)[1]
        return self._known[key]


@dataclass(frozen=True, kw_only=True)
class Part:
    """The answers of a case that were right without Guardian, or those that were wrong.

    Args:
        n: Answers.
        n_cut: That Guardian cut.
        tokens_before: Generated without it, of all `n`.
        tokens_after: With it.
    """

    n: int
    n_cut: int
    tokens_before: int
    tokens_after: int

    @property
    def saved(self) -> float:
        """The share of the tokens that Guardian saved, 0 to 1."""
        return _share(self.tokens_before - self.tokens_after, self.tokens_before)


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """The answers of one method and budget, or of all, without and with Guardian.

    Args:
        method: As recorded; `ALL` for every case together.
        budget: None with "full" and with `ALL`.
        n: Answers.
        n_length: That the length cap ended, without Guardian.
        right: Those that were right without Guardian.
        wrong: The others.
        right_stays: Right before and after, cut or not.
        right_to_wrong: Guardian cut them before their answer.
        wrong_to_right: It cut them before they lost it again.
        wrong_ends_early: Wrong before and after, cut.
    """

    method: str
    budget: int | None
    n: int
    n_length: int
    right: Part
    wrong: Part
    right_stays: int
    right_to_wrong: int
    wrong_to_right: int
    wrong_ends_early: int

    @property
    def n_cut(self) -> int:
        return self.right.n_cut + self.wrong.n_cut

    @property
    def tokens_before(self) -> int:
        return self.right.tokens_before + self.wrong.tokens_before

    @property
    def tokens_after(self) -> int:
        return self.right.tokens_after + self.wrong.tokens_after

    @property
    def saved(self) -> float:
        """The share of its own tokens that the case saves with Guardian, 0 to 1."""
        return _share(self.tokens_before - self.tokens_after, self.tokens_before)

    @property
    def correct_before(self) -> int:
        return self.right.n

    @property
    def correct_after(self) -> int:
        return self.right_stays + self.wrong_to_right

    @property
    def accuracy_before(self) -> float:
        return _share(self.correct_before, self.n)

    @property
    def accuracy_after(self) -> float:
        return _share(self.correct_after, self.n)

    @property
    def interval_before(self) -> tuple[float, float]:
        """Of the accuracy, 95 %, Wilson's."""
        return wilson(self.correct_before, self.n)

    @property
    def interval_after(self) -> tuple[float, float]:
        return wilson(self.correct_after, self.n)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the fields, and what follows from them."""
        names = ["n_cut", "saved"]
        names += [
            f"{what}_{when}" for what in ("tokens", "correct", "accuracy", "interval") for when in ("before", "after")
        ]
        derived = {name: getattr(self, name) for name in names}
        parts = {"right": {"saved": self.right.saved}, "wrong": {"saved": self.wrong.saved}}
        record = dataclasses.asdict(self)
        return {**record, **{key: record[key] | more for key, more in parts.items()}, **derived}


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def count(
    answers: Sequence[Answer], kept: Sequence[int], verdicts: Verdicts, *, method: str, budget: int | None
) -> CaseResult:
    """Counts answers that are cut after `kept` tokens each."""
    pairs = list(zip(answers, kept, strict=True))
    after = [verdicts.correct(answer, n) for answer, n in pairs]

    def part(right: bool) -> Part:
        mine = [(answer.n_tokens, n) for answer, n in pairs if answer.correct == right]
        return Part(
            n=len(mine),
            n_cut=sum(n < whole for whole, n in mine),
            tokens_before=sum(whole for whole, _ in mine),
            tokens_after=sum(n for _, n in mine),
        )

    def moved(before: bool, now: bool, only_cut: bool = False) -> int:
        return sum(
            (answer.correct, is_now) == (before, now) and (n < answer.n_tokens or not only_cut)
            for (answer, n), is_now in zip(pairs, after, strict=True)
        )

    return CaseResult(
        method=method,
        budget=budget,
        n=len(answers),
        n_length=sum(answer.stop == "length" for answer in answers),
        right=part(True),
        wrong=part(False),
        right_stays=moved(True, True),
        right_to_wrong=moved(True, False),
        wrong_to_right=moved(False, True),
        wrong_ends_early=moved(False, False, only_cut=True),
    )


def by_case(answers: Iterable[Answer]) -> dict[tuple[str, int | None], list[Answer]]:
    """The answers of each method and budget: "full" first, methods in their order of appearance, budgets ascending."""
    found: dict[tuple[str, int | None], list[Answer]] = {}
    methods: dict[str, int] = {}
    for answer in answers:
        methods.setdefault(answer.method, len(methods))
        found.setdefault((answer.method, answer.budget), []).append(answer)

    def place(case: tuple[str, int | None]) -> tuple[bool, int, int]:
        return case[1] is not None, methods[case[0]], case[1] or 0

    return {case: found[case] for case in sorted(found, key=place)}
