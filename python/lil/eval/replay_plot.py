"""The plot of a sweep over Guardian's settings."""

from __future__ import annotations

import importlib.util
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

from .._errors import ConfigError
from .._guardian import Guardian
from .replay import Replay
from .tasks import EXTRA

FORMATS = (".png", ".svg")

_LABELS = {
    "threshold": "threshold, compressed bytes",
    "every": "every, generated tokens",
    "patience": "patience, checks in a row",
}
# told apart with normal, protan and deutan vision; markers differ as well
_COLORS = ("#005cca", "#8a3400", "#06a069", "#c076b4", "#4a3a8c", "#b08f1c")
_MARKERS = ("o", "s", "^", "D", "v", "X", "P")
_INK, _MUTED, _GRID = "#1f2328", "#59636e", "#d9dee4"


def check_plot() -> None:
    """
    Raises:
        ConfigError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError(f"plots are drawn by the package matplotlib, which is not installed; {EXTRA}")


def _axis(guardians: Sequence[Guardian]) -> str:
    """The parameter with the most values, which is the plot's x axis."""
    return max(_LABELS, key=lambda name: len({getattr(guardian, name) for guardian in guardians}))


def _value(guardian: Guardian, name: str) -> str:
    value = getattr(guardian, name)
    return value if isinstance(value, str) else f"{value:g}"


def lines(replays: Sequence[Replay]) -> tuple[str, dict[str, list[Replay]]]:
    """The parameter of the x axis, and a line for every combination of the others: name and points, left to right."""
    guardians = [replay.guardian for replay in replays]
    axis = _axis(guardians)
    names = [name for name in ("rule", *_LABELS) if name != axis and len({getattr(one, name) for one in guardians}) > 1]
    found: dict[str, list[Replay]] = {}
    for replay in sorted(replays, key=lambda replay: getattr(replay.guardian, axis)):
        label = ", ".join(f"{name} {_value(replay.guardian, name)}" for name in names)
        found.setdefault(label, []).append(replay)
    return axis, found


def plot_sweep(replays: Sequence[Replay], path: str | os.PathLike[str], *, title: str = "") -> list[Path]:
    """Draws tokens saved and accuracy, of all answers, against a setting of Guardian. The same data, the same files.

    Args:
        path: Of the files; .png and .svg are appended, and taken off first where they are there.

    Returns:
        The files.

    Raises:
        ConfigError: matplotlib is missing, or a file cannot be written.
    """
    check_plot()
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    axis, drawn = lines(replays)
    total = replays[0].total
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lil", "text.color": _INK}):
        figure = Figure(figsize=(9, 4.4), layout="constrained")
        saved, accuracy = figure.subplots(1, 2)
        accuracy.axhline(100 * total.accuracy_before, color=_MUTED, linestyle="dashed", label="without Guardian")
        low, high = total.interval_before
        accuracy.axhspan(100 * low, 100 * high, color=_GRID, alpha=0.5, zorder=0, label="its 95 % interval")
        looks = zip(itertools.cycle(_COLORS), itertools.cycle(_MARKERS))
        for (label, points), (color, marker) in zip(drawn.items(), looks, strict=False):
            x = [getattr(point.guardian, axis) for point in points]
            style = {"color": color, "marker": marker, "markersize": 5, "label": label or "with Guardian"}
            saved.plot(x, [100 * point.total.saved for point in points], **style)
            accuracy.plot(x, [100 * point.total.accuracy_after for point in points], **style)
        values = sorted({getattr(replay.guardian, axis) for replay in replays})
        for axes, name in ((saved, "tokens saved, %"), (accuracy, "accuracy, %")):
            if values[0] > 0 and values[-1] >= 8 * values[0]:
                axes.set_xscale("log")
            axes.xaxis.set_major_locator(FixedLocator(values))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.set_xlabel(_LABELS[axis])
            axes.set_title(name, fontsize="medium")
            axes.grid(color=_GRID, linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
        saved.set_ylim(0, max(1.0, 1.08 * saved.dataLim.ymax))
        handles, names = accuracy.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize="small", frameon=False)
        figure.suptitle(title)
        stem = Path(path)
        stem = stem.with_suffix("") if stem.suffix in FORMATS else stem
        files = [stem.with_name(stem.name + suffix) for suffix in FORMATS]
        for file in files:
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix == ".svg" else None)
            except OSError as error:
                raise ConfigError(f"{file}: {error.strerror or error}") from None
    return files
