"""One colour and one marker per method, the same in every plot of every report.

The colours of the methods that are run most keep a CIELAB distance of at least 30 from each other for readers with
normal, protan and deutan vision, and a contrast of at least 3 to the page. Markers and lines differ as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...methods import METHODS

FULL = "full"

# light, dark
INK = ("#1f2328", "#e6edf3")
MUTED = ("#59636e", "#9aa5b1")
GRID = ("#d9dee4", "#2f3740")
PAGE = ("#ffffff", "#12161c")
STOP = ("#c4141b", "#ff7b72")

# light, dark, marker: of the methods, in the order of METHODS
_COLORS = (
    ("#005cca", "#69b0f6", "o"),
    ("#8a3400", "#e3592d", "s"),
    ("#4796cc", "#8bd1f4", "v"),
    ("#8f5a52", "#d1bab3", "P"),
    ("#06a069", "#46df89", "^"),
    ("#c076b4", "#c48fb4", "D"),
    ("#4a3a8c", "#9872f3", "<"),
    ("#b08f1c", "#f7d31c", "X"),
    ("#6b7280", "#8fa3b8", ">"),
)
_METHODS = dict(zip(METHODS, _COLORS))  # noqa: B905  the methods behind look alike
_FURTHER = ("*", "p", "d", "8")  # of a method's further options
_OTHER = ("#6e4a7e", "#b9a0c8", "h")
_LINES: tuple[str, ...] = ("solid", "dashdot", "dotted", "dashed")


@dataclass(frozen=True)
class Look:
    """How a method is drawn. `color` is the light one."""

    color: str
    marker: str
    line: str


def looks(methods: Sequence[str]) -> dict[str, Look]:
    """A look for each, which depends on its name alone, and for further options of a method on their order."""
    found: dict[str, Look] = {FULL: Look(INK[0], "None", "dashed")}
    variants: dict[str, int] = {}
    for method in methods:
        if method in found:
            continue
        name = method.split(":")[0]
        color, _, marker = _METHODS.get(name, _OTHER)
        n = variants[name] = variants.get(name, -1) + 1
        found[method] = Look(color, (marker, *_FURTHER)[n % (1 + len(_FURTHER))], _LINES[n % len(_LINES)])
    return found


def variables() -> dict[str, tuple[str, str, str]]:
    """The CSS variable that stands for each light colour, with its light and dark value."""
    named = {"ink": INK, "muted": MUTED, "grid": GRID, "page": PAGE, "stop": STOP}
    named |= {name: entry[:2] for name, entry in _METHODS.items()} | {"other": _OTHER[:2]}
    return {light: (f"--{name}", light, dark) for name, (light, dark) in named.items()}
