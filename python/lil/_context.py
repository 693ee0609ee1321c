from __future__ import annotations

import ctypes
import warnings

from . import _calibration, _native
from ._errors import ContextError, MethodWarning, NativeError
from ._info import SparseInfo
from .llama_cpp import _internals as internals
from .llama_cpp import llama_cpp as bindings
from .methods import FUSED_DENSE_AUTO, DenseFirst, Method, Reselect, Select
from .methods.dense import Dense, Probe

# ggml_type -> values per block, bytes per block
_BLOCKS = {
    bindings.GGML_TYPE_F32: (1, 4),
    bindings.GGML_TYPE_F16: (1, 2),
    30: (1, 2),  # GGML_TYPE_BF16, which the bindings do not name
    bindings.GGML_TYPE_Q4_0: (32, 18),
    bindings.GGML_TYPE_Q4_1: (32, 20),
    bindings.GGML_TYPE_Q5_0: (32, 22),
    bindings.GGML_TYPE_Q5_1: (32, 24),
    bindings.GGML_TYPE_Q8_0: (32, 34),
}


class SparseContext(internals.LlamaContext):
    """A context whose attention follows `method`, in which nothing is "auto" that a calibration knows. None: full
    attention, through the fused op where it can be had."""

    def __init__(
        self,
        *,
        model: internals.LlamaModel,
        params: bindings.llama_context_params,
        method: Method | None,
        fused_dense: bool | None = None,
        flash_attn_free: bool = False,
        verbose: bool = True,
    ) -> None:
        self._method = method
        self._fused_dense = fused_dense
        self._flash_attn_free = flash_attn_free
        self._warned = not isinstance(method, Select)  # the others have nothing to say
        super().__init__(model=model, params=params, verbose=verbose)

    def _init_from_model(self) -> int:
        """
        Raises:
            ContextError: The native library refused; its message says why.
        """
        if self._method is None:  # where it fails, the bindings say so as they do without us
            sparse = _native.lib.lil_sparse_default_params(0)
            sparse.fused_dense = FUSED_DENSE_AUTO
            sparse.flash_attn_free = self._flash_attn_free
            return _native.lib.lil_init_from_model(self.model.model, self.params, sparse)
        sparse = self._method.native(n_ctx=self.params.n_ctx, fused_dense=self._fused_dense)
        context = _native.lib.lil_init_from_model(self.model.model, self.params, sparse)
        if not context:
            raise ContextError(f"no context for {self._method}: {_native.last_error()}")
        return context

    def decode(self, batch: internals.LlamaBatch) -> None:
        """Warns where the method meets what it cannot serve well, the first time."""
        super().decode(batch)
        text = None if self._warned else _native.lib.lil_sparse_get_warning(self.ctx)
        if text is not None:
            self._warned = True
            warnings.warn(text.decode(), MethodWarning, stacklevel=3)

    def info(self) -> SparseInfo | None:
        """None: full attention is llama.cpp's own."""
        native = _native.SparseInfo()
        if not _native.lib.lil_sparse_get_info(self.ctx, ctypes.byref(native)):
            if self._method is None:
                return None
            raise NativeError(f"lil_sparse_get_info: {_native.last_error()}")
        method = self._method or Dense()
        return SparseInfo(
            method=method.name,
            budget=None if isinstance(method, (Dense, Probe)) else native.budget,
            capacity=native.capacity,
            reselect=native.reselect if isinstance(method, Reselect) else None,
            dense_layers=native.n_dense_layers if isinstance(method, DenseFirst) else None,
            n_layer=native.n_layer,
            form="fused" if native.fused else "portable",
            fused_dense=native.fused_dense,
            backend=native.backend.decode(),
            kv_bytes=native.kv_bytes,
            kv_resident=native.kv_resident,
            dense_steps=native.n_dense,
            sparse_steps=native.n_sparse,
            rows_read=native.n_rows,
            evicted=native.n_evicted,
            kept=native.n_kept,
            restored=native.n_restored,
        )

    def guess(self) -> str | None:
        """What is to be said where the re-selection layer is a guess."""
        if not isinstance(self._method, Reselect) or self._method.reselect != "auto":
            return None
        info = self.info()
        assert info is not None
        return (
            f"{type(self._method).__name__}: this model has not been calibrated; re-selection layer {info.reselect} of "
            f"{info.n_layer} is a guess, and a wrong one costs much"
        )

    def probed(self, method: type[Reselect]) -> list[list[float]]:
        """A probe's result for a method: [c][l] is the mean share of layer l's softmax mass in the set of layer c."""
        info = self.info()
        assert info is not None
        n_layer = info.n_layer
        mass = (ctypes.c_float * (n_layer * n_layer))()
        n = _native.lib.lil_probe_get(self.ctx, method.code(), mass, len(mass))
        if n < 0:
            raise NativeError(f"lil_probe_get: {_native.last_error()}")
        return [mass[c * n : (c + 1) * n] for c in range(n)]


def make_context(
    *,
    model: internals.LlamaModel,
    params: bindings.llama_context_params,
    method: Method | None,
    fused_dense: bool | None = None,
    flash_attn_free: bool = False,
    verbose: bool = True,
) -> internals.LlamaContext:
    """A context with `method`, its "auto" parameters looked up; llama.cpp's own where there is none, and `fused_dense`
    is False or None and not to be had.

    Args:
        fused_dense: As for `Llama`.
        flash_attn_free: Nobody asked for FlashAttention to be off: where the fused op takes full attention, it is on.

    Raises:
        ConfigError: The method cannot work in such a context.
        ContextError: The native library refused.
    """
    if method is None and fused_dense:
        method = Dense()
    if method is None and fused_dense is None:
        return SparseContext(model=model, params=params, method=None, flash_attn_free=flash_attn_free, verbose=verbose)
    if method is None:
        return internals.LlamaContext(model=model, params=params, verbose=verbose)
    method.check_context(n_ctx=params.n_ctx, n_ubatch=params.n_ubatch)
    if isinstance(method, Select) and method.uncalibrated:
        method = method.calibrated(_calibration.lookup(fingerprint(model), method))
    return SparseContext(model=model, params=params, method=method, fused_dense=fused_dense, verbose=verbose)


def fingerprint(model: internals.LlamaModel) -> str:
    """The name under which calibrations know a model."""
    try:
        return _calibration.fingerprint(model.metadata())
    except UnicodeDecodeError:  # the bindings go on without such metadata, and so do we
        return _calibration.fingerprint({})


def memory_info(context: internals.LlamaContext) -> _native.MemoryInfo | None:
    """What a context's cache takes and may take, in bytes. None where it has no cache."""
    native = _native.MemoryInfo()
    return native if _native.lib.lil_memory_get_info(context.ctx, ctypes.byref(native)) else None


def memory_lack(context: internals.LlamaContext) -> str | None:
    """What is to be said where a context's cache does not fit into memory once it is full."""
    memory = memory_info(context)
    if memory is None or not memory.available or memory.kv_bytes - memory.kv_resident <= memory.available:
        return None
    return (
        f"n_ctx={context.n_ctx()}: the KV cache takes {memory.kv_bytes / 2**20:.0f} MiB once it is full, and "
        f"{memory.available / 2**20:.0f} MiB of memory are left; use a smaller n_ctx, a quantised cache (type_k, "
        f"type_v), or "
        "an evicting method with capacity="
    )


def full_info(context: internals.LlamaContext, metadata: dict[str, str], *, steps: int, tokens_read: int) -> SparseInfo:
    """The `SparseInfo` of full attention, from the model's dimensions.

    Args:
        steps: Decode steps so far.
        tokens_read: Tokens that they attended to, in sum.
    """
    model = context.model.model
    arch = metadata.get("general.architecture", "")
    n_ctx = context.n_ctx()
    n_layer = bindings.llama_model_n_layer(model)
    n_head = bindings.llama_model_n_head(model)
    n_head_kv = bindings.llama_model_n_head_kv(model)

    def number(key: str, otherwise: int) -> int | None:
        """None: the file says something else than one number, such as one for each layer."""
        text = metadata.get(f"{arch}.{key}")
        if text is None:
            return otherwise
        return int(text) if text.isdigit() else None

    head = bindings.llama_model_n_embd(model) // n_head if n_head else 0
    head_k = number("attention.key_length", head)
    head_v = number("attention.value_length", head)
    block_k, block_v = (_BLOCKS.get(kind) for kind in (context.params.type_k, context.params.type_v))
    uniform = (
        f"{arch}.attention.sliding_window" not in metadata
        and f"{arch}.attention.kv_lora_rank" not in metadata
        and number("attention.head_count_kv", n_head_kv) == n_head_kv
        and not bindings.llama_model_is_recurrent(model)
        and not bindings.llama_model_is_hybrid(model)
    )
    kv_bytes = None
    if uniform and head_k and head_v and block_k and block_v:
        per_row = head_k * block_k[1] // block_k[0] + head_v * block_v[1] // block_v[0]
        kv_bytes = n_ctx * n_layer * n_head_kv * per_row
    return SparseInfo(
        method=None,
        budget=None,
        capacity=n_ctx,
        n_layer=n_layer,
        form=None,
        kv_bytes=kv_bytes,
        kv_resident=memory.kv_resident if (memory := memory_info(context)) else None,
        dense_steps=steps,
        sparse_steps=0,
        rows_read=tokens_read * n_layer * n_head_kv if uniform else None,
        evicted=0,
    )
