"""What a context says of itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SparseInfo:
    """What a context did since it was created. With llama.cpp's full attention `method`, `budget`, `form` and `backend`
    are None.

    Attributes:
        method: A method's name, such as "quest"; "dense" where full attention runs through our fused op; None where it
            is llama.cpp's.
        budget: Tokens a decode step may attend to. None where it attends to all.
        capacity: Slots per layer, as allocated.
        reselect: TidalDecode and LessIsMore: the re-selection layer in use. None with other methods.
        dense_layers: Quest, TidalDecode and LessIsMore: the first layers, which attend to everything. None with others.
        n_layer: Layers that the method acts on.
        form: "fused" or "portable".
        fused_dense: Whether decode steps that attend to everything, or to all that an evicting method holds, run
            through the fused op.
        backend: Where these layers' keys and values live and their steps run, such as "CPU" or "CUDA0"; "CUDA0+CPU"
            where layers differ.
        kv_bytes: Bytes allocated for the cache of those layers. With full attention computed from the model's
            dimensions, and None where they do not tell (sliding windows, recurrent layers).
        kv_resident: Bytes of memory that the cache takes now. On the CPU it grows with the tokens, and shrinks after a
            removal of many and where an evicting method cuts a prompt. None where the context has no cache.
        dense_steps: Decode steps, in tokens, that attended to everything.
        sparse_steps: Decode steps that attended to a part.
        rows_read: KV rows that decode steps attended to: tokens x KV heads x layers. None as for `kv_bytes`.
        evicted: Tokens evicted, per KV head and layer.
        kept: Ends of prompts that an evicting method keeps now, of all sequences.
        restored: How often one was brought back.
    """

    method: str | None
    budget: int | None
    capacity: int
    reselect: int | None = None
    dense_layers: int | None = None
    n_layer: int
    form: str | None
    fused_dense: bool = False
    backend: str | None = None
    kv_bytes: int | None
    kv_resident: int | None = None
    dense_steps: int
    sparse_steps: int
    rows_read: int | None
    evicted: int
    kept: int = 0
    restored: int = 0
