from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

from ._check import check_bool, check_choice, check_float, check_int, set_field
from ._errors import ConfigError, ConfigTypeError

Action = Literal["stop", "close_think", "flag", "widen"]

ACTIONS: tuple[Action, ...] = ("stop", "close_think", "flag", "widen")
Rule = Literal["paper", "text"]
RULES: tuple[Rule, ...] = ("paper", "text")
FINISH_REASONS: tuple[str, ...] = ("stop", "length", "guardian")


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """What `on_alarm` gets.

    Attributes:
        action: What is done where the callback returns None.
        tokens: Generated so far.
        alarms: So far, this one included.
        growth: Compressed bytes that the text has added since the last check.
        thinking: Whether "close_think" could be done.
        text: That of the last `every` tokens.
    """

    action: Action
    tokens: int
    alarms: int
    growth: float
    thinking: bool
    text: str


@dataclass(frozen=True, kw_only=True)
class Guardian:
    """Early stop for a model that has nothing new to say, https://arxiv.org/abs/2601.03043.

    It follows the LZ77-compressed size of the text, and reads nothing of the model but its tokens.

    Rule "text": every `every / 2` generated tokens, ask what the text adds to itself since it began to repeat, with
    numbers that count left out, and what it is made of: running text may repeat less, and for less long, than code,
    tables and numbers may. So it ends loops in other words, and lets grids, fixtures and a draft that is written out
    again be. src/guardian/text-rule.h defines it, docs/guardian.md measures it.

    Rule "paper": if the size of the text, prompt included, grew by less than `threshold` bytes over the last `every`
    generated tokens, for `patience` checks in a row, act.

    Args:
        every: Generated tokens between two checks of the paper's rule; rule "text" looks twice as often.
        threshold: Compressed bytes that count as something new. Rule "text": 20 leaves its own thresholds as they are,
            40 doubles each.
        patience: Checks in a row. Rule "text": 1 leaves its own as they are, 2 doubles each.
        action: "stop" ends generation. "close_think" ends the model's thinking and lets it answer: once in an answer,
            never within a tool call or a string of JSON. "widen", with a method of the select family, decodes the next
            `2*every` tokens, and more until the text gains again, with a larger budget. "flag" only reports. A tuple,
            such as ("widen", "close_think", "stop"): each alarm takes the next, passing over a "close_think" where
            thinking is not open (it never is where a grammar is active); alarms behind the last one stop, or only
            report where that is "flag".
        think_end: "close_think": the text that ends thinking, which then counts as open until that text comes. None:
            found by the model's chat template, or else its vocabulary (`</think>` where neither has a known one), and
            thinking counts as open where the text, prompt included, has begun it.
        message: "close_think": text that is put before `think_end`, such as "\\nI answer now.\\n". None: none.
        grace: "close_think": tokens that it waits at most for the end of a line or a sentence.
        widen: "widen": times the budget; None reads everything.
        rewind: "widen", once in an answer: the tail that loops is taken back first, out of the text and the cache, to
            the end of a line or a sentence where there is one. Requests that stream are refused with it. The report's
            `tokens` and the usage count what is left.
        finish_reason: What results give as `finish_reason` where Guardian has stopped: "stop", "length" or "guardian",
            which OpenAI's clients do not know. With "stop" a tool call keeps its own ("tool_calls"). `stop_reason` and
            the report say "guardian" always.
        on_alarm: Called with an `Alarm` before it is acted on. Returns what to do instead, or None; what it puts off is
            proposed again at the next alarm. It must not ask the model for anything. What it raises ends the
            generation.
        rule: "text" or "paper".

    Raises:
        ConfigError: A value out of range, an unknown action or rule, or one that has no effect.
        ConfigTypeError: A value of the wrong type.
    """

    every: int = 250
    threshold: float = 20.0
    patience: int = 1
    action: Action | tuple[Action, ...] = "stop"
    think_end: str | None = None
    message: str | None = None
    grace: int = 25
    widen: int | None = 2
    rewind: bool = False
    finish_reason: Literal["stop", "length", "guardian"] = "stop"
    on_alarm: Callable[[Alarm], Action | None] | None = None
    rule: Rule = "text"

    @property
    def interval(self) -> int:
        """Generated tokens between two checks, under either rule."""
        return self.every if self.rule == "paper" else (self.every + 1) // 2

    def __post_init__(self) -> None:
        set_field(self, "every", check_int("Guardian", "every", self.every, least=1))
        set_field(self, "threshold", check_float("Guardian", "threshold", self.threshold, least=0.0))
        set_field(self, "patience", check_int("Guardian", "patience", self.patience, least=1))
        check_choice("Guardian", "rule", self.rule, RULES)
        self._check_action()
        self._check_text("think_end", "the model's own")
        self._check_text("message", "no text")
        set_field(self, "grace", check_int("Guardian", "grace", self.grace, least=0))
        if self.widen is not None:
            set_field(self, "widen", check_int("Guardian", "widen", self.widen, least=2, why="None reads everything"))
        check_bool("Guardian", "rewind", self.rewind)
        for name, action in _FOR.items():
            self._check_use(name, action)
        check_choice("Guardian", "finish_reason", self.finish_reason, FINISH_REASONS)
        if self.on_alarm is not None and not callable(self.on_alarm):
            raise ConfigTypeError(
                f"Guardian: on_alarm={self.on_alarm!r} is a {type(self.on_alarm).__name__}; give a function of an "
                "Alarm, or None"
            )

    @property
    def actions(self) -> tuple[Action, ...]:
        """What the alarms lead to, one after another."""
        return (self.action,) if isinstance(self.action, str) else self.action

    def _check_action(self) -> None:
        if isinstance(self.action, (tuple, list)):
            if not self.action:
                raise ConfigError(f"Guardian: action={self.action!r} is empty; give at least one action")
            for action in self.action:
                check_choice("Guardian", "action", action, ACTIONS)
            set_field(self, "action", self.action[0] if len(self.action) == 1 else tuple(self.action))
        else:
            check_choice("Guardian", "action", self.action, ACTIONS)

    def _check_text(self, name: str, none: str) -> None:
        text = getattr(self, name)
        if text is None:
            return
        if not isinstance(text, str):
            raise ConfigTypeError(f"Guardian: {name}={text!r} is a {type(text).__name__}; give a str or None")
        if not text or "\0" in text:
            raise ConfigError(f"Guardian: {name}={text!r} must be text without a zero byte; None: {none}")

    def _check_use(self, name: str, action: Action) -> None:
        value = getattr(self, name)
        if value == getattr(type(self), name) or self.on_alarm is not None or action in self.actions:
            return
        raise ConfigError(
            f"Guardian: {name}={value!r} has no effect with action={self.action!r}; "
            f'use action="{action}" or leave it out'
        )


# what only one action reads
_FOR: dict[str, Action] = {
    "think_end": "close_think",
    "message": "close_think",
    "grace": "close_think",
    "widen": "widen",
    "rewind": "widen",
}


def check_answer(value: object) -> Action | None:
    """What `on_alarm` returned.

    Raises:
        ConfigError: No action, and not None.
    """
    if value is None:
        return None
    check_choice("Guardian", "on_alarm's answer", value, ACTIONS)
    return cast(Action, value)
