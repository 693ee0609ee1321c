from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ._check import check_choice, check_float, check_int, set_field
from ._errors import ConfigError, ConfigTypeError

ACTIONS: tuple[str, ...] = ("stop", "close_think", "flag")


@dataclass(frozen=True, kw_only=True)
class Guardian:
    """Early stop for a model that has nothing new to say, https://arxiv.org/abs/2601.03043.

    Rule: follow the LZ77-compressed size of the text, prompt included. If it grew by less than `threshold` bytes over
    the last `every` generated tokens, for `patience` checks in a row, act. It reads nothing of the model but its
    tokens.

    Args:
        every: Generated tokens between two checks.
        threshold: Compressed bytes that count as something new.
        patience: Checks in a row.
        action: "stop" ends generation. "close_think" ends the model's thinking and lets it answer; a second alarm
            stops. (Where a grammar is active there is no thinking to end, and the first alarm stops.) "flag" only
            reports.
        think_end: "close_think": the text that ends thinking. None: `</think>`.

    Raises:
        ConfigError: A value out of range, or an unknown action.
        ConfigTypeError: A value of the wrong type.
    """

    every: int = 250
    threshold: float = 20.0
    patience: int = 1
    action: Literal["stop", "close_think", "flag"] = "stop"
    think_end: str | None = None

    def __post_init__(self) -> None:
        set_field(self, "every", check_int("Guardian", "every", self.every, least=1))
        set_field(self, "threshold", check_float("Guardian", "threshold", self.threshold, least=0.0))
        set_field(self, "patience", check_int("Guardian", "patience", self.patience, least=1))
        check_choice("Guardian", "action", self.action, ACTIONS)
        if self.think_end is None:
            return
        if not isinstance(self.think_end, str):
            raise ConfigTypeError(
                f"Guardian: think_end={self.think_end!r} is a {type(self.think_end).__name__}; give a str or None"
            )
        if not self.think_end or "\0" in self.think_end:
            raise ConfigError(
                f"Guardian: think_end={self.think_end!r} must be text without a zero byte; None: </think>"
            )
        if self.action != "close_think":
            raise ConfigError(
                f"Guardian: think_end={self.think_end!r} has no effect with action={self.action!r}; "
                'use action="close_think" or leave it out'
            )
