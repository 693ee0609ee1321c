"""Drawing with matplotlib: one style, text that stays text, the same bytes for the same data."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..replay_plot import check_plot
from . import palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (4.7, 3.2)  # inches of the axes with their labels; legends come below
LEGEND_ROW = 0.22  # inches
FONT = 9.0  # points; a panel is shown at about 1 to 1.5 times its size

_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],  # the first comes with matplotlib
    "font.size": FONT,
    "axes.titlesize": FONT,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlepad": 8,
    "axes.labelsize": FONT,
    "axes.edgecolor": palette.MUTED[0],
    "axes.labelcolor": palette.INK[0],
    "axes.titlecolor": palette.INK[0],
    "axes.facecolor": palette.PAGE[0],
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": palette.GRID[0],
    "grid.linewidth": 0.6,
    "xtick.color": palette.MUTED[0],
    "ytick.color": palette.MUTED[0],
    "xtick.labelcolor": palette.INK[0],
    "ytick.labelcolor": palette.INK[0],
    "xtick.labelsize": FONT - 0.5,
    "ytick.labelsize": FONT - 0.5,
    "text.color": palette.INK[0],
    "lines.linewidth": 1.5,
    "lines.markersize": 5.5,
    "figure.facecolor": palette.PAGE[0],
    "figure.constrained_layout.use": True,
    "legend.frameon": False,
    "legend.fontsize": FONT - 0.5,
    "svg.fonttype": "none",
    "text.parse_math": False,  # names may hold dollar signs
    "path.simplify": True,
}


class Plot:
    """One panel being drawn. `axes` is matplotlib's.

    Args:
        id: Of the panel; it also makes the ids in the drawing its own.
    """

    def __init__(self, id: str, figure: Figure, axes: Axes) -> None:
        self.id = id
        self.axes = axes
        self.svg = ""
        self._figure = figure

    def legend(self, handles: list[Any], labels: list[str]) -> None:
        """Below the axes, in as many columns as the longest label allows."""
        if not labels:
            return
        width = 4 + max(map(len, labels))
        columns = max(1, min(len(labels), 58 // width, 4))
        rows = -(-len(labels) // columns)
        self._figure.set_size_inches(SIZE[0], SIZE[1] + LEGEND_ROW * rows + 0.1)
        self._figure.legend(
            handles, labels, loc="outside lower left", ncols=columns, handlelength=2.6, columnspacing=1.4
        )

    def budgets(self, values: list[int]) -> None:
        """The x axis: budgets, evenly spaced where they double."""
        self.axes.set_xscale("log", base=2)
        self.axes.set_xticks(values, [str(value) for value in values])
        self.axes.xaxis.set_minor_locator(_no_ticks())
        low, high = min(values), max(values)
        self.axes.set_xlim(low / 1.25, high * 1.25)
        self.axes.set_xlabel("budget, tokens a step attends to")


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()


@contextmanager
def plot(id: str) -> Iterator[Plot]:
    """Opens a panel; its `svg` is there when the block ends.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    check_plot()
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        # the text stays text: the reader's fonts have what ours lacks
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE | {"svg.hashsalt": id})  # type: ignore[arg-type]
        figure = Figure(figsize=SIZE)
        FigureCanvasSVG(figure)
        drawn = Plot(id, figure, figure.add_subplot())
        yield drawn
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
        drawn.svg = _own_ids(out.getvalue(), id)


def _own_ids(svg: str, id: str) -> str:
    """Puts the panel's id before every id in the drawing, so that several may stand in one page."""
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{id}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{id}-\1)", svg)
    return re.sub(r'href="#([^"]+)"', rf'href="#{id}-\1"', svg)


def embedded(svg: str, alt: str) -> str:
    """A drawing to stand in a page: without the XML around it, with a text for those who do not see it, and in colours
    that are the page's variables. matplotlib writes all colours as six lower-case hex digits."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    begin, _, rest = svg.partition(">")
    label = alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    svg = f'{begin} role="img" aria-label="{label}">{rest}'
    for light, (name, _, _) in palette.variables().items():
        svg = svg.replace(light, f"var({name})")
    return svg
