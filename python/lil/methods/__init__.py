"""The sparse methods: one file each, and the list of them, from which every table is made.

Adding one, the Python side (docs/methods.md has the rest):

1. a file with one frozen dataclass that extends `Evict`, `Select` or `Reselect`, its paper, its parameters and its rule
   in the docstring;
2. its checks in `__post_init__`, after the base's, and its fields of `lil_sparse_params` in `_fill`;
3. its class below, in `__all__` and in `_CLASSES`.
"""

from __future__ import annotations

from ._base import FUSED_DENSE_AUTO as FUSED_DENSE_AUTO
from ._base import DenseFirst as DenseFirst
from ._base import Evict, Method, Select
from ._base import Reselect as Reselect
from .h2o import H2O
from .infllm import InfLLM
from .lessismore import LessIsMore
from .quest import Quest
from .raas import RaaS
from .rkv import RKV
from .sink import Sink
from .tidal import TidalDecode
from .tova import TOVA

# what `lil` exports
__all__ = [
    "H2O",
    "METHODS",
    "RKV",
    "TOVA",
    "Evict",
    "InfLLM",
    "LessIsMore",
    "Method",
    "Quest",
    "RaaS",
    "Select",
    "Sink",
    "TidalDecode",
]

# in the order of tables, and of the colours of plots
_CLASSES: tuple[type[Method], ...] = (Sink, H2O, TOVA, RKV, Quest, InfLLM, TidalDecode, LessIsMore, RaaS)

METHODS: dict[str, type[Method]] = {method.name: method for method in _CLASSES}

NAMES = ", ".join(map(repr, METHODS))
