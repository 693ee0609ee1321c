"""How many threads are taken, and that nothing but the time depends on it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lil
import numpy as np
import pytest
from every_method import every_method
from lil._native import lib
from reference import write_tiny

METHODS: dict[str, lil.Method | None] = {"full": None, **every_method(64, reselect=3)}


@pytest.fixture(scope="module")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny(Path(tmp_path_factory.mktemp("tiny")) / "llama.gguf", "llama", n_layer=6))


def logits_of(path: str, method: lil.Method | None, threads: int, n_prompt: int, n_steps: int) -> np.ndarray[Any, Any]:
    """The logits of n_steps decode steps after a prompt, [n_steps, n_vocab]."""
    llama = lil.Llama(path, n_ctx=1024, n_threads=threads, n_threads_batch=threads, sparse=method, verbose=False)
    rng = np.random.default_rng(5)
    tokens = rng.integers(3, llama.n_vocab(), n_prompt + n_steps).tolist()
    llama.eval(tokens[:n_prompt])
    rows = []
    for token in tokens[n_prompt:]:
        llama.eval([token])
        rows.append(np.array(llama._ctx.get_logits()[: llama.n_vocab()]))
    llama.close()
    return np.stack(rows)


@pytest.mark.parametrize("name", METHODS)
def test_results_do_not_depend_on_the_threads(tiny_llama: str, name: str) -> None:
    """Where cores are taken a context computes with fewer: to the bit the same, within and beyond the budget."""
    one, two, three = (logits_of(tiny_llama, METHODS[name], threads, 300, 24) for threads in (1, 2, 3))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, three)


def test_default_threads(make_llama: Callable[..., Any]) -> None:
    llama = make_llama(n_threads=None, n_threads_batch=None)
    assert llama.n_threads == llama.n_threads_batch == lib.lil_n_threads()
    assert llama.context_params.n_threads == lib.lil_n_threads()


def test_a_number_is_obeyed(make_llama: Callable[..., Any]) -> None:
    llama = make_llama(n_threads=3, n_threads_batch=5)
    assert (llama.context_params.n_threads, llama.context_params.n_threads_batch) == (3, 5)
    assert llama.create_completion("one two three", max_tokens=4)["choices"][0]["text"]


@pytest.mark.parametrize(
    ("value", "error"), [(-1, lil.ConfigError), ("2", lil.ConfigTypeError), (1.5, lil.ConfigTypeError)]
)
def test_bad_numbers(make_llama: Callable[..., Any], value: Any, error: type[Exception]) -> None:
    for name in ("n_threads", "n_threads_batch"):
        with pytest.raises(error, match=name):
            make_llama(**{name: value})


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity masks")
def test_affinity_is_followed() -> None:
    cpu = min(os.sched_getaffinity(0))
    script = f"import os; os.sched_setaffinity(0, [{cpu}]); from lil._native import lib; print(lib.lil_n_threads())"
    out = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert int(out) == 1


def test_two_models_at_once_in_one_process(model_path: str) -> None:
    """Each has threads of its own; both answer as they do alone."""

    def answer(llama: lil.Llama, out: list[str]) -> None:
        out.append(llama.create_completion("The sea is", max_tokens=48, temperature=0.0)["choices"][0]["text"])

    alone: list[str] = []
    both: list[str] = []
    models = [lil.Llama(model_path, n_ctx=256, n_threads=4, verbose=False) for _ in range(2)]
    answer(models[0], alone)
    threads = [threading.Thread(target=answer, args=(llama, both)) for llama in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for llama in models:
        llama.close()
    assert both == alone * 2


def test_lil_servers_default(model_path: str) -> None:
    pytest.importorskip("pydantic_settings")
    from lil.llama_cpp.server.settings import ModelSettings

    settings = ModelSettings(model=model_path)
    assert settings.n_threads == settings.n_threads_batch == lib.lil_n_threads()
