"""Saved states: what is written into them, and how one is loaded or refused."""

from __future__ import annotations

import ctypes
import zlib
from typing import TYPE_CHECKING, Any

from ._errors import NativeError, StateError
from .llama_cpp import _logger as logger
from .llama_cpp import llama as bindings
from .llama_cpp import llama_cpp as native

if TYPE_CHECKING:
    from ._llama import Llama


def save(llama: Llama) -> bindings.LlamaState:
    """The bindings' state, with who saved it (`saved_by`), and scores only where the model keeps them.

    Raises:
        NativeError: The native library could not write it.
    """
    data = _read(llama)
    n_tokens = llama.n_tokens
    state = bindings.LlamaState(
        input_ids=llama.input_ids[:n_tokens].copy(),
        scores=llama.scores[: n_tokens if llama._logits_all else 0].copy(),
        n_tokens=n_tokens,
        llama_state=data,
        llama_state_size=len(data),
        seed=llama._seed,
    )
    state.saved_by = _who(llama)  # type: ignore[attr-defined]
    return state


def load(llama: Llama, state: Any) -> None:
    """Puts a model where another, or the same one, was when it saved a state.

    Raises:
        StateError: It does not fit, or is none. The model is as it was.
    """
    n_tokens = _check(llama, state)
    before = _read(llama)
    logger.last_errors.clear()
    if not _write(llama, state.llama_state):
        reason = _reason()
        saved_by, mine = getattr(state, "saved_by", None), _who(llama)
        if saved_by and saved_by["sparse"] != mine["sparse"]:
            reason += f"; it was saved with sparse={saved_by['sparse']}, and this model has sparse={mine['sparse']}"
        if not _write(llama, before):  # it came from this very context
            llama._ctx.kv_cache_clear()
            llama.reset()  # type: ignore[no-untyped-call]
            reason += "; what was there before could not be restored either, and is gone"
        raise StateError(f"the state does not fit: {reason}")
    if llama._logits_all:
        llama.scores[:n_tokens] = state.scores[:n_tokens]
    llama.input_ids[:n_tokens] = state.input_ids[:n_tokens]
    llama.input_ids[n_tokens:] = 0
    llama.n_tokens = n_tokens
    llama._requires_eval = True
    llama._seed = state.seed


def _check(llama: Llama, state: Any) -> int:
    """What can be seen without the native library. Returns the state's tokens."""
    try:
        n_tokens, n_ids, n_scores = state.n_tokens, len(state.input_ids), len(state.scores)
        n_bytes, n_bytes_said = len(state.llama_state), state.llama_state_size
    except (AttributeError, TypeError):
        raise StateError(f"{type(state).__name__} is no state; give what save_state() returned") from None
    if n_bytes != n_bytes_said or n_ids < n_tokens:
        raise StateError(
            f"the state is damaged: it has {n_bytes} of {n_bytes_said} bytes, and {n_ids} of {n_tokens} token ids"
        )
    saved_by = getattr(state, "saved_by", None)  # the bindings' own states do not say
    if saved_by is not None and saved_by["model"] != _who(llama)["model"]:
        raise StateError(
            f"the state does not fit: it was saved by {saved_by['model']}, and this is {_who(llama)['model']}"
        )
    if n_tokens > llama._n_ctx:
        raise StateError(
            f"the state does not fit: it holds {n_tokens} tokens, and n_ctx is {llama._n_ctx}; "
            "make the Llama with a larger n_ctx"
        )
    if llama._logits_all and (n_scores < n_tokens or state.scores.shape[1:] != llama.scores.shape[1:]):
        raise StateError(
            "the state does not fit: it was saved with logits_all=False and has no scores, and this model keeps them; "
            "make the Llama without logits_all"
        )
    return int(n_tokens)


def _who(llama: Llama) -> dict[str, str]:
    metadata = zlib.crc32(repr(sorted(llama.metadata.items())).encode("utf-8", "replace"))
    name = llama.metadata.get("general.name") or llama.metadata.get("general.architecture", "an unnamed model")
    lora = f" with {llama.lora_path} at {llama.lora_scale}" if llama.lora_path else ""
    size = native.llama_model_size(llama._model.model)
    return {"model": f"{name} ({size} bytes, {metadata:08x}){lora}", "sparse": str(llama.sparse)}


def _read(llama: Llama) -> bytes:
    size = native.llama_state_get_size(llama._ctx.ctx)
    data = (ctypes.c_uint8 * size)()
    written = native.llama_state_get_data(llama._ctx.ctx, data, size)
    if written == 0 or written > size:
        raise NativeError(f"the native library could not save a state of {size} bytes")
    return bytes(memoryview(data)[:written])


def _write(llama: Llama, data: bytes) -> bool:
    """Whether it was taken, and all of it."""
    array = ctypes.cast(ctypes.c_char_p(data), ctypes.POINTER(ctypes.c_uint8))  # the library only reads
    return bool(native.llama_state_set_data(llama._ctx.ctx, array, len(data)) == len(data))


def _reason() -> str:
    """What the library said while it refused, or that it said nothing: it left bytes over."""
    said = list(logger.last_errors)
    lines = [line.strip().partition(": ")[2] or line.strip() for line in said]
    lines = [line.removeprefix("error loading state: ") for line in lines if line]
    reason = "; ".join(lines)
    if "V transposition" in reason:
        reason += " (one side has FlashAttention, the other has not: give flash_attn=True to both)"
    return reason or "it holds more than this context's method keeps"
