"""The report's tables: the paper's, for measured runs."""

from __future__ import annotations

from collections.abc import Sequence

from ..splits import CaseResult, Part
from . import text
from .blocks import Table
from .measures import Case, Measured
from .palette import FULL
from .times import CaseTime, left_out, verdict

Row = tuple[str, ...]

_HEADS = ("method", "budget")
_GUARDIAN = ("answers", "stopped", "without", "with", "saved", "without", "with", "change, points")
_OUTCOMES = (
    "right stays right",
    "right becomes wrong",
    "wrong becomes right",
    "wrong ends early",
    "wrong, not stopped",
)


def _head(case: Case) -> Row:
    return (case.method, text.NONE if case.budget is None else str(case.budget))


def _cap(measured: Measured) -> str:
    return f"No answer is longer than {text.count(measured.cap)} tokens."


def length_table(measured: Measured) -> Table:
    """Accuracy and output length without Guardian, and how both stand to full attention's."""
    rows = []
    for case in measured.cases:
        full = measured.full
        against: Row = (text.NONE, text.NONE)
        if full is not None and case is not full:
            against = (
                text.with_interval(case.accuracy_against(full), text.points),
                text.with_interval(case.length_against(full), text.fixed),
            )
        rows.append(
            (
                *_head(case),
                str(case.n),
                text.share(case.accuracy(guardian=False)),
                against[0],
                text.with_interval(case.tokens(guardian=False), text.count),
                against[1],
                str(case.result.n_length),
            )
        )
    return Table(
        f"{measured.group.id}-table-length",
        "Accuracy and output length, without Guardian.",
        (*_HEADS, "answers", "right", "against full, points", "tokens, mean", "× full", "ended by the cap"),
        tuple(rows),
        n_heads=2,
        notes=(_cap(measured), *_common(measured)),
    )


def _common(measured: Measured) -> tuple[str, ...]:
    full = measured.full
    if full is None:
        return ("The runs have no answers of full attention, so nothing is held against it.",)
    if all({a.id for a in case.answers} == {a.id for a in full.answers} for case in measured.cases):
        return ()
    return ("Not every method answered the same problems; comparisons with full attention are over those of both.",)


def guardian_table(measured: Measured, cases: Sequence[Case], caption: str, name: str) -> Table:
    """Table 1: tokens saved and accuracy change under Guardian, by method and budget."""
    return Table(
        f"{measured.group.id}-table-{name}",
        caption,
        (*_HEADS, *_GUARDIAN),
        tuple((*_head(case), *_guardian_cells(case)) for case in cases),
        n_heads=2,
        spans=(("", 4), ("tokens of an answer, mean", 3), ("right", 3)),
        notes=(f"Saved: of the same method's own tokens without Guardian. {_cap(measured)}",),
    )


def _guardian_cells(case: Case) -> Row:
    return (
        str(case.n),
        str(case.result.n_cut),
        text.count(case.tokens(guardian=False).value),
        text.count(case.tokens(guardian=True).value),
        text.share(case.saved),
        text.percent(case.accuracy(guardian=False).value, 1),
        text.share(case.accuracy(guardian=True)),
        text.with_interval(case.accuracy_change, text.points),
    )


def full_table(all_measured: Sequence[Measured]) -> Table | None:
    """Table 2: full attention under Guardian, a row per task and model. None where no run has full attention."""
    have = [(measured, measured.full) for measured in all_measured if measured.full is not None]
    if not have:
        return None
    return Table(
        "table-full",
        "Full attention under Guardian (the paper's table 2).",
        ("task and model", "cap", *_GUARDIAN),
        tuple((measured.group.title, text.count(measured.cap), *_guardian_cells(full)) for measured, full in have),
        spans=(("", 4), ("tokens of an answer, mean", 3), ("right", 3)),
    )


def split_table(measured: Measured) -> Table:
    """Table 3: where the saving comes from, correct and incorrect answers."""

    def cells(part: Part) -> Row:
        if not part.n:
            return ("0", text.NONE, text.NONE, text.NONE)
        return (
            str(part.n),
            text.count(part.tokens_before / part.n),
            text.count(part.tokens_after / part.n),
            text.percent(part.saved, 1),
        )

    def from_wrong(result: CaseResult) -> str:
        saved = result.tokens_before - result.tokens_after
        if not saved:
            return text.NONE
        wrong = result.wrong.tokens_before - result.wrong.tokens_after
        return f"{text.percent(wrong / saved, 1)} of {text.count(saved)}"

    def row(head: Row, result: CaseResult) -> Row:
        return (*head, *cells(result.right), *cells(result.wrong), from_wrong(result))

    names = ("answers", "tokens without", "with", "saved")
    return Table(
        f"{measured.group.id}-table-split",
        "Where the saving comes from: answers right without Guardian, and wrong ones (the paper's split table).",
        (*_HEADS, *names, *names, "tokens saved in wrong ones"),
        (
            *(row(_head(case), case.result) for case in measured.cases),
            row(("all together", text.NONE), measured.total),
        ),
        n_heads=2,
        spans=(("", 2), ("right without Guardian", 4), ("wrong without Guardian", 4), ("", 1)),
        notes=(f"Tokens are means of an answer; the last column counts all answers. {_cap(measured)}",),
    )


def moves_table(measured: Measured) -> Table:
    """What became of the answers: the four transitions."""

    def row(head: Row, result: CaseResult) -> Row:
        whole = result.wrong.n - result.wrong_to_right - result.wrong_ends_early
        counts = (result.right_stays, result.right_to_wrong, result.wrong_to_right, result.wrong_ends_early, whole)
        return (*head, *map(str, counts))

    return Table(
        f"{measured.group.id}-table-moves",
        "What the stop did to the answers.",
        (*_HEADS, *_OUTCOMES),
        (*(row(_head(case), case.result) for case in measured.cases), row(("all together", text.NONE), measured.total)),
        n_heads=2,
    )


def time_table(measured: Measured, times: Sequence[CaseTime]) -> Table:
    """Time per problem, and whether sparse attention was faster in the end."""
    full = next((time for time in times if time.case.method == FULL), None)

    def side(time: CaseTime, guardian: bool) -> Row:
        seconds = time.seconds(guardian=guardian).value
        head = (text.count(time.case.tokens(guardian=guardian).value), text.seconds(seconds))
        if full is None or time is full:
            return (*head, text.NONE, text.NONE)
        ratio = time.against(full, guardian=guardian)
        return (*head, text.with_interval(ratio, text.fixed), verdict(ratio))

    missing = left_out(measured, times)
    names = ("steps", "seconds", "× full", "in the end")
    notes = [
        "Each side is held against full attention on the same side. Below 1 is faster in the end; open: the interval "
        "holds 1. Decoding one problem at a time, prompts excluded; the intervals are of the problems, not of the "
        "timing.",
        _cap(measured),
    ]
    if missing:
        notes.append(f"Steps of {text.listed(missing)} were not measured; these are left out.")
    return Table(
        f"{measured.group.id}-table-time",
        "Time per problem: steps by time per step.",
        (*_HEADS, "ms a step", *names, *names),
        tuple((*_head(t.case), text.fixed(1000 * t.step, 1), *side(t, False), *side(t, True)) for t in times),
        n_heads=2,
        spans=(("", 3), ("without Guardian", 4), ("with Guardian", 4)),
        notes=tuple(notes),
    )
