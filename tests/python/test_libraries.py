"""Libraries that import `llama_cpp` (the real ones) with `lil.install_as_llama_cpp()`.

Each runs in a process of its own, where nobody has imported `llama_cpp` before. Those that are not installed are
skipped: pip install "lil-cpp[test-libraries]".
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

import pytest

BEGIN = """
import json, sys, warnings
warnings.simplefilter("error", UserWarning)  # such as of keywords that are ignored
import lil
lil.install_as_llama_cpp()
MODEL = sys.argv[1]
GUARDIAN = lil.Guardian(rule="paper", every=5, threshold=1000)  # ends an answer after five tokens
ASK = [{"role": "user", "content": "What is rain?"}]

def ours(**more):
    return lil.Llama(MODEL, n_ctx=512, verbose=False, **more)

def completion(llama, text="The capital of France is", **more):
    return llama(text, max_tokens=12, temperature=0.0, **more)["choices"][0]["text"]

def chat(llama, **more):
    return llama.create_chat_completion(ASK, max_tokens=12, temperature=0.0, **more)["choices"][0]["message"]["content"]

def end(**results):
    print(json.dumps(results))
"""

LANGCHAIN = """
warnings.simplefilter("ignore", DeprecationWarning)
from langchain_community.chat_models import ChatLlamaCpp
from langchain_community.llms import LlamaCpp
from pydantic import BaseModel

options = {"model_path": MODEL, "n_ctx": 512, "n_batch": 512, "max_tokens": 12, "temperature": 0.0, "verbose": False}
options["rope_freq_base"] = 0.0  # the model's; LangChain would have 10000 for all
llm = LlamaCpp(**options, repeat_penalty=1.0, model_kwargs={"sparse": lil.H2O(budget=300)})
model = ChatLlamaCpp(**options, repeat_penalty=1.0, model_kwargs={"sparse": "quest", "guardian": True})
streamed = [part.content for part in model.stream(ASK)]
stopped = model.bind(guardian=GUARDIAN).invoke(ASK)

class Person(BaseModel):
    name: str
    age: int

model.max_tokens = 60
person = model.with_structured_output(Person).invoke("Bob is 30 years old.")
end(
    class_=type(llm.client).__module__,
    sparse=[llm.client.sparse_info().method, model.client.sparse_info().method],
    completion=[llm.invoke("The capital of France is"), completion(ours(sparse=lil.H2O(budget=300)))],
    completion_stream=["".join(llm.stream("The capital of France is")), completion(ours())],
    chat=[model.invoke(ASK, max_tokens=12).content, "".join(streamed)],
    chat_ours=["".join(streamed), chat(ours())],
    stopped=[stopped.content, chat(ours(), guardian=GUARDIAN)],
    chunks=len(streamed) > 5,
    person=isinstance(person, Person),
)
"""

LLAMA_INDEX = """
from llama_index.core.llms import ChatMessage
from llama_index.llms.llama_cpp import LlamaCPP

def made(**more):
    options = {"verbose": False, "sparse": "h2o", **more}
    return LlamaCPP(model_path=MODEL, temperature=0.0, max_new_tokens=12, context_window=512, model_kwargs=options)

llm = made()
raw = made(guardian=GUARDIAN).complete("The capital of France is").raw["choices"][0]
streamed = [part.delta for part in llm.stream_complete("The capital of France is")]
asked = [ChatMessage(role="user", content="What is rain?")]
end(
    class_=type(llm._model).__module__,
    sparse=[llm._model.sparse_info().method],
    completion=[llm.complete("The capital of France is").text, completion(ours())],
    completion_stream=["".join(streamed), completion(ours())],
    chat=[llm.chat(asked).message.content, "".join(part.delta for part in llm.stream_chat(asked))],
    chunks=len(streamed) > 5,
    stopped=[raw["stop_reason"], "guardian"],
    tokens=[raw["guardian"]["tokens"], 5],
)
"""

OUTLINES = """
from typing import Literal
import llama_cpp
import outlines
from pydantic import BaseModel

class Person(BaseModel):
    name: str
    age: int

llama = llama_cpp.Llama(MODEL, n_ctx=512, verbose=False, sparse=lil.Quest(budget=300), guardian=True)
model = outlines.from_llamacpp(llama)
options = {"temperature": 0.0}
person = json.loads(model("Bob is 30. As JSON:", Person, max_tokens=80, **options))
streamed = list(model.stream("What is rain?", max_tokens=12, **options))
end(
    class_=type(llama).__module__,
    sparse=[llama.sparse_info().method],
    choice=[model("What is the capital of France?", Literal["Paris", "Rome"], max_tokens=9, **options), "Paris"],
    person=sorted(person) == ["age", "name"],
    chat=[model("What is rain?", max_tokens=12, **options), chat(ours())],
    stream=["".join(streamed), chat(ours())],
    chunks=len(streamed) > 5,
)
"""

GUIDANCE = """
warnings.simplefilter("ignore", UserWarning)  # of the chat template, which it knows no class for
from guidance import gen, models, select

TEXT = "The drawer number 1 holds a spoon. The drawer number 2 holds a key. " * 8

def asked(**more):
    model = models.LlamaCpp(MODEL, n_ctx=1024, echo=False, **more)
    llama = model._interpreter.engine.model_obj
    said = model + TEXT + "So drawer 2 holds a " + select(["key", "spoon"], name="c") + ". " + gen(
        "x", max_tokens=10, temperature=0.0
    ) + " An integer: " + gen("n", regex="[0-9]{3}", temperature=0.0)
    return llama, [said["c"], said["x"], said["n"]]

llama, said = asked(sparse=lil.Quest(budget=64))
_, whole = asked(sparse=lil.Quest(budget=512))
_, full = asked()
info = llama.sparse_info()
end(
    class_=type(llama).__module__,
    sparse=[info.method],
    number=len(said[2]) == 3 and said[2].isdigit(),
    choice=said[0] in ("key", "spoon"),
    dense=[whole, full],
    prompts=info.dense_steps + info.sparse_steps < 30 and info.sparse_steps > 5,  # 250 tokens of prompt are no steps
)
"""


@pytest.mark.parametrize(
    ("packages", "script"),
    [
        (["langchain_community"], LANGCHAIN),
        (["llama_index.llms.llama_cpp"], LLAMA_INDEX),
        (["outlines", "numba"], OUTLINES),
        (["guidance"], GUIDANCE),
    ],
    ids=["langchain", "llama-index", "outlines", "guidance"],
)
def test_library(model_path: str, packages: list[str], script: str) -> None:
    for package in packages:
        if not _installed(package):
            pytest.skip(f'{package} is not installed: pip install "lil-cpp[test-libraries]"')
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", BEGIN + script, model_path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert results.pop("class_") == "lil._llama"
    assert all(results.pop("sparse"))
    for name, got in results.items():
        if isinstance(got, list):
            assert got[0] == got[1] and got[0], name
        else:
            assert got is True, name


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of a package that would hold it
        return False
