"""What the commands share: options, lists of methods and budgets, opening a model, progress, tables, JSON."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import platform
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from typer.core import TyperGroup

from .. import __version__, _hub
from .._errors import CalibrationWarning, ConfigError, LilError
from .._guardian import Guardian
from .._notation import parse_guardian, parse_sparse, split_list, written
from ..methods import METHODS, Method

if TYPE_CHECKING:
    from ..eval import Session

# Options


def _check_gpu(layers: int) -> int:
    if layers:
        from ..llama_cpp import llama_supports_gpu_offload

        if not llama_supports_gpu_offload():
            raise typer.BadParameter(
                f"{layers} is for a GPU, and this build finds none; "
                'build for yours (CMAKE_ARGS="-DGGML_CUDA=ON" pip install ...), or leave it at 0.'
            )
    return layers


def path_of(context: typer.Context, model: str) -> str:
    """A model's path: as given, or of what `hf:owner/repo:quant` means, which is fetched where no cache has it."""
    return model if context.resilient_parsing else _hub.resolve(model)


def optional_path(context: typer.Context, model: str | None) -> str | None:
    return None if model is None else path_of(context, model)


Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        callback=path_of,
        help="A GGUF file, or hf:owner/repo:quant of Hugging Face.",
        show_default=False,
    ),
]
Methods = Annotated[
    str, typer.Option(metavar="NAMES", help="Methods, comma-separated, with options: h2o,quest:first_page=true.")
]
Budgets = Annotated[str, typer.Option(metavar="NUMBERS", help="Budgets, comma-separated: tokens a step attends to.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads.", show_default="one for each physical core this process may use")
]
GpuLayers = Annotated[int, typer.Option(callback=_check_gpu, help="Layers on the GPU; -1: all.")]
Json = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Write the results there too.", show_default=False)
]
Sparse = Annotated[
    str | None,
    typer.Option(
        metavar="METHOD", envvar="LIL_SPARSE", help="Such as h2o, or quest:budget=512,first_page=true; full: none."
    ),
]
Guarded = Annotated[
    str | None,
    typer.Option("--guardian", metavar="GUARDIAN", envvar="LIL_GUARDIAN", help="on, off, or every=250,threshold=20."),
]


class Interrupted(Exception):
    """Ctrl-C, and what is to be said of it besides."""


class Group(TyperGroup):
    """Commands whose errors are one line on standard error. Bad input is exit status 2."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        if not (sys.argv[1:] if args is None else args):
            args = ["--help"]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("always", CalibrationWarning)
                warnings.showwarning = _show_warning
                status = super().main(args, *rest, standalone_mode=False, **extra)  # type: ignore[misc]
            if status == 130:  # typer's, of a KeyboardInterrupt
                _complain("interrupted", status)
        except (KeyboardInterrupt, typer.Abort):
            status = _complain("interrupted", 130)
        except Interrupted as end:
            status = _complain(f"interrupted; {end}", 130)
        except LilError as error:
            status = _complain(str(error), 2)
        except OSError as error:
            status = _complain(str(error), 1)
        except Exception as error:
            if not hasattr(error, "format_message"):  # click's; typer carries click under changing names
                raise
            status = _complain(error.format_message(), 2)
        if not standalone_mode:
            return status
        sys.exit(status if isinstance(status, int) else 0)


def _complain(message: str, status: int) -> int:
    print(f"lil: {' '.join(message.split())}", file=sys.stderr)
    return status


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"lil: warning: {message}", file=sys.stderr)


# Lists


def numbers(option: str, text: str, *, least: int = 1) -> list[int]:
    """The ints of a comma-separated list, in order, without repetitions.

    Raises:
        ConfigError: Not such a list, or too small a number.
    """
    found = []
    for part in text.split(","):
        try:
            number = int(part)
        except ValueError:
            raise ConfigError(
                f"{option} {text!r}: {part.strip()!r} is not a number; give a list such as 64,128"
            ) from None
        if number < least:
            raise ConfigError(f"{option} {text!r}: {number} must be at least {least}")
        found.append(number)
    return list(dict.fromkeys(found))


_MOST = 2**31 - 1  # a budget that every option has room in


class Choice(NamedTuple):
    """A method with the options that a user gave it, to be made at several budgets."""

    label: str
    method: Method  # at a budget that nobody asked for

    def make(self, budget: int) -> Method:
        """
        Raises:
            ConfigError: The budget is out of range.
        """
        return dataclasses.replace(self.method, budget=budget)


def _name(owner: type[Any]) -> str:
    return getattr(owner, "name", owner.__name__.lower())


@contextmanager
def _naming(option: str) -> Iterator[None]:
    """Errors of the notation name the option that has it."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{option}: {error}") from None


def choices(option: str, text: str) -> list[Choice]:
    """The methods of a comma-separated list of notations, each such as `h2o` or `quest:first_page=true`.

    Raises:
        ConfigError: An unknown method or option.
    """
    found = []
    for notation in split_list(text):
        for other, how in (("budget", "--budgets has them"), ("fused_dense", "every method has its default")):
            if written(notation, other) is not None:
                raise ConfigError(f"{option}: {notation!r}: leave {other} out; {how}")
        told = notation
        if notation.partition(":")[0].strip() in METHODS:
            told += f"{',' if ':' in notation else ':'}budget={_MOST}"
        with _naming(option):
            method, _ = parse_sparse(told)
        if method is not None:  # full attention is always there; the tables print its name
            found.append(Choice(notation, method))
    return found


def sparse(option: str, text: str | None) -> Method | None:
    """A method with its options, `quest:budget=512,first_page=true`. None for nothing and for "full".

    Raises:
        ConfigError: An unknown word, or a value out of range.
    """
    if not text:
        return None
    with _naming(option):
        method, fused_dense = parse_sparse(text)
    if fused_dense is not None:
        raise ConfigError(f"{option} {text!r}: leave fused_dense out; every method has its default")
    return method


_PYTHONS = ("finish_reason", "on_alarm", "rewind")  # Guardian's, which a notation does not have


def _word(name: str, value: object) -> str:
    if isinstance(value, tuple):
        return "+".join(value)
    if value is None:
        return "all" if name == "widen" else "auto"
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    return text if not set(text) & set(',:"\\\n\t ') else json.dumps(text, ensure_ascii=False)


def notation(config: Method | Guardian | None) -> str:
    """What `sparse` or `guardian` makes it of: the options that are not the default."""
    if config is None:
        return "off"
    fields = [(field.name, getattr(config, field.name), field.default) for field in dataclasses.fields(config)]
    told = [(name, value) for name, value, usual in fields if value != usual or name == "budget"]
    options = ",".join(f"{name}={_word(name, value)}" for name, value in told if name not in _PYTHONS)
    return ":".join(filter(None, [_name(type(config)), options]))


def guardian(option: str, text: str | None) -> Guardian | None:
    """`on`, `off`, or its options, `every=250,action=close_think`. None for nothing and for "off".

    Raises:
        ConfigError: An unknown word, or a value out of range.
    """
    if not text:
        return None
    with _naming(option):
        return parse_guardian(text)


def near(word: str, known: Iterable[str]) -> str:
    """What is to be added to an error about an unknown word: the known one that is most like it."""
    found = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {found[0]}?" if found else ""


def grid(of: Sequence[Choice], budgets: Sequence[int]) -> list[tuple[str, Method | None]]:
    """("full", None), then every method at every budget. All are made, so that all are checked, before any is run.

    Raises:
        ConfigError: A budget that a method cannot have.
    """
    return [("full", None), *((choice.label, choice.make(budget)) for choice in of for budget in budgets)]


# Files and models


def read_text(option: str, path: str) -> str:
    """
    Raises:
        ConfigError: No such file, or not UTF-8.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{option} {path}: not UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"{option} {path}: {error.strerror or error}") from None
    if not text.strip():
        raise ConfigError(f"{option} {path}: the file is empty")
    return text


@contextmanager
def opened(model: str, *, threads: int | None = None, gpu_layers: int = 0) -> Iterator[Session]:
    """
    Raises:
        ModelError: The file is missing, or cannot be loaded.
    """
    from ..eval import Session

    with Session(model, n_threads=threads, n_gpu_layers=gpu_layers) as session:
        yield session


class Named(Protocol):
    """What is known of a model that was measured."""

    @property
    def path(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...


def write_json(path: str | None, kind: str, model: Named, options: dict[str, Any], results: Any) -> None:
    """Writes `results` with what they come from, to standard output where `path` is "-"; nothing where it is None.

    Raises:
        ConfigError: The file cannot be written.
    """
    if path is None:
        return
    record = {
        "kind": kind,
        "lil": __version__,
        "model": {"file": os.path.basename(model.path), "fingerprint": model.fingerprint},
        "machine": {"system": platform.platform(), "cores": os.cpu_count()},
        "options": options,
        "results": results,
    }
    text = json.dumps(record, indent=1)
    if path == "-":
        print(text)
        return
    try:
        Path(path).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--json {path}: {error.strerror or error}") from None


# The terminal


def console() -> Console:
    """Standard output; wide where it is no terminal."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def table(columns: Sequence[str]) -> Table:
    """A table whose first column is text and whose others are numbers."""
    out = Table()
    for i, name in enumerate(columns):
        out.add_column(name, justify="right" if i else "left", no_wrap=not i)
    return out


def show(to: Console, title: str, out: Table) -> None:
    """Prints a table under a title, which may be wider."""
    to.print(title, style="bold", soft_wrap=True)
    to.print(out)


@contextmanager
def interrupts() -> Iterator[Callable[[], None]]:
    """Ctrl-C that is not lost.

    Python drops a KeyboardInterrupt that comes in a finalizer or in a callback from C. What this yields raises it then;
    it is called between steps.
    """
    seen = False

    def note(*_: object) -> None:
        nonlocal seen
        seen = True
        raise KeyboardInterrupt

    def check() -> None:
        if seen:
            raise KeyboardInterrupt

    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield check
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def progress() -> Iterator[Callable[[int, int, str], None]]:
    """A bar with the time left, on standard error. Yields what is called with: done, total, what is going on."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with interrupts() as check, bar:
        task = bar.add_task("", total=None)

        def update(done: int, total: int, what: str) -> None:
            check()
            bar.update(task, completed=done, total=total, description=what)

        yield update
