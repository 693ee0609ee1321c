"""A five-digit key, hidden in a long text, and asked for at its end: Table 1 of the Quest paper, arXiv 2406.10774."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .._errors import ConfigError
from ..methods import Method
from ._chat import chat_text
from ._decoder import Logits
from ._session import Context, Session

FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "

_TASK = (
    "There is an important piece of information hidden in a lot of irrelevant text. Find it and memorize it. You will "
    "be asked about it.\n\n"
)

N_ANSWER = 16  # tokens
MARGIN = 64  # tokens of filler, at least; a shorter context is refused


@dataclass(frozen=True)
class Wording:
    """What is hidden, and how it is asked for. Small models need it simple.

    Args:
        hide: With `{key}` in place of the key, once or more.
        ask: The question at the end; it may be empty.
        begin: The answer's first words, which the model goes on from.

    Raises:
        ConfigError: `hide` has no `{key}`, or `begin` is empty.
    """

    hide: str = "The pass key is {key}. Remember it. {key} is the pass key."
    ask: str = "What is the pass key?"
    begin: str = "The pass key is"

    def __post_init__(self) -> None:
        if "{key}" not in self.hide:
            raise ConfigError(f"hide = {self.hide!r}: {{key}} must stand where the key goes, as in {Wording.hide!r}")
        if not self.begin.strip():
            raise ConfigError(f"begin = {self.begin!r}: the answer's first words, as in {Wording.begin!r}")


class Prompt(NamedTuple):
    """A prompt's tokens, and how many of the last are the question."""

    tokens: list[int]
    n_question: int
    key: str


@dataclass(frozen=True)
class Passkey:
    """One answer."""

    method: str
    budget: int | None
    context: int
    depth: float
    key: str
    answer: str
    tokens: int

    @property
    def found(self) -> bool:
        return self.key in self.answer


def _cut(text: str, at: int) -> int:
    """The end of a sentence, or of a word, before `at`."""
    for mark in (". ", ".\n", " "):
        place = text.rfind(mark, max(0, at - 400), at)
        if place >= 0:
            return place + len(mark)
    return at


def _frame(
    session: Session, filling: str, depth: float, key: str, wording: Wording, chat: bool
) -> tuple[list[int], int]:
    """The tokens of a prompt around `filling`, and how many are the question's."""
    llama = session.llama
    cut = _cut(filling, int(len(filling) * depth))
    hidden = wording.hide.replace("{key}", key).strip() + " "
    question = f"\n\n{wording.ask.strip()}"
    begin = wording.begin.strip()
    body = _TASK + filling[:cut] + hidden + filling[cut:].rstrip() + question
    framed = chat_text(session, body) if chat else None
    gap = " " if framed is None and wording.ask.strip() else ""
    text = (body if framed is None else framed) + gap + begin

    def tokens_of(part: str) -> list[int]:
        return llama.tokenize(part.encode(), add_bos=framed is None, special=framed is not None)

    tokens, before = tokens_of(text), tokens_of(text[: max(0, text.rfind(question))])
    same = 0
    while same < min(len(tokens), len(before)) and tokens[same] == before[same]:
        same += 1
    return tokens, len(tokens) - same


def make_prompt(
    session: Session,
    *,
    n_tokens: int,
    depth: float,
    filler: str = FILLER,
    wording: Wording = Wording(),
    seed: int = 0,
    chat: bool = True,
) -> Prompt:
    """A prompt of at most `n_tokens` tokens, and few less, with a key at `depth` (0 to 1) of its filler.

    Args:
        filler: Repeated where it is too short.
        seed: Of the key, with the length and the depth.
        chat: Use the model's chat template where it has one.

    Raises:
        ConfigError: No room for filler, or the template fails.
    """
    key = str(random.Random(f"{seed}/{n_tokens}/{depth}").randrange(10_000, 100_000))
    overhead = len(_frame(session, "", depth, key, wording, chat)[0])
    n = n_tokens - overhead
    if n < MARGIN:
        raise ConfigError(
            f"a context of {n_tokens} tokens has no room for filler beside the question, which takes {overhead}; "
            f"give at least {overhead + MARGIN}"
        )
    text = filler
    while len(material := session.llama.tokenize(text.encode(), add_bos=False)) < n_tokens:
        text += filler * (1 + len(text) // len(filler))
    for _ in range(8):
        filling = session.llama.detokenize(material[:n]).decode("utf-8", "ignore")
        tokens, n_question = _frame(session, filling, depth, key, wording, chat)
        over = len(tokens) - n_tokens
        if -16 <= over <= 0:
            break
        n = min(len(material), n - over - (4 if over > 0 else 0))
    else:
        tokens, n_question = _frame(
            session, session.llama.detokenize(material[: n_tokens - overhead - MARGIN // 2]).decode("utf-8", "ignore"),
            depth, key, wording, chat,
        )  # fmt: skip
    return Prompt(tokens, n_question, key)


def _answer(session: Session, context: Context, logits: Logits) -> tuple[str, int]:
    """Decodes greedily. Returns the text, and how many tokens."""
    out: list[int] = []
    while len(out) < N_ANSWER:
        token = int(np.argmax(logits))
        if session.llama._is_end(token):
            break
        out.append(token)
        if len(out) < N_ANSWER:
            logits = context.eval([token])
    return session.llama.detokenize(out).decode("utf-8", "replace"), len(out)


def passkeys(
    session: Session,
    cases: Sequence[tuple[str, Method | None]],
    *,
    contexts: Iterable[int],
    depths: Sequence[float],
    filler: str = FILLER,
    wording: Wording = Wording(),
    seed: int = 0,
    chat: bool = True,
    decode_question: bool = False,
    done: Callable[[str, int, float], bool] = lambda label, n_tokens, depth: False,
) -> Iterator[Passkey]:
    """Asks every case at every context length and depth.

    The prompt is processed once per length and depth, with full attention. The methods that can go on from there do
    (`Select.from_full`); the others process it themselves.

    Args:
        cases: (label, method) each; None for full attention.
        decode_question: The question is fed token by token, under the method, as Quest's program does. Otherwise it
            belongs to the prompt, whose last token then finds the answer's first with full attention.
        done: Asked for (label, context, depth) beforehand; True leaves it out.
    """
    for n_tokens in contexts:
        for depth in depths:
            left = [(label, method) for label, method in cases if not done(label, n_tokens, depth)]
            if not left:
                continue
            prompt = make_prompt(
                session, n_tokens=n_tokens, depth=depth, filler=filler, wording=wording, seed=seed, chat=chat
            )
            split = len(prompt.tokens) - (prompt.n_question if decode_question else 0)
            n_ctx = len(prompt.tokens) + N_ANSWER
            shared: Any = None
            first: Logits | None = None
            for label, method in sorted(left, key=lambda case: case[1] is not None):
                with session.context(method, n_ctx=n_ctx) as context:
                    share = context.takes_full and len(left) > 1
                    if shared is None and share and method is not None:
                        with session.context(None, n_ctx=n_ctx) as full:
                            first = full.eval(prompt.tokens[:split])
                            shared = full.save()
                    if shared is not None and first is not None and share and context.load(shared):
                        logits = first
                    else:
                        logits = context.eval(prompt.tokens[:split])
                        if method is None and share:
                            first, shared = logits, context.save()
                    for token in prompt.tokens[split:]:
                        logits = context.eval([token])
                    text, n = _answer(session, context, logits)
                yield Passkey(label, method.budget if method else None, n_tokens, depth, prompt.key, text, n)
