"""Options of the commands that answer: `lil run`, `lil chat`."""

from __future__ import annotations

from typing import Annotated, Any, TextIO

import typer

from .._errors import ConfigError
from . import _common as common
from ._talk import Talk

Context = Annotated[int, typer.Option("--ctx", "-c", min=0, help="Tokens of context; 0: as many as the model knows.")]
MaxTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", "-n", min=1, help="Tokens of an answer.", show_default="to the context's end"),
]
System = Annotated[
    str | None, typer.Option("--system", "-s", metavar="TEXT", help="The system's message.", show_default=False)
]
Temperature = Annotated[float, typer.Option("--temp", min=0, help="0: the likeliest token.")]
TopK = Annotated[int, typer.Option(min=0, help="Choose among the likeliest; 0: all.")]
TopP = Annotated[float, typer.Option(min=0, max=1, help="Choose among the likeliest that have this mass.")]
MinP = Annotated[float, typer.Option(min=0, max=1, help="Leave out what is less likely than this share of the best.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Of the random choices.", show_default="another each time")]


def opened(
    model: str,
    *,
    sparse: str | None,
    guardian: str | None,
    ctx: int,
    max_tokens: int | None,
    temp: float,
    top_k: int,
    top_p: float,
    min_p: float,
    seed: int | None,
    threads: int | None,
    gpu_layers: int,
) -> Talk:
    """
    Raises:
        ConfigError: A notation that is none, or a method that cannot work here.
        ModelError: The file is missing, or cannot be loaded.
        ContextError: The native library refused.
    """
    options: dict[str, Any] = {
        "n_ctx": ctx,
        "n_threads": threads,
        "n_threads_batch": threads,
        "n_gpu_layers": gpu_layers,
    }
    sampling = {
        "max_tokens": max_tokens,
        "temperature": temp,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "seed": seed,
    }
    return Talk(
        model,
        sparse=common.sparse("--sparse", sparse),
        guardian=common.guardian("--guardian", guardian),
        options=options,
        sampling=sampling,
    )


# What a terminal would obey.
_CONTROL = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)], "\ufffd") | {ord("\r"): None}


def show(piece: str, *, to: TextIO, dim: bool = False) -> None:
    """Prints what a model wrote, at once; to a terminal nothing that it would obey."""
    if to.isatty():
        piece = piece.translate(_CONTROL)
    print(f"\x1b[2m{piece}\x1b[0m" if dim else piece, end="", file=to, flush=True)


def messages(system: str | None) -> list[dict[str, str]]:
    """The beginning of a conversation."""
    return [] if system is None else [{"role": "system", "content": system}]


def check_template(talk: Talk, cure: str) -> None:
    """
    Raises:
        ConfigError: The model has no chat template.
    """
    if not talk.has_template:
        raise ConfigError(f"{talk.path} has no chat template, as models have that were not trained to chat; {cure}")
