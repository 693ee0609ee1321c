"""What every sparse method has in common: a budget, a capacity, a form, and its native parameters.

Adding a method:

1. one file with one frozen dataclass that extends `Evict`, its paper, its parameters and its rule in the docstring;
2. its checks in `__post_init__`, after the base's;
3. its fields of `lil_sparse_params` in `_fill`;
4. its name in `METHODS` of `_resolve.py`, its class in the package's `__all__`;
5. the native side, and a reference in tests/python/reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from ._check import check_choice, check_int, set_field
from ._errors import ConfigError

if TYPE_CHECKING:
    from ._native import SparseParams

Form = Literal["auto", "portable", "fused"]

FORMS: tuple[str, ...] = ("auto", "portable", "fused")


@dataclass(frozen=True, kw_only=True)
class Evict:
    """A method whose cache is bounded: tokens outside the budget are gone.

    Args:
        budget: Tokens that one KV head of one layer attends to in a decode step, the current one included. While a
            sequence is not longer, attention is full.
        capacity: Slots of the KV cache per layer, which is what saves memory. None: `n_ctx`. Otherwise at least
            `budget + n_ubatch`; a prompt that does not fit is cut to the budget whenever its next part would not.
        form: Which implementation computes the method's own steps. "portable" is made of ordinary operations and runs
            on every backend; "fused" is faster and an error where a backend lacks it; "auto" takes what there is.

    Raises:
        ConfigError: A value out of range.
        ConfigTypeError: A value of the wrong type.
    """

    name: ClassVar[str]
    code: ClassVar[int]  # enum lil_sparse_method

    budget: int = 1024
    capacity: int | None = None
    form: Form = "auto"

    def __post_init__(self) -> None:
        owner = type(self).__name__
        set_field(self, "budget", check_int(owner, "budget", self.budget, least=1))
        if self.capacity is not None:
            set_field(self, "capacity", check_int(owner, "capacity", self.capacity, least=1))
        check_choice(owner, "form", self.form, FORMS)

    def check_context(self, *, n_ctx: int, n_ubatch: int) -> None:
        """Refuses a capacity that cannot hold the budget and one physical batch.

        Raises:
            ConfigError: `capacity` is less than `budget + n_ubatch`, and less than `n_ctx`.
        """
        if self.capacity is None or self.capacity >= n_ctx or self.capacity >= self.budget + n_ubatch:
            return
        raise ConfigError(
            f"{type(self).__name__}: capacity={self.capacity} must be at least budget + n_ubatch = "
            f"{self.budget} + {n_ubatch} = {self.budget + n_ubatch}; "
            f"give more, a smaller budget, a smaller n_ubatch, or None for n_ctx = {n_ctx}"
        )

    def native(self, *, n_ctx: int) -> SparseParams:
        """The parameters as `lil_sparse_params`, for a context of `n_ctx` positions."""
        from ._native import SparseParams

        params = SparseParams(
            method=self.code,
            budget=self.budget,
            capacity=0 if self.capacity is None or self.capacity >= n_ctx else self.capacity,
            form=FORMS.index(self.form),
        )
        self._fill(params)
        return params

    def _fill(self, params: SparseParams) -> None:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class SparseInfo:
    """What a context did since it was created. With full attention `method`, `budget` and `form` are None.

    Attributes:
        method: "sink", "h2o" or None.
        budget: Tokens a decode step may attend to.
        capacity: Slots per layer, as allocated.
        n_layer: Layers that the method acts on.
        form: "fused" or "portable".
        kv_bytes: Bytes allocated for the cache of those layers. With full attention computed from the model's
            dimensions, and None where they do not tell (sliding windows, recurrent layers).
        dense_steps: Decode steps, in tokens, that attended to everything.
        sparse_steps: Decode steps that attended to `budget` tokens of more.
        rows_read: KV rows that decode steps attended to: tokens x KV heads x layers. None as for `kv_bytes`.
        evicted: Tokens evicted, per KV head and layer.
    """

    method: str | None
    budget: int | None
    capacity: int
    n_layer: int
    form: str | None
    kv_bytes: int | None
    dense_steps: int
    sparse_steps: int
    rows_read: int | None
    evicted: int
