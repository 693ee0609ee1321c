"""One tree of exceptions: everything that this package raises on purpose is a `LilError`.

Each class is also the built-in exception that the bindings raise in the same place, so that code written for them
keeps working.
"""

from __future__ import annotations


class LilError(Exception):
    """The root."""


class ConfigError(LilError, ValueError):
    """A parameter that is out of range, an unknown name, or a combination that cannot work."""


class ConfigTypeError(ConfigError, TypeError):
    """A parameter of the wrong type."""


class ModelError(LilError, ValueError):
    """A model file that is missing or cannot be loaded."""


class ContextError(LilError, ValueError):
    """The native library refused to make a context; the message is its own."""


class PromptError(LilError, ValueError):
    """A prompt without tokens, or nothing evaluated to sample from."""


class ContextFullError(LilError, ValueError, RuntimeError):
    """More tokens than the context has positions."""


class ClosedError(LilError, RuntimeError):
    """The model was closed, before the call or by another thread during it."""


class BusyError(LilError, RuntimeError):
    """A stream owns the model, or a call came from within another one (a callback)."""


class StateError(LilError, RuntimeError):
    """A state that this model or its context cannot take; the object is as it was."""


class NativeError(LilError, RuntimeError):
    """A call into the native library failed."""


class InstallError(LilError, RuntimeError):
    """`install_as_llama_cpp` came too late: the name is taken."""


class CalibrationWarning(UserWarning):
    """A re-selection layer that is a guess, because this model has not been calibrated."""


class MethodWarning(UserWarning):
    """A step that a method cannot serve well: RaaS with a prompt that fills its budget, InfLLM with absolute positions
    beyond the model's training length."""


class MemoryWarning(UserWarning):
    """A context whose cache does not fit into memory once it is full."""
