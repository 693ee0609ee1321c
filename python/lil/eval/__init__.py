"""Measuring: losses, calibration, passkeys. What the command line prints, as functions.

with Session("model.gguf") as session:
    tokens = session.tokenize(text)
    with session.context(Quest(budget=128), n_ctx=1024) as context:
        losses = token_losses(context.eval, tokens[:912], n_prompt=512)
    print(perplexity(losses))
"""

from ._session import Context, Session
from .calibrate import Calibration, Candidate, calibrate
from .losses import Texts, make_texts, perplexity, recall_text, token_loss, token_losses
from .passkey import FILLER, Passkey, Prompt, make_prompt, passkeys
from .timing import Timing, break_even, step_times

__all__ = [
    "FILLER",
    "Calibration",
    "Candidate",
    "Context",
    "Passkey",
    "Prompt",
    "Session",
    "Texts",
    "Timing",
    "break_even",
    "calibrate",
    "make_prompt",
    "make_texts",
    "passkeys",
    "perplexity",
    "recall_text",
    "step_times",
    "token_loss",
    "token_losses",
]
