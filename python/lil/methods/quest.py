from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .._check import check_bool
from .._errors import ConfigError
from ._base import PAGE, DenseFirst

if TYPE_CHECKING:
    from .._native import SparseParams


@dataclass(frozen=True, kw_only=True)
class Quest(DenseFirst):
    """Quest, https://arxiv.org/abs/2406.10774.

    Rule: pages of 16 tokens, each with the minimum and the maximum of its keys per channel. They give an upper bound
    on q.k for every key in the page. Each KV head attends to the page of the current token and to the
    `budget // 16 - 1` others with the highest bounds. The first `dense_layers` layers are dense.

    Args:
        first_page: Page 0 is always attended to.
    """

    name: ClassVar[str] = "quest"
    from_full: ClassVar[bool] = True
    takes_drafts: ClassVar[bool] = True

    first_page: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bool("Quest", "first_page", self.first_page)
        pages = 2 if self.first_page else 1
        if self.budget < pages * PAGE:
            raise ConfigError(
                f"Quest: budget={self.budget} must be at least {pages * PAGE}, "
                + (
                    "the page of the current token and, with first_page=True, page 0"
                    if self.first_page
                    else f"one page of {PAGE} tokens"
                )
            )

    def _fill(self, params: SparseParams) -> None:
        params.first_page = self.first_page
