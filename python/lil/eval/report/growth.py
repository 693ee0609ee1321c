"""Figure 3 of https://arxiv.org/abs/2601.03043: how the compressed size of answers grows, and where Guardian stops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..._guardian import Guardian
from ..records import Answer
from ..replay import Stop, compressed_sizes
from . import text
from .blocks import Figure, Panel
from .measures import Case, Measured
from .palette import FULL, GRID, INK, MUTED, STOP, looks
from .plots import plot

POINTS = 200  # of a curve


@dataclass(frozen=True)
class Example:
    """An answer that stands for others of its kind."""

    kind: str
    case: Case
    answer: Answer
    stop: Stop
    right_after: bool


def examples(measured: Measured) -> list[Example]:
    """At most four, chosen by rule: the longest sound answer of full attention; the median of the wrong ones that were
    stopped; one that was right and was stopped, lost ones first; the first that ran to the cap without a stop."""
    found = list(_all(measured))
    cut = [e for e in found if e.stop.n_tokens < e.answer.n_tokens]
    picked: list[Example | None] = []

    sound = [e for e in found if e.answer.correct and e.answer.stop == "end" and e not in cut]
    at_full = [e for e in sound if e.case.method == FULL]
    picked.append(max(at_full or sound, key=lambda e: e.answer.n_tokens, default=None))

    wrong = sorted((e for e in cut if not e.answer.correct), key=lambda e: e.stop.n_tokens)
    picked.append(wrong[len(wrong) // 2] if wrong else None)

    right = sorted((e for e in cut if e.answer.correct), key=lambda e: e.right_after)
    picked.append(right[0] if right else None)

    picked.append(next((e for e in found if e.answer.stop == "length" and e not in cut), None))
    return [example for example in picked if example is not None and example.answer.n_tokens]


def _all(measured: Measured) -> Iterator[Example]:
    for case in measured.cases:
        for answer, stop, right in zip(case.answers, case.stops, case.right_after, strict=True):
            outcome = "right" if answer.correct else "wrong"
            if stop.n_tokens < answer.n_tokens:
                kept = "still" if right == answer.correct else "then"
                ends = f"{outcome}; stopped, {kept} {'right' if right else 'wrong'}"
            elif answer.stop == "length":
                ends = f"{outcome}; ran to the cap without a stop"
            else:
                ends = f"{outcome}; ended by itself"
            yield Example(ends, case, answer, stop, right)


def growth_figure(measured: Measured) -> Figure | None:
    """None where there is no answer to show."""
    chosen = examples(measured)
    if not chosen:
        return None
    curves = [_curve(example) for example in chosen]
    right = max(x[-1] for x, _ in curves)
    top = max(max(y) for _, y in curves)
    panels = tuple(
        _panel(f"{measured.group.id}-growth-{i + 1}", measured, example, x, y, right, top)
        for i, (example, (x, y)) in enumerate(zip(chosen, curves, strict=True))
    )
    guardian = measured.guardian
    return Figure(
        f"{measured.group.id}-figure-growth",
        "Compressed size over tokens, single answers (the paper's figure 3).",
        panels,
        (
            "What the answer adds to the compressed size of the prompt. Dots: Guardian's checks, every "
            f"{guardian.interval} tokens. {_shaded(guardian)}After the stop the line is thin: tokens that Guardian "
            "saves.",
            "The examples are chosen by rule, not by hand: the longest right answer that was left alone; of the wrong "
            "ones that were stopped the median; one that was right and was stopped, those that the stop made wrong "
            "first; one that ran to the cap without a stop. Kinds that did not occur are missing.",
        ),
    )


def _shaded(guardian: Guardian) -> str:
    if guardian.rule == "text":  # whose checks look at other texts than the curve does
        return ""
    return f"Shaded: the plateau, where a check found less than {guardian.threshold:g} bytes more. "


def _curve(example: Example) -> tuple[list[int], list[float]]:
    n = example.answer.n_tokens
    at = sorted({*range(0, n + 1, max(1, n // POINTS)), example.stop.n_tokens, n})
    sizes = compressed_sizes(example.answer, at)
    return at, [sizes[i] - sizes[0] for i in at]


def _panel(
    id: str, measured: Measured, example: Example, x: list[int], y: list[float], right: float, top: float
) -> Panel:
    guardian, stop, n = measured.guardian, example.stop, example.answer.n_tokens
    cut = stop.n_tokens < n
    color = looks(measured.methods)[example.case.method].color
    where = f"{stop.n_tokens} of {n} tokens" if cut else f"{n} tokens"
    title = f"{example.case.label}, problem {example.answer.id}"
    with plot(id) as drawn:
        axes = drawn.axes
        axes.set_title(f"{_short(title, 52)}\n{example.kind}", linespacing=1.35)
        axes.set_xlabel("tokens of the answer")
        axes.set_ylabel("compressed bytes added")
        axes.set_xlim(0, right * 1.02)
        axes.set_ylim(0, top * 1.12 or 1)
        at = x.index(stop.n_tokens)
        axes.plot(x[: at + 1], y[: at + 1], color=color, linewidth=1.8)
        checked = [guardian.interval * i for i in range(1, len(stop.curve))]
        axes.plot(checked, [size - stop.curve[0] for size in stop.curve[1:]], ".", color=color, markersize=6)
        if cut and stop.tokens_at_alarm is not None:
            if guardian.rule == "paper":
                axes.axvspan(
                    stop.tokens_at_alarm - guardian.every * guardian.patience, stop.tokens_at_alarm,
                    color=GRID[0], alpha=0.8, linewidth=0, zorder=0,
                )  # fmt: skip
            axes.plot(x[at:], y[at:], color=color, linewidth=0.9, alpha=0.6)
            axes.axvline(stop.n_tokens, color=STOP[0], linewidth=1, linestyle=(0, (4, 2)))
            axes.plot([stop.n_tokens], [y[at]], marker="X", color=STOP[0], markersize=7, linestyle="none")
            left = stop.n_tokens > right * 0.6
            axes.annotate(
                f"stopped at {stop.n_tokens}", (stop.n_tokens, 0.97), xycoords=("data", "axes fraction"), color=STOP[0],
                ha="right" if left else "left", va="top", xytext=(-5 if left else 5, 0), textcoords="offset points",
            )  # fmt: skip
        elif example.answer.stop == "length":
            axes.axvline(n, color=MUTED[0], linewidth=1, linestyle=(0, (1, 2)))
            axes.annotate(
                f"cap {n}", (n, 0.97), xycoords=("data", "axes fraction"), color=MUTED[0], ha="right", va="top",
                xytext=(-5, 0), textcoords="offset points",
            )  # fmt: skip
        else:
            axes.plot([n], [y[-1]], marker="o", color=INK[0], markersize=5, linestyle="none")
            axes.annotate("end", (n, y[-1]), xytext=(6, 0), textcoords="offset points", va="center", color=INK[0])
    alt = (
        f"Compressed bytes that the answer adds, over its tokens: {title}; {example.kind}; {where}; "
        f"{text.count(y[at])} bytes at the end."
    )
    return Panel(id, drawn.svg, alt)


def _short(line: str, width: int) -> str:
    line = "".join(char if char.isprintable() else "?" for char in line)  # a problem's id may hold anything
    return line if len(line) <= width else line[: width - 1] + "…"
