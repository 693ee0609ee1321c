"""`lil bench` as pictures. They need matplotlib, which comes with the extra `eval`."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._errors import ConfigError
from .bench_rows import BenchRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (7.0, 4.4)  # inches
MIB = 1 << 20


def check_plots(option: str, folder: str) -> None:
    """What is missing is said before anything is run.

    Raises:
        ConfigError: matplotlib is not installed, or there can be no such folder.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError(f'{option} needs matplotlib, which is not installed; run: pip install "lil-cpp[eval]"')
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{option} {folder}: {error.strerror or error}; give a folder") from None


def _name(row: BenchRow, names: Mapping[str, str]) -> str:
    return row.case if row.runtime == "lil" else names.get(row.runtime, row.runtime)


def _lines(axes: Axes, rows: Sequence[BenchRow], names: Mapping[str, str], *, scale: float, ratio: bool) -> None:
    """A line for each case over the contexts, in a band from the lowest to the highest round."""
    for name in dict.fromkeys(_name(row, names) for row in rows):
        mine = sorted((row for row in rows if _name(row, names) == name), key=lambda row: row.context)
        at = [row.context for row in mine]
        if ratio:
            bands = [(row.ratio, row.ratio_low, row.ratio_high) for row in mine]
        else:
            bands = [(row.value * scale, row.low * scale, row.high * scale) for row in mine]
        middle, low, high = zip(*bands, strict=True)
        style: dict[str, Any] = {"color": "black"} if name == "full" else {}
        (line,) = axes.plot(at, middle, marker="o", markersize=4, label=name, **style)
        axes.fill_between(at, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set_xscale("log", base=2)
    contexts = sorted({row.context for row in rows})
    axes.set_xticks(contexts, [str(n) for n in contexts])
    axes.minorticks_off()
    axes.set_xlabel("context, tokens")
    axes.set_ylim(bottom=0)


def _bars(axes: Axes, rows: Sequence[BenchRow], names: Mapping[str, str]) -> None:
    """Tokens a second of a prompt."""
    labels = [_name(row, names) for row in rows]
    speed = [row.context / row.value for row in rows]
    spread = [
        [row.context / row.value - row.context / row.high for row in rows],
        [row.context / row.low - row.context / row.value for row in rows],
    ]
    axes.barh(range(len(rows)), speed, xerr=spread, color=["black" if x == "full" else "tab:blue" for x in labels])
    axes.set_yticks(range(len(rows)), labels)
    axes.invert_yaxis()
    axes.set_xlabel(f"tokens a second, prompt of {rows[0].context} tokens")


def write_plots(folder: str, rows: Sequence[BenchRow], *, title: str, names: Mapping[str, str]) -> list[Path]:
    """Writes decode, decode-ratio, prompt, kv and peak, each as PNG and SVG, as far as they were measured.

    Args:
        folder: Exists.
        title: Over each.
        names: kind -> name of the other runtimes.

    Raises:
        ConfigError: A file cannot be written.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    written = []
    for file, measure, label, scale, ratio in [
        ("decode", "decode", "a decode step, ms", 1e3, False),
        ("decode-ratio", "decode", "a decode step, of full attention's", 1.0, True),
        ("prompt", "prompt", "", 1.0, False),
        ("kv", "kv_bytes", "KV cache, MiB", 1 / MIB, False),
        ("peak", "peak_bytes", "peak memory, MiB", 1 / MIB, False),
    ]:
        mine = [row for row in rows if row.measure == measure]
        if not mine:
            continue
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title)
        if measure == "prompt":
            _bars(axes, mine, names)
        else:
            _lines(axes, mine, names, scale=scale, ratio=ratio)
            axes.set_ylabel(label)
            axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
        for kind in ("png", "svg"):
            path = Path(folder) / f"{file}.{kind}"
            try:
                with rc_context({"svg.hashsalt": "lil"}):  # the same rows make the same file
                    figure.savefig(path, dpi=150, metadata={"Date": None} if kind == "svg" else None)
            except OSError as error:
                raise ConfigError(f"--plots {path}: {error.strerror or error}") from None
            written.append(path)
    return written
