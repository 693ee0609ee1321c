"""Sessions in files: they go on where they were, are whole whatever happens to who writes them, or are refused."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lil
import pytest
from conftest import ROOT
from every_method import every_method
from lil import _session_file
from lil._atomic import replace_file
from reference.gguf_models import write_tiny

METHODS = {"full": None, **every_method(48, reselect=3)}
TEXT = b"The quick brown fox jumps over it all, and comes back. " * 4
AFTER = [65, 66, 67]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A plain stack, and one most of whose layers are recurrent."""
    folder = tmp_path_factory.mktemp("models")
    write_tiny(folder / "llama.gguf", "llama", n_layer=6)
    script = ROOT / "benchmarks" / "random_gguf.py"
    hybrid = str(folder / "hybrid.gguf")
    subprocess.run([sys.executable, script, hybrid, "--shape", "tiny-hybrid", "--n-ctx", "2048"], check=True)
    return {"llama": str(folder / "llama.gguf"), "hybrid": hybrid}


@pytest.fixture
def tiny(models: dict[str, str]) -> Iterator[Callable[..., lil.Llama]]:
    with contextlib.ExitStack() as stack:

        def make(model: str = "llama", **kwargs: Any) -> lil.Llama:
            keywords = {"n_ctx": 512, "n_ubatch": 64, "n_threads": 1, "n_threads_batch": 1, "verbose": False, **kwargs}
            llama = lil.Llama(models.get(model, model), **keywords)
            stack.callback(llama.close)
            return llama

        yield make


def write(llama: lil.Llama, tokens: list[int], n: int = 12) -> list[int]:
    stream = llama.generate(tokens, temp=0.0)
    try:
        return [next(stream) for _ in range(n)]
    finally:
        stream.close()


def filled(llama: lil.Llama) -> list[int]:
    """Has it answer, and returns the tokens that its cache holds."""
    tokens = llama.tokenize(TEXT)
    return (tokens + write(llama, tokens, 30))[: llama.n_tokens]


@pytest.mark.filterwarnings("ignore::lil.MethodWarning")
@pytest.mark.parametrize("model", ["llama", "hybrid"])
@pytest.mark.parametrize("method", METHODS)
def test_goes_on_where_it_was(
    tiny: Callable[..., lil.Llama], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, method: str
) -> None:
    path, notes = tmp_path / "a.session", {"messages": ["ä", None, 1.5]}
    llama = tiny(model, sparse=METHODS[method])
    tokens = filled(llama)
    llama.save_session(path, notes=notes)
    want = write(llama, tokens + AFTER)

    other = tiny(model, sparse=METHODS[method], n_ctx=1024)
    assert other.load_session(str(path)) == notes
    assert other.n_tokens == len(tokens) and other._input_ids.tolist() == tokens
    evaluated: list[int] = []
    before = other.eval
    monkeypatch.setattr(other, "eval", lambda part: (evaluated.append(len(part)), before(part)))
    assert write(other, tokens + AFTER) == want
    assert evaluated[0] == len(AFTER)  # the rest came from the file
    assert path.stat().st_mode & 0o077 == 0 or os.name != "posix"
    assert list(tmp_path.iterdir()) == [path]


def test_of_scores_nothing_and_a_link(tiny: Callable[..., lil.Llama], tmp_path: Path) -> None:
    llama = tiny(logits_all=True)
    filled(llama)
    real, path = tmp_path / "real", tmp_path / "link"
    llama.save_session(real)
    path.symlink_to(real)
    llama.save_session(path)
    assert path.is_symlink()
    other = tiny(logits_all=True)
    assert other.load_session(path) is None
    assert (other._scores == llama._scores).all() and len(other._scores) == llama.n_tokens
    empty = tiny()
    empty.save_session(path)
    other = tiny()
    filled(other)
    other.load_session(path)
    assert other.n_tokens == 0


def test_damaged_files_are_refused(tiny: Callable[..., lil.Llama], tmp_path: Path) -> None:
    llama, twin = tiny(sparse="quest"), tiny(sparse="quest")
    tokens = filled(llama)
    assert filled(twin) == tokens
    path = tmp_path / "a.session"
    llama.save_session(path, notes="whole")
    whole = path.read_bytes()
    rng = random.Random(20)
    n_head = int.from_bytes(whole[12:16], "little")

    cuts = [
        0,
        1,
        8,
        23,
        24,
        24 + n_head,
        len(whole) - 32,
        len(whole) - 1,
        *(rng.randrange(len(whole)) for _ in range(20)),
    ]
    bits = [*range(24), 24 + n_head // 2, 24 + n_head, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(40))]
    bad = [whole[:cut] for cut in cuts] + [whole + b"\0", b"GGUF" + whole[4:]]
    for at in bits:
        one = bytearray(whole)
        one[at] ^= 1 << rng.randrange(8)
        bad.append(bytes(one))
    for data in bad:
        path.write_bytes(data)
        with pytest.raises(lil.StateError, match=r"is no session|is damaged|is of version"):
            llama.load_session(path)
    assert llama._input_ids.tolist() == tokens
    assert write(llama, tokens + AFTER) == write(twin, tokens + AFTER)


def test_what_does_not_fit_is_refused(tiny: Callable[..., lil.Llama], models: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "a.session"
    saved = tiny(sparse=lil.H2O(budget=48))
    filled(saved)
    saved.save_session(path)
    same = str(tmp_path / "same-name.gguf")
    shutil.copy(models["llama"], same)
    with open(same, "r+b") as file:  # another training
        file.seek(-100, os.SEEK_END)
        file.write(b"\x01" * 8)

    q8 = lil.llama_cpp.GGML_TYPE_Q8_0
    h2o: dict[str, Any] = {"sparse": lil.H2O(budget=48)}
    for model, keywords, words in (
        ("hybrid", h2o, "was saved by .*, and this is random"),
        (same, h2o, "with other weights than .*same-name.gguf"),
        (
            "llama",
            {},
            r"saved with sparse=H2O\(budget=48.*, and this model has sparse=None; make the Llama with sparse=",
        ),
        ("llama", {"sparse": lil.H2O(budget=64)}, r"this model has sparse=H2O\(budget=64"),
        ("llama", {**h2o, "type_k": q8}, f"saved with type_k=1, and this model has type_k={q8}"),
        ("llama", {**h2o, "rope_freq_base": 5e5}, "rope_freq_base"),
        ("llama", {**h2o, "n_ctx": 128}, f"holds {saved.n_tokens} tokens, and n_ctx is 128"),
    ):
        llama, twin = tiny(model, **keywords), tiny(model, **keywords)
        prompt = llama.tokenize(b"Something else")
        assert write(llama, prompt) == write(twin, prompt)
        with pytest.raises(lil.StateError, match=f"{path}: .*{words}"):
            llama.load_session(path)
        assert llama._input_ids.tolist() == twin._input_ids.tolist()
        assert write(llama, [*prompt, *AFTER]) == write(twin, [*prompt, *AFTER])


def test_files_that_cannot_be(tiny: Callable[..., lil.Llama], tmp_path: Path) -> None:
    llama = tiny()
    with pytest.raises(lil.StateError, match="there is no such session"):
        llama.load_session(tmp_path / "none")
    with pytest.raises(lil.StateError, match="cannot be read"):
        llama.load_session(tmp_path)
    with pytest.raises(lil.StateError, match="cannot be written: No such file"):
        llama.save_session(tmp_path / "none" / "a")
    with pytest.raises(lil.StateError, match="cannot be written"):
        llama.save_session(tmp_path)
    with pytest.raises(lil.ConfigTypeError, match="is no JSON"):
        llama.save_session(tmp_path / "a", notes=object())
    assert list(tmp_path.iterdir()) == []


def test_a_stream_is_not_disturbed(tiny: Callable[..., lil.Llama], tmp_path: Path) -> None:
    llama, twin = tiny(), tiny()
    want = write(twin, twin.tokenize(TEXT))
    stream = llama.generate(llama.tokenize(TEXT), temp=0.0)
    got = [next(stream) for _ in range(6)]
    llama.save_session(tmp_path / "a")
    with pytest.raises(lil.BusyError):
        llama.load_session(tmp_path / "a")
    assert got + [next(stream) for _ in range(6)] == want
    stream.close()


def test_parts_left_behind_go(tmp_path: Path) -> None:
    old, new, other = (tmp_path / name for name in (".a.old.part", ".a.new.part", ".b.old.part"))
    for part in (old, new, other):
        part.write_bytes(b"x")
    for part in (old, other):
        os.utime(part, (time.time() - 3600,) * 2)
    replace_file(str(tmp_path / "a"), [b"1", b"2"])
    assert {path.name for path in tmp_path.iterdir()} == {"a", new.name, other.name}
    assert (tmp_path / "a").read_bytes() == b"12"

    def failing() -> Iterator[bytes]:
        yield b"half"
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        replace_file(str(tmp_path / "a"), failing())
    assert (tmp_path / "a").read_bytes() == b"12" and len(list(tmp_path.iterdir())) == 3


WRITER = """
import itertools, json, sys
import lil
llama = lil.Llama(sys.argv[1], n_ctx=512, n_ubatch=64, n_threads=1, n_threads_batch=1, verbose=False)
texts = json.loads(sys.argv[3])
for n in itertools.count():
    llama.reset()
    llama.eval(llama.tokenize(texts[n % 2].encode()))
    llama.save_session(sys.argv[2], notes=n % 2)
    if n == 0:
        print("begun", flush=True)
"""


def test_killed_while_it_writes(tiny: Callable[..., lil.Llama], models: dict[str, str], tmp_path: Path) -> None:
    """A process that saves without end is killed at random moments; LIL_TEST_KILLS says how often."""
    path, texts = tmp_path / "a.session", ["One text. " * 10, "Another one, which is longer. " * 10]
    llama = tiny()
    rng = random.Random(9)
    for _ in range(int(os.environ.get("LIL_TEST_KILLS", "5"))):
        command = [sys.executable, "-c", WRITER, models["llama"], str(path), json.dumps(texts)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None and writer.stdout.readline() == b"begun\n"
            time.sleep(rng.random() * 0.05)
            writer.kill()
        which = llama.load_session(path)
        assert llama._input_ids.tolist() == llama.tokenize(texts[which].encode())
    assert all(part == path or part.name.startswith(".a.session.") for part in tmp_path.iterdir())


def test_versions(tiny: Callable[..., lil.Llama], tmp_path: Path) -> None:
    path = tmp_path / "a"
    llama = tiny()
    llama.save_session(path)
    data = bytearray(path.read_bytes())
    data[8] = _session_file._VERSION + 1
    path.write_bytes(data)
    with pytest.raises(lil.StateError, match="is of version 2, and this lil reads 1; use the lil that wrote it"):
        llama.load_session(path)
