"""What the bindings' patches and `install_as_llama_cpp` promise, and the bindings as they are."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path
from typing import Any

import lil
import numpy as np
import pytest
from conftest import LOOP, ROOT
from lil import Guardian


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)


def test_the_class_of_the_bindings_is_ours() -> None:
    assert lil.llama_cpp.Llama is lil.Llama
    assert issubclass(lil.Llama, lil.llama_cpp.llama.Llama)


def test_nothing_imports_the_stock_name() -> None:
    done = run("""
        import sys, lil
        assert not [name for name in sys.modules if name.split(".")[0] == "llama_cpp"]
    """)
    assert done.returncode == 0, done.stderr


def test_one_version() -> None:
    assert lil._native.lib.lil_version().decode() == lil.__version__
    assert f'#define LIL_VERSION "{lil.__version__}"' in (ROOT / "src/include/lil.h").read_text()
    assert f'version: "{lil.__version__}"' in (ROOT / "CITATION.cff").read_text()


def test_the_package_needs_nothing_of_the_command_line() -> None:
    done = run("""
        import sys
        sys.modules["rich"] = sys.modules["typer"] = None  # as if they were not installed
        import lil, lil.methods, lil.server
        from lil.__main__ import main
        sys.exit(main())
    """)
    assert done.returncode == 2
    assert done.stderr == 'lil: the command line needs typer: pip install "lil-cpp[cli]"\n', done.stderr


def test_install() -> None:
    done = run("""
        import warnings
        warnings.simplefilter("error", ImportWarning)
        import lil
        lil.install_as_llama_cpp()
        lil.install_as_llama_cpp()
        import llama_cpp, sys
        from llama_cpp import Llama, LlamaGrammar
        import llama_cpp.llama_cpp as low
        import llama_cpp.llama_chat_format as formats
        from llama_cpp.llama_speculative import LlamaPromptLookupDecoding
        from llama_cpp.llama import Llama as stock
        assert Llama is lil.Llama and llama_cpp is lil.llama_cpp
        assert low is lil.llama_cpp.llama_cpp and formats is lil.llama_cpp.llama_chat_format
        assert sys.modules["llama_cpp.llama_speculative"] is sys.modules["lil.llama_cpp.llama_speculative"]
        assert formats.__spec__.name == "lil.llama_cpp.llama_chat_format"
        import importlib
        try:
            importlib.import_module("llama_cpp.no_such_module")
        except ModuleNotFoundError:
            pass
        else:
            raise AssertionError
    """)
    assert done.returncode == 0, done.stderr


def test_install_too_late() -> None:
    done = run("""
        import sys, types
        sys.modules["llama_cpp"] = types.ModuleType("llama_cpp")
        import lil
        try:
            lil.install_as_llama_cpp()
        except lil.InstallError as error:
            assert "already imported" in str(error) and "before" in str(error)
        else:
            raise AssertionError
    """)
    assert done.returncode == 0, done.stderr


def test_prompts_of_programs_are_prompts(model_path: str) -> None:
    """A program that decodes itself, and asks for the logits of a whole prompt, as guidance does."""
    done = run(f"""
        import lil
        lil.install_as_llama_cpp()
        import llama_cpp
        llama = llama_cpp.Llama({model_path!r}, n_ctx=512, verbose=False, sparse=lil.H2O(budget=32))

        def decode(tokens, begin):
            batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
            for i, token in enumerate(tokens):
                batch.token[i], batch.pos[i], batch.logits[i] = token, begin + i, True
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.n_tokens = len(tokens)
            assert llama_cpp.llama_decode(llama.ctx, batch) == 0
            llama_cpp.llama_batch_free(batch)

        decode(list(range(5, 105)), 0)
        info = llama.sparse_info()
        assert (info.dense_steps, info.sparse_steps) == (0, 0), info
        decode([5], 100)
        decode([6], 101)
        assert llama.sparse_info().sparse_steps == 2
    """)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("variable", "code"), [("LLAMA_CPP_LIB_PATH", 0), ("LIL_LLAMA_CPP_LIB_PATH", 1)])
def test_where_the_libraries_are(tmp_path: Path, variable: str, code: int) -> None:
    """A variable that was set for an installed llama-cpp-python does not matter."""
    done = run(f"""
        import os
        os.environ[{variable!r}] = {str(tmp_path)!r}
        import lil
    """)
    assert done.returncode == code, done.stderr
    assert code == 0 or "Error" in done.stderr


def test_their_own_tests_pass(tmp_path: Path) -> None:
    """Those of the source distribution that need no download, with `llama_cpp` being ours."""
    pytest.importorskip("pydantic")
    named = os.environ.get("LIL_LLAMA_CPP_PYTHON_SDIST")
    archives = [Path(named)] if named else sorted((ROOT / ".cache/upstream").glob("llama_cpp_python-*.tar.gz"))
    if not archives:
        pytest.skip("no source distribution in .cache/upstream")
    with tarfile.open(archives[-1]) as archive:
        for member in archive:
            inside = member.name.partition("/")[2]
            if inside.startswith("tests/") or inside == "vendor/llama.cpp/models/ggml-vocab-llama-spm.gguf":
                target = tmp_path / inside
                target.parent.mkdir(parents=True, exist_ok=True)
                source = archive.extractfile(member)
                if source is not None:
                    target.write_bytes(source.read())
    tests = [f"tests/test_llama_{name}.py" for name in ("chat_format", "grammar", "speculative")]
    if all(importlib.util.find_spec(name) for name in ("scipy", "huggingface_hub")):  # test_llama.py imports them
        tests += [f"tests/test_llama.py::test_llama_cpp_{name}" for name in ("version", "tokenization")]
    code = "import lil, pytest, sys; lil.install_as_llama_cpp(); sys.exit(pytest.main(sys.argv[1:]))"
    command = [
        sys.executable,
        "-c",
        code,
        "-q",
        "-pno:cacheprovider",
        f"--rootdir={tmp_path}",
        "-c",
        os.devnull,
        *tests,
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_grammar_embeddings_and_logits(model_path: str) -> None:
    llama = lil.Llama(model_path, n_ctx=256, logits_all=True, verbose=False)
    grammar = lil.llama_cpp.LlamaGrammar.from_string('root ::= "yes" | "no"', verbose=False)
    assert llama("Is it?", grammar=grammar, max_tokens=8)["choices"][0]["text"] in ("yes", "no")
    choice = llama("The sea", max_tokens=5, temperature=0, logprobs=2)["choices"][0]
    assert len(choice["logprobs"]["tokens"]) == 5
    assert "".join(choice["logprobs"]["tokens"]) == choice["text"]
    offsets = choice["logprobs"]["text_offset"]
    assert offsets[0] == len("The sea") and offsets == sorted(offsets)
    llama.close()
    llama = lil.Llama(model_path, n_ctx=256, embedding=True, verbose=False)
    assert len(llama.embed("The sea")) > 0
    llama.close()


@pytest.fixture
def server(model_path: str) -> Any:
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    for name in ("pydantic_settings", "sse_starlette", "starlette_context"):
        pytest.importorskip(name)
    from lil.llama_cpp.server.app import create_app
    from lil.llama_cpp.server.settings import ModelSettings, ServerSettings

    settings = ModelSettings(
        model=model_path, n_ctx=1024, n_ubatch=128, verbose=False, sparse="sink", sparse_budget=256
    )
    return create_app(server_settings=ServerSettings(), model_settings=[settings])


def test_server_carries_the_keys(server: Any) -> None:
    import httpx

    async def post(path: str, body: dict[str, Any]) -> dict[str, Any]:
        transport = httpx.ASGITransport(app=server)
        async with httpx.AsyncClient(transport=transport, base_url="http://lil", timeout=120) as client:
            reply = await client.post(path, json=body)
            assert reply.status_code == 200, reply.text
            return reply.json()

    chat = {"messages": LOOP, "temperature": 0, "max_tokens": 600, "guardian": True}
    choice = asyncio.run(post("/v1/chat/completions", chat))["choices"][0]
    assert choice["stop_reason"] in (None, "guardian")
    assert choice["guardian"]["tokens"] > 0
    text = {"prompt": "one two one two", "temperature": 0, "max_tokens": 9, "guardian": True}
    assert asyncio.run(post("/v1/completions", text))["choices"][0]["guardian"]["tokens"] == 9
    text["guardian"] = False
    assert "guardian" not in asyncio.run(post("/v1/completions", text))["choices"][0]


def test_server_settings_reach_the_model(server: Any) -> None:
    from lil.llama_cpp.server import app

    proxy = app._llama_proxy if hasattr(app, "_llama_proxy") else None
    if proxy is None:
        pytest.skip("the proxy has another name")
    assert proxy().sparse == lil.Sink(budget=256)
    assert proxy().sparse_info().method == "sink"


def test_guardian_setting() -> None:
    from types import SimpleNamespace

    from lil.server import server_keywords

    settings = SimpleNamespace(sparse="h2o", sparse_budget=64, sparse_capacity=None, guardian=True)
    assert server_keywords(settings) == {"sparse": lil.H2O(budget=64), "guardian": True}
    settings.sparse = None
    assert server_keywords(settings)["sparse"] is None
    assert Guardian() == Guardian(every=250)


# What the bindings got wrong


def _log_softmax(scores: Any) -> Any:
    shifted = scores.astype(np.float64) - scores.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("prompt", ["The sea is blue and", "<|im_start|>The sea is blue and", [504, 4165, 314]])
def test_echoed_logprobs(model_path: str, prompt: Any) -> None:
    """SmolLM2 adds no BOS token; the second prompt begins with it, and it is not echoed."""
    llama = lil.Llama(model_path, n_ctx=128, logits_all=True, verbose=False)
    result = llama.create_completion(prompt, max_tokens=5, temperature=0, logprobs=2, echo=True)
    choice = result["choices"][0]
    tokens = prompt if isinstance(prompt, list) else llama.tokenize(prompt.encode(), add_bos=False, special=True)
    got = llama._input_ids.tolist()[len(tokens) :]
    shown = tokens[1:] if tokens[0] == llama.token_bos() else tokens
    want = _log_softmax(llama._scores)
    logprobs = choice["logprobs"]
    n = len(shown)
    assert len(logprobs["tokens"]) == n + 5
    assert logprobs["tokens"][:n] == [llama.detokenize([token]).decode() for token in shown]
    assert logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None
    all_tokens = [*tokens, *got]
    offset = len(tokens) - n
    for i in range(1, n + len(got)):  # the last one was never evaluated
        place = i + offset
        assert logprobs["token_logprobs"][i] == pytest.approx(want[place - 1, all_tokens[place]], abs=1e-3)
        best = max(logprobs["top_logprobs"][i].values())
        assert best == pytest.approx(want[place - 1].max(), abs=1e-3)
    text = prompt if isinstance(prompt, str) else llama.detokenize(prompt).decode()
    assert choice["text"].startswith(text)
    plain = llama.create_completion(prompt, max_tokens=5, temperature=0, logprobs=2)["choices"][0]["logprobs"]
    assert plain["token_logprobs"] == pytest.approx(logprobs["token_logprobs"][n:], abs=1e-3)
    llama.close()


def test_logit_bias_and_a_processor(shared_llama: lil.Llama) -> None:
    prompt = "The capital of France is"
    plain = shared_llama.create_completion(prompt, max_tokens=1, temperature=0)["choices"][0]["text"]
    first, second = (shared_llama.tokenize(word, add_bos=False)[0] for word in (b" apple", b" stone"))

    def forbid(tokens: Any, scores: Any) -> Any:
        scores[first] = -1000.0
        return scores

    processors = lil.llama_cpp.LogitsProcessorList([forbid])
    ask: dict[str, Any] = {"prompt": prompt, "max_tokens": 1, "temperature": 0}
    for bias, processor, want in (
        ({first: 200.0, second: 100.0}, None, " apple"),
        ({first: 200.0, second: 100.0}, processors, " stone"),  # both act
        ({first: 200.0}, processors, plain),
        (None, None, plain),
    ):
        result = shared_llama.create_completion(**ask, logit_bias=bias, logits_processor=processor)
        assert result["choices"][0]["text"] == want
    assert processors == [forbid]


class _Says(lil.Llama):
    """Yields given tokens, and the end."""

    says: list[int]

    def generate(self, tokens: Any, *args: Any, **kwargs: Any) -> Any:
        self.n_tokens = len(tokens)
        for token in [*self.says, self.token_eos()]:
            self.n_tokens += 1
            yield token


@pytest.mark.parametrize("logprobs", [None, 1])
def test_characters_of_several_tokens(model_path: str, logprobs: int | None) -> None:
    """A stream's text is the text, also where a character's bytes are held back as a possible stop."""
    llama = _Says(model_path, n_ctx=64, vocab_only=True, logits_all=True, verbose=False)
    split = 0
    for text in ("so 🜁", "🜁🜂", "naïve 🜁 — 日本語", "a 🜁!"):
        llama.says = llama.tokenize(text.encode(), add_bos=False)
        split += any(b"\xf0" in piece and len(piece) < 4 for piece in map(llama.detokenize, ([t] for t in llama.says)))
        for stop in ([], ["🜁!"], ["🜂x"], ["語。"], ["never", "🜁?"]):
            for max_tokens in (len(llama.says), 60):
                ask = {"max_tokens": max_tokens, "stop": stop, "logprobs": logprobs}
                want = llama.create_completion("x", **ask)["choices"][0]["text"]
                chunks = list(llama.create_completion("x", **ask, stream=True))
                assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == want
                assert want == (text if stop != ["🜁!"] or "🜁!" not in text else text[: text.index("🜁!")])
    assert split == 4
    llama.close()


TOOL = {
    "type": "function",
    "function": {
        "name": "report",
        "parameters": {"type": "object", "properties": {"fine": {"type": "boolean"}}, "required": ["fine"]},
    },
}


# functionary-v1 and -v2 want a tokenizer from Hugging Face
@pytest.mark.parametrize("chat_format", [None, "chatml-function-calling", "functionary"])
def test_a_tool_call_cut_short(make_llama: Any, chat_format: str | None) -> None:
    llama = make_llama(chat_format=chat_format)
    ask: dict[str, Any] = {
        "messages": [{"role": "user", "content": "Is everything fine?"}],
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "report"}},
        "temperature": 0,
    }
    streams = (False,) if chat_format == "functionary" else (False, True)  # it cannot
    for stream in streams:
        for max_tokens, reason in ((2, "length"), (60, "tool_calls")):
            result = llama.create_chat_completion(**ask, max_tokens=max_tokens, stream=stream)
            chunks = list(result) if stream else [result]
            assert chunks[-1]["choices"][0]["finish_reason"] == reason
            if not stream:
                arguments = result["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]
                if reason == "length":
                    with pytest.raises(ValueError):
                        json.loads(arguments)
                else:
                    assert list(json.loads(arguments)) == ["fine"]
