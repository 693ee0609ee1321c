from __future__ import annotations

import ctypes
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .._context import SparseContext, fingerprint, make_context
from .._errors import CalibrationWarning, ContextFullError, NativeError
from .._llama import Llama
from .._sparse import Method, Reselect, Select, SparseInfo
from ..llama_cpp import _internals as internals
from ..llama_cpp import llama_cpp as bindings
from ._closing import Closing

Logits = npt.NDArray[np.float32]  # [n_vocab]


class Context(Closing):
    """One sequence of tokens and its cache, under one method. See `Session.context`."""

    def __init__(self, session: Session, method: Method | None, n_ctx: int, fused_dense: bool | None) -> None:
        llama = session.llama
        params = type(llama.context_params).from_buffer_copy(llama.context_params)
        params.n_ctx = n_ctx
        params.n_batch = params.n_ubatch = session.n_ubatch
        self.method = method
        self.n_ctx = n_ctx
        self._tokens: list[int] = []
        self._n_vocab = session.n_vocab
        self._n_batch = session.n_ubatch
        self._native = make_context(
            model=llama._model, params=params, method=method, fused_dense=fused_dense, verbose=False
        )
        self._batch = internals.LlamaBatch(n_tokens=self._n_batch, embd=0, n_seq_max=1, verbose=False)
        guess = self._native.guess() if isinstance(self._native, SparseContext) else None
        if guess is not None:
            warnings.warn(f"{guess}; run: lil calibrate {session.path}", CalibrationWarning, stacklevel=3)

    def eval(self, tokens: Sequence[int]) -> Logits:
        """Appends tokens. One token after such a call is a decode step, since that gave the logits to choose it from;
        more are a part of a prompt.

        Returns:
            The logits after the last one, [n_vocab].

        Raises:
            ContextFullError: More tokens than positions.
            NativeError: The native library could not.
        """
        if self.n_tokens + len(tokens) > self.n_ctx:
            raise ContextFullError(f"{len(tokens)} tokens after {self.n_tokens} exceed a context of {self.n_ctx}")
        for begin in range(0, len(tokens), self._n_batch):
            part = tokens[begin : begin + self._n_batch]
            self._batch.set_batch(part, self.n_tokens, False)
            self._batch.batch.logits[len(part) - 1] = begin + len(part) == len(tokens)
            try:
                self._native.decode(self._batch)
            except RuntimeError as error:
                raise NativeError(f"{len(part)} tokens after {self.n_tokens}: {error}") from None
            self._tokens += part
        return np.ctypeslib.as_array(self._native.get_logits_ith(-1), shape=(self._n_vocab,)).copy()

    def keep(self, n: int) -> bool:
        """Removes all but the first `n` tokens. False: the cache cannot, and is as it was."""
        if not self._native.kv_cache_seq_rm(0, n, -1):
            return False
        del self._tokens[n:]
        return True

    def save(self) -> Any:
        """The cache as it is, for `load`."""
        size = bindings.llama_state_seq_get_size(self._native.ctx, 0)
        state = (ctypes.c_uint8 * size)()
        if bindings.llama_state_seq_get_data(self._native.ctx, state, size, 0) != size:
            raise NativeError("the state of a context could not be copied")
        return state, list(self._tokens)

    def load(self, saved: Any) -> bool:
        """Takes over what `save` gave. False: this context does not take it, and is empty.

        The last token is evaluated again, with full attention: the next one is then a decode step, as after `eval`.
        """
        state, tokens = saved
        self._native.kv_cache_clear()
        self._tokens = []
        if not bindings.llama_state_seq_set_data(self._native.ctx, state, len(state), 0):
            self._native.kv_cache_clear()
            return False
        self._tokens = list(tokens)
        if tokens and self.keep(len(tokens) - 1):
            self.eval(tokens[-1:])
        return True

    @property
    def n_tokens(self) -> int:
        return len(self._tokens)

    @property
    def takes_full(self) -> bool:
        """Whether `load` may be given the state of full attention."""
        return self.method is None or (isinstance(self.method, Select) and self.method.from_full)

    def info(self) -> SparseInfo | None:
        """What the context has done so far; None with full attention."""
        return self._native.info() if isinstance(self._native, SparseContext) else None

    def probed(self, method: type[Reselect]) -> list[list[float]]:
        """What a probe found so far: [c][l] is the mean share of layer l's softmax mass in the set of layer c.

        Raises:
            NativeError: This context is no probe's.
        """
        if not isinstance(self._native, SparseContext):
            raise NativeError("full attention measures nothing; make the context with a Probe")
        return self._native.probed(method)

    def close(self) -> None:
        self._batch.close()
        self._native.close()


class Session(Closing):
    """One model, whose weights are loaded once, and contexts of any method on it.

    Args:
        path: A GGUF file.
        n_threads: None: as `Llama` chooses.
        n_gpu_layers: As for `Llama`.
        n_ubatch: Tokens of a prompt that are processed at a time.

    Raises:
        ModelError: The file is missing, or cannot be loaded.
    """

    def __init__(self, path: str, *, n_threads: int | None = None, n_gpu_layers: int = 0, n_ubatch: int = 512) -> None:
        self.path = path
        self.n_ubatch = n_ubatch
        self.llama = Llama(
            path,
            n_ctx=n_ubatch,
            n_batch=n_ubatch,
            n_ubatch=n_ubatch,
            n_threads=n_threads,
            n_threads_batch=n_threads,
            n_gpu_layers=n_gpu_layers,
            flash_attn=True,
            verbose=False,
        )
        self.n_vocab = self.llama.n_vocab()

    @property
    def fingerprint(self) -> str:
        """The name under which calibrations know the model."""
        return fingerprint(self.llama._model)

    def tokenize(self, text: str) -> list[int]:
        """A text's tokens, with the token that opens a text where the model has one."""
        return self.llama.tokenize(text.encode())

    def n_bos(self, tokens: Sequence[int]) -> int:
        """1 where `tokens` begin with the token that opens a text, otherwise 0."""
        opens = bindings.llama_vocab_get_add_bos(self.llama._model.vocab)
        return int(bool(opens and tokens) and tokens[0] == self.llama.token_bos())

    def context(self, method: Method | None, *, n_ctx: int, fused_dense: bool | None = None) -> Context:
        """A new context; close it.

        Args:
            method: None for full attention.
            n_ctx: Positions.

        Raises:
            ConfigError: The method cannot work in such a context.
            ContextError: The native library refused.
        """
        return Context(self, method, n_ctx, fused_dense)

    def close(self) -> None:
        self.llama.close()
