"""llama-server's web page in a browser: what it shows of an answer, and of Guardian."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lil
import pytest
from lil.cli.serve import _has_page
from serving import Server
from test_serve import LOOP_ASKED, THINKING

pytestmark = pytest.mark.skipif(
    not (Path(lil.__file__).parent / "bin").is_dir(), reason="built without the programs (LIL_PROGRAMS=OFF)"
)


@contextlib.contextmanager
def serving(folder: Path, *options: str) -> Iterator[Server]:
    started = Server(*options, "--sparse", "none", "--temp", "0", "-t", "1", log=folder / "log")
    try:
        started.wait()
        if not _has_page(started.address):
            message = "llama-server was built without its web page (LIL_PAGE), as where there is no npm"
            if os.environ.get("LIL_REQUIRE_PAGE"):
                pytest.fail(message)
            pytest.skip(message)
        yield started
    finally:
        started.stop()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    page = context.new_page()
    page.set_default_timeout(180_000)  # of a busy machine
    yield page
    context.close()


@pytest.fixture(scope="module")
def server(model_path: str, browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("page"), "-m", model_path, "--guardian", "rule=paper,every=60") as started:
        yield started


def test_page(server: Server, page: Any) -> None:
    broken: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: broken.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))

    page.goto(server.address)
    question = page.get_by_role("textbox")
    answers = page.get_by_role("group", name="Assistant message with actions")
    lines = page.get_by_role("note")

    # it streams, and Guardian ends it
    question.fill(LOOP_ASKED)
    question.press("Enter")
    page.wait_for_function("document.querySelector('.chat-message-assistant')?.innerText.length > 100")
    early = answers.inner_text()
    assert lines.count() == 0
    lines.wait_for()
    assert len(answers.inner_text()) > len(early) + 100
    said = lines.inner_text()
    assert said.startswith("Guardian ended this answer after 120 tokens, as the text went round in circles")
    assert " bytes between the last two checks." in said

    # nothing is said where it did nothing
    question.fill("What is the capital of France? One word.")
    question.press("Enter")
    page.wait_for_function("/Paris/.test(document.querySelectorAll('.chat-message-assistant')[1]?.innerText)")
    page.get_by_role("button", name="Send").wait_for()
    assert lines.count() == 1

    # what it did stays with the conversation
    page.reload()
    lines.wait_for()
    assert (lines.count(), lines.inner_text()) == (1, said)

    assert broken == []
    assert {url for url in asked if not url.startswith((server.address, "data:", "blob:"))} == set()


@pytest.fixture(scope="module")
def thinker(model_path: str, browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("thinker")
    (folder / "template").write_text(THINKING)
    options = ("-m", model_path, "--jinja", "--chat-template-file", str(folder / "template"), "-n", "70")
    with serving(folder, *options) as started:
        yield started


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ("close_think", "Guardian ended the thinking after 40 tokens, .* circles; the answer is the model's own."),
        ("flag", "Guardian raised an alarm after 40 tokens, .* circles, and let it go on."),
    ],
)
def test_an_answer_that_goes_on(thinker: Server, page: Any, action: str, said: str) -> None:
    """As the page's user asks for it, in the settings; ignore_eos has it answer when its thinking has ended.

    No text adds as much as the threshold, so that there is an alarm whatever the processor makes of the model.
    """
    parameters = {"guardian": {"rule": "paper", "every": 40, "threshold": 1e6, "action": action}, "ignore_eos": True}
    config = json.dumps({"customJson": json.dumps(parameters)})
    page.add_init_script(f"localStorage.setItem('LlamaUi.config', {json.dumps(config)})")
    page.goto(thinker.address)
    question = page.get_by_role("textbox")
    question.fill(LOOP_ASKED)
    question.press("Enter")
    line = page.get_by_role("note")
    line.wait_for()
    assert re.fullmatch(said, line.inner_text())
