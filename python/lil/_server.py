"""What the bindings' server hands to `Llama` beyond its own settings (see 0005-server-keywords.patch)."""

from __future__ import annotations

from typing import Any

from ._resolve import METHODS


def server_keywords(settings: Any) -> dict[str, Any]:
    """The keywords of `Llama` from the server's `sparse`, `sparse_budget`, `sparse_capacity` and `guardian`."""
    sparse = None
    if settings.sparse is not None:
        sparse = METHODS[settings.sparse](budget=settings.sparse_budget, capacity=settings.sparse_capacity)
    return {"sparse": sparse, "guardian": settings.guardian}
