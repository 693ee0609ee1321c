"""Checks of parameters. Every message names the parameter, its value and what is allowed."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

from ._errors import ConfigError, ConfigTypeError

_INT_MAX = 2**31 - 1


def set_field(config: Any, name: str, value: object) -> None:
    """Writes a field of a frozen dataclass from its `__post_init__`."""
    object.__setattr__(config, name, value)


def check_int(owner: str, name: str, value: object, *, least: int, most: int = _INT_MAX, why: str = "") -> int:
    """`value` as an int between `least` and `most`. A bool is not an int."""
    if isinstance(value, bool):
        raise ConfigTypeError(f"{owner}: {name}={value!r} is a bool; give an int")
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise ConfigTypeError(f"{owner}: {name}={value!r} is a {type(value).__name__}; give an int") from None
    if not least <= number <= most:
        bound = f"at least {least}" if number < least else f"at most {most}"
        raise ConfigError(f"{owner}: {name}={number} must be {bound}{why and f' ({why})'}")
    return number


def check_float(owner: str, name: str, value: object, *, least: float, most: float = math.inf) -> float:
    """`value` as a finite float between `least` and `most`."""
    if isinstance(value, (bool, str, bytes)):
        raise ConfigTypeError(f"{owner}: {name}={value!r} is a {type(value).__name__}; give a number")
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ConfigTypeError(f"{owner}: {name}={value!r} is a {type(value).__name__}; give a number") from None
    if not math.isfinite(number) or number < least:
        raise ConfigError(f"{owner}: {name}={value!r} must be a finite number of at least {least:g}")
    if number > most:
        raise ConfigError(f"{owner}: {name}={value!r} must be at most {most:g}")
    return number


def check_bool(owner: str, name: str, value: object) -> None:
    """`value` is True or False."""
    if not isinstance(value, bool):
        raise ConfigTypeError(f"{owner}: {name}={value!r} is a {type(value).__name__}; give True or False")


def check_choice(owner: str, name: str, value: object, allowed: Sequence[str]) -> None:
    """`value` is one of the strings in `allowed`."""
    names = ", ".join(map(repr, allowed))
    if not isinstance(value, str):
        raise ConfigTypeError(f"{owner}: {name}={value!r} is a {type(value).__name__}; give one of {names}")
    if value not in allowed:
        raise ConfigError(f"{owner}: {name}={value!r} is unknown; give one of {names}")
