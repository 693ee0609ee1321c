"""The runtimes that can be measured, and the processes in which they are."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .. import __version__
from .._errors import ConfigError, NativeError
from ._closing import Closing

SCRIPT = Path(__file__).with_name("bench_worker.py")


class _Package(NamedTuple):
    name: str  # what is installed
    module: str  # what is imported


PACKAGES = {
    "stock": _Package("llama-cpp-python", "llama_cpp"),
    "ik": _Package("ik-llama-cpp-python", "ik_llama_cpp"),
}


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """A package that runs GGUF models.

    Args:
        kind: "lil", "stock" or "ik".
        python: The interpreter that has it.
        version: Its version.
    """

    kind: str
    python: str
    version: str

    @property
    def name(self) -> str:
        """For tables: "llama-cpp-python 0.3.36"."""
        package = PACKAGES[self.kind].name if self.kind in PACKAGES else "lil-cpp"
        return f"{package} {self.version}"


OURS = Runtime(kind="lil", python=sys.executable, version=__version__)


def find_runtime(kind: str, python: str | None = None) -> Runtime | None:
    """Another runtime, "stock" or "ik".

    Args:
        python: The interpreter that has it. None: this one, if it does.

    Returns:
        None where `python` is None and the package is not installed.

    Raises:
        ConfigError: `python` is no Python, or the package cannot be imported there.
    """
    package = PACKAGES[kind]
    if python is None and importlib.util.find_spec(package.module) is None:
        return None
    where = python or sys.executable
    code = f"import {package.module}, importlib.metadata as m; print(m.version({package.name!r}))"
    try:
        done = subprocess.run([where, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        raise ConfigError(f"--{kind} {where}: {package.module} was not imported within 120 seconds") from None
    except OSError as error:
        raise ConfigError(
            f"--{kind} {where}: {error.strerror or error}; give a Python interpreter that has {package.name}"
        ) from None
    lines = done.stdout.split()
    if done.returncode or not lines:
        raise ConfigError(
            f"--{kind} {where}: {package.name} cannot be used there ({last_line(done.stderr) or 'it says nothing'}); "
            f"name a Python that has it, or install it there: {where} -m pip install {package.name}"
        )
    return Runtime(kind=kind, python=where, version=lines[-1])


class Worker(Closing):
    """A process of `bench_worker.py`. It is stopped while others have their turn: a runtime's idle threads may spin.

    Where the system has no SIGSTOP, it just waits.

    Args:
        kind: "lil", "stock" or "ik".
        model: A GGUF file.
        python: The interpreter that has the runtime.
        gpu_layers: -1: all.

    Raises:
        NativeError: The process ended: the model cannot be loaded there.
    """

    def __init__(
        self, kind: str, model: str, *, threads: int, python: str = sys.executable, gpu_layers: int = 0
    ) -> None:
        self.kind = kind
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        self.process = subprocess.Popen(
            [python, str(SCRIPT), kind, model, str(threads), str(gpu_layers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            text=True,
        )
        try:
            self._answer()
        except BaseException:
            self.close()
            raise
        self._pause(True)

    def _pause(self, on: bool) -> None:
        if hasattr(signal, "SIGSTOP"):
            self.process.send_signal(signal.SIGSTOP if on else signal.SIGCONT)

    def _answer(self) -> Any:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line.endswith("\n"):
            raise NativeError(self._why())
        return json.loads(line)

    def _why(self) -> str:
        status = self.process.wait()
        self._words.seek(0)
        words = last_line(self._words.read().decode("utf-8", "replace"))
        if status == -getattr(signal, "SIGKILL", 9):
            words = "it was killed, perhaps for want of memory; fewer methods, budgets or shorter contexts need less"
        return f"the process that measured {self.kind} ended (status {status}): {words or 'it says nothing'}"

    def __call__(self, do: str, **arguments: Any) -> Any:
        """Runs one command of the script and returns its answer.

        Raises:
            NativeError: The process ended; the message has the last line that it wrote.
        """
        assert self.process.stdin
        self._pause(False)
        try:
            self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self.process.stdin.flush()
        except OSError:  # a pipe that nobody reads
            raise NativeError(self._why()) from None
        answer = self._answer()
        self._pause(True)
        return answer

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for file in (self.process.stdin, self.process.stdout, self._words):
            try:
                if file is not None:
                    file.close()
            except OSError:  # what was left to write to a process that is gone
                pass


def last_line(text: str) -> str:
    """The last line with anything in it; an exception's without the name of its class, where that says nothing."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("RuntimeError: ") if lines else ""
