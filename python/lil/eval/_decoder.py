from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .._context import SparseContext, make_context
from .._errors import CalibrationWarning, ConfigError, ContextError, NativeError
from .._info import SparseInfo
from ..llama_cpp import _internals as internals
from ..methods import Method
from ._closing import Closing

if TYPE_CHECKING:
    from ._session import Session

Logits = npt.NDArray[np.float32]  # [n_vocab]


class Decoder(Closing):
    """A context under one method, and what goes through it: how many tokens each of its sequences has.

    Args:
        method: None for full attention.
        n_seq: Sequences, each with cells, or slots, of its own.
        n_ctx: Positions of each.

    Raises:
        ConfigError: The method cannot work in such a context.
        ContextError: The native library refused.
    """

    def __init__(
        self, session: Session, method: Method | None, *, n_seq: int = 1, n_ctx: int, fused_dense: bool | None = None
    ) -> None:
        llama = session.llama
        params = type(llama.context_params).from_buffer_copy(llama.context_params)
        params.n_ctx = n_ctx
        if n_seq > 1:
            n_ctx = -(-n_ctx // 256) * 256  # as llama.cpp rounds
            params.n_ctx = n_seq * n_ctx
            params.n_seq_max = n_seq
            params.kv_unified = False
        params.n_batch = params.n_ubatch = max(session.n_ubatch, n_seq)
        self.method = method
        self.n_ctx = n_ctx
        self._n_batch = params.n_batch
        self._n_vocab = session.n_vocab
        self._sequences: list[list[int]] = [[] for _ in range(n_seq)]  # the tokens of each
        try:
            self._native = make_context(
                model=llama._model, params=params, method=method, fused_dense=fused_dense, verbose=False
            )
        except (ConfigError, ContextError):
            raise
        except ValueError as error:
            hint = "lower --parallel or --max-tokens" if n_seq > 1 else "take a smaller n_ctx"
            raise ContextError(f"no context of {n_seq} x {n_ctx} tokens ({error}); {hint}") from None
        self._batch = internals.LlamaBatch(n_tokens=self._n_batch, embd=0, n_seq_max=1, verbose=False)
        guess = self._native.guess() if isinstance(self._native, SparseContext) else None
        if guess is not None:
            warnings.warn(f"{guess}; run: lil calibrate {session.path}", CalibrationWarning, stacklevel=4)

    def _decode(self, tokens: Sequence[tuple[int, int]], wanted: Collection[int]) -> None:
        """Decodes (sequence, token) pairs, at most a batch, each behind what its sequence has.

        Args:
            wanted: After which of them logits are, by their places.
        """
        batch = self._batch.batch
        batch.n_tokens = len(tokens)
        lengths = list(map(len, self._sequences))
        for i, (seq, token) in enumerate(tokens):
            batch.token[i] = token
            batch.pos[i] = lengths[seq]
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = seq
            batch.logits[i] = i in wanted
            lengths[seq] += 1
        try:
            self._native.decode(self._batch)
        except RuntimeError as error:
            held = list(map(len, self._sequences))
            raise NativeError(f"{len(tokens)} tokens after {held}: {error}") from None
        for seq, token in tokens:
            self._sequences[seq].append(token)

    def _prompt(self, seq: int, tokens: Sequence[int]) -> None:
        """Decodes tokens of one sequence, of which the last one's logits are wanted: row -1."""
        for begin in range(0, len(tokens), self._n_batch):
            part = tokens[begin : begin + self._n_batch]
            self._decode([(seq, token) for token in part], [len(tokens) - begin - 1])

    def _logits(self, row: int) -> Logits:
        """[n_vocab], until the next decode."""
        return np.ctypeslib.as_array(self._native.get_logits_ith(row), shape=(self._n_vocab,))

    def info(self) -> SparseInfo | None:
        """What the context has done so far; None with llama.cpp's full attention."""
        return self._native.info() if isinstance(self._native, SparseContext) else None

    def close(self) -> None:
        self._batch.close()
        self._native.close()
