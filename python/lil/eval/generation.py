"""Several prompts answered at once, in one context: a sequence each, and the next prompt as soon as one is done."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._check import check_int
from .._errors import ConfigError
from ..llama_cpp import _internals as internals
from ..methods import Method
from ._decoder import Decoder
from ._session import Session

MAX_PARALLEL = 256  # llama.cpp's LLAMA_MAX_SEQ


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen. The order is llama.cpp's: top-k, top-p, min-p, temperature.

    Args:
        temperature: 0 takes the likeliest token, and the others say nothing then.
        top_p: The likeliest tokens of this much probability; 1 is all.
        top_k: The likeliest of this number; 0 is all.
        min_p: Tokens of at least this share of the likeliest one's probability; 0 is all.
        seed: Every prompt has a seed of its own, made of this and the prompt's name.

    Raises:
        ConfigError: Out of range, or without effect.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature={self.temperature} must be 0 or more")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p={self.top_p} must be above 0, and at most 1")
        if self.top_k < 0:
            raise ConfigError(f"top_k={self.top_k} must be 0 or more")
        if not 0 <= self.min_p < 1:
            raise ConfigError(f"min_p={self.min_p} must be 0 or more, and below 1")
        if self.temperature == 0:
            for name, neutral in (("top_p", 1.0), ("top_k", 0), ("min_p", 0.0)):
                if getattr(self, name) != neutral:
                    raise ConfigError(
                        f"{name}={getattr(self, name)} has no effect at temperature 0; give a temperature, or leave "
                        f"it out"
                    )

    def sampler(self, name: str) -> internals.LlamaSampler | None:
        """The sampler of a prompt; None where greedy."""
        if self.temperature == 0:
            return None
        chain = internals.LlamaSampler()
        if self.top_k:
            chain.add_top_k(self.top_k)
        if self.top_p < 1:
            chain.add_top_p(self.top_p)
        if self.min_p:
            chain.add_min_p(self.min_p)
        chain.add_temp(self.temperature)
        chain.add_dist(zlib.crc32(f"{self.seed}/{name}".encode()))
        return chain


GREEDY = Sampling()


@dataclass(frozen=True)
class Generation:
    """What a model wrote after one prompt.

    Attributes:
        name: The prompt's.
        tokens: [n]; without the token that ended it.
        stop: "end" where the model ended it, "length" at `max_tokens`.
        seconds: From the first token to the last, beside the other sequences.
    """

    name: str
    tokens: list[int]
    stop: str
    seconds: float


class Sequences(Decoder):
    """A context of several sequences under one method."""

    def prompt(self, seq: int, tokens: Sequence[int]) -> None:
        """Empties a sequence and gives it a prompt, whose last token's logits are at row -1."""
        self.clear(seq)
        self._prompt(seq, tokens)

    def step(self, tokens: Sequence[int]) -> None:
        """Appends one token to each of the sequences 0, 1, ...; the logits of sequence i are at row i."""
        self._decode(list(enumerate(tokens)), range(len(tokens)))

    def choose(self, row: int, sampler: internals.LlamaSampler | None) -> int:
        """The next token by a row of logits."""
        if sampler is None:
            return int(np.argmax(self._logits(row)))
        return sampler.sample(self._native, row)

    def clear(self, seq: int) -> None:
        self._native.kv_cache_seq_rm(seq, -1, -1)
        self._sequences[seq] = []

    def move(self, source: int, target: int) -> None:
        """Makes `target` what `source` is, and empties `source`.

        llama.cpp decodes sequences together whose numbers are neighbours.
        """
        self.clear(target)
        self._native.kv_cache_seq_cp(source, target, -1, -1)
        self._sequences[target] = self._sequences[source]
        self.clear(source)


class _Running:
    """An answer in progress."""

    def __init__(self, name: str, sampler: internals.LlamaSampler | None) -> None:
        self.name = name
        self.sampler = sampler
        self.tokens: list[int] = []
        self.begin = self.end = time.perf_counter()

    def take(self, token: int, *, is_end: bool, max_tokens: int) -> Generation | None:
        """Adds a token. Returns the answer where it is over."""
        if not is_end:
            self.tokens.append(token)
            self.end = time.perf_counter()
            if len(self.tokens) == 1:
                self.begin = self.end
            if len(self.tokens) < max_tokens:
                return None
        return Generation(self.name, self.tokens, "end" if is_end else "length", self.end - self.begin)


def generate(
    session: Session,
    method: Method | None,
    prompts: Iterable[tuple[str, Sequence[int]]],
    *,
    n_ctx: int,
    max_tokens: int = 2048,
    n_parallel: int = 8,
    sampling: Sampling = GREEDY,
    tick: Callable[[int], Any] = lambda n: None,
) -> Iterator[Generation]:
    """Answers prompts, `n_parallel` at a time, and gives each answer as it is done.

    An answer is the one that the prompt has by itself, within the rounding that matrix products of other sizes have:
    greedily, another token is chosen only where two were almost equally likely.

    Args:
        method: None for full attention.
        prompts: (name, tokens); names seed the samplers.
        n_ctx: Positions of a sequence: at least the longest prompt and `max_tokens`.
        tick: Called after every step, with the tokens that it added.

    Raises:
        ConfigError: A value out of range, or a method that cannot work in such a context.
        ContextError: The native library refused.
        NativeError: It could not decode.
    """
    check_int("generate", "max_tokens", max_tokens, least=1)
    check_int("generate", "n_parallel", n_parallel, least=1)
    if n_parallel > MAX_PARALLEL:
        raise ConfigError(f"n_parallel={n_parallel}: llama.cpp has at most {MAX_PARALLEL} sequences")
    waiting = list(reversed(list(prompts)))
    for name, tokens in waiting:
        if not tokens or len(tokens) + max_tokens > n_ctx:
            raise ConfigError(f"{name}: {len(tokens)} tokens and max_tokens={max_tokens} do not fit n_ctx={n_ctx}")
    running: list[_Running | None] = [None] * min(n_parallel, len(waiting))  # by sequence
    if not waiting:
        return
    with Sequences(session, method, n_seq=len(running), n_ctx=n_ctx) as sequences:

        def take(answer: _Running, row: int) -> Generation | None:
            token = sequences.choose(row, answer.sampler)
            return answer.take(token, is_end=session.llama._is_end(token), max_tokens=max_tokens)

        while True:
            for seq in range(len(running)):
                while waiting and running[seq] is None:
                    name, tokens = waiting.pop()
                    sequences.prompt(seq, tokens)
                    fresh = _Running(name, sampling.sampler(name))
                    done = take(fresh, -1)
                    tick(len(fresh.tokens))
                    if done is None:
                        running[seq] = fresh
                    else:
                        yield done
            active = _close_gaps(sequences, running)
            if not active:
                return
            sequences.step([answer.tokens[-1] for answer in active])
            results = [take(answer, row) for row, answer in enumerate(active)]
            tick(len(active))
            for seq, done in enumerate(results):
                if done is not None:
                    running[seq] = None
                    yield done


def _close_gaps(sequences: Sequences, running: list[_Running | None]) -> list[_Running]:
    """Moves answers to the first sequences, which are then those in progress. Returns them."""
    for seq in range(len(running)):
        last = max((i for i, answer in enumerate(running) if answer is not None), default=-1)
        if running[seq] is None and last > seq:
            sequences.move(last, seq)
            running[seq], running[last] = running[last], None
    return [answer for answer in running if answer is not None]
