from __future__ import annotations

import shlex
from typing import Annotated, cast

import typer

from .._guardian import Guardian, Rule
from . import _common as common


def report(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Folders that lil eval wrote.", show_default=False)
    ],
    out: Annotated[str, typer.Option(metavar="FOLDER", help="Where the report is written.")] = "report",
    bench: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="What lil bench --json wrote; once per model.", show_default=False),
    ] = None,
    rule: Annotated[str, typer.Option(metavar="RULE", help="Guardian: paper, or text.")] = Guardian.rule,
    every: Annotated[int, typer.Option(help="Guardian: generated tokens between two checks.")] = 250,
    threshold: Annotated[float, typer.Option(help="Guardian: compressed bytes that count as something new.")] = 20.0,
    patience: Annotated[int, typer.Option(help="Guardian: checks in a row.")] = 1,
) -> None:
    """What sparse attention and Guardian cost and saved in recorded runs: an HTML page and a Markdown file.

    Accuracy and output length by method and budget, tokens that Guardian saves (it is replayed, nothing is decoded),
    how much the answers say, and with --bench the time per problem: whether sparse attention was faster in the end.
    """
    guardian = Guardian(rule=cast(Rule, rule), every=every, threshold=threshold, patience=patience)
    from ..eval.report import prepare

    words = ["lil", "report", *runs, "--out", out]
    for file in bench or []:
        words += ["--bench", file]
    words += ["--rule", rule, "--every", str(every), "--threshold", f"{threshold:g}", "--patience", str(patience)]
    prepared = prepare(runs, out, guardian=guardian, benches=bench or [])
    with common.progress() as update:
        files = prepared.write(command=shlex.join(words), progress=update)
    for written in files:
        common.console().print(str(written), soft_wrap=True)
