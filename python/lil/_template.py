"""The chat template that a GGUF file carries: a function from messages to a prompt, and how thinking is marked."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ._errors import ConfigError
from ._native import lib
from .llama_cpp.llama_chat_format import ChatFormatterResponse, Jinja2ChatFormatter

if TYPE_CHECKING:
    from ._llama import Llama
    from .llama_cpp._internals import LlamaModel


def thinking_tags(model: LlamaModel) -> tuple[str, str]:
    """The texts that begin and end thinking: those of the template or the vocabulary, or else the usual ones, which a
    prompt may have asked for."""
    begin, end = ctypes.c_char_p(), ctypes.c_char_p()
    if lib.lil_find_thinking(model.model, ctypes.byref(begin), ctypes.byref(end)):
        return (begin.value or b"").decode(), (end.value or b"").decode()
    return "<think>", "</think>"


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
