"""Prompts by the chat template that the GGUF file carries."""

from __future__ import annotations

from typing import Any

from .._errors import ConfigError
from ..llama_cpp.llama_chat_format import Jinja2ChatFormatter
from ._session import Session


def chat_text(session: Session, text: str, *, system: str | None = None) -> str | None:
    """`text` as a user's message, up to where the model answers. None: the model has no chat template.

    Args:
        system: The system's message before it; None: as the template has it, which may be none.

    Raises:
        ConfigError: The template fails, as some do where there is a system's message.
    """
    llama = session.llama
    template = llama.metadata.get("tokenizer.chat_template")
    if template is None:
        return None

    def text_of(token: int) -> str:
        return llama._model.token_get_text(token) if token != -1 else ""

    formatter = Jinja2ChatFormatter(
        template=template, eos_token=text_of(llama.token_eos()), bos_token=text_of(llama.token_bos())
    )
    messages: list[Any] = [] if system is None else [{"role": "system", "content": system}]
    try:
        return formatter(messages=[*messages, {"role": "user", "content": text}]).prompt
    except Exception as error:  # noqa: BLE001  a template is a program of the model's author
        raise ConfigError(f"the model's chat template failed: {error}; leave it out (--plain)") from None
