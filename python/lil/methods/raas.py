from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .._check import check_float, set_field
from .._errors import ConfigError
from ._base import PAGE, Select

if TYPE_CHECKING:
    from .._native import SparseParams


@dataclass(frozen=True, kw_only=True)
class RaaS(Select):
    """Reasoning-aware attention sparsity, https://arxiv.org/abs/2502.11147.

    Rule: pages of 16 tokens with time stamps. In each step the pages with the highest scores (Quest's bound), a share
    `ratio` of those attended to, get a new stamp; the `budget // 16` pages with the newest stamps are attended to. A
    page once left out stays out.

    Args:
        ratio: Share of the pages that a step stamps, above 0 and at most 1.
    """

    name: ClassVar[str] = "raas"

    ratio: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "ratio", check_float("RaaS", "ratio", self.ratio, least=0.0, most=1.0))
        if self.ratio == 0.0:
            raise ConfigError("RaaS: ratio=0 must be above 0: pages that are never stamped are all left out")
        if self.form == "portable":
            raise ConfigError('RaaS: form="portable" does not exist; use "auto" or "fused"')
        if self.budget < PAGE:
            raise ConfigError(f"RaaS: budget={self.budget} must be at least {PAGE}, one page of {PAGE} tokens")

    def _fill(self, params: SparseParams) -> None:
        params.ratio = self.ratio
