"""What `lil bench` found, as rows: written, read again, and looked up."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._errors import ConfigError
from .records import case_label

UNITS = {"decode": "seconds", "prompt": "seconds", "kv_bytes": "bytes", "peak_bytes": "bytes"}


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """One measurement.

    Args:
        runtime: "lil", "stock" or "ik".
        method: "full", or as the command line took it: "quest", "infllm:block=64".
        budget: None with "full".
        measure: "decode", a step after `context` tokens; "prompt", all of `context` tokens; "kv_bytes", allocated for
            the cache of `context` tokens; "peak_bytes", the most that a process with such a context held.
        context: Tokens.
        value: Seconds or bytes; the median of the rounds.
        low: The lowest round.
        high: The highest.
        ratio: `value` to that of lil's full attention at the same context; None where that is not known.
        ratio_low: The lowest ratio of a single round.
        ratio_high: The highest.
        dense: "decode" of a method: no step attended to less than everything, as below the budget.
    """

    runtime: str
    method: str
    budget: int | None
    measure: str
    context: int
    value: float
    low: float
    high: float
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    dense: bool = False

    @property
    def case(self) -> str:
        """The method and its budget, as "quest 128"."""
        return case_label(self.method, self.budget)

    def to_record(self) -> dict[str, Any]:
        """As JSON has it: `value` under its unit's name, "seconds" or "bytes"."""
        return {
            "runtime": self.runtime,
            "method": self.method,
            "budget": self.budget,
            "measure": self.measure,
            "context": self.context,
            UNITS[self.measure]: self.value,
            "low": self.low,
            "high": self.high,
            "ratio": self.ratio,
            "ratio_low": self.ratio_low,
            "ratio_high": self.ratio_high,
            "dense": self.dense,
        }


def _from_record(record: dict[str, Any]) -> BenchRow:
    fields = dict(record)
    return BenchRow(value=fields.pop(UNITS[fields["measure"]]), **fields)


def read_bench(path: str | os.PathLike[str]) -> list[BenchRow]:
    """The rows of a file that `lil bench --json` wrote.

    Raises:
        ConfigError: No such file, or another one.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        if record["kind"] != "bench":
            raise ConfigError(f"{path}: lil {record['kind']} wrote it; give a file that lil bench --json wrote")
        return [_from_record(row) for row in record["results"]]
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}; give a file that lil bench --json wrote") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: not what lil bench --json writes ({type(error).__name__}: {error})") from None


def write_csv(path: str | os.PathLike[str], rows: Iterable[BenchRow]) -> None:
    """One line a row; seconds and bytes in columns of their own, of which one is empty.

    Raises:
        ConfigError: The file cannot be written.
    """
    columns = ["runtime", "method", "budget", "measure", "context", "seconds", "bytes", "low", "high"]
    columns += ["ratio", "ratio_low", "ratio_high", "dense"]
    try:
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(row.to_record() for row in rows)
    except OSError as error:
        raise ConfigError(f"--csv {path}: {error.strerror or error}") from None


def step_seconds(rows: Sequence[BenchRow], method: str, budget: int | None, n_tokens: float) -> float:
    """Seconds of a decode step after `n_tokens` tokens, under lil, from what was measured at other lengths.

    Between two measured contexts on the line that joins them; beyond the longest on the last such line, which never
    falls; below the shortest as there.

    Args:
        method: As in the rows: "full" with budget None, "quest".

    Raises:
        ConfigError: That method was not measured at that budget.
    """
    decode = [row for row in rows if row.runtime == "lil" and row.measure == "decode"]
    at = {row.context: row.value for row in decode if (row.method, row.budget) == (method, budget)}
    if not at:
        known = ", ".join(dict.fromkeys(row.case for row in decode)) or "none"
        how = "" if budget is None else f"; lil bench --methods {method} --budgets {budget} measures it"
        raise ConfigError(f"no time of a step of {case_label(method, budget)} was measured, there is: {known}{how}")
    contexts = sorted(at)
    times = [at[context] for context in contexts]
    if n_tokens > contexts[-1] and len(contexts) > 1:
        slope = (times[-1] - times[-2]) / (contexts[-1] - contexts[-2])
        return times[-1] + max(0.0, slope) * (n_tokens - contexts[-1])
    return float(np.interp(n_tokens, contexts, times))
