"""Recorded runs, sorted into what may be compared: one group per task, model and settings."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..._errors import ConfigError
from ..records import ANSWERS_FILE, Answer, Run, read_answers, read_run

# What may differ between the parts of a run; see `records.Run`.
_FREE = {"limit", "methods", "budgets", "n_problems", "lil", "machine"}


@dataclass(frozen=True)
class Recorded:
    """One folder."""

    folder: str
    run: Run
    answers: list[Answer]


@dataclass
class Group:
    """Runs of one task, model and settings.

    Attributes:
        id: For links.
        title: Task and model, and what else tells it from other groups.
        parts: The runs, in the order in which they were given.
        answers: Of all of them, each problem and case once.
    """

    id: str
    title: str
    parts: list[Recorded]
    answers: list[Answer]

    @property
    def run(self) -> Run:
        """The settings that all parts share."""
        return self.parts[0].run

    @property
    def model(self) -> str:
        return self.run.model.removesuffix(".gguf")


def _key(run: Run) -> dict[str, Any]:
    return {field: value for field, value in dataclasses.asdict(run).items() if field not in _FREE}


def _differences(run: Run, others: Sequence[Run]) -> str:
    """What tells a run from those of the same task and model, as ", max_tokens 512"."""
    mine = _key(run)
    fields = [field for field in mine if any(_key(other)[field] != mine[field] for other in others)]
    return "".join(f", {field} {mine[field]}" for field in fields)


def _merge(parts: Sequence[Recorded]) -> list[Answer]:
    """
    Raises:
        ConfigError: Two parts answer a problem under the same method and budget, and differently.
    """
    seen: dict[tuple[str, str], tuple[str, Answer]] = {}
    for part in parts:
        for answer in part.answers:
            folder, earlier = seen.setdefault((answer.id, answer.case), (part.folder, answer))
            if earlier.tokens != answer.tokens:
                raise ConfigError(
                    f"{part.folder}: problem {answer.id!r} under {answer.case} has another answer in {folder}; "
                    "give only one of the two runs"
                )
    return [answer for _, answer in seen.values()]


def read_groups(folders: Sequence[str | os.PathLike[str]]) -> list[Group]:
    """Reads recorded runs. Those of one task, model and settings are one group; the others are never compared.

    Args:
        folders: What `lil eval` wrote.

    Raises:
        ConfigError: No folder, no recorded run in it, no answers, or two runs that contradict each other.
    """
    if not folders:
        raise ConfigError("no runs; give folders that lil eval wrote")
    found: list[list[Recorded]] = []
    for folder in dict.fromkeys(os.path.normpath(os.fspath(folder)) for folder in folders):
        run, answers = read_run(folder), list(read_answers(folder))
        if not answers:
            raise ConfigError(f"{os.path.join(folder, ANSWERS_FILE)}: no answers yet; run lil eval with --out {folder}")
        part = Recorded(folder, run, answers)
        for parts in found:
            if _key(parts[0].run) == _key(run):
                parts.append(part)
                break
        else:
            found.append([part])
    groups = []
    for i, parts in enumerate(found):
        run = parts[0].run
        alike = [
            other[0].run
            for other in found
            if other is not parts and (other[0].run.task, other[0].run.model) == (run.task, run.model)
        ]
        title = f"{run.task}, {run.model.removesuffix('.gguf')}{_differences(run, alike)}"
        groups.append(Group(f"run{i + 1}", title, parts, _merge(parts)))
    return groups
