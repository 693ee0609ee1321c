"""The command line, `lil`. One file per command; what they share is in `_common.py`, what they measure in `lil.eval`.

Adding a command: a function in a file of its own, with annotated parameters and a docstring that is its help, and a
line below. Whatever it raises of `LilError` becomes one line on standard error and exit status 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from .. import __version__
from ._common import Group
from .bench import bench
from .calibrate import calibrate
from .chat import chat
from .doctor import doctor
from .eval import evaluate
from .models import app as models
from .passkey import passkey
from .ppl import ppl
from .replay import replay
from .report import report
from .run import run
from .serve import serve

app = typer.Typer(
    name="lil",
    cls=Group,
    help="llama.cpp with sparse attention and an early stop: talk to a model, find settings for it, measure them.",
    add_completion=True,
    pretty_exceptions_enable=False,
)
app.command()(chat)
app.command()(run)
app.add_typer(models, name="models")
app.command()(doctor)
app.command()(calibrate)
app.command()(bench)
app.command("eval")(evaluate)
app.command()(replay)
app.command()(report)
app.command()(passkey)
app.command()(ppl)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(serve)


def _version(asked: bool) -> None:
    if asked:
        print(f"lil {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Callback of the options that come before a command."""


def main(argv: Sequence[str] | None = None) -> int:
    """The `lil` program. Returns its exit status: 0, 2 for bad input, 130 where it was interrupted, 1 otherwise."""
    try:
        app(args=None if argv is None else list(argv), prog_name="lil")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
