"""What the bindings' server hands to `Llama` beyond its own settings (see 0005-server-keywords.patch)."""

from __future__ import annotations

from typing import Any, Literal

from .._errors import ConfigError
from .._native import lib
from ..methods import METHODS, Evict, Method

MethodName = Literal[tuple(METHODS)]  # type: ignore[valid-type]  # what the setting `sparse` may be


def default_threads() -> int:
    """Threads where the server's settings name none, as `Llama` takes them."""
    return lib.lil_n_threads()


def server_keywords(settings: Any) -> dict[str, Any]:
    """The keywords of `Llama` from the server's `sparse`, `sparse_budget`, `sparse_capacity` and `guardian`.

    Raises:
        ConfigError: A capacity with a method that keeps everything.
    """
    sparse: Method | None = None
    if settings.sparse is not None:
        method, capacity = METHODS[settings.sparse], settings.sparse_capacity
        if issubclass(method, Evict):
            sparse = method(budget=settings.sparse_budget, capacity=capacity)
        elif capacity is None:
            sparse = method(budget=settings.sparse_budget)
        else:
            known = ", ".join(name for name, other in METHODS.items() if issubclass(other, Evict))
            raise ConfigError(
                f"sparse_capacity={capacity} has no meaning with sparse={settings.sparse!r}, which keeps everything; "
                f"leave it out, or take one of {known}"
            )
    return {"sparse": sparse, "guardian": settings.guardian}
