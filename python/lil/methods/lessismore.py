from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .._check import check_float, check_int, set_field
from .._errors import ConfigError
from ._base import Reselect, smallest_budget

if TYPE_CHECKING:
    from .._native import SparseParams


@dataclass(frozen=True, kw_only=True)
class LessIsMore(Reselect):
    """LessIsMore, https://arxiv.org/abs/2508.07101.

    Rule: the first `dense_layers` layers are dense. The next one and the re-selection layer attend to everything and
    choose one set for all heads of the layers after them: the first `n_sink` tokens, the last `floor(ratio * budget)`,
    and the best of those between, for which every query head ranks by q.k and the rankings are merged rank by rank.

    Args:
        n_sink: First tokens that are always in the set.
        ratio: Share of the budget for the last tokens, above 0 and below 1.
    """

    name: ClassVar[str] = "lessismore"
    takes_drafts: ClassVar[bool] = True

    n_sink: int = 4
    ratio: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "n_sink", check_int("LessIsMore", "n_sink", self.n_sink, least=0))
        set_field(self, "ratio", check_float("LessIsMore", "ratio", self.ratio, least=0.0, most=1.0))
        if self.ratio in (0.0, 1.0):
            raise ConfigError(f"LessIsMore: ratio={self.ratio:g} must be above 0 and below 1")
        if not self._fits(self.budget):
            raise ConfigError(
                f"LessIsMore: budget={self.budget} must be at least {smallest_budget(self._fits)}, room for "
                f"n_sink={self.n_sink} first tokens, floor({self.ratio:g} * budget) >= 1 last ones and a ranked one"
            )

    def _fits(self, budget: int) -> bool:
        recent = math.floor(self.ratio * budget)
        return recent >= 1 and self.n_sink + recent < budget

    def _fill(self, params: SparseParams) -> None:
        params.n_sink = self.n_sink
        params.ratio = self.ratio
