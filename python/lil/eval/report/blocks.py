"""What a report consists of. The contents are made once (`content.py`) and written twice (`html.py`, `markdown.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Points:
    """A list of short statements."""

    points: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        id: Unique in the report.
        caption: What it shows.
        columns: Names of the columns, [n_columns].
        rows: Cells, [n_rows][n_columns]. Equal neighbours in the first column are one cell, where `n_heads` is 2.
        n_heads: Columns that name a row: 1 or 2.
        spans: A row over the columns' names: (name, columns that it spans), from the left. Empty: none.
        notes: What the reader must know beside it.
        prose: Columns from the left whose cells are text. The others are numbers.
    """

    id: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    n_heads: int = 1
    spans: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()
    prose: int = 1

    @property
    def groups(self) -> Iterator[list[tuple[str, ...]]]:
        """The rows, by equal neighbours in the first column where two columns name a row."""
        for _, rows in groupby(self.rows, key=lambda row: row[0] if self.n_heads > 1 else None):
            yield list(rows)


@dataclass(frozen=True)
class Panel:
    """One plot.

    Attributes:
        id: Unique in the report; the name of its file in the Markdown version.
        svg: The drawing, in the light palette.
        alt: What it shows, for those who do not see it.
    """

    id: str
    svg: str
    alt: str


@dataclass(frozen=True)
class Figure:
    """Plots that belong together, under one caption."""

    id: str
    caption: str
    panels: tuple[Panel, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """Names and values."""

    title: str
    items: tuple[tuple[str, str], ...]


Block = Text | Points | Table | Figure | Settings


@dataclass
class Section:
    """A heading and what follows it. `level` is 2 or 3."""

    id: str
    title: str
    level: Literal[2, 3] = 2
    blocks: list[Block] = field(default_factory=list)


@dataclass
class Document:
    title: str
    lead: str
    sections: list[Section]

    @property
    def panels(self) -> Iterator[Panel]:
        for section in self.sections:
            for block in section.blocks:
                if isinstance(block, Figure):
                    yield from block.panels
