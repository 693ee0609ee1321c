"""From what a user may write for `sparse=` and `guardian=` to the dataclasses."""

from __future__ import annotations

from ._errors import ConfigError, ConfigTypeError
from ._guardian import Guardian
from ._h2o import H2O
from ._sink import Sink
from ._sparse import Evict

METHODS: dict[str, type[Evict]] = {"h2o": H2O, "sink": Sink}


def resolve_sparse(value: object) -> Evict | None:
    """None, a method's name, or a method.

    Raises:
        ConfigError: An unknown name.
        ConfigTypeError: Anything else.
    """
    if value is None or isinstance(value, Evict):
        return value
    known = "None, " + ", ".join(map(repr, METHODS)) + ", Sink(...) or H2O(...)"
    if isinstance(value, type) and issubclass(value, Evict):
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
