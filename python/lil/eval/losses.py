"""Teacher-forced losses: how well a text is predicted while it is fed token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .._errors import ConfigError

Losses = npt.NDArray[np.float64]
Step = Callable[[Sequence[int]], npt.NDArray[np.float32]]  # appends tokens, returns the logits after the last


def token_loss(logits: npt.NDArray[np.float32], token: int) -> float:
    """-log of the token's probability, in nats."""
    x = logits.astype(np.float64)
    top = x.max()
    return float(top + np.log(np.exp(x - top).sum()) - x[token])


def token_losses(
    step: Step, tokens: Sequence[int], *, n_prompt: int, tick: Callable[[], None] = lambda: None
) -> Losses:
    """The losses of `tokens[n_prompt:]`, [len(tokens) - n_prompt].

    The prompt is processed at once, with full attention, which predicts the first of them; every later one is
    predicted by a decode step.

    Args:
        step: `Context.eval`, or anything that works alike.
        tick: Called after each token.
    """
    if not 0 < n_prompt < len(tokens):
        raise ConfigError(f"n_prompt={n_prompt} must be at least 1 and less than the {len(tokens)} tokens of the text")
    losses = np.empty(len(tokens) - n_prompt)
    logits = step(tokens[:n_prompt])
    for i, token in enumerate(tokens[n_prompt:]):
        if i:
            logits = step(tokens[n_prompt + i - 1 : n_prompt + i])
        losses[i] = token_loss(logits, token)
        tick()
    return losses


def perplexity(losses: Losses) -> float:
    return float(np.exp(np.mean(losses)))


def recall_text(tokens: Sequence[int], *, n_prompt: int, n_tokens: int, n_bos: int = 0) -> list[int]:
    """The first `n_prompt` tokens, and then the first `n_tokens` once more, without the `n_bos` that open the text.

    Who has the prompt at hand predicts them almost surely: the loss on them tells what a method cannot find again.
    """
    again = list(tokens[n_bos:n_prompt])[:n_tokens]
    return [*tokens[:n_prompt], *again]


class Texts(NamedTuple):
    """What a method is measured on: a text that goes on, and one that is repeated. Both begin with the same prompt."""

    plain: list[int]
    recall: list[int]
    n_prompt: int

    @property
    def n_steps(self) -> int:
        """Tokens that are predicted, of both."""
        return len(self.plain) + len(self.recall) - 2 * self.n_prompt


def make_texts(tokens: Sequence[int], *, n_prompt: int, n_tokens: int, n_bos: int = 0) -> Texts:
    """
    Raises:
        ConfigError: The text is too short.
    """
    check_length(tokens, n_prompt=n_prompt, n_tokens=n_tokens)
    return Texts(
        plain=list(tokens[: n_prompt + n_tokens]),
        recall=recall_text(tokens, n_prompt=n_prompt, n_tokens=n_tokens, n_bos=n_bos),
        n_prompt=n_prompt,
    )


def check_length(tokens: Sequence[int], *, n_prompt: int, n_tokens: int) -> None:
    if len(tokens) < n_prompt + n_tokens:
        raise ConfigError(
            f"the text has {len(tokens)} tokens, fewer than {n_prompt} of the prompt and {n_tokens} after it; "
            "give a longer text or smaller numbers"
        )
