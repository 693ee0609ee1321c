"""Figures 1 and 2 of https://arxiv.org/abs/2601.03043, and the times in the end. Figure 3 is in `growth.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import text
from .blocks import Figure, Panel
from .measures import Case, Measured
from .palette import FULL, INK, MUTED, Look, looks
from .plots import Plot, plot
from .stats import NOTHING, Estimate
from .times import CaseTime

MAX_DOTS = 1200  # of a scatter plot, to keep pages small


@dataclass(frozen=True)
class Series:
    """What is drawn over budgets: an estimate per case; `scale` multiplies it."""

    value: Callable[[Case], Estimate]
    scale: float
    unit: str
    write: Callable[[float], str]


def over_budgets(
    id: str, title: str, measured: Measured, series: Series, *, top: float, line: tuple[float, str] | None = None
) -> Panel:
    """A line per method with intervals, full attention as a line across.

    Args:
        top: Upper end of the y axis, in its unit. It begins at 0, or a little below.
        line: A height to mark, and its name.
    """
    looked = looks(measured.methods)
    budgets = sorted({case.budget for case in measured.sparse if case.budget is not None})
    step = min(1.035, 1.3 ** (1 / max(1, len(measured.methods))))  # intervals stand side by side
    words: list[str] = []
    with plot(id) as drawn:
        handles: list[Any] = []
        labels: list[str] = []
        axes = drawn.axes
        axes.set_title(title)
        axes.set_ylabel(series.unit)
        drawn.budgets(budgets)
        if measured.full is not None:
            full = series.value(measured.full)
            if full.known:
                axes.axhspan(full.low * series.scale, full.high * series.scale, color=INK[0], alpha=0.07, linewidth=0)
            if full.value == full.value:
                handles.append(axes.axhline(full.value * series.scale, color=INK[0], linestyle="dashed", linewidth=1.2))
                labels.append(FULL)
                words.append(f"{FULL} {series.write(full.value)}")
        for i, method in enumerate(measured.methods):
            cases = [case for case in measured.of(method) if series.value(case).value == series.value(case).value]
            if not cases:
                continue
            shift = step ** (i - (len(measured.methods) - 1) / 2)
            handles.append(_line(drawn, looked[method], cases, series, shift))
            labels.append(method)
            values = ", ".join(f"{series.write(series.value(case).value)} at {case.budget}" for case in cases)
            words.append(f"{method} {values}")
        axes.set_ylim(-0.03 * top, top)  # a marker at 0 is whole
        if line is not None and line[0] < top:
            axes.axhline(line[0], color=MUTED[0], linestyle=(0, (1, 2)), linewidth=1)
            axes.annotate(
                line[1], (1, line[0]), xycoords=("axes fraction", "data"), ha="right", va="bottom", color=MUTED[0],
                xytext=(-2, 1.5), textcoords="offset points", fontsize=7.5,
            )  # fmt: skip
        drawn.legend(handles, labels)
    return Panel(id, drawn.svg, f"{title}, by budget. {'; '.join(words)}.")


def _line(drawn: Plot, look: Look, cases: Sequence[Case], series: Series, shift: float) -> Any:
    estimates = [series.value(case) for case in cases]
    x = np.array([case.budget for case in cases], float) * shift
    y = np.array([e.value for e in estimates])
    ends = np.array([[e.low, e.high] if e.known else [e.value, e.value] for e in estimates])
    drawn.axes.vlines(
        x, ends[:, 0] * series.scale, ends[:, 1] * series.scale, color=look.color, linewidth=1, alpha=0.55
    )
    (line,) = drawn.axes.plot(x, y * series.scale, color=look.color, marker=look.marker, linestyle=look.line)
    return line


def _top(estimates: Sequence[Estimate], scale: float, most: float = float("inf")) -> float:
    highest = max((e.high if e.known else e.value for e in estimates if e.value == e.value), default=1.0) * scale
    return min(highest * 1.06 or 1.0, most)


def _both(
    measured: Measured,
    name: str,
    title: str,
    value: Callable[[Case, bool], Estimate],
    *,
    scale: float = 1.0,
    unit: str,
    write: Callable[[float], str],
    most: float = float("inf"),
    line: tuple[float, str] | None = None,
) -> tuple[Panel, Panel]:
    """Two panels side by side, without and with Guardian, of one height."""
    top = _top([value(case, guardian) for case in measured.cases for guardian in (False, True)], scale, most)

    def panel(guardian: bool) -> Panel:
        with_ = "with" if guardian else "without"
        series = Series(lambda case: value(case, guardian), scale, unit, write)
        id = f"{measured.group.id}-{name}-{with_}"
        return over_budgets(id, f"{title} {with_} Guardian", measured, series, top=top, line=line)

    return panel(False), panel(True)


def budget_figure(measured: Measured) -> Figure:
    """Figure 1: accuracy and output length against budget, here without and with Guardian side by side."""
    accuracy = _both(
        measured,
        "accuracy",
        "Accuracy",
        lambda case, guardian: case.accuracy(guardian=guardian),
        scale=100.0,
        unit="accuracy, %",
        write=lambda share: text.percent(share, 1),
        most=102.0,
    )
    tokens = _both(
        measured,
        "tokens",
        "Output length",
        lambda case, guardian: case.tokens(guardian=guardian),
        unit="tokens of an answer, mean",
        write=text.count,
        line=(measured.cap, f"cap {measured.cap}"),
    )
    return Figure(
        f"{measured.group.id}-figure-budget",
        "Accuracy and output length against budget (the paper's figure 1).",
        (*accuracy, *tokens),
        (
            "Dashed line and band: full attention. Bars and band: 95 % intervals. Points of one budget are moved apart "
            "sideways so that their bars can be told apart.",
        ),
    )


def ratio_figure(measured: Measured) -> Figure:
    """Figure 2: compressed ratio of sparse and full outputs, by budget and by length."""
    id = measured.group.id
    panels: list[Panel] = []
    if measured.sparse:
        series = Series(lambda case: case.ratio, 1.0, "compressed size by size, mean", text.fixed)
        top = _top([case.ratio for case in measured.cases], 1.0)
        panels.append(over_budgets(f"{id}-ratio", "Compressed ratio of answers", measured, series, top=top))
    scatter, drawn, all_ = _scatter(measured)
    panels.append(scatter)
    notes = [
        "Of the answers alone, by LZ77. Longer texts compress better even when they do not repeat themselves, hence "
        "the plot by length: answers that go round in circles lie far below the others of their length."
    ]
    if drawn < all_:
        notes.append(f"It shows {text.count(drawn)} of {text.count(all_)} answers, evenly taken.")
    return Figure(
        f"{id}-figure-ratio",
        "Compressed ratio of sparse and full outputs (the paper's figure 2).",
        tuple(panels),
        tuple(notes),
    )


def _scatter(measured: Measured) -> tuple[Panel, int, int]:
    looked = looks(measured.methods)
    by_method: Mapping[str, list[tuple[int, float]]] = {
        method: [
            (answer.n_tokens, ratio)
            for case in measured.of(method)
            for answer, ratio in zip(case.answers, case.ratios, strict=True)
            if ratio == ratio
        ]
        for method in ([FULL] if measured.full else []) + measured.methods
    }
    total = sum(map(len, by_method.values()))
    every = max(1, -(-total // MAX_DOTS))
    n_drawn, words = 0, []
    id = f"{measured.group.id}-ratio-length"
    with plot(id) as drawn:
        handles, labels = [], []
        drawn.axes.set_title("Compressed ratio by length")
        drawn.axes.set_xscale("log")
        drawn.axes.set_xlabel("tokens of the answer")
        drawn.axes.set_ylabel("compressed size by size")
        for method, dots in by_method.items():
            kept = dots[::every]
            if not kept:
                continue
            n_drawn += len(kept)
            x, y = zip(*kept, strict=True)
            look = looked[method]
            (line,) = drawn.axes.plot(
                x, y, color=look.color, marker="." if method == FULL else look.marker, linestyle="none",
                markersize=6 if method == FULL else 4, alpha=0.75, markeredgewidth=0, zorder=3 if method == FULL else 2,
            )  # fmt: skip
            handles.append(line)
            labels.append(method)
            words.append(f"{method}: median {text.fixed(float(np.median([ratio for _, ratio in dots])))}")
        drawn.axes.set_ylim(bottom=0)
        _plain_log_ticks(drawn)
        drawn.legend(handles, labels)
    return (
        Panel(id, drawn.svg, f"Compressed ratio of single answers by their length. {'; '.join(words)}."),
        n_drawn,
        total,
    )


def _plain_log_ticks(drawn: Plot) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis = drawn.axes.xaxis
    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def time_figure(measured: Measured, times: Sequence[CaseTime]) -> Figure:
    """Seconds per problem against budget, without and with Guardian."""
    known = {time.case.label: time for time in times}

    def seconds(case: Case, guardian: bool) -> Estimate:
        return known[case.label].seconds(guardian=guardian) if case.label in known else NOTHING

    unit = "seconds of decoding, mean"
    return Figure(
        f"{measured.group.id}-figure-time",
        "Time per problem: steps by time per step.",
        _both(measured, "time", "Time per problem", seconds, unit=unit, write=text.seconds),
        ("Below the dashed line sparse attention was faster in the end, above it slower.",),
    )
