from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .._errors import ConfigError
from ._base import Evict

if TYPE_CHECKING:
    from .._native import SparseParams


@dataclass(frozen=True, kw_only=True)
class TOVA(Evict):
    """Token omission via attention, https://arxiv.org/abs/2401.06104.

    Rule: before a step attends, the token that the last query attended to least, in the mean over all heads of the
    layer, is dropped. All heads of a layer keep the same tokens; no token but the current one is protected.
    """

    name: ClassVar[str] = "tova"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget < 2:
            raise ConfigError(f"TOVA: budget={self.budget} must be at least 2, the current token and one that is kept")

    def _fill(self, params: SparseParams) -> None:
        pass
