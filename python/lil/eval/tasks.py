"""Questions with known answers: GSM8K, MATH-500, AIME, or a file of one's own."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._errors import ConfigError

EXTRA = 'pip install "lil-cpp[eval]"'


@dataclass(frozen=True)
class Problem:
    """A question, and its right answer.

    Attributes:
        id: Unique in its task.
        question: As it is asked, without what tells the model how to answer.
        answer: A number or a formula, as LaTeX.
    """

    id: str
    question: str
    answer: str


@dataclass(frozen=True)
class DataSet:
    """A public data set, as `datasets.load_dataset` knows it."""

    path: str
    config: str | None
    split: str
    read: Callable[[Mapping[str, Any], int], Problem]

    @property
    def label(self) -> str:
        return " ".join(part for part in (self.path, self.config, self.split) if part)


def _gsm8k(row: Mapping[str, Any], index: int) -> Problem:
    # "Natalia sold 48/2 = <<48/2=24>>24 clips in May. ... \n#### 72"
    return Problem(f"gsm8k-test-{index:04d}", row["question"], row["answer"].rpartition("####")[2].strip())


def _math500(row: Mapping[str, Any], index: int) -> Problem:
    return Problem(row["unique_id"], row["problem"], row["answer"])


def _aime(row: Mapping[str, Any], index: int) -> Problem:
    return Problem(f"aime-{row['ID']}", row["Question"], str(row["Answer"]))


TASKS: dict[str, DataSet] = {
    "gsm8k": DataSet("openai/gsm8k", "main", "test", _gsm8k),  # arXiv 2110.14168
    "math500": DataSet("HuggingFaceH4/MATH-500", None, "test", _math500),  # arXiv 2103.03874, 2305.20050
    "aime": DataSet("gneubig/aime-1983-2024", None, "train", _aime),
}


def load_problems(task: str, data: str | os.PathLike[str] | None = None) -> tuple[list[Problem], str]:
    """A task's problems, and where they came from.

    Args:
        task: "gsm8k", "math500" or "aime"; with `data` any name that can be a file's.
        data: A file of JSON lines, see `read_problems`. None: the public data set, which is downloaded once.

    Raises:
        ConfigError: An unknown task, a file that is not as it must be, or a data set that cannot be had.
    """
    if not re.fullmatch(r"\w[\w.-]*", task):
        raise ConfigError(f"TASK {task!r}: give letters, digits, '-', '_' and '.'")
    if data is not None:
        return read_problems(data), os.path.basename(data)
    if task not in TASKS:
        raise ConfigError(f"TASK {task!r} is unknown; give one of {', '.join(TASKS)}, or any name with --data FILE")
    return _download(task, TASKS[task]), TASKS[task].label


def read_problems(path: str | os.PathLike[str]) -> list[Problem]:
    """The problems of a file of JSON lines: {"question": ..., "answer": ..., "id": ...} each.

    Where there is no id, the line's number is. What else a line has is left alone; so are empty lines.

    Raises:
        ConfigError: The file cannot be read, has no problems, or a line is none; the message says which.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise ConfigError(f"--data {path}: {error.strerror or error}") from None
    found: dict[str, Problem] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            problem = _problem(line, number)
            if problem.id in found:
                raise ConfigError(f"the id {problem.id!r} is an earlier line's too")
        except ConfigError as error:
            raise ConfigError(f"--data {path}:{number}: {error}") from None
        found[problem.id] = problem
    if not found:
        raise ConfigError(f'--data {path}: no problems in it; give lines of {{"question": "...", "answer": "..."}}')
    return list(found.values())


def _problem(line: bytes, number: int) -> Problem:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ConfigError("not UTF-8 text") from None
    except ValueError as error:
        raise ConfigError(f"not JSON ({error})") from None
    if not isinstance(row, dict):
        raise ConfigError(f'a {type(row).__name__}; give an object, {{"question": "...", "answer": "..."}}')
    return Problem(_text(row, "id", str(number)), _text(row, "question"), _text(row, "answer"))


def _text(row: Mapping[str, Any], key: str, otherwise: str | None = None) -> str:
    """A string that is not blank, or a number as one."""
    value = row.get(key, otherwise)
    if value is None:
        raise ConfigError(f"no {key!r}; it has {', '.join(map(repr, row)) or 'nothing'}")
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ConfigError(f"{key!r} is a {type(value).__name__}; give text or a number")
    if not str(value).strip():
        raise ConfigError(f"{key!r} is empty")
    return str(value)


def _download(task: str, known: DataSet) -> list[Problem]:
    try:
        import datasets
    except ImportError:
        raise ConfigError(
            f"TASK {task}: the data set {known.path} needs the package datasets; {EXTRA}, or give --data FILE"
        ) from None
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it reports every attempt
    try:
        rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(known.path, known.config, split=known.split)
        return [known.read(row, i) for i, row in enumerate(rows)]
    except Exception as error:  # noqa: BLE001  no network, no such set, another form: the library has no common class
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ConfigError(
            f"TASK {task}: the data set {known.path} could not be loaded: {reason}; give --data FILE"
        ) from None
