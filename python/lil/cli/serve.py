from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import _hub
from .._errors import ConfigError, ModelError
from .._llama import is_gguf, what_is_wrong
from .._notation import ENV_GUARDIAN, ENV_SPARSE, parse_guardian, parse_sparse
from .._programs import program


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
    found = [_found(name) for name in names]
    _check_port(host, port)

    with tempfile.TemporaryDirectory(prefix="lil-serve-") as folder:
        command = [executable, *_model_options(names, found, Path(folder)), *options, *rest]
        status = _run(command, f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}")
    if status == -signal.SIGKILL:
        print("lil: llama-server was killed, as where memory runs out; a smaller --ctx takes less", file=sys.stderr)
    raise typer.Exit(status if status >= 0 else 128 - status)


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


def _found(name: str) -> dict[str, str]:
    """The options of llama-server that mean a model, with their values.

    Raises:
        ConfigError, ModelError: There is none of that name, or the file is no model.
    """
    path = _hub.resolve(name, images=True)
    if not os.path.exists(path):
        raise ModelError(f"{path}: no such file; give a GGUF file, or {_hub.PREFIX}owner/repo:quant")
    if not is_gguf(path):
        raise ModelError(f"{path}: {what_is_wrong(path)}")
    projector = _hub.projector(path) if name.startswith(_hub.PREFIX) else None
    return {"model": os.path.abspath(path), **({"mmproj": projector} if projector else {})}


def _check_port(host: str, port: int) -> None:
    """
    Raises:
        ConfigError: Nobody can listen there.
    """
    if host.endswith(".sock"):  # llama-server's way to name a socket of the file system
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family):
            pass
    except OSError as error:
        why = str(error.strerror or error).partition(" (while attempting")[0]  # Python's addition
        raise ConfigError(f"cannot listen at {host}, port {port}: {why}; give another --port, or --host") from None


def _model_options(names: list[str], found: list[dict[str, str]], folder: Path) -> list[str]:
    if len(names) == 1:
        return [word for option, value in found[0].items() for word in (f"--{option}", value)]
    preset = folder / "models.ini"
    sections = []
    for name, options in zip(names, found, strict=True):
        title = name.removeprefix(_hub.PREFIX) if name.startswith(_hub.PREFIX) else Path(name).stem
        sections.append(f"[{title}]\n" + "".join(f"{option} = {value}\n" for option, value in options.items()))
    preset.write_text("version = 1\n\n" + "\n".join(sections), encoding="utf-8")
    return ["--models-preset", str(preset)]


def _run(command: list[str], address: str) -> int:
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


def _has_page(address: str) -> bool:
    page = urllib.request.Request(address, headers={"Accept-Encoding": "gzip"})
    try:
        with urllib.request.urlopen(page, timeout=2):
            return True
    except (urllib.error.URLError, OSError):  # LIL_PAGE, or --no-ui
        return False


def _announce(address: str) -> None:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "guardian": True}
    page = "a page for a browser" if _has_page(address) else "without its page for a browser"
    print(
        f"lil: ready at {address}, {page} (OpenAI's clients: {address}/v1)\n"
        f"lil: try: curl {address}/v1/chat/completions -H 'Content-Type: application/json' -d '{json.dumps(body)}'",
        file=sys.stderr,
        flush=True,
    )
