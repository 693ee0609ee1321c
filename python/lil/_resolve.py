"""From what a user may write for `sparse=` and `guardian=` to the dataclasses."""

from __future__ import annotations

from ._errors import ConfigError, ConfigTypeError
from ._guardian import Guardian
from ._h2o import H2O
from ._infllm import InfLLM
from ._lessismore import LessIsMore
from ._quest import Quest
from ._raas import RaaS
from ._rkv import RKV
from ._sink import Sink
from ._sparse import Method
from ._tidal import TidalDecode
from ._tova import TOVA

_CLASSES: tuple[type[Method], ...] = (Sink, H2O, TOVA, RKV, Quest, InfLLM, TidalDecode, LessIsMore, RaaS)

METHODS: dict[str, type[Method]] = {method.name: method for method in _CLASSES}

NAMES = ", ".join(map(repr, METHODS))


def resolve_sparse(value: object) -> Method | None:
    """None, a method's name, or a method.

    Raises:
        ConfigError: An unknown name.
        ConfigTypeError: Anything else.
    """
    if value is None or isinstance(value, Method):
        return value
    known = f"None, {NAMES}, or a method such as Quest(budget=512)"
    if isinstance(value, type) and issubclass(value, Method):
        raise ConfigTypeError(f"sparse={value.__name__} is a class; give an instance, {value.__name__}()")
    if not isinstance(value, str):
        raise ConfigTypeError(f"sparse={value!r} is a {type(value).__name__}; give {known}")
    if value not in METHODS:
        raise ConfigError(f"sparse={value!r} is unknown; give {known}")
    return METHODS[value]()


def resolve_guardian(value: object) -> Guardian | None:
    """None or False, True, or a `Guardian`.

    Raises:
        ConfigTypeError: Anything else.
    """
    if value is None or value is False:
        return None
    if value is True:
        return Guardian()
    if isinstance(value, Guardian):
        return value
    raise ConfigTypeError(
        f"guardian={value!r} is a {getattr(value, '__name__', type(value).__name__)}; "
        "give None, True, False or Guardian(...)"
    )
