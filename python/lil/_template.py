"""The chat template that a GGUF file carries, as a function from messages to a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ._errors import ConfigError
from .llama_cpp.llama_chat_format import ChatFormatterResponse, Jinja2ChatFormatter

if TYPE_CHECKING:
    from ._llama import Llama


def has_template(llama: Llama) -> bool:
    return "tokenizer.chat_template" in llama.metadata


def render(llama: Llama, messages: Sequence[dict[str, str]]) -> ChatFormatterResponse:
    """The prompt up to where the model answers, for a model that `has_template`.

    Raises:
        ConfigError: The template fails, as some do where there is a system's message, or two of a user in a row.
    """

    def text_of(token: int) -> str:
        return llama._model.token_get_text(token) if token != -1 else ""

    every: Any = list(messages)
    try:
        return Jinja2ChatFormatter(
            template=llama.metadata["tokenizer.chat_template"],
            eos_token=text_of(llama.token_eos()),
            bos_token=text_of(llama.token_bos()),
        )(messages=every)
    except Exception as error:  # noqa: BLE001  a template is a program of the model's author
        raise ConfigError(f"the model's chat template failed: {error}") from None
