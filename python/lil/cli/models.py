from __future__ import annotations

from typing import Annotated

import typer

from .. import _hub
from . import _common as common

app = typer.Typer(invoke_without_command=True, no_args_is_help=False)


@app.callback()
def models(context: typer.Context) -> None:
    """The models in the caches of this machine, by the names that every command takes.

    Hugging Face's cache, llama.cpp's, and .cache in this folder.
    """
    if context.invoked_subcommand is not None:
        return
    every = _hub.found()
    out = common.console()
    if not every:
        out.print("None. lil models get OWNER/REPO:QUANT fetches one from Hugging Face.", soft_wrap=True)
        return
    table = common.table(["model", "MiB", "cache"])
    table.columns[0].overflow = "fold"
    table.columns[0].no_wrap = False
    table.columns[2].justify = "left"
    for model in every:
        table.add_row(model.name, f"{model.size / 2**20:.0f}", model.cache)
    out.print(table)


@app.command()
def get(
    name: Annotated[
        str, typer.Argument(metavar="OWNER/REPO[:QUANT]", help="On Hugging Face; hf: before it may be left out.")
    ],
) -> None:
    """Fetch a model from Hugging Face into its cache, unless it is there. Prints the path.

    QUANT is such as Q4_K_M, or a pattern for the file's name; without it Q4_K_M, Q8_0 or the first file is taken.
    """
    print(_hub.resolve(_hub.PREFIX + name.removeprefix(_hub.PREFIX)))
