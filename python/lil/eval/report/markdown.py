"""The report as Markdown (tables as GitHub has them), with its plots as files beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .blocks import Block, Document, Figure, Points, Settings, Table, Text

PLOTS = "plots"


def to_markdown(document: Document) -> str:
    """The plots are expected as PLOTS/ID.svg."""
    lines = [f"# {_escaped(document.title)}", "", _escaped(document.lead), ""]
    for section in document.sections:
        lines += [f"{'#' * section.level} {_escaped(section.title)}", ""]
        for block in section.blocks:
            lines += [*_block(block, section.level), ""]
    return "\n".join(lines).rstrip() + "\n"


def _escaped(text: str) -> str:
    for char in "\\`*_[]<>|":
        text = text.replace(char, f"\\{char}")
    # a folder or a model may be named anything; a line break would end a table's row
    return text.replace("\r", " ").replace("\n", " ")


def _block(block: Block, level: int) -> Iterator[str]:
    if isinstance(block, Text):
        yield _escaped(block.text)
    elif isinstance(block, Points):
        yield from (f"- {_escaped(point)}" for point in block.points)
    elif isinstance(block, Settings):
        yield f"{'#' * (level + 1)} {_escaped(block.title)}"
        yield ""
        yield from _rows(("setting", "value"), block.items, prose=2)
    elif isinstance(block, Figure):
        for panel in block.panels:
            alt = panel.alt.replace("[", "(").replace("]", ")").replace("\n", " ")
            yield f"![{alt}]({PLOTS}/{panel.id}.svg)"
        yield ""
        yield " ".join([f"**{_escaped(block.caption)}**", *map(_escaped, block.notes)])
    else:
        yield from _table(block)


def _table(table: Table) -> Iterator[str]:
    yield f"**{_escaped(table.caption)}**"
    yield ""
    # Markdown has one row of names: what spans several columns is said in each
    over = [name for name, width in table.spans for _ in range(width)] or [""] * len(table.columns)
    columns = [f"{above}: {name}" if above else name for above, name in zip(over, table.columns, strict=True)]
    yield from _rows(columns, table.rows, prose=table.prose)
    for note in table.notes:
        yield ""
        yield _escaped(note)


def _rows(columns: Sequence[str], rows: Sequence[Sequence[str]], *, prose: int) -> Iterator[str]:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(map(_escaped, cells))} |"

    yield line(columns)
    yield _dashes(len(columns), prose)
    yield from map(line, rows)


def _dashes(n: int, prose: int) -> str:
    return f"| {' | '.join('---' if i < prose else '---:' for i in range(n))} |"
