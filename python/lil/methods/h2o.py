from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from .._check import check_choice, check_int, set_field
from .._errors import ConfigError
from ._base import Evict

if TYPE_CHECKING:
    from .._native import SparseParams

_PROMPT_SCORES = ("exact", "window")


@dataclass(frozen=True, kw_only=True)
class H2O(Evict):
    """Heavy-hitter oracle, https://arxiv.org/abs/2306.14048.

    Rule: a token's score is the attention it has received so far, summed over queries and over the query heads of its
    group. Each KV head keeps the last `recent` tokens and, of the others, those with the highest scores.

    Args:
        recent: Last tokens that are always kept, the current one among them. None: `budget // 2`.
        prompt_scores: "exact": every query of the prompt counts. "window": only its last 64 do, which is cheaper.
    """

    name: ClassVar[str] = "h2o"

    recent: int | None = None
    prompt_scores: Literal["exact", "window"] = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget < 2:
            raise ConfigError(f"H2O: budget={self.budget} must be at least 2, one recent and one ranked token")
        if self.recent is not None:
            set_field(self, "recent", check_int("H2O", "recent", self.recent, least=1))
            if self.recent >= self.budget:
                raise ConfigError(
                    f"H2O: recent={self.recent} must be less than budget={self.budget}; "
                    "for recent tokens alone use Sink(n_sink=0)"
                )
        check_choice("H2O", "prompt_scores", self.prompt_scores, _PROMPT_SCORES)

    def _fill(self, params: SparseParams) -> None:
        params.recent = self.recent or 0
        params.prompt_scores = _PROMPT_SCORES.index(self.prompt_scores)
