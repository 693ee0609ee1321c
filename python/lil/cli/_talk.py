"""Answers as they come, for `lil run` and `lil chat`: a model that can be interrupted, thinking told from text."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .._context import fingerprint
from .._errors import ConfigError
from .._guardian import Guardian
from .._llama import Llama
from .._template import has_template, render, thinking_tags
from ..llama_cpp import llama_cpp as native
from ..methods import Method


class Thinking:
    """Tells a model's thinking, a block between tags at the beginning of an answer, from its text.

    Args:
        begin, end: The tags. What `end` has after `assistant` (gpt-oss: the final channel) may open an answer, too.
        begun: The prompt ended with the opening tag.
    """

    def __init__(self, begin: str = "<think>", end: str = "</think>", *, begun: bool = False) -> None:
        self._begin, self._end = begin, end
        self._opening = end.rpartition("assistant")[2]
        self._held = ""
        self._state = "inside" if begun else "before"

    def feed(self, piece: str, *, last: bool = False) -> list[tuple[bool, str]]:
        """What is known now: whether it is thinking, and the text. A piece that may be the start of a tag waits."""
        self._held += piece
        out = []
        if self._state == "before":
            text = self._held.lstrip()
            if text.startswith(self._begin):
                self._state, self._held = "inside", text[len(self._begin) :]
            elif text.startswith(self._opening):
                self._state, self._held = "gap", text[len(self._opening) :]
            elif last or not (self._begin.startswith(text) or self._opening.startswith(text)):
                self._state = "after"
        if self._state == "inside":
            thought, tag, rest = self._held.partition(self._end)
            keep = 0 if tag or last else _may_begin(self._end, thought)
            out.append((True, thought[: len(thought) - keep]))
            self._held = thought[len(thought) - keep :]
            if tag:
                self._state, self._held = "gap", rest
        if self._state == "gap":  # the empty lines behind it
            self._held = self._held.lstrip()
            if self._held:
                self._state = "after"
        if self._state == "after":
            out.append((False, self._held))
            self._held = ""
        return [(thinks, text) for thinks, text in out if text]


def _may_begin(tag: str, text: str) -> int:
    """How many of the last characters of `text` are the beginning of `tag`."""
    return next((n for n in range(min(len(tag) - 1, len(text)), 0, -1) if text.endswith(tag[:n])), 0)


@dataclass
class Answer:
    """What a model said, and what it took. `seconds_prompt` are those to the first token, `seconds` those after it."""

    text: str = ""
    thinking: str = ""
    n_prompt: int = 0
    n_tokens: int = 0
    seconds_prompt: float = 0.0
    seconds: float = 0.0
    finish_reason: str | None = None
    stop_reason: str | None = None
    guardian: dict[str, Any] | None = None
    interrupted: bool = False

    @property
    def rate(self) -> float | None:
        """Tokens a second, without the prompt. None: there were not enough to tell."""
        return (self.n_tokens - 1) / self.seconds if self.n_tokens > 1 and self.seconds else None

    @property
    def guardian_did(self) -> list[str]:
        """What Guardian did before the end, and what its stop cut off, in words."""
        if self.guardian is None:
            return []
        did = [f"{_DID[e['did']]} after {e['tokens']} tokens" for e in self.guardian["events"] if e["did"] in _DID]
        cut = self.guardian["incomplete"]
        return [*did, *([f"cut off {_CUT[cut]}, which is not whole"] if cut else [])]


# events of Guardian's report: alarms lead to others, a stop has words of its own, and a stream takes nothing back
_DID = {
    "close_think": "closed the thinking",
    "widen": "widened the budget",
    "narrow": "took the wider budget back",
}
_CUT = {"json": "JSON", "tool_call": "a tool call"}


class _Interruptible(Llama):
    """Ends a generation between two of its steps, counts what it generates, and writes the tags of thinking out, also
    where they are control tokens, which have no text elsewhere.
    """

    interrupted = False
    n_generated = 0
    first_at = 0.0
    tags: frozenset[int] = frozenset()

    def detokenize(self, tokens: list[int], prev_tokens: list[int] | None = None, special: bool = False) -> bytes:
        return super().detokenize(tokens, prev_tokens, special or not self.tags.isdisjoint(tokens))

    def _before_decode(self) -> None:
        super()._before_decode()
        if self.interrupted:
            raise KeyboardInterrupt

    def generate(self, *args: Any, **kwargs: Any) -> Generator[int, Sequence[int] | None, None]:
        stream = super().generate(*args, **kwargs)
        try:
            for token in stream:
                if not self._is_end(token):
                    self.n_generated += 1
                    self.first_at = self.first_at or time.perf_counter()
                yield token
        finally:
            stream.close()


class Talk:
    """A model and how it is to answer.

    Args:
        options: Keywords of `Llama`.
        sampling: Keywords of `create_completion`.

    Raises:
        ConfigError: The method cannot work in such a context.
        ModelError: The file is missing, or cannot be loaded.
        ContextError: The native library refused.
    """

    def __init__(
        self,
        path: str,
        *,
        sparse: Method | None,
        guardian: Guardian | None,
        options: dict[str, Any],
        sampling: dict[str, Any],
    ) -> None:
        self.path = path
        self.guardian = guardian
        self._options = options
        self._sampling = sampling
        self.llama = self._open(sparse)

    def _open(self, sparse: Method | None) -> _Interruptible:
        none = sparse or False  # None would be what the environment says, which --sparse has been given already
        llama = _Interruptible(self.path, sparse=none, guardian=False, verbose=False, **self._options)
        self.tags = thinking_tags(llama._model)
        tokens = llama.tokenize("".join(self.tags).encode(), add_bos=False, special=True)
        llama.tags = frozenset(t for t in tokens if native.llama_vocab_is_control(llama._model.vocab, t))
        return llama

    def set_sparse(self, sparse: Method | None) -> None:
        """Another method, in a new context: the next prompt is evaluated from its beginning.

        Raises:
            ConfigError, ContextError: It cannot work here. The method is as it was.
        """
        before = self.llama.sparse
        self.llama.close()
        try:
            self.llama = self._open(sparse)
        except Exception:
            self.llama = self._open(before)
            raise

    @property
    def fingerprint(self) -> str:
        """The name under which calibrations know the model."""
        return fingerprint(self.llama._model)

    @property
    def has_template(self) -> bool:
        return has_template(self.llama)

    def chat_prompt(self, messages: Sequence[dict[str, str]]) -> tuple[list[int], list[str], bool]:
        """The prompt by the model's chat template, what ends an answer, and whether the prompt has begun to think."""
        found = render(self.llama, messages)
        stops = [found.stop] if isinstance(found.stop, str) else list(found.stop or [])
        tokens = self.llama.tokenize(found.prompt.encode(), add_bos=not found.added_special, special=True)
        return tokens, stops, found.prompt.rstrip().endswith(self.tags[0])

    def answer(
        self, tokens: list[int], stops: Sequence[str] = (), *, thinks: bool = False, into: Answer
    ) -> Iterator[tuple[bool, str]]:
        """Answers a prompt, piece by piece: whether it is thinking, and the text. Ctrl-C ends it in good order, which
        `into.interrupted` says.

        Raises:
            ConfigError: The prompt does not fit.
        """
        llama = self.llama
        n_ctx = llama._n_ctx
        if len(tokens) >= n_ctx:
            raise ConfigError(
                f"a prompt of {len(tokens)} tokens leaves no room in a context of {n_ctx}; give a larger -c"
            )
        into.n_prompt = len(tokens)
        llama.n_generated, llama.first_at, llama.interrupted = 0, 0.0, False
        splitter = Thinking(*self.tags, begun=thinks)
        begin = time.perf_counter()
        with _interrupts(llama):
            chunks = llama.create_completion(
                tokens, stop=list(stops), stream=True, guardian=self.guardian or False, **self._sampling
            )
            try:
                for chunk in chunks:
                    choice = chunk["choices"][0]
                    last = choice["finish_reason"] is not None
                    for thinking, text in splitter.feed(choice["text"], last=last):
                        if thinking:
                            into.thinking += text
                        else:
                            into.text += text
                        yield thinking, text
                    if last:
                        into.finish_reason = choice["finish_reason"]
                        into.stop_reason = choice.get("stop_reason")
                        into.guardian = choice.get("guardian")
            except KeyboardInterrupt:
                into.interrupted = True
            finally:
                chunks.close()
                end = time.perf_counter()
                into.n_tokens = llama.n_generated
                into.seconds_prompt = (llama.first_at or end) - begin
                into.seconds = end - llama.first_at if llama.first_at else 0.0

    def close(self) -> None:
        self.llama.close()


@contextmanager
def _interrupts(llama: _Interruptible) -> Iterator[None]:
    """Ctrl-C ends the generation before its next step."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(*_: object) -> None:
        llama.interrupted = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
