from __future__ import annotations

import ctypes

from . import _native
from ._errors import ContextError, NativeError
from ._sparse import Evict, SparseInfo
from .llama_cpp import _internals as internals
from .llama_cpp import llama_cpp as bindings

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
    """A context whose attention follows `method`."""

    def __init__(
        self,
        *,
        model: internals.LlamaModel,
        params: bindings.llama_context_params,
        method: Evict,
        verbose: bool = True,
    ) -> None:
        self._method = method
        super().__init__(model=model, params=params, verbose=verbose)

    def _init_from_model(self) -> int:
        """
        Raises:
            ContextError: The native library refused; its message says why.
        """
        sparse = self._method.native(n_ctx=self.params.n_ctx)
        context = _native.lib.lil_init_from_model(self.model.model, self.params, sparse)
        if not context:
            raise ContextError(f"no context for {self._method}: {_native.last_error()}")
        return context

    def info(self) -> SparseInfo:
        native = _native.SparseInfo()
        if not _native.lib.lil_sparse_get_info(self.ctx, ctypes.byref(native)):
            raise NativeError(f"lil_sparse_get_info: {_native.last_error()}")
        return SparseInfo(
            method=self._method.name,
            budget=native.budget,
            capacity=native.capacity,
            n_layer=native.n_layer,
            form="fused" if native.fused else "portable",
            kv_bytes=native.kv_bytes,
            dense_steps=native.n_dense,
            sparse_steps=native.n_sparse,
            rows_read=native.n_rows,
            evicted=native.n_evicted,
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
        dense_steps=steps,
        sparse_steps=0,
        rows_read=tokens_read * n_layer * n_head_kv if uniform else None,
        evicted=0,
    )
