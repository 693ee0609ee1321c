"""Prompts by the chat template that the GGUF file carries."""

from __future__ import annotations

from .._errors import ConfigError
from .._template import has_template, render
from ._session import Session


def chat_text(session: Session, text: str, *, system: str | None = None) -> str | None:
    """`text` as a user's message, up to where the model answers. None: the model has no chat template.

    Args:
        system: The system's message before it; None: as the template has it, which may be none.

    Raises:
        ConfigError: The template fails, as some do where there is a system's message.
    """
    if not has_template(session.llama):
        return None
    messages = [] if system is None else [{"role": "system", "content": system}]
    try:
        return render(session.llama, [*messages, {"role": "user", "content": text}]).prompt
    except ConfigError as error:
        raise ConfigError(f"{error}; leave it out (--plain)") from None
