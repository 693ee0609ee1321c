"""The native Guardian of one request."""

from __future__ import annotations

import ctypes
import math
from collections import deque
from collections.abc import Sequence
from typing import Any, TypedDict

from ._errors import ConfigError, NativeError
from ._guardian import ACTIONS, RULES, Action, Alarm, Guardian, check_answer
from ._native import GuardianEvent, GuardianParams, GuardianReport, last_error, lib
from ._template import thinking_tags
from .llama_cpp import _internals as internals
from .llama_cpp import llama_cpp as bindings

# enum lil_guardian_event_kind, enum lil_guardian_cut
EVENTS = ("alarm", "stop", "close_think", "widen", "narrow", "rewind")
CUTS = (None, "json", "tool_call")


class Event(TypedDict):
    """Something that Guardian did: "alarm", "stop", "close_think", "widen", "narrow" (the budget went back), after
    `tokens` generated ones; "rewind", which left `tokens`."""

    did: str
    tokens: int


class Report(TypedDict):
    """The `guardian` object of a result.

    Sizes are compressed bytes. `action` is what alarms lead to, one or a list; `events` what was done.
    `tokens_at_alarm` is the first alarm's, None without one; `last_growth` None before the first check. `incomplete`
    says in what Guardian has cut the text off, "json" or "tool_call", which then cannot be parsed; None: in neither.
    `curve` holds the size at the start of generation and at every check.
    """

    action: str | list[str]
    alarmed: bool
    alarms: int
    stopped: bool
    incomplete: str | None
    think_closed: bool
    tokens: int
    tokens_at_alarm: int | None
    checks: int
    bytes: int
    size: float
    last_growth: float | None
    curve: list[float]
    events: list[Event]


class Watch:
    """Owns a native sampler. Only `pick` may change what is generated, and the context's budget.

    Args:
        actions: What alarms lead to here. None: the configuration's.

    Raises:
        ConfigError: The model or the context cannot do what is configured.
    """

    def __init__(
        self, context: internals.LlamaContext, config: Guardian, *, actions: tuple[Action, ...] | None = None
    ) -> None:
        actions = actions or config.actions
        self._context = context
        self._config = config
        self._actions = actions
        self._alarms = 0
        self._wide = 0
        self._prompt: list[int] = []
        self._tokens: deque[int] = deque(maxlen=None if config.rewind else config.every)
        self._may_rewind = config.rewind
        codes = [ACTIONS.index(action) for action in actions]
        then = (ctypes.c_int * len(codes[1:]))(*codes[1:])
        begin, end = _thinking(context.model, config)
        self._sampler = lib.lil_sampler_init_guardian(
            context.model.vocab,
            GuardianParams(
                every=config.every,
                threshold=config.threshold,
                patience=config.patience,
                action=codes[0],
                then=ctypes.cast(then, ctypes.POINTER(ctypes.c_int)),
                n_then=len(then),
                think_begin=begin,
                think_end=end,
                message=None if config.message is None else config.message.encode(),
                grace=config.grace,
                widen=config.widen or 0,
                rule=RULES.index(config.rule),
            ),
        )
        if not self._sampler or ("widen" in actions and not self._set_budget()):
            error = f"{config}: {last_error()}"
            self.close()
            raise ConfigError(error)
        self._token = bindings.llama_token_data()
        self._array = bindings.llama_token_data_array()

    def feed(self, tokens: Sequence[int]) -> None:
        """The text before generation."""
        if self._may_rewind:
            self._prompt += tokens
        array = (bindings.llama_token * len(tokens))(*tokens)
        if not lib.lil_guardian_feed_prompt(self._sampler, array, len(tokens)):
            raise NativeError(f"Guardian could not take {len(tokens)} prompt tokens: {last_error()}")

    def pick(self, token: int) -> int:
        """The token to generate: the one that was sampled, unless Guardian puts its own in its place.

        Raises:
            ConfigError: `on_alarm` wants what cannot be done.
        """
        self._token.id = token  # type: ignore[assignment]
        self._array.data = ctypes.pointer(self._token)  # type: ignore[assignment]
        self._array.size = 1
        self._array.selected = 0
        self._array.sorted = False
        bindings.llama_sampler_apply(self._sampler, ctypes.byref(self._array))
        token = int(self._array.data[max(self._array.selected, 0)].id)
        bindings.llama_sampler_accept(self._sampler, token)
        self._tokens.append(token)
        native = self._native()
        if native.n_alarms > self._alarms:
            self._alarms = native.n_alarms
            native = self._decide(native)
        if native.n_wide != self._wide:
            if not self._set_budget():
                raise ConfigError(f"{self._config}: {last_error()}")
            self._wide = native.n_wide
        return token

    def _decide(self, native: GuardianReport) -> GuardianReport:
        """Asks `on_alarm`."""
        if self._config.on_alarm is None:
            return native
        answer = check_answer(
            self._config.on_alarm(
                Alarm(
                    action=ACTIONS[native.action],
                    tokens=native.n_tokens,
                    alarms=native.n_alarms,
                    growth=native.last_growth,
                    thinking=native.thinking,
                    text=self._context.model.detokenize(list(self._tokens)[-self._config.every :], special=True).decode(
                        "utf-8", "ignore"
                    ),
                )
            )
        )
        if answer is None:
            return native
        if not lib.lil_guardian_decide(self._sampler, ACTIONS.index(answer)):
            raise ConfigError(f"Guardian: on_alarm's answer {answer!r} at token {native.n_tokens}: {last_error()}")
        return self._native()

    def rewind(self) -> list[int] | None:
        """After a "widen": takes the looping tail back, once. The tokens that are left; None: nothing is taken back."""
        if not (self._may_rewind and self._wide):
            return None
        self._may_rewind = False
        n_tail = self._native().n_tail
        left = list(self._tokens)[: len(self._tokens) - n_tail]
        self._tokens = deque(left)
        text = (bindings.llama_token * (len(self._prompt) + len(left)))(*self._prompt, *left)
        if not lib.lil_guardian_rewind(self._sampler, text, len(self._prompt), len(text)):
            raise NativeError(f"Guardian could not take {n_tail} tokens back: {last_error()}")
        return left

    def _set_budget(self) -> bool:
        return bool(lib.lil_guardian_set_budget(self._sampler, self._context.ctx))

    def narrow(self) -> None:
        """Gives the context its own budget back."""
        if self._wide and self._context.ctx:
            self._wide = 0
            lib.lil_set_budget(self._context.ctx, 0)

    def _native(self) -> GuardianReport:
        native = GuardianReport()
        lib.lil_guardian_get_report(self._sampler, ctypes.byref(native))
        return native

    def report(self) -> Report:
        native = self._native()
        n = lib.lil_guardian_get_curve(self._sampler, None, 0)
        curve = (ctypes.c_double * n)()
        lib.lil_guardian_get_curve(self._sampler, curve, n)
        n = lib.lil_guardian_get_events(self._sampler, None, 0)
        events = (GuardianEvent * n)()
        lib.lil_guardian_get_events(self._sampler, events, n)
        return {
            "action": self._actions[0] if len(self._actions) == 1 else list(self._actions),
            "alarmed": native.alarmed,
            "alarms": native.n_alarms,
            "stopped": native.stopped,
            "incomplete": CUTS[native.cut],
            "think_closed": native.think_closed,
            "tokens": native.n_tokens,
            "tokens_at_alarm": native.n_tokens_alarm if native.alarmed else None,
            "checks": native.n_checks,
            "bytes": native.n_bytes,
            "size": native.size,
            "last_growth": None if math.isnan(native.last_growth) else native.last_growth,
            "curve": list(curve),
            "events": [{"did": EVENTS[event.kind], "tokens": event.n_tokens} for event in events],
        }

    def annotate(self, choice: dict[str, Any]) -> None:
        """Writes `stop_reason`, `guardian` and, as configured, `finish_reason` into a choice that is at its end."""
        report = self.report()
        is_call = choice["finish_reason"] in ("tool_calls", "function_call")
        if report["incomplete"] and is_call:
            report["incomplete"] = "tool_call"
        if report["stopped"] and not (is_call and self._config.finish_reason == "stop"):
            choice["finish_reason"] = self._config.finish_reason
        choice["stop_reason"] = "guardian" if report["stopped"] else None
        choice["guardian"] = report

    @property
    def stopped(self) -> bool:
        return bool(self._native().stopped)

    def close(self) -> None:
        sampler, self._sampler = getattr(self, "_sampler", None), None
        if sampler and bindings is not None:
            bindings.llama_sampler_free(sampler)

    __del__ = close


def _thinking(model: internals.LlamaModel, config: Guardian) -> tuple[bytes | None, bytes | None]:
    """The texts that begin and end thinking, for the native parameters."""
    if config.think_end is not None:
        return None, config.think_end.encode()
    begin, end = thinking_tags(model)
    return begin.encode(), end.encode()


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
