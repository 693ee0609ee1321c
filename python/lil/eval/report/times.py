"""Seconds per problem: steps by time per step. Whether cheap steps were faster in the end."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..._errors import ConfigError
from ..bench_rows import BenchRow, read_bench, step_seconds
from . import stats
from .measures import Case, Measured
from .palette import FULL
from .stats import Estimate

Floats = npt.NDArray[np.float64]
GRID = 65  # lengths between which a step's time is taken as linear


@dataclass(frozen=True)
class Bench:
    """What `lil bench` measured on one model.

    Attributes:
        path: Of the file.
        fingerprint: Of the model.
        machine: As the file has it.
    """

    path: str
    fingerprint: str
    machine: dict[str, Any]
    rows: list[BenchRow]

    @cached_property
    def contexts(self) -> list[int]:
        """Where decode steps were measured, ascending."""
        return sorted({row.context for row in self.rows if row.measure == "decode" and row.runtime == "lil"})

    def has(self, case: Case) -> bool:
        """Whether this method was measured at this budget."""
        return any(
            (row.runtime, row.measure, row.method, row.budget) == ("lil", "decode", case.method, case.budget)
            for row in self.rows
        )


def read(path: str | os.PathLike[str]) -> Bench:
    """
    Raises:
        ConfigError: No such file, or not what `lil bench --json` writes.
    """
    rows = read_bench(path)
    record = json.loads(Path(path).read_text(encoding="utf-8"))
    try:
        fingerprint = record["model"]["fingerprint"]
    except (KeyError, TypeError):
        raise ConfigError(f"{path}: it names no model; give a file that lil bench --json wrote") from None
    bench = Bench(os.fspath(path), fingerprint, record.get("machine") or {}, rows)
    if not any(row.method == FULL and row.measure == "decode" for row in rows):
        raise ConfigError(f"{path}: it has no decode times of full attention, against which all others are held")
    return bench


def assign(benches: Sequence[Bench], fingerprints: Sequence[str]) -> dict[str, Bench]:
    """The bench of each model.

    Raises:
        ConfigError: A bench of a model that no run is of, or two of one model.
    """
    found: dict[str, Bench] = {}
    for bench in benches:
        if bench.fingerprint not in fingerprints:
            raise ConfigError(
                f"--bench {bench.path}: measured on the model {bench.fingerprint}; "
                f"the runs are of {', '.join(dict.fromkeys(fingerprints))}"
            )
        if bench.fingerprint in found:
            raise ConfigError(f"--bench {bench.path}: {found[bench.fingerprint].path} is of the same model; give one")
        found[bench.fingerprint] = bench
    return found


@dataclass(frozen=True)
class CaseTime:
    """What answers of a case take, decoded one at a time on the machine of the bench, prompts excluded.

    Attributes:
        before, after: Seconds of each answer without and with Guardian, [n].
        step: Mean seconds of a step without Guardian, over all steps of all answers.
    """

    case: Case
    before: Floats
    after: Floats

    @property
    def step(self) -> float:
        steps = int(self.case.before.sum())
        return float(self.before.sum()) / steps if steps else float("nan")

    def seconds(self, *, guardian: bool) -> Estimate:
        """Mean seconds of a problem."""
        return stats.mean(self.after if guardian else self.before)

    def against(self, full: CaseTime, *, guardian: bool) -> Estimate:
        """This case's time by full attention's, both without or both with Guardian, on the problems of both."""
        mine, theirs = self.case.common(full.case)
        if guardian:
            return stats.ratio(self.after[mine], full.after[theirs])
        return stats.ratio(self.before[mine], full.before[theirs])


Verdict = Literal["faster", "slower", "open"]


def verdict(ratio: Estimate) -> Verdict:
    """Of a time by full attention's: "open" where the interval holds 1, or where there is none."""
    if not ratio.known or ratio.low <= 1 <= ratio.high:
        return "open"
    return "faster" if ratio.high < 1 else "slower"


def case_times(measured: Measured, bench: Bench) -> list[CaseTime]:
    """The times of the cases that the bench measured; see `left_out` for the others."""
    longest = max(answer.n_prompt + answer.n_tokens for answer in measured.group.answers)
    knees = [context for context in bench.contexts if context < longest]
    grid = np.unique(np.concatenate([np.linspace(1, max(longest, 2), GRID), knees]))
    times = []
    for case in measured.cases:
        if not bench.has(case):
            continue
        known = [step_seconds(bench.rows, case.method, case.budget, n) for n in grid]
        each = np.interp(np.arange(longest + 1), grid, known)  # [longest + 1] seconds of the step at each length
        # up_to[n] is what the steps at lengths below n take together
        up_to = np.concatenate([[0.0], np.cumsum(each)])
        begin = np.array([answer.n_prompt for answer in case.answers], np.int64)
        before, after = (up_to[begin + steps] - up_to[begin] for steps in (case.before, case.after))
        times.append(CaseTime(case, before, after))
    return times


def left_out(measured: Measured, times: Sequence[CaseTime]) -> list[str]:
    """The cases whose steps were not measured."""
    known = {time.case.label for time in times}
    return [case.label for case in measured.cases if case.label not in known]
