"""The notation that all doors share, `quest:budget=512,first_page=true`, as the native library reads it (lil.h)."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from typing import TYPE_CHECKING, Any

from ._errors import ConfigError, ConfigTypeError
from ._guardian import ACTIONS, RULES, Guardian
from .methods import METHODS, NAMES, Method

if TYPE_CHECKING:
    from collections.abc import Callable

# the environment's names of `sparse=` and `guardian=`
ENV_SPARSE = "LIL_SPARSE"
ENV_GUARDIAN = "LIL_GUARDIAN"

_GUARDIAN_NUMBERS = ("every", "threshold", "patience", "grace")


def parse_sparse(text: str) -> tuple[Method | None, bool | None]:
    """The method that a notation names, None for full attention; and its `fused_dense`.

    Raises:
        ConfigError: An unknown word, a value out of range.
    """
    from . import _native

    params = _native.SparseParams()
    if not _native.lib.lil_parse_sparse(_encode("sparse", text), ctypes.byref(params)):
        raise ConfigError(_native.last_error())
    # what differs from the defaults, in words that need no further reading
    room = ctypes.create_string_buffer(1024)
    if _native.lib.lil_format_sparse(ctypes.byref(params), room, len(room)) < 0:
        raise ConfigError(_native.last_error())
    name, _, rest = room.value.decode().partition(":")
    options = {key: _value(value) for key, _, value in (pair.partition("=") for pair in rest.split(",") if pair)}
    fused_dense = options.pop("fused_dense", None)
    if name in ("none", "dense"):
        return None, True if name == "dense" and fused_dense is None else fused_dense
    if name not in METHODS:
        raise ConfigError(f"sparse={text!r}: {name} serves lil calibrate alone; give {NAMES}")
    if written(text, "min_ctx") == "auto":  # which natively is 0: calibrations are Python's
        options["min_ctx"] = "auto"
    return METHODS[name](**options), fused_dense


def parse_guardian(text: str) -> Guardian | None:
    """The Guardian that a notation describes; None: off.

    Raises:
        ConfigError: An unknown word, a value out of range.
    """
    from . import _native

    on, params = ctypes.c_bool(), _native.GuardianParams()
    if not _native.lib.lil_parse_guardian(_encode("guardian", text), ctypes.byref(on), ctypes.byref(params)):
        raise ConfigError(_native.last_error())
    if not on:
        return None
    options: dict[str, Any] = {name: getattr(params, name) for name in _GUARDIAN_NUMBERS}
    options["action"] = tuple(ACTIONS[i] for i in (params.action, *params.then[: params.n_then]))
    options["widen"] = params.widen or None
    options["rule"] = RULES[params.rule]
    for name in ("think_end", "message"):
        words: bytes | None = getattr(params, name)
        options[name] = None if words is None else words.decode()
    return Guardian(**options)


def written(text: str, option: str) -> str | None:
    """The value that a notation, which was read without an error, gives an option. None: it does not name it."""
    found = re.search(rf"[:,]\s*{option}\s*=\s*([^,:\s]*)", text)
    return found and found[1].strip('"')


def split_list(text: str) -> list[str]:
    """The notations of a comma-separated list. A part such as `first_page=true` belongs to the one before."""
    found: list[str] = []
    for part in text.split(","):
        name, sign, _ = part.partition("=")
        if found and sign and ":" not in name:
            found[-1] += f",{part.strip()}"
        else:
            found.append(part.strip())
    return found


def _encode(argument: str, text: str) -> bytes:
    if "\0" in text:
        raise ConfigError(f"{argument}={text!r}: a zero byte stands in it")
    return text.encode("utf-8", "surrogateescape")


def _value(text: str) -> Any:
    """A value as `lil_format_sparse` writes it."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


# What arguments may be


def resolve_sparse(value: object) -> tuple[Method | None, bool | None]:
    """The method, and `fused_dense` where the notation says it, of None, False, a notation, or a method.

    Raises:
        ConfigError: An unknown word, a value out of range.
        ConfigTypeError: Anything else.
    """
    if value is None or value is False or isinstance(value, Method):
        return value or None, None
    if isinstance(value, str):
        return parse_sparse(value)
    known = f"None, {NAMES}, a notation such as 'quest:budget=512', or a method such as Quest(budget=512)"
    if isinstance(value, type) and issubclass(value, Method):
        raise ConfigTypeError(f"sparse={value.__name__} is a class; give an instance, {value.__name__}()")
    raise ConfigTypeError(f"sparse={value!r} is a {type(value).__name__}; give {known}")


def resolve_guardian(value: object) -> Guardian | None:
    """None or False, True, a notation, or a `Guardian`.

    Raises:
        ConfigError: An unknown word, a value out of range.
        ConfigTypeError: Anything else.
    """
    if value is None or value is False:
        return None
    if value is True:
        return Guardian()
    if isinstance(value, Guardian):
        return value
    if isinstance(value, str):
        return parse_guardian(value)
    raise ConfigTypeError(
        f"guardian={value!r} is a {getattr(value, '__name__', type(value).__name__)}; "
        "give None, True, False, a notation such as 'every=250,action=close_think', or Guardian(...)"
    )


def from_environment(variable: str, resolve: Callable[[object], Any], *, verbose: bool) -> Any:
    """What a variable of the environment says, through `resolve`; None where it is unset or empty.

    Raises:
        ConfigError: It cannot be read; the message names the variable.
    """
    text = os.environ.get(variable, "").strip()
    if not text:
        return None
    try:
        found = resolve(text)
    except ConfigError as error:
        raise ConfigError(f"{variable} in the environment: {error}") from None
    if verbose:
        print(f"lil: {variable}={text} in the environment is taken", file=sys.stderr)
    return found
