"""Logits processors whose errors are not lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ._errors import ConfigError
from .llama_cpp import _internals as internals

Logits = npt.NDArray[np.single]


class Processors:
    """A list of processors as one. They are called from C, where an exception would be printed and forgotten, and the
    token be sampled as if there were no processor: it is kept here, for who asked for the token.

    Args:
        every: Functions of the tokens so far and the logits after them, [n_vocab], that return other logits.
    """

    def __init__(self, every: Sequence[Callable[[npt.NDArray[np.intc], Logits], Logits]]) -> None:
        self._every = every
        self.error: BaseException | None = None

    def __call__(self, tokens: npt.NDArray[np.intc], logits: Logits) -> Logits:
        out = logits
        try:
            for one in self._every:
                out = one(tokens, out)
                if np.shape(out) != np.shape(logits):
                    raise ConfigError(
                        f"logits_processor: {one!r} returned an array of shape {np.shape(out)}; "
                        f"it must be that of the logits, {np.shape(logits)}"
                    )
        except BaseException as error:  # noqa: BLE001  raised by CheckedSampler
            self.error = error
            return logits
        return out


class CheckedSampler:
    """A chain with `processors` in it.

    Raises, as it samples, what they raised.
    """

    def __init__(self, chain: internals.LlamaSampler, processors: Processors) -> None:
        self._chain = chain
        self._processors = processors

    def sample(self, ctx: internals.LlamaContext, idx: int = -1) -> int:
        token = self._chain.sample(ctx, idx)
        error, self._processors.error = self._processors.error, None
        if error is not None:
            raise error
        return token

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chain, name)
