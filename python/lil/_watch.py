"""The native Guardian of one request."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any, TypedDict

from ._errors import ConfigError, NativeError
from ._guardian import ACTIONS, Guardian
from ._native import GuardianParams, GuardianReport, last_error, lib
from .llama_cpp import _internals as internals
from .llama_cpp import llama_cpp as bindings


class Report(TypedDict):
    """The `guardian` object of a result.

    Sizes are compressed bytes. `tokens_at_alarm` is None without an alarm, `last_growth` before the first check.
    `curve` holds the size at the start of generation and at every check.
    """

    action: str
    alarmed: bool
    stopped: bool
    think_closed: bool
    tokens: int
    tokens_at_alarm: int | None
    checks: int
    bytes: int
    size: float
    last_growth: float | None
    curve: list[float]


class Watch:
    """Owns a native sampler. Only `pick` may change what is generated."""

    def __init__(self, vocab: Any, config: Guardian) -> None:
        self._action = config.action
        self._sampler = lib.lil_sampler_init_guardian(
            vocab,
            GuardianParams(
                every=config.every,
                threshold=config.threshold,
                patience=config.patience,
                action=ACTIONS.index(config.action),
                think_end=None if config.think_end is None else config.think_end.encode(),
            ),
        )
        if not self._sampler:
            raise ConfigError(f"{config}: {last_error()}")
        self._token = bindings.llama_token_data()
        self._array = bindings.llama_token_data_array()

    def feed(self, tokens: Sequence[int]) -> None:
        """The text before generation."""
        array = (bindings.llama_token * len(tokens))(*tokens)
        if not lib.lil_guardian_feed_prompt(self._sampler, array, len(tokens)):
            raise NativeError(f"Guardian could not take {len(tokens)} prompt tokens: {last_error()}")

    def pick(self, token: int) -> int:
        """The token to generate: the one that was sampled, unless Guardian puts its own in its place."""
        self._token.id = token  # type: ignore[assignment]
        self._array.data = ctypes.pointer(self._token)  # type: ignore[assignment]
        self._array.size = 1
        self._array.selected = 0
        self._array.sorted = False
        bindings.llama_sampler_apply(self._sampler, ctypes.byref(self._array))
        token = int(self._array.data[max(self._array.selected, 0)].id)
        bindings.llama_sampler_accept(self._sampler, token)
        return token

    def report(self) -> Report:
        native = GuardianReport()
        lib.lil_guardian_get_report(self._sampler, ctypes.byref(native))
        n = lib.lil_guardian_get_curve(self._sampler, None, 0)
        curve = (ctypes.c_double * n)()
        lib.lil_guardian_get_curve(self._sampler, curve, n)
        return {
            "action": self._action,
            "alarmed": native.alarmed,
            "stopped": native.stopped,
            "think_closed": native.think_closed,
            "tokens": native.n_tokens,
            "tokens_at_alarm": native.n_tokens_alarm if native.alarmed else None,
            "checks": native.n_checks,
            "bytes": native.n_bytes,
            "size": native.size,
            "last_growth": None if math.isnan(native.last_growth) else native.last_growth,
            "curve": list(curve),
        }

    @property
    def stopped(self) -> bool:
        native = GuardianReport()
        return lib.lil_guardian_get_report(self._sampler, ctypes.byref(native)) and native.stopped

    def close(self) -> None:
        sampler, self._sampler = getattr(self, "_sampler", None), None
        if sampler and bindings is not None:
            bindings.llama_sampler_free(sampler)

    __del__ = close


class WatchedSampler:
    """A chain with a `Watch` after it.

    The watch stands beside the chain, not in it: the chain then accepts the token that it picked itself, and a grammar
    in it is never given one that it does not allow.
    """

    def __init__(self, chain: internals.LlamaSampler, watch: Watch) -> None:
        self._chain = chain
        self._watch = watch

    def sample(self, ctx: internals.LlamaContext, idx: int = -1) -> int:
        return self._watch.pick(self._chain.sample(ctx, idx))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chain, name)
