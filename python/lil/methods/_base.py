"""What every method has in common: a budget, a form, its native parameters. Two families: `Evict` and `Select`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from .._check import check_choice, check_int, set_field
from .._errors import ConfigError

if TYPE_CHECKING:
    from typing_extensions import Self

    from .._native import SparseParams

Form = Literal["auto", "portable", "fused"]

FORMS: tuple[str, ...] = ("auto", "portable", "fused")

FUSED_DENSE_AUTO = 2  # enum lil_fused_dense

PAGE = 16  # tokens of a page: Quest, RaaS

_MOST_KEPT = 64  # ends of prompts, as natively


@dataclass(frozen=True, kw_only=True)
class Method:
    """What a decode step attends to.

    Args:
        budget: Tokens that one KV head of one layer attends to in a decode step, the current one included. While a
            sequence is not longer, attention is full.
        form: Which implementation computes the method's own steps. "portable" is made of ordinary operations and runs
            on every backend; "fused" is faster and an error where a backend lacks it; "auto" takes what there is.

    Raises:
        ConfigError: A value out of range.
        ConfigTypeError: A value of the wrong type.
    """

    name: ClassVar[str]  # as the native library knows it too

    # Whether steps can be taken back as if they had not been: those of a rejected draft.
    takes_drafts: ClassVar[bool] = False

    budget: int = 1024
    form: Form = "auto"

    def __post_init__(self) -> None:
        owner = type(self).__name__
        set_field(self, "budget", check_int(owner, "budget", self.budget, least=1))
        check_choice(owner, "form", self.form, FORMS)

    @classmethod
    def code(cls) -> int:
        """The native library's number of the method, enum lil_sparse_method."""
        from .._native import lib

        code = lib.lil_sparse_find(cls.name.encode())
        if not code:
            raise ConfigError(f"{cls.__name__}: the native library has no method {cls.name!r}")
        return code

    def check_context(self, *, n_ctx: int, n_ubatch: int) -> None:
        """Refuses what cannot work in a context of `n_ctx` positions and physical batches of `n_ubatch` tokens.

        Raises:
            ConfigError: The message says what would work.
        """

    def native(self, *, n_ctx: int, fused_dense: bool | None = None) -> SparseParams:
        """The parameters as `lil_sparse_params`, for a context of `n_ctx` positions. What is "auto" is left to the
        native defaults."""
        from .._native import lib

        params = lib.lil_sparse_default_params(self.code())
        params.budget = self.budget
        params.form = FORMS.index(self.form)
        params.fused_dense = FUSED_DENSE_AUTO if fused_dense is None else fused_dense
        self._fill(params)
        return params

    def _fill(self, params: SparseParams) -> None:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Evict(Method):
    """A method whose cache is bounded: tokens outside the budget are gone.

    Args:
        capacity: Slots of the KV cache per layer, which is what saves memory. None: `n_ctx`. Otherwise at least
            `budget + n_ubatch`; a prompt that does not fit is cut to the budget whenever its next part would not.
        kept_prompts: Ends of the last prompts, as they were cut, that are kept per sequence (`budget` slots each), so
            that a turn that goes back to one of them (the same request again, a last message that was edited) need not
            evaluate everything anew. 0: none.
    """

    capacity: int | None = None
    kept_prompts: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.capacity is not None:
            set_field(self, "capacity", check_int(type(self).__name__, "capacity", self.capacity, least=1))
        kept = check_int(type(self).__name__, "kept_prompts", self.kept_prompts, least=0, most=_MOST_KEPT)
        set_field(self, "kept_prompts", kept)

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

    def native(self, *, n_ctx: int, fused_dense: bool | None = None) -> SparseParams:
        params = super().native(n_ctx=n_ctx, fused_dense=fused_dense)
        params.capacity = 0 if self.capacity is None or self.capacity >= n_ctx else self.capacity
        params.kept_prompts = self.kept_prompts
        return params


@dataclass(frozen=True, kw_only=True)
class Select(Method):
    """A method that keeps everything and reads a part of it in each step. The cache is llama.cpp's own.

    Args:
        min_ctx: While a sequence has fewer tokens, attention is full: below some length a sparse step is the slower
            one. "auto": what `lil calibrate --min-ctx` measured on this machine, 0 where it did not.
    """

    # Whether the cache that full attention leaves behind after a prompt is all that the method needs to go on from.
    from_full: ClassVar[bool] = False

    min_ctx: int | Literal["auto"] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_auto(self, "min_ctx", least=0)

    @property
    def uncalibrated(self) -> tuple[str, ...]:
        """The parameters that are "auto"."""
        return tuple(name for name in ("reselect", "min_ctx") if getattr(self, name, None) == "auto")

    def calibrated(self, values: Mapping[str, int]) -> Self:
        """A copy in which what is "auto" comes from `values`, as far as they go."""
        known = {name: values[name] for name in self.uncalibrated if name in values}
        return replace(self, **known)  # type: ignore[arg-type]

    def native(self, *, n_ctx: int, fused_dense: bool | None = None) -> SparseParams:
        params = super().native(n_ctx=n_ctx, fused_dense=fused_dense)
        params.min_ctx = 0 if self.min_ctx == "auto" else self.min_ctx
        return params


def default_dense_layers(n_layer: int) -> int:
    """How many of a model's first full-attention layers attend to everything where nobody says otherwise."""
    return 2 if n_layer >= 16 else 1 if n_layer >= 8 else 0


@dataclass(frozen=True, kw_only=True)
class DenseFirst(Select):
    """A method whose first layers attend to everything.

    Args:
        dense_layers: How many, counted among the L full-attention layers. None: 2 where L >= 16, 1 where 8 <= L < 16,
            0 where L < 8: in a hybrid model two of six would cost a third of all reads.
    """

    dense_layers: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dense_layers is not None:
            set_field(self, "dense_layers", check_int(type(self).__name__, "dense_layers", self.dense_layers, least=0))

    def native(self, *, n_ctx: int, fused_dense: bool | None = None) -> SparseParams:
        params = super().native(n_ctx=n_ctx, fused_dense=fused_dense)
        params.dense_layers = -1 if self.dense_layers is None else self.dense_layers
        return params


@dataclass(frozen=True, kw_only=True)
class Reselect(DenseFirst):
    """A method that selects in two layers, and whose other layers read what was selected last.

    Args:
        reselect: The second of the two, the re-selection layer, counted from 0 among the full-attention layers; the
            first is layer `dense_layers`. It matters greatly and differs by model. "auto": what `lil calibrate` found
            on this machine, or what ships with the package for this model; otherwise `floor(0.55*L + 0.5)` of L layers,
            with a `CalibrationWarning`.
    """

    from_full: ClassVar[bool] = True

    reselect: int | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        first = self.dense_layers or 0
        _check_auto(self, "reselect", least=first + 1, why=f"layer {first} is the first that selects")

    def native(self, *, n_ctx: int, fused_dense: bool | None = None) -> SparseParams:
        params = super().native(n_ctx=n_ctx, fused_dense=fused_dense)
        params.reselect = 0 if self.reselect == "auto" else self.reselect
        return params


def _check_auto(method: Method, name: str, *, least: int, why: str = "") -> None:
    value = getattr(method, name)
    if value == "auto":
        return
    if isinstance(value, str):
        raise ConfigError(f'{type(method).__name__}: {name}={value!r} is unknown; give an int or "auto"')
    set_field(method, name, check_int(type(method).__name__, name, value, least=least, why=why))


def smallest_budget(fits: Callable[[int], bool]) -> int:
    """The smallest budget for which `fits`, which must hold for every larger one."""
    high = 1
    while not fits(high):
        high *= 2
    low = high // 2  # does not fit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
