"""llama.cpp with less attention, and without more tokens.

`Llama` is llama-cpp-python's class with three more keywords: `sparse` (`Quest`, `H2O`, ...), `fused_dense` and
`guardian` (`Guardian`). The bindings themselves are `lil.llama_cpp`, measuring is `lil.eval`, the command line
`lil.cli`.
"""

from __future__ import annotations

from importlib import metadata as _metadata

from . import llama_cpp
from ._errors import (
    BusyError,
    CalibrationWarning,
    ClosedError,
    ConfigError,
    ConfigTypeError,
    ContextError,
    ContextFullError,
    InstallError,
    LilError,
    MemoryWarning,
    MethodWarning,
    ModelError,
    NativeError,
    PromptError,
    StateError,
)
from ._guardian import Alarm, Guardian
from ._info import SparseInfo
from ._install import install_as_llama_cpp
from ._llama import Llama
from ._lz77 import LZ77
from .methods import *
from .methods import __all__ as _methods

__all__ = [
    "LZ77",
    "Alarm",
    "BusyError",
    "CalibrationWarning",
    "ClosedError",
    "ConfigError",
    "ConfigTypeError",
    "ContextError",
    "ContextFullError",
    "Guardian",
    "InstallError",
    "LilError",
    "Llama",
    "MemoryWarning",
    "MethodWarning",
    "ModelError",
    "NativeError",
    "PromptError",
    "SparseInfo",
    "StateError",
    "__version__",
    "install_as_llama_cpp",
    "llama_cpp",
]
__all__ += _methods

try:
    __version__ = _metadata.version("lil-cpp")
except _metadata.PackageNotFoundError:  # run from a source tree
    __version__ = "0+unknown"

# The server, and programs that use install_as_llama_cpp(), ask the bindings for this name.
llama_cpp.Llama = Llama  # type: ignore[misc]
