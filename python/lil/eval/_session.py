from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from .._context import SparseContext, fingerprint
from .._errors import ContextFullError, NativeError
from .._llama import Llama
from ..llama_cpp import llama_cpp as bindings
from ..methods import Method, Reselect, Select
from ._closing import Closing
from ._decoder import Decoder, Logits


class Context(Decoder):
    """One sequence of tokens and its cache, under one method. See `Session.context`."""

    def __init__(self, session: Session, method: Method | None, n_ctx: int, fused_dense: bool | None) -> None:
        super().__init__(session, method, n_ctx=n_ctx, fused_dense=fused_dense)

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
        self._prompt(0, tokens)
        return self._logits(-1).copy()

    def keep(self, n: int) -> bool:
        """Removes all but the first `n` tokens. False: the cache cannot, and is as it was."""
        if not self._native.kv_cache_seq_rm(0, n, -1):
            return False
        del self._sequences[0][n:]
        return True

    def save(self) -> Any:
        """The cache as it is, for `load`."""
        size = bindings.llama_state_seq_get_size(self._native.ctx, 0)
        state = (ctypes.c_uint8 * size)()
        if bindings.llama_state_seq_get_data(self._native.ctx, state, size, 0) != size:
            raise NativeError("the state of a context could not be copied")
        return state, list(self._sequences[0])

    def load(self, saved: Any) -> bool:
        """Takes over what `save` gave. False: this context does not take it, and is empty.

        The last token is evaluated again, with full attention: the next one is then a decode step, as after `eval`.
        """
        state, tokens = saved
        self._native.kv_cache_clear()
        self._sequences[0] = []
        if not bindings.llama_state_seq_set_data(self._native.ctx, state, len(state), 0):
            self._native.kv_cache_clear()
            return False
        self._sequences[0] = list(tokens)
        if tokens and self.keep(len(tokens) - 1):
            self.eval(tokens[-1:])
        return True

    @property
    def n_tokens(self) -> int:
        return len(self._sequences[0])

    @property
    def takes_full(self) -> bool:
        """Whether `load` may be given the state of full attention."""
        return self.method is None or (isinstance(self.method, Select) and self.method.from_full)

    def probed(self, method: type[Reselect]) -> list[list[float]]:
        """What a probe found so far: [c][l] is the mean share of layer l's softmax mass in the set of layer c.

        Raises:
            NativeError: This context is no probe's.
        """
        if not isinstance(self._native, SparseContext):
            raise NativeError("full attention measures nothing; make the context with a Probe")
        return self._native.probed(method)


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
            sparse=False,
            guardian=False,
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
