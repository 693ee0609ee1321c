from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# The reference's products are small: a second thread of NumPy's BLAS would only spin, for one and a half times the
# test's own time. NumPy reads this when it is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[2]

# Greedy, SmolLM2-135M-Instruct repeats four lines of this poem without end.
LOOP = [{"role": "user", "content": "Write a poem about the sea that has one hundred lines."}]


@pytest.fixture(scope="session")
def model_path() -> str:
    """SmolLM2-135M-Instruct, from LIL_TEST_MODEL or the repository's cache."""
    path = os.environ.get("LIL_TEST_MODEL") or ROOT / ".cache/models/SmolLM2-135M-Instruct.Q4_1.gguf"
    if not os.path.exists(path):
        pytest.skip(f"no model at {path}; set LIL_TEST_MODEL")
    return str(path)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C acts, here and in what is started, also where the tests run in a shell's background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def make_llama(model_path: str) -> Iterator[Callable[..., Any]]:
    """Makes `lil.Llama`s of the test model that are closed after the test.

    One thread, unless a test says otherwise: as many tests as there are CPUs run at once.
    """
    import lil

    made = []

    def make(**kwargs: Any) -> lil.Llama:
        threads = {"n_threads": 1, "n_threads_batch": 1}
        made.append(lil.Llama(**{"model_path": model_path, "n_ctx": 1024, "verbose": False, **threads, **kwargs}))
        return made[-1]

    yield make
    for llama in made:
        llama.close()


@pytest.fixture(scope="session")
def shared_llama(model_path: str) -> Iterator[Any]:
    """One model with full attention and no Guardian for tests that leave no trace in it."""
    import lil

    llama = lil.Llama(model_path, n_ctx=2048, n_threads=1, n_threads_batch=1, verbose=False)
    yield llama
    llama.close()


@pytest.fixture(scope="module")  # while it is open, an event loop runs, and tests that want their own fail
def browser() -> Iterator[Any]:
    """Chromium, headless, from LIL_TEST_BROWSER or the PATH. LIL_REQUIRE_BROWSER: not having one is a failure."""
    path = os.environ.get("LIL_TEST_BROWSER") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        path = None
    if path is None:
        message = "no Chromium, or no playwright to drive it; install both, or name the browser in LIL_TEST_BROWSER"
        if os.environ.get("LIL_REQUIRE_BROWSER"):
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        # root, as in containers, has no sandbox
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()
