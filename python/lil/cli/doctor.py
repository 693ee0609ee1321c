from __future__ import annotations

import platform
import warnings
from typing import Annotated

import typer

from .. import __version__, _machine
from .._errors import LilError
from .._machine import mib
from ..llama_cpp import llama_cpp as native
from ..methods import METHODS
from . import _common as common

# general.file_type of llama.cpp: Q4_1, all of it or most
_Q4_1 = "3"


def doctor(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]", callback=common.optional_path, help="What can be done with it too.", show_default=False
        ),
    ] = None,
    threads: common.Threads = None,
) -> None:
    """What this machine can do, and what makes it slow; with a model, which methods it takes.

    Exit status 0 also where there are warnings.
    """
    machine = _machine.look()
    out = common.console()
    memory = machine.memory
    lines = {
        "lil": f"{__version__}, Python {platform.python_version()}, {platform.platform()}",
        "processor": f"{machine.cpu}, {machine.processors} processors, {threads or machine.threads} threads",
        "vector code": ", ".join(machine.built) or "none",
        "memory": f"{mib(memory[1])} of {mib(memory[0])} left" if memory else "unknown",
    }
    for device in machine.devices:
        left = f", {mib(device.free)} of {mib(device.total)} left" if device.total else ""
        lines[f"device {device.name}"] = device.description + left
    warned = list(_machine.slow(machine))
    if model is not None:
        about, more = _about(model, threads, memory)
        lines |= about
        warned += more
    for name, text in lines.items():
        out.print(f"{name:16}{text}", soft_wrap=True)
    for text in warned:
        out.print(f"warning: {text}", soft_wrap=True, style="yellow")
    if not warned:
        out.print("nothing here is known to be slow", soft_wrap=True)


def _about(path: str, threads: int | None, memory: tuple[int, int] | None) -> tuple[dict[str, str], list[str]]:
    """A model's lines, and what is to be warned of."""
    takes, refused = [], {}
    with warnings.catch_warnings(record=True) as said, common.opened(path, threads=threads) as session:
        warnings.simplefilter("always")
        metadata = session.llama.metadata
        size = native.llama_model_size(session.llama._model.model)
        n_ctx = native.llama_model_n_ctx_train(session.llama._model.model)
        for name, method in METHODS.items():
            try:
                session.context(method(), n_ctx=2 * method().budget).close()
                takes.append(name)
            except LilError as error:
                refused[name] = str(error)
        info = session.llama.sparse_info()
    lines = {
        "model": f"{metadata.get('general.architecture')}, {mib(size)}, trained for {n_ctx} tokens",
        "full attention": "through lil's op" if info.fused_dense else "llama.cpp's",
        "methods": ", ".join(takes) or "none",
        **{f"not {name}": reason for name, reason in refused.items()},
    }
    warned = [str(warning.message) for warning in said]
    if memory and size > memory[1]:
        warned.append(
            f"the weights take {mib(size)}, and {mib(memory[1])} of memory are left: not all of them stay there"
        )
    if metadata.get("general.file_type") == _Q4_1:
        warned.append("llama.cpp has no fast products of Q4_1 for several tokens at once; Q4_0 has them")
    return lines, warned
