"""llama-server's web page in a browser: what it shows of an answer, and of Guardian."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lil
import pytest
from conftest import LOOP
from lil.cli.serve import _has_page
from serving import Server

pytestmark = pytest.mark.skipif(
    not (Path(lil.__file__).parent / "bin").is_dir(), reason="built without the programs (LIL_PROGRAMS=OFF)"
)


@pytest.fixture(scope="module")
def server(model_path: str, browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("page") / "log"
    options = ("--sparse", "none", "--guardian", "every=60", "--temp", "0", "-t", "1")
    started = Server("-m", model_path, *options, log=log)
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


def test_page(server: Server, browser: Any) -> None:
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    page = context.new_page()
    page.set_default_timeout(180_000)  # of a busy machine
    broken: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: broken.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))

    page.goto(server.address)
    question = page.get_by_role("textbox")
    answers = page.get_by_role("group", name="Assistant message with actions")
    lines = page.get_by_role("note")

    # it streams, and Guardian ends it
    question.fill(LOOP[0]["content"])
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
    context.close()
