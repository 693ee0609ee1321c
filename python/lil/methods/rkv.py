from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .._check import check_float, check_int, set_field
from .._errors import ConfigError
from ._base import Evict

if TYPE_CHECKING:
    from .._native import SparseParams


@dataclass(frozen=True, kw_only=True)
class RKV(Evict):
    """R-KV, redundancy-aware compression for reasoning, https://arxiv.org/abs/2505.24133.

    Rule: let the cache fill up to `budget`; then cut it to `budget - buffer`. A cut keeps the last `observed` tokens
    and, of the others, those with the highest `lam * importance - (1 - lam) * redundancy`: importance is the attention
    of the last `observed` queries, redundancy the similarity of a key to the others.

    Args:
        buffer: Decode steps between two cuts.
        observed: Last queries that importance is taken from; as many last tokens stay.
        lam: Weight of importance against redundancy, 0 to 1.
        threshold: Cosine similarity above which a key repeats another, 0 to 1.
    """

    name: ClassVar[str] = "rkv"

    buffer: int = 128
    observed: int = 8
    lam: float = 0.1
    threshold: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "buffer", check_int("RKV", "buffer", self.buffer, least=1))
        set_field(self, "observed", check_int("RKV", "observed", self.observed, least=1))
        set_field(self, "lam", check_float("RKV", "lam", self.lam, least=0.0, most=1.0))
        set_field(self, "threshold", check_float("RKV", "threshold", self.threshold, least=0.0, most=1.0))
        if self.buffer + self.observed >= self.budget:
            least = self.buffer + self.observed + 1
            raise ConfigError(
                f"RKV: budget={self.budget} must be at least buffer + observed + 1 = {least}, so that a cut leaves "
                "the observed tokens and a ranked one; give a larger budget or a smaller buffer"
            )

    def _fill(self, params: SparseParams) -> None:
        params.buffer = self.buffer
        params.n_obs = self.observed
        params.lambda_ = self.lam
        params.threshold = self.threshold
