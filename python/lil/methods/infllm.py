from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from .._check import check_choice, check_int, set_field
from .._errors import ConfigError
from ._base import Select, smallest_budget

if TYPE_CHECKING:
    from typing_extensions import Self

    from .._native import SparseParams

_POSITIONS = {"absolute": 0, "clipped": 2}  # enum lil_positions


@dataclass(frozen=True, kw_only=True)
class InfLLM(Select):
    """InfLLM, https://arxiv.org/abs/2402.04617, scaled to a budget.

    Rule: attend to the first `n_init` tokens, to a local window of about `budget // 2`, and to whole blocks of the
    rest. A block is ranked by q.k with its `n_repr` representative keys, those that got most attention from the queries
    that had them in their window; all heads of a layer share the chosen blocks. No layer is dense.

    Args:
        n_init: First tokens that are always attended to.
        block: Tokens of a block. None: 16, and 8 where `budget` is below 128.
        n_repr: Representative keys of a block.
        positions: "absolute": a key keeps the position it was written with. "clipped": all tokens outside the window
            are seen at the window's distance, for contexts beyond the length that the model was trained for.
    """

    name: ClassVar[str] = "infllm"

    n_init: int = 4
    block: int | None = None
    n_repr: int = 4
    positions: Literal["absolute", "clipped"] = "absolute"

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "n_init", check_int("InfLLM", "n_init", self.n_init, least=0))
        if self.block is not None:
            set_field(self, "block", check_int("InfLLM", "block", self.block, least=1, most=256))
        set_field(self, "n_repr", check_int("InfLLM", "n_repr", self.n_repr, least=1))
        check_choice("InfLLM", "positions", self.positions, tuple(_POSITIONS))
        if self.positions == "clipped" and self.min_ctx != "auto" and self.min_ctx > self.budget:
            raise ConfigError(
                f'InfLLM: min_ctx={self.min_ctx} with positions="clipped" must be at most budget={self.budget}: '
                "what is "
                "longer is seen at clipped distances, in every step"
            )
        if self.positions == "clipped" and self.form == "fused":
            raise ConfigError('InfLLM: form="fused" cannot work with positions="clipped"; use "auto" or "portable"')
        block = self._block(self.budget)
        if self.n_repr > block:
            raise ConfigError(f"InfLLM: n_repr={self.n_repr} must be at most the tokens of a block, {block}")
        if self._n_blocks(self.budget) < 1:
            least = smallest_budget(lambda budget: self._n_blocks(budget) >= 1)
            raise ConfigError(
                f"InfLLM: budget={self.budget} must be at least {least}, room for n_init={self.n_init} first tokens, "
                f"a window of half the budget, an unfinished block and one block of {block}; "
                "give a larger budget, a smaller block or a smaller n_init"
            )

    def calibrated(self, values: Mapping[str, int]) -> Self:
        if self.positions == "clipped" and "min_ctx" in values:
            values = {**values, "min_ctx": min(values["min_ctx"], self.budget)}
        return super().calibrated(values)

    def _block(self, budget: int) -> int:
        return self.block or (8 if budget < 128 else 16)

    def _n_blocks(self, budget: int) -> int:
        """Blocks that a step of that budget chooses."""
        block = self._block(budget)
        return (budget - self.n_init - budget // 2 - (block - 1)) // block

    def _fill(self, params: SparseParams) -> None:
        params.n_init = self.n_init
        params.block = self.block or 0
        params.n_repr = self.n_repr
        params.positions = _POSITIONS[self.positions]
