"""What llama-server does with a slot's cache: conversations with edits and regenerations, slots that are saved and
restored, prompts that are kept aside in memory, context checkpoints, drafts. Beside a slot that knows nothing.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lil
import pytest
from every_method import every_method
from lil.cli._common import notation
from reference.gguf_models import write_tiny
from serving import Server
from test_conversation import turns

BIN = Path(lil.__file__).parent / "bin"

pytestmark = pytest.mark.skipif(not BIN.is_dir(), reason="built without the programs (LIL_PROGRAMS=OFF)")

WITHIN = ["none", *map(notation, every_method(2048, reselect=3).values())]
BEYOND = [*map(notation, every_method(48, reselect=3).values())]
DRAFTED = ["none", "quest:budget=48", "tidal:budget=48,reselect=3", "lessismore:budget=48,reselect=3"]
N_ANSWER = 8


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {name: str(write_tiny(folder / f"{name}.gguf", name, n_layer=6)) for name in ("llama", "gemma3")}


@contextlib.contextmanager
def running(folder: Path, *options: str) -> Iterator[Server]:
    slots = ("--slots", "--slot-save-path", f"{folder}/", "-t", "1", "-tb", "1", "-ub", "64")
    server = Server(*slots, *options, log=folder / "log")
    try:
        yield server.wait()
    finally:
        assert server.process.poll() is None, server.log.read_text()[-2000:]
        server.stop()


def chat(server: Server, messages: list[dict[str, str]], slot: int = 0, **options: Any) -> dict[str, Any]:
    body = {"messages": messages, "max_tokens": N_ANSWER, "temperature": 0, "id_slot": slot, **options}
    status, answer = server.post("/v1/chat/completions", body)
    assert status == 200, answer
    return answer


def text(answer: dict[str, Any]) -> str:
    said: str = answer["choices"][0]["message"]["content"]
    return said


@pytest.mark.parametrize("sparse", WITHIN)
def test_a_conversation_within_the_budget(tiny: dict[str, str], tmp_path: Path, sparse: str) -> None:
    """Twenty turns in one slot, against another that is given each conversation whole."""
    with running(tmp_path, "-m", tiny["llama"], "--sparse", sparse, "--parallel", "2", "-c", "4096") as server:
        messages: list[dict[str, str]] = []
        cached = 0
        for at, said in turns(20):
            messages[2 * at :] = [{"role": "user", "content": said}]
            answer = chat(server, messages)
            cached += answer["timings"]["cache_n"]
            assert text(answer) == text(chat(server, messages, 1, cache_prompt=False)), (len(messages), said)
            messages.append({"role": "assistant", "content": text(answer)})
        assert cached > 200


def check_regenerated(server: Server, n_turns: int) -> None:
    """Of each turn three answers: the second and the third are the same."""
    messages: list[dict[str, str]] = []
    for at, said in turns(n_turns):
        messages[2 * at :] = [{"role": "user", "content": said}]
        answers = [text(chat(server, messages)) for _ in range(3)]
        assert answers[1] == answers[2], (len(messages), said)
        messages.append({"role": "assistant", "content": answers[-1]})


@pytest.mark.parametrize("sparse", BEYOND)
def test_a_conversation_beyond_the_budget(tiny: dict[str, str], tmp_path: Path, sparse: str) -> None:
    """From the second time on an answer is the same."""
    with running(tmp_path, "-m", tiny["llama"], "--sparse", sparse, "--parallel", "2", "-c", "4096") as server:
        check_regenerated(server, 5)
        metrics = json.loads(server.get("/slots"))[0]["sparse"]
        assert metrics["method"] == sparse.partition(":")[0]


@pytest.mark.parametrize("sparse", BEYOND)
def test_slots_are_saved_and_restored(tiny: dict[str, str], tmp_path: Path, sparse: str) -> None:
    """What is saved goes on as what stayed."""
    first = [{"role": "user", "content": "rain river cloud stone wind tree light bird snow road " * 4}]
    with running(tmp_path, "-m", tiny["llama"], "--sparse", sparse, "--parallel", "2", "-c", "4096") as server:
        first.append({"role": "assistant", "content": text(chat(server, first))})
        assert server.post("/slots/0?action=save", {"filename": "saved"})[0] == 200
        second = [*first, {"role": "user", "content": "Go on."}]
        stayed = chat(server, second)
        assert server.post("/slots/0?action=erase", {})[0] == 200
        for slot in (0, 1):
            status, restored = server.post(f"/slots/{slot}?action=restore", {"filename": "saved"})
            assert status == 200 and restored["n_restored"] > 48
            answer = chat(server, second, slot)
            assert answer["timings"]["cache_n"] == stayed["timings"]["cache_n"] > 48
            assert text(answer) == text(stayed)


@pytest.mark.parametrize("sparse", ["none", *BEYOND])
def test_prompts_that_are_kept_in_memory(tiny: dict[str, str], tmp_path: Path, sparse: str) -> None:
    """--cache-ram: one slot, two conversations in turn."""
    with running(tmp_path, "-m", tiny["llama"], "--sparse", sparse, "--parallel", "1", "--cache-ram", "64") as server:
        talks = [server.post("/tokenize", {"content": f"{word} " * 60})[1]["tokens"] for word in ("rain", "snow")]
        for i in range(3):
            for talk in talks:
                n_before = len(talk) - 4  # the last token of an answer was not evaluated
                body = {"prompt": talk, "n_predict": N_ANSWER, "temperature": 0, "return_tokens": True}
                status, answer = server.post("/completion", body)
                assert status == 200 and len(answer["tokens"]) == N_ANSWER
                assert i == 0 or answer["timings"]["cache_n"] == n_before
                talk += [*answer["tokens"], *talk[:3]]


@pytest.mark.parametrize("sparse", ["none", "h2o:budget=48", "quest:budget=48"])
def test_context_checkpoints(tiny: dict[str, str], tmp_path: Path, sparse: str) -> None:
    """A model with sliding windows, whose windows cannot go back by themselves."""
    options = ("-m", tiny["gemma3"], "--sparse", sparse, "--parallel", "1", "--ctx-checkpoints", "8")
    with running(tmp_path, *options) as server:
        check_regenerated(server, 7)


@pytest.mark.parametrize("sparse", DRAFTED)
def test_a_draft_model(tiny: dict[str, str], tmp_path: Path, sparse: str) -> None:
    messages = [{"role": "user", "content": "rain river cloud stone wind tree light bird snow road " * 4}]
    answers = []
    for name, draft in (
        ("alone", ()),
        ("drafted", ("-md", tiny["llama"], "--spec-type", "draft-simple", "--spec-draft-p-min", "0")),
    ):
        folder = tmp_path / name
        folder.mkdir()
        with running(folder, "-m", tiny["llama"], "--sparse", sparse, "--parallel", "1", *draft) as server:
            answers.append(chat(server, messages, max_tokens=24))
    assert text(answers[0]) == text(answers[1])
    assert answers[1]["timings"]["draft_n"] > 0


@pytest.mark.parametrize("sparse", ["sink", "h2o", "tova", "rkv"])
def test_a_draft_model_is_refused(tiny: dict[str, str], tmp_path: Path, sparse: str) -> None:
    server = Server("-m", tiny["llama"], "-md", tiny["llama"], "--sparse", sparse, log=tmp_path / "log")
    with pytest.raises(AssertionError, match=f"--sparse {sparse} cannot work with speculative decoding"):
        server.wait()
