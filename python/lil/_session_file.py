"""Sessions: a state in a file, with what it belongs to, versioned and checksummed.

    8 bytes       LILSESSN
    u32           version, 1
    u32           bytes of the head
    u64           bytes of the body
    head          JSON, UTF-8, see `_head`
    body          token ids, int32; scores, float32 [n_tokens, n_vocab], where the model keeps them; llama.cpp's state
    32 bytes      SHA-256 of all of the above

Numbers are little-endian. Nothing in it is run, unlike in a pickle; the native library checks the state as it reads it.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from . import _state
from ._atomic import replace_file
from ._errors import ConfigTypeError, StateError
from .llama_cpp import llama as bindings

if TYPE_CHECKING:
    from ._llama import Llama

_MAGIC = b"LILSESSN"
_VERSION = 1
_FIXED = struct.Struct("<8sIIQ")
_DIGEST = hashlib.sha256().digest_size

# Keywords of Llama that decide what a key in the cache is. Some of them the state itself does not know.
_CONTEXT = (
    "type_k",
    "type_v",
    "swa_full",
    "rope_scaling_type",
    "rope_freq_base",
    "rope_freq_scale",
    "yarn_ext_factor",
    "yarn_attn_factor",
    "yarn_beta_fast",
    "yarn_beta_slow",
    "yarn_orig_ctx",
)

_SAMPLES, _SAMPLE = 64, 4096  # places of the model's file, and bytes of each


def save(llama: Llama, path: str, notes: Any) -> None:
    """See `Llama.save_session`."""
    try:
        json.dumps(notes)
    except (TypeError, ValueError) as error:
        raise ConfigTypeError(f"notes={notes!r:.80} is no JSON: {error}") from None
    state = _state.save(llama)
    body = [
        np.ascontiguousarray(state.input_ids, dtype="<i4").tobytes(),
        np.ascontiguousarray(state.scores, dtype="<f4").tobytes(),
        state.llama_state,
    ]
    head = json.dumps(_head(llama, state, notes)).encode()
    parts = [_FIXED.pack(_MAGIC, _VERSION, len(head), sum(map(len, body))), head, *body]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    try:
        replace_file(path, [*parts, digest.digest()])
    except OSError as error:
        raise StateError(f"{path}: the session cannot be written: {error.strerror or error}") from None


def load(llama: Llama, path: str) -> Any:
    """See `Llama.load_session`."""
    try:
        with open(path, "rb") as file:
            head, body = _read(path, file)
    except FileNotFoundError:
        raise StateError(f"{path}: there is no such session; save_session() writes one") from None
    except OSError as error:
        raise StateError(f"{path}: the session cannot be read: {error.strerror or error}") from None
    try:
        _check(llama, head)
        _state.load(llama, _unpack(head, body))
    except StateError as error:
        raise StateError(f"{path}: {error}") from None
    return head["notes"]


def _head(llama: Llama, state: bindings.LlamaState, notes: Any) -> dict[str, Any]:
    return {
        "saved_by": state.saved_by,  # type: ignore[attr-defined]
        "weights": _weights(llama),
        "context": _context(llama),
        "n_tokens": state.n_tokens,
        "n_vocab": state.scores.shape[1] if len(state.scores) else 0,
        "seed": state.seed,
        "notes": notes,
    }


def _context(llama: Llama) -> dict[str, Any]:
    return {name: getattr(llama.context_params, name) for name in _CONTEXT}


def _weights(llama: Llama) -> str:
    """A digest of places spread over the model's file: two trainings of one model differ in nothing else. Empty where
    the file is gone."""
    digest = hashlib.sha256()
    try:
        with open(llama.model_path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            for i in range(_SAMPLES):
                file.seek((size - _SAMPLE) * i // (_SAMPLES - 1) if size > _SAMPLE else 0)
                digest.update(file.read(_SAMPLE))
    except OSError:
        return ""
    return digest.hexdigest()


def _read(path: str, file: BinaryIO) -> tuple[dict[str, Any], bytes]:
    """Head and body of a file that is whole."""
    size = os.fstat(file.fileno()).st_size
    fixed = file.read(_FIXED.size)
    if fixed[: len(_MAGIC)] != _MAGIC:
        raise StateError(
            f"{path} is no session: it begins with {fixed[: len(_MAGIC)]!r}; give what save_session() wrote"
        )
    damaged = f"{path}: the session is damaged"
    if len(fixed) < _FIXED.size:
        raise StateError(f"{damaged}: it has {size} bytes; restore it from a copy, or begin anew")
    _, version, n_head, n_body = _FIXED.unpack(fixed)
    if version != _VERSION:
        raise StateError(
            f"{path}: the session is of version {version}, and this lil reads {_VERSION}; use the lil that wrote it"
        )
    whole = _FIXED.size + n_head + n_body + _DIGEST
    if size != whole:
        raise StateError(f"{damaged}: it has {size} of {whole} bytes; restore it from a copy, or begin anew")
    digest = hashlib.sha256(fixed)
    head, body = file.read(n_head), file.read(n_body)
    digest.update(head)
    digest.update(body)
    if digest.digest() != file.read():
        raise StateError(f"{damaged}: its checksum is wrong; restore it from a copy, or begin anew")
    return json.loads(head), body


def _check(llama: Llama, head: dict[str, Any]) -> None:
    """Refuses what belongs to something else, as far as `_state.load` does not."""
    saved_by, mine = head["saved_by"], _state._who(llama)
    if saved_by["model"] == mine["model"]:  # otherwise _state says so
        theirs, weights = head["weights"], _weights(llama)
        if theirs and weights and theirs != weights:
            raise StateError(
                f"the session does not fit: it was saved by {mine['model']} with other weights than "
                f"{llama.model_path} has"
            )
        pairs = [("sparse", saved_by["sparse"], mine["sparse"])]
        pairs += [(name, head["context"].get(name), value) for name, value in _context(llama).items()]
        for name, saved, here in pairs:
            if saved != here:
                raise StateError(
                    f"the session does not fit: it was saved with {name}={saved}, and this model has {name}={here}; "
                    f"make the Llama with {name}={saved}"
                )


def _unpack(head: dict[str, Any], body: bytes) -> bindings.LlamaState:
    n_tokens, n_vocab = head["n_tokens"], head["n_vocab"]
    n_ids, n_scores = 4 * n_tokens, 4 * n_tokens * n_vocab
    state = bindings.LlamaState(
        input_ids=np.frombuffer(body, "<i4", n_tokens).astype(np.intc),
        scores=np.frombuffer(body, "<f4", n_tokens * n_vocab, n_ids).reshape(-1, max(n_vocab, 1)).astype(np.single),
        n_tokens=n_tokens,
        llama_state=body[n_ids + n_scores :],
        llama_state_size=len(body) - n_ids - n_scores,
        seed=head["seed"],
    )
    state.saved_by = head["saved_by"]  # type: ignore[attr-defined]
    return state
