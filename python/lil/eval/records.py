"""A recorded run: a folder that `lil eval` writes, and that `lil replay` and `lil report` read.

    RUN/run.json        what was asked, once: see `Run`
    RUN/answers.jsonl   one answer a line, each written as it finishes: see `Answer`

A line that a kill cut short is left out when the folder is read; its problem is run again.
"""

from __future__ import annotations

import dataclasses
import json
import operator
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._errors import ConfigError
from ._closing import Closing

FORMAT = 1
RUN_FILE, ANSWERS_FILE = "run.json", "answers.jsonl"


def case_label(method: str, budget: int | None) -> str:
    """The name of a method at a budget: "full", "quest 128"."""
    return method if budget is None else f"{method} {budget}"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run was asked to do.

    Two parts of a run belong together where all but `methods`, `budgets`, `n_problems`, `lil` and `machine` agree.

    Args:
        task: Name of the task, as "gsm8k".
        model: Name of the GGUF file.
        fingerprint: The name under which calibrations know the model.
        methods: As the command line takes them, "full" first: ["full", "quest", "infllm:block=64"].
        budgets: Tokens a step attends to.
        n_problems: Problems of the task that the run covers.
        max_tokens: Most tokens of an answer.
        sampling: {"temperature": 0.0, "top_p": 1.0, ..., "seed": 0}; temperature 0 is greedy.
        n_parallel: Sequences decoded at once.
        system: The system prompt, or None.
        suffix: What is appended to every question.
        plain: Without the model's chat template.
        data: Where the problems came from: a file's name, or a data set's and its split.
        lil: Version.
        machine: {"system": ..., "cores": ..., "threads": ...}
    """

    task: str
    model: str
    fingerprint: str
    methods: list[str]
    budgets: list[int]
    n_problems: int
    max_tokens: int
    sampling: dict[str, Any]
    n_parallel: int
    system: str | None
    suffix: str
    data: str
    lil: str
    machine: dict[str, Any]
    plain: bool = False
    format: int = FORMAT


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One problem answered under one method and budget.

    Args:
        id: Of the problem, as the data name it.
        method: "full", or as the command line took it: "quest", "infllm:block=64".
        budget: None with "full".
        prompt: The text that the model read, chat template included.
        n_prompt: Its tokens.
        tokens: Of the answer, [n_tokens]; the token that ends a turn is not among them.
        ends: Where each token's bytes end in the answer's bytes, [n_tokens].
        text: The answer. Bytes that are no UTF-8 stand as lone surrogates; see `data`.
        stop: "end" where the model ended its turn, "length" where `max_tokens` did.
        gold: The right answer.
        predicted: What the judge read from the text; None where it found nothing.
        correct: What the judge said.
        seconds: From the answer's first token to its last, decoded beside others.
    """

    id: str
    method: str
    budget: int | None
    prompt: str
    n_prompt: int
    tokens: list[int]
    ends: list[int]
    text: str
    stop: str
    gold: str
    predicted: str | None
    correct: bool
    seconds: float

    def __post_init__(self) -> None:
        """
        Raises:
            TypeError: A field of another type.
            ValueError: Tokens and text that do not fit together.
        """
        for name in ("id", "method", "prompt", "text", "stop", "gold"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"{name} is {getattr(self, name)!r}, not a text")
        ends = [operator.index(end) for end in self.ends]
        if len(ends) != len(self.tokens):
            raise ValueError(f"{len(self.tokens)} tokens, but the ends of {len(ends)}")
        if ends != sorted(ends) or (ends and not 0 <= ends[0] <= ends[-1] <= len(self.data)):
            raise ValueError(f"the ends of the tokens do not ascend within the text's {len(self.data)} bytes")

    @property
    def case(self) -> str:
        return case_label(self.method, self.budget)

    @property
    def n_tokens(self) -> int:
        return len(self.tokens)

    @property
    def data(self) -> bytes:
        """The answer's bytes."""
        return self.text.encode("utf-8", "surrogateescape")


def to_text(data: bytes) -> str:
    """Bytes as `Answer.text` holds them."""
    return data.decode("utf-8", "surrogateescape")


def read_run(folder: str | os.PathLike[str]) -> Run:
    """
    Raises:
        ConfigError: No such folder, or no recorded run in it.
    """
    path = Path(folder) / RUN_FILE
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["format"] != FORMAT:
            raise ConfigError(f"{path}: format {raw['format']}; this version of lil reads {FORMAT}")
        return Run(**raw)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}; give a folder that lil eval wrote") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not a recorded run ({error})") from None


def write_run(folder: str | os.PathLike[str], run: Run) -> None:
    """Makes the folder where it is missing.

    Raises:
        ConfigError: It cannot be written.
    """
    path = Path(folder) / RUN_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        with open(part, "w", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(run), indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None


def extend_run(folder: str | os.PathLike[str], run: Run) -> Run:
    """Writes a run, or what it adds to the one that the folder holds: methods, budgets, problems.

    One that has no answers yet is replaced.

    Returns:
        The whole run.

    Raises:
        ConfigError: The two do not belong together; the message says in what they differ.
    """
    if next(read_answers(folder), None) is not None:
        earlier = read_run(folder)
        was, now = _essence(earlier), _essence(run)
        for name in {**was, **now}:
            if was.get(name) != now.get(name):
                raise ConfigError(
                    f"{folder} holds a run with {name} = {was.get(name)!r}, and this one has {now.get(name)!r}; "
                    "give the same, or another --out"
                )
        methods = dict.fromkeys([*earlier.methods, *run.methods])
        run = dataclasses.replace(
            run,
            methods=sorted(methods, key=lambda name: name != "full"),
            budgets=sorted({*earlier.budgets, *run.budgets}),
            n_problems=max(earlier.n_problems, run.n_problems),
        )
    write_run(folder, run)
    return run


def _essence(run: Run) -> dict[str, Any]:
    """What must be equal in two parts of a run."""
    values = dataclasses.asdict(run)
    for name in ("methods", "budgets", "n_problems", "lil", "machine"):
        del values[name]
    return values | values.pop("sampling")


def read_answers(folder: str | os.PathLike[str]) -> Iterator[Answer]:
    """The answers of a run, each problem and case once, in the order in which they finished.

    Raises:
        ConfigError: A line that is no answer, with its number. A last line without its end is not one.
    """
    path = Path(folder) / ANSWERS_FILE
    seen: set[tuple[str, str]] = set()
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    for number, line in enumerate(lines[:-1], start=1):
        try:
            answer = Answer(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{path}:{number}: not an answer ({error})") from None
        if (answer.id, answer.case) not in seen:
            seen.add((answer.id, answer.case))
            yield answer


class AnswersFile(Closing):
    """Appends answers to a run. A part of a line that a kill left behind is cut off first.

    Makes the folder where it is missing. Read the answers that are there after it was opened: it keeps other processes
    from adding to them.

    Raises:
        ConfigError: The file cannot be written, or another process is writing it.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        path = Path(folder) / ANSWERS_FILE
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "ab+")  # noqa: SIM115  closed in close()
        except FileExistsError:
            raise ConfigError(f"{folder}: a file, no folder; answers are kept in a folder, give another name") from None
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror or error}") from None
        if not _lock(self._file.fileno()):
            self._file.close()
            raise ConfigError(f"{path}: another process is writing there; wait for it, or give another --out")
        self._file.seek(0)
        whole = self._file.read().rfind(b"\n") + 1
        self._file.truncate(whole)

    def append(self, answer: Answer) -> None:
        """On the disk when this returns."""
        self._file.write(json.dumps(dataclasses.asdict(answer)).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _lock(file: int) -> bool:
    """Locks a file until it is closed or its process ends, where the system can. False: another process has."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True
