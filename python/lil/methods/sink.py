from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from .._check import check_choice, check_int, set_field
from .._errors import ConfigError
from ._base import Evict

if TYPE_CHECKING:
    from .._native import SparseParams

_POSITIONS = ("absolute", "cache")


@dataclass(frozen=True, kw_only=True)
class Sink(Evict):
    """StreamingLLM, https://arxiv.org/abs/2309.17453.

    Rule: keep the first `n_sink` tokens and the last `budget - n_sink`, in every head and layer.

    Args:
        n_sink: First tokens that are always kept.
        positions: "absolute": a key keeps the position it was written with. "cache": a key takes the position of its
            slot, so that generation can go on past the length that the model was trained for.
    """

    name: ClassVar[str] = "sink"

    n_sink: int = 4
    positions: Literal["absolute", "cache"] = "absolute"

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "n_sink", check_int("Sink", "n_sink", self.n_sink, least=0))
        check_choice("Sink", "positions", self.positions, _POSITIONS)
        if self.budget < self.n_sink + 1:
            raise ConfigError(
                f"Sink: budget={self.budget} must be at least n_sink + 1 = {self.n_sink + 1}, "
                "room for the sinks and the current token; give a larger budget or a smaller n_sink"
            )

    def _fill(self, params: SparseParams) -> None:
        params.n_sink = self.n_sink
        params.positions = _POSITIONS.index(self.positions)
