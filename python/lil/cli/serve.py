from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Annotated, Any

import typer

from .._errors import ConfigError, ModelError
from .._notation import ENV_GUARDIAN, ENV_SPARSE, parse_guardian, parse_sparse
from .._programs import program

_HF = "hf:"  # what names a model of Hugging Face, hf:owner/repo:quant


def serve(
    context: typer.Context,
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="GGUF files, or hf:owner/repo:quant. Several: each is loaded when a request names it.",
            show_default=False,
        ),
    ],
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0: every one of this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen at.")] = 8080,
    ctx: Annotated[
        int | None,
        typer.Option(
            "--ctx", "-c", min=1, help="Positions of the cache.", show_default="as the model was trained, or as fits"
        ),
    ] = None,
    sparse: Annotated[
        str | None,
        typer.Option(
            metavar="NOTATION",
            help="Sparse attention: quest:budget=512. none: full attention, through the fused op.",
            show_default=f"{ENV_SPARSE}, or none",
        ),
    ] = None,
    guardian: Annotated[
        str | None,
        typer.Option(
            metavar="NOTATION",
            help="End answers that go round in circles: on, off, or every=250,action=close_think.",
            show_default=f"{ENV_GUARDIAN}, or off",
        ),
    ] = None,
) -> None:
    """Serve models to OpenAI's and Anthropic's clients: llama-server with our defaults.

    Whatever else llama-server takes may follow the models (-np 8, --api-key KEY, ...). Requests take "guardian" too.
    """
    executable = program("llama-server")
    options = ["--host", host, "--port", str(port)]
    if ctx is not None:
        options += ["--ctx-size", str(ctx)]
    options += _checked(sparse, guardian)

    # what looks like an option is llama-server's, and so is what follows it
    known = next((i for i, word in enumerate(models) if word.startswith("-")), len(models))
    names, rest = models[:known], models[known:] + context.args
    if not names:
        raise ConfigError(f"a model must come first, and {rest[0]!r} is none; give a GGUF file, then options")
    _check_models(names)

    with tempfile.TemporaryDirectory(prefix="lil-serve-") as folder:
        command = [executable, *_model_options(names, Path(folder)), *options, *rest]
        status = _run(command, f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}", names)
    raise typer.Exit(status)


def _checked(sparse: str | None, guardian: str | None) -> list[str]:
    """The options of both arguments, read here already, so that what is wrong is one line."""
    if sparse is None:
        sparse = os.environ.get(ENV_SPARSE, "").strip() or "none"
    parse_sparse(sparse)
    options = ["--sparse", sparse]
    if guardian is not None:
        parse_guardian(guardian)
        options += ["--guardian", guardian]
    return options


def _check_models(names: list[str]) -> None:
    for name in names:
        if not name.startswith(_HF) and not os.path.isfile(name):
            raise ModelError(f"{name}: no such file; give a GGUF file, or {_HF}owner/repo:quant")


def _model_options(names: list[str], folder: Path) -> list[str]:
    if len(names) == 1:
        name = names[0]
        return ["-hf", name.removeprefix(_HF)] if name.startswith(_HF) else ["-m", name]
    preset = folder / "models.ini"
    sections = []
    for name in names:
        key, value = ("hf-repo", name.removeprefix(_HF)) if name.startswith(_HF) else ("model", os.path.abspath(name))
        sections.append(f"[{Path(value).stem}]\n{key} = {value}\n")
    preset.write_text("version = 1\n\n" + "\n".join(sections), encoding="utf-8")
    return ["--models-preset", str(preset)]


def _run(command: list[str], address: str, names: list[str]) -> int:
    """Runs the server until it ends, and says when it is ready."""
    with subprocess.Popen(command) as server:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: server.send_signal(number))
        while server.poll() is None:
            if _is_ready(address):
                _announce(address)
                break
            time.sleep(0.2)
        return server.wait()


def _is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _announce(address: str) -> None:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "guardian": True}
    print(
        f"lil: ready at {address} (OpenAI's clients: {address}/v1)\n"
        f"lil: try: curl {address}/v1/chat/completions -H 'Content-Type: application/json' -d '{json.dumps(body)}'",
        file=sys.stderr,
        flush=True,
    )
