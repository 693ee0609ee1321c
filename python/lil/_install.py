from __future__ import annotations

import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from . import llama_cpp
from ._errors import InstallError
from ._native import lib

_ALIAS = "llama_cpp"
_NAME = llama_cpp.__name__


class _AliasFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds `llama_cpp.x` as `lil.llama_cpp.x`: the same module object under both names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith(_ALIAS + "."):
            return None
        if importlib.util.find_spec(_NAME + fullname[len(_ALIAS) :]) is None:
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module(_NAME + spec.name[len(_ALIAS) :])
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has just given the module the alias's spec; it keeps its own.
        module.__spec__ = module.__spec__.loader_state  # type: ignore[union-attr]


def _declared(decode: Callable[[Any, Any], int]) -> Callable[[Any, Any], int]:
    """`llama_decode` for programs that ask for the logits of whole prompts, as guidance does: several tokens at once,
    with the logits of all, are a prompt. Otherwise each of them would be a decode step."""

    @functools.wraps(decode)
    def llama_decode(ctx: Any, batch: Any) -> int:
        n = batch.n_tokens
        prompt = n > 1 and batch.logits and all(batch.logits[:n])
        if prompt:
            lib.lil_set_prompt(ctx, True)
        try:
            return decode(ctx, batch)
        finally:
            if prompt:
                lib.lil_set_prompt(ctx, False)

    return llama_decode


def install_as_llama_cpp() -> None:
    """Makes `import llama_cpp` mean `lil.llama_cpp`, with `lil.Llama` as its `Llama`, in this process.

    For programs that import llama-cpp-python by its name (LangChain, LlamaIndex, guidance). Call it before they do.
    Calling it again does nothing.

    `llama_cpp.llama_decode` then takes several tokens at once whose logits are all asked for as a prompt, which is
    dense. Programs that take the result of `llama_memory_seq_rm` for granted (guidance) need full attention or one of
    the select family.

    Raises:
        InstallError: Another `llama_cpp` has been imported already.
    """
    present = sys.modules.get(_ALIAS)
    if present is llama_cpp:
        return
    if present is not None:
        raise InstallError(
            f"llama_cpp is already imported from {getattr(present, '__file__', None)}; "
            "call lil.install_as_llama_cpp() before anything imports it"
        )
    llama_cpp.llama_decode = _declared(llama_cpp.llama_decode)  # the package's name, which the bindings do not use
    sys.modules[_ALIAS] = llama_cpp
    sys.meta_path.insert(0, _AliasFinder())
