"""Methods that are none: full attention, through the native library's own contexts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .._check import check_float, check_int, set_field
from ._base import Method

if TYPE_CHECKING:
    from .._native import SparseParams


@dataclass(frozen=True, kw_only=True)
class Dense(Method):
    """Full attention through the fused op: what `Llama(fused_dense=True)` means without a method, and what
    `fused_dense=None` comes to where the op can be had."""

    name: ClassVar[str] = "dense"

    def _fill(self, params: SparseParams) -> None:
        params.fused_dense = True


@dataclass(frozen=True, kw_only=True)
class Probe(Method):
    """Full attention that measures what each layer would be worth as the re-selection layer (`lil.eval.calibrate`).

    Args:
        n_sink: LessIsMore's.
        ratio: LessIsMore's.
    """

    name: ClassVar[str] = "probe"

    n_sink: int = 4
    ratio: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "n_sink", check_int("Probe", "n_sink", self.n_sink, least=0))
        set_field(self, "ratio", check_float("Probe", "ratio", self.ratio, least=0.0, most=1.0))

    def _fill(self, params: SparseParams) -> None:
        params.n_sink = self.n_sink
        params.ratio = self.ratio
