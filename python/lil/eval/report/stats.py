"""Intervals. All of 95 %, all deterministic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..intervals import Z95 as Z
from ..intervals import wilson

RESAMPLES = 2000
SEED = 0

Floats = npt.NDArray[np.float64]


class Estimate(NamedTuple):
    """A value and its 95 % interval. `low` and `high` are NaN where the data allow none."""

    value: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return not (math.isnan(self.low) or math.isnan(self.high))


NOTHING = Estimate(math.nan, math.nan, math.nan)


def proportion(k: int, n: int) -> Estimate:
    """k of n, with Wilson's interval, which holds for few cases and near 0 and 1 as well."""
    if n == 0:
        return NOTHING
    return Estimate(k / n, *wilson(k, n))


def change(before: Sequence[bool], after: Sequence[bool]) -> Estimate:
    """The change of a share between two judgements of the same cases.

    The interval is Bonett and Price's (2012), Wald's after one more case is counted as changed in each direction: it
    does not shrink to nothing where no case changed.

    Args:
        before, after: [n] each, in the same order.
    """
    n = len(before)
    if n == 0:
        return NOTHING
    gained = sum(b > a for a, b in zip(before, after, strict=True))
    lost = sum(a > b for a, b in zip(before, after, strict=True))
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = Z * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    return Estimate((gained - lost) / n, max(-1.0, up - down - half), min(1.0, up - down + half))


@lru_cache(maxsize=8)
def _weights(n: int) -> Floats:
    """How often each of `n` cases is drawn in each resample, [RESAMPLES, n]. The same draws serve all quantities of the
    same cases, which makes their differences paired."""
    draws = np.random.default_rng(SEED).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    return draws.astype(np.float64)


def _interval(value: float, samples: Floats) -> Estimate:
    samples = samples[np.isfinite(samples)]
    if not len(samples):
        return Estimate(value, math.nan, math.nan)
    low, high = np.quantile(samples, (0.025, 0.975))
    return Estimate(value, float(low), float(high))


def mean(values: Sequence[float] | npt.NDArray[Any]) -> Estimate:
    """A mean, with the bootstrap's percentiles."""
    x = np.asarray(values, np.float64)
    if len(x) < 2:
        return NOTHING if not len(x) else Estimate(float(x[0]), math.nan, math.nan)
    return _interval(float(x.mean()), _weights(len(x)) @ x / len(x))


def ratio(over: Sequence[float] | npt.NDArray[Any], under: Sequence[float] | npt.NDArray[Any]) -> Estimate:
    """The sum of `over` by the sum of `under`, of the same cases in the same order; bootstrap over the cases."""
    x, y = np.asarray(over, np.float64), np.asarray(under, np.float64)
    if not len(x) or y.sum() == 0:
        return NOTHING
    value = float(x.sum() / y.sum())
    if len(x) < 2:
        return Estimate(value, math.nan, math.nan)
    weights = _weights(len(x))
    below = weights @ y
    return _interval(value, np.divide(weights @ x, below, out=np.full(len(below), np.nan), where=below > 0))
