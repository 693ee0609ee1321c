"""Every method of the package, small: what tests go through that hold for all of them."""

from __future__ import annotations

import math
from typing import Any

from lil.methods import METHODS, Evict, Method, Reselect


def every_method(budget: int, *, reselect: int | None = None) -> dict[str, Method]:
    """Each method with `budget` tokens. Those that count in pages or blocks of 16 get a multiple of 16, R-KV a buffer
    that fits, the others what they are by default.

    Args:
        reselect: The re-selection layer; None: the one that goes with the model.
    """

    def make(method: type[Method]) -> Method:
        more: dict[str, Any] = {}
        if issubclass(method, Reselect) and reselect is not None:
            more["reselect"] = reselect
        if method.name == "rkv":
            more["buffer"] = budget // 5
        paged = not issubclass(method, (Evict, Reselect))
        return method(budget=math.ceil(budget / 16) * 16 if paged else budget, **more)

    return {name: make(method) for name, method in METHODS.items()}
