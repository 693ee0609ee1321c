"""A task's problems asked of a model, under several methods, and the answers judged."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .._errors import ConfigError
from ..llama_cpp import llama_cpp as bindings
from ..methods import Method
from ._chat import chat_text
from ._session import Session
from .generation import GREEDY, Sampling, generate
from .intervals import wilson
from .judging import judge
from .records import Answer, case_label, to_text
from .tasks import Problem

SUFFIX = "\n\nThink step by step, and put your final answer within \\boxed{}."


@dataclass(frozen=True)
class Asked:
    """A problem as the model reads it.

    Attributes:
        text: The prompt, chat template included, as the tokens spell it.
        tokens: [n_prompt]
    """

    problem: Problem
    text: str
    tokens: list[int]


class Pieces:
    """The bytes of single tokens, special ones as they are written. Guardian reads a text in the same way."""

    def __init__(self, session: Session) -> None:
        self._vocab = session.llama._model.vocab
        self._known: dict[int, bytes] = {}

    def __call__(self, token: int) -> bytes:
        if token not in self._known:
            size = 64
            while True:
                buffer = ctypes.create_string_buffer(size)
                n = bindings.llama_token_to_piece(self._vocab, token, buffer, size, 0, True)
                if n >= 0:
                    break
                size = -n
            self._known[token] = buffer.raw[:n]
        return self._known[token]

    def join(self, tokens: Iterable[int]) -> tuple[bytes, list[int]]:
        """The bytes of a text, and where each token's end in them."""
        text = bytearray()
        ends = []
        for token in tokens:
            text += self(token)
            ends.append(len(text))
        return bytes(text), ends


def ask(
    session: Session,
    problems: Iterable[Problem],
    *,
    system: str | None = None,
    suffix: str = SUFFIX,
    plain: bool = False,
) -> list[Asked]:
    """The prompts of problems.

    Args:
        system: A system's message, with the chat template; None: none, or the template's own.
        suffix: Appended to every question.
        plain: Without the chat template, as for a model that has none: the question, its suffix and a new line.

    Raises:
        ConfigError: The template fails, or there is none and `system` is given.
    """
    pieces = Pieces(session)
    result = []
    for problem in problems:
        question = problem.question + suffix
        framed = None if plain else chat_text(session, question, system=system)
        if framed is None and system is not None:
            raise ConfigError("a system prompt needs a chat template, which the model has not or --plain leaves out")
        text = f"{question}\n" if framed is None else framed
        tokens = session.llama.tokenize(text.encode(), add_bos=framed is None, special=framed is not None)
        result.append(Asked(problem, to_text(pieces.join(tokens)[0]), tokens))
    return result


def evaluate(
    session: Session,
    cases: Sequence[tuple[str, Method | None]],
    asked: Sequence[Asked],
    *,
    max_tokens: int = 2048,
    n_parallel: int = 8,
    sampling: Sampling = GREEDY,
    done: Callable[[str, str], bool] = lambda id, case: False,
    tick: Callable[[str, int], Any] = lambda case, n_tokens: None,
) -> Iterator[Answer]:
    """Answers every problem under every case, and gives each answer as it is finished.

    A case's problems are answered `n_parallel` at a time, see `generate`; the cases come one after the other.

    Args:
        cases: (label, method) each; None for full attention, whose label is "full".
        asked: What `ask` gave.
        max_tokens: Of an answer.
        done: Asked for (problem's id, case's name, as `case_label`) beforehand; True leaves it out.
        tick: Called after every step with the case's name and the tokens that it added.

    Raises:
        ConfigError: A value out of range, or a method that cannot work with such lengths.
        ContextError: The native library refused.
        NativeError: It could not decode.
    """
    if not asked:
        return
    by_id = {one.problem.id: one for one in asked}
    # of all, so that an interrupted run goes on under the same conditions
    n_ctx = max(len(one.tokens) for one in asked) + max_tokens
    pieces = Pieces(session)
    for label, method in cases:
        budget = None if method is None else method.budget
        case = case_label(label, budget)
        left = [(one.problem.id, one.tokens) for one in asked if not done(one.problem.id, case)]
        for made in generate(
            session,
            method,
            left,
            n_ctx=n_ctx,
            max_tokens=max_tokens,
            n_parallel=n_parallel,
            sampling=sampling,
            tick=lambda n, case=case: tick(case, n),  # type: ignore[misc]
        ):
            one = by_id[made.name]
            data, ends = pieces.join(made.tokens)
            verdict = judge(data.decode("utf-8", "replace"), one.problem.answer)
            yield Answer(
                id=one.problem.id,
                method=label,
                budget=budget,
                prompt=one.text,
                n_prompt=len(one.tokens),
                tokens=made.tokens,
                ends=ends,
                text=to_text(data),
                stop=made.stop,
                gold=one.problem.answer,
                predicted=verdict.predicted,
                correct=verdict.correct,
                seconds=made.seconds,
            )


@dataclass(frozen=True)
class Summary:
    """A case's answers.

    Attributes:
        accuracy: Share of right answers.
        interval: Its 95 % Wilson interval.
        tokens: Mean of an answer's.
        at_length: Share of answers that `max_tokens` ended.
    """

    n: int
    accuracy: float
    interval: tuple[float, float]
    tokens: float
    at_length: float


def summarize(answers: Sequence[Answer]) -> Summary | None:
    """None: there are none."""
    n = len(answers)
    if not n:
        return None
    right = sum(answer.correct for answer in answers)
    return Summary(
        n=n,
        accuracy=right / n,
        interval=wilson(right, n),
        tokens=sum(answer.n_tokens for answer in answers) / n,
        at_length=sum(answer.stop == "length" for answer in answers) / n,
    )


def machine(session: Session) -> dict[str, Any]:
    """As `Run.machine` has it."""
    return {"system": platform.platform(), "cores": os.cpu_count(), "threads": session.llama.n_threads}
