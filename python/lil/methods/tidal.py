from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .._errors import ConfigError
from ._base import Reselect

if TYPE_CHECKING:
    from .._native import SparseParams


@dataclass(frozen=True, kw_only=True)
class TidalDecode(Reselect):
    """TidalDecode, https://arxiv.org/abs/2410.05076.

    Rule: the first `dense_layers` layers are dense. The next one and the re-selection layer attend to everything and
    keep, per KV head, the current token and the `budget - 1` tokens with the largest q.k; the layers after each attend
    to those.
    """

    name: ClassVar[str] = "tidal"
    takes_drafts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget < 2:
            raise ConfigError(
                f"TidalDecode: budget={self.budget} must be at least 2, the current token and a selected one"
            )

    def _fill(self, params: SparseParams) -> None:
        pass
