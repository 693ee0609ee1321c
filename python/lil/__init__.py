"""llama.cpp with less attention, and without more tokens.

`Llama` is llama-cpp-python's class with two more keywords: `sparse` (`Sink`, `H2O`) and `guardian` (`Guardian`).
The bindings themselves are `lil.llama_cpp`.
"""

from __future__ import annotations

from importlib import metadata as _metadata

from . import llama_cpp
from ._errors import (
    ClosedError,
    ConfigError,
    ConfigTypeError,
    ContextError,
    ContextFullError,
    InstallError,
    LilError,
    ModelError,
    NativeError,
    PromptError,
)
from ._guardian import Guardian
from ._h2o import H2O
from ._install import install_as_llama_cpp
from ._llama import Llama
from ._lz77 import LZ77
from ._sink import Sink
from ._sparse import SparseInfo

__all__ = [
    "H2O",
    "LZ77",
    "ClosedError",
    "ConfigError",
    "ConfigTypeError",
    "ContextError",
    "ContextFullError",
    "Guardian",
    "InstallError",
    "LilError",
    "Llama",
    "ModelError",
    "NativeError",
    "PromptError",
    "Sink",
    "SparseInfo",
    "__version__",
    "install_as_llama_cpp",
    "llama_cpp",
]

try:
    __version__ = _metadata.version("lil-cpp")
except _metadata.PackageNotFoundError:  # run from a source tree
    __version__ = "0+unknown"

# The server, and programs that use install_as_llama_cpp(), ask the bindings for this name.
llama_cpp.Llama = Llama  # type: ignore[misc]
