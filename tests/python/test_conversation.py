"""Conversations of twenty turns with edits and regenerations, in one context, against contexts to which nothing else
happened: the same text.

Within its budget every method attends to everything, and a new context that is given the whole conversation answers
alike. Beyond it earlier answers came from sparse steps, so the other context is given the same steps, and none of what
was taken back. That holds for the methods whose cache does not depend on what was taken back: not for InfLLM, whose
scores keep the queries that are gone, nor for the evicting ones, which answer a message alike from the second time on.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lil
import pytest
from conftest import ROOT
from every_method import every_method
from lil.cli._talk import Talk
from lil.cli.chat import Conversation
from lil.llama_cpp.llama_chat_format import CHATML_CHAT_TEMPLATE
from lil.methods import Evict, Method
from reference.gguf_models import write_tiny

N_TURNS, N_ANSWER = 20, 8
OPTIONS = {"n_ctx": 2048, "n_ubatch": 64, "n_threads": 1, "n_threads_batch": 1}
WORDS = ["rain", "river", "cloud", "stone", "wind", "tree", "light", "bird", "snow", "road"]

WITHIN = {"full": None, **every_method(2048, reselect=3)}
BEYOND = {"full": None, **every_method(48, reselect=3)}
PAIRS = [*(("llama", name) for name in BEYOND), ("hybrid", "h2o"), ("hybrid", "quest")]
SCORED = [("llama", "infllm")]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    write_tiny(folder / "llama.gguf", "llama", n_layer=6)
    hybrid = str(folder / "hybrid.gguf")
    script = ROOT / "benchmarks" / "random_gguf.py"
    subprocess.run([sys.executable, script, hybrid, "--shape", "tiny-hybrid", "--n-ctx", "8192"], check=True)
    return {"llama": str(folder / "llama.gguf"), "hybrid": hybrid}


@pytest.fixture
def make(models: dict[str, str]) -> Iterator[Callable[..., Any]]:
    made = []

    def make(model: str, kind: type[lil.Llama] = lil.Llama, **kwargs: Any) -> Any:
        made.append(kind(models[model], verbose=False, **{**OPTIONS, **kwargs}))
        return made[-1]

    yield make
    for llama in made:
        llama.close()


def turns(seed: int) -> Iterator[tuple[int, str]]:
    """How many exchanges are kept, and the next message: the next turn, the same message again, an edit of it or of an
    earlier one."""
    rng = random.Random(seed)
    said: list[str] = []
    for _ in range(N_TURNS):
        at = len(said)
        what = rng.random()
        if said and what < 0.5:
            at = len(said) - 1 if what < 0.35 else rng.randrange(len(said))
        again = at < len(said) and what < 0.2
        text = said[at] if again else " ".join(rng.choices(WORDS, k=rng.randint(2, 4)))
        said[at:] = [text]
        yield at, text


@pytest.mark.parametrize(("model", "method"), PAIRS)
def test_within_the_budget(make: Callable[..., Any], model: str, method: str) -> None:
    options = {"sparse": WITHIN[method], "chat_format": "chatml"}
    llama = make(model, **options)
    messages: list[dict[str, str]] = []
    for at, text in turns(20):
        messages[2 * at :] = [{"role": "user", "content": text}]
        answers = []
        for one in (llama, fresh := make(model, **options)):
            result = one.create_chat_completion(messages, max_tokens=N_ANSWER, temperature=0.0)
            answers.append(result["choices"][0]["message"]["content"])
        fresh.close()
        assert answers[0] == answers[1], (len(messages), text)
        messages.append({"role": "assistant", "content": answers[0]})
    assert llama.n_tokens > 200 and llama.sparse_info().sparse_steps == 0


@pytest.fixture
def converse(models: dict[str, str]) -> Iterator[Callable[..., Conversation]]:
    """What `lil chat` makes: a conversation in a context of its own."""
    with contextlib.ExitStack() as stack:

        def converse(sparse: Method | None, session: str | None = None) -> Conversation:
            sampling = {"temperature": 0.0, "max_tokens": N_ANSWER}
            talk = Talk(models["llama"], sparse=sparse, guardian=None, options=OPTIONS, sampling=sampling)
            stack.callback(talk.close)
            talk.llama.metadata["tokenizer.chat_template"] = CHATML_CHAT_TEMPLATE
            return Conversation(talk, None, session)

        yield converse


@pytest.mark.parametrize("method", WITHIN)
def test_lil_chat(converse: Callable[..., Conversation], tmp_path: Path, method: str) -> None:
    """With what its user has, /again and /undo; every fourth turn goes on from the session's file elsewhere."""
    file = str(tmp_path / "a.session")
    said: list[str] = []
    for i, (at, text) in enumerate(turns(20)):
        if i % 4 == 0:
            conversation = converse(WITHIN[method], file)
            if i > 0:
                conversation.load(file)
        again = text == "".join(said[at:])
        for _ in said[at + again :]:
            conversation.command("/undo")
        if again:
            conversation.command("/again")
        else:
            conversation.say(text)
        said[at:] = [text]

        fresh = converse(WITHIN[method])
        fresh.messages = conversation.messages[: 2 * at]
        fresh.say(text)
        assert fresh.messages == conversation.messages, (at, text)
    assert len(conversation.messages) > 10


class Recording(lil.Llama):
    """Knows how each token in its cache was evaluated: in a prompt, or as a step."""

    calls: tuple[tuple[list[int], bool], ...] = ()

    def eval(self, tokens: Sequence[int]) -> None:
        kept, calls = self.n_tokens, []
        for call, step in self.calls:
            calls.append((call[:kept], step))
            kept -= len(calls[-1][0])
        before = n_steps(self)
        super().eval(tokens)
        self.calls = (*((call, step) for call, step in calls if call), (list(tokens), n_steps(self) > before))


def n_steps(llama: lil.Llama) -> int:
    info = llama.sparse_info()
    return info.dense_steps + info.sparse_steps


def replay(llama: lil.Llama, calls: Sequence[tuple[list[int], bool]]) -> None:
    """The same prompts, each at once, and the same steps."""
    for step, group in itertools.groupby(calls, lambda call: call[1]):
        parts = [call for call, _ in group]
        for part in parts if step else [list(itertools.chain(*parts))]:
            before = n_steps(llama)
            llama.eval(part)
            assert (n_steps(llama) > before) == step


def write(llama: lil.Llama, tokens: list[int]) -> list[int]:
    stream = llama.generate(tokens, temp=0.0)
    answer = [next(stream) for _ in range(N_ANSWER)]
    stream.close()
    return answer


@pytest.mark.filterwarnings("ignore::lil.MethodWarning")
@pytest.mark.parametrize(("model", "method"), [pair for pair in PAIRS if pair not in SCORED])
def test_beyond_the_budget(make: Callable[..., Any], model: str, method: str) -> None:
    sparse = BEYOND[method]
    llama = make(model, Recording, sparse=sparse)
    exchanges: list[list[int]] = []
    for at, text in turns(5):
        del exchanges[at:]
        asked = llama.tokenize(f"[{text}]".encode(), add_bos=at == 0)
        prompt = [*itertools.chain(*exchanges), *asked]
        answer = write(llama, prompt)
        if isinstance(sparse, Evict):
            answer = write(llama, prompt)
            assert write(llama, prompt) == answer, (at, text)
        else:
            other = make(model, sparse=sparse)
            replay(other, llama.calls[: 1 - N_ANSWER])  # not this answer's steps; the last token was not evaluated
            got = []
            for _ in answer:
                got.append(other.sample(temp=0.0))
                other.eval(got[-1:])
            other.close()
            assert got == answer, (at, text)
        exchanges.append([*asked, *answer])
    assert sparse is None or llama.sparse_info().sparse_steps > 50
