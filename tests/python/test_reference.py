"""The reference alone, against full attention of the engine, and the library against the reference.

What needs an engine is skipped where that is not installed: `lil` for the methods, `llama_cpp` (the stock bindings) for
comparisons with stock.
"""

from __future__ import annotations

import ctypes
import importlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from reference import ARCHITECTURES, H2O, Dense, Fed, Policy, Reference, Sink, Weights, to_f32, write_tiny

F32 = NDArray[np.float32]

GGML_TYPE = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8, "bf16": 30}
REPO = Path(__file__).resolve().parents[2]


# --- models, engines and helpers -------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Weights]]:
    """tiny(arch, **write_tiny's arguments) -> the file and its weights, made once."""
    folder = tmp_path_factory.mktemp("tiny")

    @cache
    def make(arch: str, **kwargs: Any) -> tuple[Path, Weights]:
        name = "-".join([arch, *(f"{k}{v}" for k, v in sorted(kwargs.items()))])
        path = write_tiny(folder / f"{name}.gguf", arch, **kwargs)
        return path, Weights.load(path)

    return make


class Engine:
    """A Llama object of the library or of stock, with the logits and what each head holds as arrays."""

    def __init__(self, module: ModuleType, path: Path, **kwargs: Any) -> None:
        settings: dict[str, Any] = {"n_ctx": 512, "n_batch": 512, "n_ubatch": 512} | kwargs
        # One thread: models this small gain nothing from more, and lose much where others use the machine.
        settings |= {"n_threads": 1, "n_threads_batch": 1, "flash_attn": True, "verbose": False}
        self._module = module
        self.llm = module.Llama(str(path), **settings)

    def eval(self, tokens: Sequence[int]) -> F32:
        """Appends tokens and returns the last logits, [n_vocab]."""
        self.llm.eval(list(tokens))
        logits = self.llm._ctx.get_logits_ith(-1)
        return np.ctypeslib.as_array(logits, shape=(self.llm.n_vocab(),)).copy()

    def greedy(self, tokens: Sequence[int], n: int) -> list[int]:
        out = [int(np.argmax(self.eval(tokens)))]
        while len(out) < n:
            out.append(int(np.argmax(self.eval(out[-1:]))))
        return out

    def slots(self, il: int, head: int) -> dict[int, float]:
        """position -> score of what one KV head of one layer holds."""
        n = int(self.llm.n_ctx())
        native = importlib.import_module(f"{self._module.__name__}._native").lib
        pos, score = (ctypes.c_int32 * n)(), (ctypes.c_float * n)()
        n_held = native.lil_sparse_get_slots(self.llm._ctx.ctx, 0, il, head, pos, score, n)
        assert 0 <= n_held <= n
        held = dict(zip(pos[:n_held], score[:n_held], strict=True))
        assert len(held) == n_held, f"layer {il}, head {head} holds a position twice"
        return held

    def held(self, il: int, head: int) -> list[int]:
        return sorted(self.slots(il, head))

    def close(self) -> None:
        self.llm.close()


@pytest.fixture
def lil() -> ModuleType:
    return pytest.importorskip("lil")


@pytest.fixture
def stock() -> ModuleType:
    return pytest.importorskip("llama_cpp")


@pytest.fixture(params=["stock", "lil"])
def engine_module(request: pytest.FixtureRequest) -> ModuleType:
    return request.getfixturevalue(request.param)


def random_text(n: int, seed: int = 0) -> list[int]:
    """n tokens: the beginning of text, then anything printable or a pair of letters."""
    return [1, *np.random.default_rng(seed).integers(259, 512, n - 1).tolist()]


def heads_of(w: Weights) -> list[tuple[int, int]]:
    return [(il, h) for il in w.hp.full_layers for h in range(w.hp.n_head_kv)]


def run(
    eval_tokens: Callable[[Sequence[int]], F32], text: Sequence[int], n_prompt: int, each: Callable[[], None]
) -> F32:
    """Prompt, then one token at a time: the logits after the prompt and after each token, [n_steps + 1, n_vocab]."""
    logits = []
    for batch in [text[:n_prompt], *([t] for t in text[n_prompt:])]:
        logits.append(eval_tokens(batch))
        each()
    return np.array(logits)


def jaccard(a: Sequence[int], b: Sequence[int]) -> float:
    return len(set(a) & set(b)) / len(set(a) | set(b))


# --- the reference alone ---------------------------------------------------------------------------------------------


def test_tiny_is_deterministic(tmp_path: Path) -> None:
    for arch in ARCHITECTURES:
        a, b, c = (write_tiny(tmp_path / f"{i}.gguf", arch, seed=s) for i, s in enumerate((1, 1, 2)))
        assert a.read_bytes() == b.read_bytes() != c.read_bytes()


def test_to_f32_keeps_everything(tiny: Callable[..., tuple[Path, Weights]], tmp_path: Path) -> None:
    path, w = tiny("gemma3")
    copy = Weights.load(to_f32(path, tmp_path / "copy.gguf"))
    assert copy.hp == w.hp
    assert copy.tensors.keys() == w.tensors.keys()
    assert all(np.array_equal(copy[name], w[name]) for name in w.tensors)


def test_to_f32_by_many_at_once(tiny: Callable[..., tuple[Path, Weights]], tmp_path: Path) -> None:
    path, w = tiny("gemma3")
    with ThreadPoolExecutor(4) as pool:
        copies = list(pool.map(lambda _: to_f32(path, tmp_path / "copy.gguf"), range(8)))
    assert set(copies) == set(tmp_path.iterdir()) == {tmp_path / "copy.gguf"}
    assert np.array_equal(Weights.load(copies[0])["token_embd.weight"], w["token_embd.weight"])


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_batches_do_not_matter(tiny: Callable[..., tuple[Path, Weights]], arch: str) -> None:
    _, w = tiny(arch)
    text = random_text(90)
    at_once = Reference(w).eval(text)
    for n_ubatch in (1, 7, 64):
        assert np.abs(Reference(w, n_ubatch=n_ubatch).eval(text) - at_once).max() < 5e-3


@pytest.mark.parametrize("arch", ["llama", "gemma3"])
def test_large_budget_is_dense(tiny: Callable[..., tuple[Path, Weights]], arch: str) -> None:
    _, w = tiny(arch)
    text = random_text(70)
    dense = run(Reference(w).eval, text, 40, lambda: None)
    for policy in (H2O(budget=70), H2O(budget=70, prompt_scores="window"), Sink(budget=70)):
        assert np.array_equal(run(Reference(w, policy).eval, text, 40, lambda: None), dense)
        assert (policy.n_dense, policy.n_sparse, policy.n_evicted) == (30, 0, 0)
    # every slot is still where its token was
    cache = Sink(budget=70, positions="cache")
    assert np.abs(run(Reference(w, cache).eval, text, 40, lambda: None) - dense).max() < 0.05
    fed = Fed(sets=lambda il, head, pos: range(pos))
    assert np.array_equal(run(Reference(w, fed).eval, text, 40, lambda: None), dense)


class _NoKeys:
    scale = 1.0

    def keys(self, head: int, positions: Sequence[int]) -> F32:
        return np.zeros((len(positions), 1), np.float32)


def _show(policy: Policy, pos: int, probs: Sequence[Sequence[float]]) -> list[int]:
    """One batch of a one-layer model with one head, whose queries have these probabilities; returns what it sees."""
    seen = policy.before(0, pos, len(probs), _NoKeys())
    p = np.array(probs, np.float32)
    policy.after(0, pos, np.zeros((1, 1, len(probs), 1), np.float32), seen, p[None, None])
    return seen[0]


def test_h2o_by_hand() -> None:
    policy = H2O(budget=4)  # the last 2 are protected
    policy.start([0], 1)
    _show(policy, 0, [[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25, 0.5, 0.25, 0], [0.25, 0, 0.5, 0.25]])
    assert policy.scores(0, 0) == {0: 2.0, 1: 1.0, 2: 0.75, 3: 0.25}
    # token 4 comes: of 0, 1, 2 (3 is protected) the lowest goes
    assert _show(policy, 4, [[0.0, 0.125, 0.375, 0.5]]) == [0, 1, 3]
    assert policy.scores(0, 0) == {0: 2.0, 1: 1.125, 3: 0.625, 4: 0.5}
    # token 5 comes: now 3 may go, and does
    assert _show(policy, 5, [[0.0, 0.125, 0.375, 0.5]]) == [0, 1, 4]
    assert policy.scores(0, 0) == {0: 2.0, 1: 1.25, 4: 0.875, 5: 0.5}
    # 1 and 4 tie: the older goes
    assert _show(policy, 6, [[0.25, 0.375, 0.25, 0.125]]) == [0, 1, 5]
    assert _show(policy, 7, [[0.25, 0.0, 0.25, 0.5]]) == [0, 1, 6]
    policy._score[0, 0].update({0: np.float32(1), 1: np.float32(1), 6: np.float32(1)})
    assert _show(policy, 8, [[0.25, 0.25, 0.25, 0.25]]) == [1, 6, 7]
    assert (policy.n_dense, policy.n_sparse, policy.n_rows, policy.n_evicted) == (0, 5, 20, 5)


def test_sink_by_hand() -> None:
    policy = Sink(budget=6, capacity=12, n_sink=2)
    policy.start([0], 1)
    assert _show(policy, 0, [[1] * 5] * 5) == []
    assert _show(policy, 5, [[1] * 6]) == [0, 1, 2, 3, 4]
    assert _show(policy, 6, [[1] * 6]) == [0, 1, 3, 4, 5]
    assert _show(policy, 7, [[1] * 12] * 6) == [0, 1, 3, 4, 5, 6]  # 6 + 6 fit
    assert _show(policy, 13, [[1] * 8] * 2) == [0, 1, 9, 10, 11, 12]  # 12 + 2 do not: cut to the budget
    assert _show(policy, 15, [[1] * 6]) == [0, 1, 12, 13, 14]
    assert policy.held(0, 0) == [0, 1, 12, 13, 14, 15]


def test_h2o_in_chunks_keeps_its_invariants(tiny: Callable[..., tuple[Path, Weights]]) -> None:
    _, w = tiny("qwen3")
    text = random_text(300)
    for prompt_scores in ("exact", "window"):
        policy = H2O(budget=32, capacity=96, prompt_scores=prompt_scores)  # type: ignore[arg-type]
        _check_invariants(w, Reference(w, policy, n_ubatch=64).eval, policy.held, text, 200, 32, 96)


def _check_invariants(
    w: Weights,
    eval_tokens: Callable[[Sequence[int]], F32],
    held: Callable[[int, int], Sequence[int]],
    text: Sequence[int],
    n_prompt: int,
    budget: int,
    capacity: int,
) -> None:
    """Never more than the budget after a decode step, recent tokens always there, what is gone never back."""
    before: dict[tuple[int, int], set[int]] = {}
    n = 0
    for batch in [text[:n_prompt], *([t] for t in text[n_prompt:])]:
        eval_tokens(batch)
        n += len(batch)
        for il, h in heads_of(w):
            now = set(held(il, h))
            assert now <= set(range(n))
            assert len(now) <= (min(budget, n) if len(batch) == 1 else min(capacity, n))
            assert now >= set(range(max(0, n - budget // 2), n))
            if (il, h) in before:
                assert now <= before[il, h] | {n - 1}
            before[il, h] = now


# --- full attention: the reference against the engine ----------------------------------------------------------------


@pytest.mark.parametrize("head_dim", [32, 64])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_dense_equals_engine(
    tiny: Callable[..., tuple[Path, Weights]], engine_module: ModuleType, arch: str, head_dim: int
) -> None:
    path, w = tiny(arch, head_dim=head_dim)
    engine = Engine(engine_module, path)
    for n_prompt, seed in ((40, 1), (100, 2)):
        engine.llm.reset()
        text = random_text(n_prompt + 20, seed)
        diff = np.abs(
            run(engine.eval, text, n_prompt, lambda: None) - run(Reference(w).eval, text, n_prompt, lambda: None)
        )
        print(f"{arch}, head_dim {head_dim}, {n_prompt} tokens: median {np.median(diff):.5f}, max {diff.max():.5f}")
        assert diff.max() < 0.05
    engine.close()


@pytest.mark.parametrize("head_dim", [32, 64])
@pytest.mark.parametrize(("kv", "limit"), [("f32", 0.05), ("bf16", 0.05), ("q8_0", 0.1), ("q4_0", 0.5)])
def test_dense_kv_types_equal_engine(
    tiny: Callable[..., tuple[Path, Weights]], engine_module: ModuleType, kv: str, limit: float, head_dim: int
) -> None:
    path, w = tiny("llama", head_dim=head_dim)
    engine = Engine(engine_module, path, type_k=GGML_TYPE[kv], type_v=GGML_TYPE[kv])
    text = random_text(100)
    reference = Reference(w, type_k=kv, type_v=kv, type_q="q8_0" if kv.startswith("q") else None)
    diff = np.abs(run(engine.eval, text, 80, lambda: None) - run(reference.eval, text, 80, lambda: None))
    assert diff.max() < limit
    assert np.median(diff) < 0.005
    engine.close()


def test_bytes_survive_the_tokenizer(tiny: Callable[..., tuple[Path, Weights]], engine_module: ModuleType) -> None:
    engine = Engine(engine_module, tiny("llama")[0])
    text = "Hello, wörld: 1 + 1 = 2\n\tthe end".encode()
    tokens = engine.llm.tokenize(text, add_bos=True)
    assert tokens[0] == engine.llm.token_bos() == 1
    assert engine.llm.token_eos() == 2
    assert engine.llm.detokenize(tokens) == text
    engine.close()


# --- the methods: the library against the reference ------------------------------------------------------------------


def compare(
    engine: Engine,
    reference: Reference,
    text: Sequence[int],
    n_prompt: int,
    *,
    median: float = 0.02,
    sets: float = 0.98,
    score: float = 0.01,
    every: int = 5,
) -> None:
    """Teacher-forced: logits at all steps, and at every `every`-th one what each head holds.

    median, sets, score: what the median logit difference, the mean Jaccard and the mean relative score difference must
    stay within.
    """
    w, policy = reference.weights, reference.policy
    heads = heads_of(w)
    similar: list[float] = []
    scores: list[float] = []
    step = 0

    def look() -> None:
        nonlocal step
        step += 1
        if (step - 1) % every:
            return
        for il, h in heads:
            held, expected = engine.slots(il, h), policy.held(il, h)
            assert len(held) == len(expected)
            similar.append(jaccard(list(held), expected))
            if isinstance(policy, H2O) and policy.prompt_scores == "exact":
                theirs = policy.scores(il, h)
                both = [p for p in held if p in theirs]
                scores.append(float(np.median([abs(held[p] - theirs[p]) / (theirs[p] + 1e-3) for p in both])))

    a, b = [], []
    for batch in [text[:n_prompt], *([t] for t in text[n_prompt:])]:
        a.append(engine.eval(batch))
        b.append(reference.eval(batch))
        look()
    diff = np.abs(np.array(a) - np.array(b))
    print(f"logits: median {np.median(diff):.5f}, max {diff.max():.3f}; sets: {np.mean(similar):.4f}", end="")
    print(f"; scores: {np.mean(scores):.5f}" if scores else "")
    assert np.median(diff) < median
    assert np.mean(similar) > sets
    if isinstance(policy, Sink):
        assert min(similar) == 1.0
    if scores:
        assert np.mean(scores) < score
    # The first step that evicts must be right, not only most of them.
    first = max(0, min(len(diff) - 1, getattr(policy, "budget", 0) - n_prompt + 1))
    assert np.median(diff[: first + 2]) < median
    info = engine.llm.sparse_info()
    counts = (info.dense_steps, info.sparse_steps, info.rows_read, info.evicted)
    assert counts == (policy.n_dense, policy.n_sparse, policy.n_rows, policy.n_evicted)


def make_sparse(lil: ModuleType, policy: Policy, **kwargs: Any) -> Any:
    """The library's method of the same parameters as a reference's policy."""
    if isinstance(policy, Sink):
        fields: dict[str, Any] = {"n_sink": policy.n_sink, "positions": policy.positions}
    else:
        assert isinstance(policy, H2O)
        fields = {"recent": policy.recent, "prompt_scores": policy.prompt_scores}
    if policy.capacity is not None:
        fields["capacity"] = policy.capacity
    return getattr(lil, type(policy).__name__)(budget=policy.budget, **fields, **kwargs)


@pytest.mark.parametrize(
    "policy", [H2O(budget=32), H2O(budget=49, recent=9), Sink(budget=24), Sink(budget=48)], ids=str
)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_method_equals_reference(
    tiny: Callable[..., tuple[Path, Weights]], lil: ModuleType, arch: str, policy: H2O | Sink
) -> None:
    path, w = tiny(arch)
    engine = Engine(lil, path, sparse=make_sparse(lil, policy))
    compare(engine, Reference(w, policy), random_text(400), 60)
    engine.close()


@pytest.mark.parametrize("policy", [H2O(budget=40), Sink(budget=40)], ids=str)
def test_short_prompt_grows_past_the_budget(
    tiny: Callable[..., tuple[Path, Weights]], lil: ModuleType, policy: H2O | Sink
) -> None:
    path, w = tiny("llama")
    engine = Engine(lil, path, sparse=make_sparse(lil, policy))
    compare(engine, Reference(w, policy), random_text(140), 10, every=1)
    assert engine.llm.sparse_info().dense_steps == 30
    engine.close()


@pytest.mark.parametrize(
    "policy",
    [
        H2O(budget=32, capacity=256),
        H2O(budget=64, capacity=256, prompt_scores="window"),
        Sink(budget=32, capacity=256),
        Sink(budget=32, capacity=256, positions="cache"),
    ],
    ids=str,
)
@pytest.mark.parametrize("arch", ["qwen2", "gemma3"])
def test_chunked_prompt_equals_reference(
    tiny: Callable[..., tuple[Path, Weights]], lil: ModuleType, arch: str, policy: H2O | Sink
) -> None:
    path, w = tiny(arch)
    engine = Engine(lil, path, n_ctx=1024, n_batch=128, n_ubatch=64, sparse=make_sparse(lil, policy))
    compare(engine, Reference(w, policy, n_ubatch=64), random_text(700), 500)
    assert engine.llm.sparse_info().capacity == 256
    engine.close()


def test_window_scores_equal_reference(tiny: Callable[..., tuple[Path, Weights]], lil: ModuleType) -> None:
    path, w = tiny("llama")
    policy = H2O(budget=48, prompt_scores="window")
    engine = Engine(lil, path, sparse=make_sparse(lil, policy))
    compare(engine, Reference(w, policy), random_text(350), 150)
    engine.close()


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_cache_positions_go_past_the_training_length(
    tiny: Callable[..., tuple[Path, Weights]], lil: ModuleType, arch: str
) -> None:
    path, w = tiny(arch, n_ctx_train=128)
    policy = Sink(budget=48, positions="cache")
    engine = Engine(lil, path, sparse=make_sparse(lil, policy))
    compare(engine, Reference(w, policy), random_text(450), 60)
    engine.close()


@pytest.mark.parametrize("head_dim", [32, 64])
@pytest.mark.parametrize(
    ("kv", "median", "sets"), [("f32", 0.02, 0.98), ("bf16", 0.02, 0.98), ("q8_0", 0.04, 0.97), ("q4_0", 0.1, 0.95)]
)
@pytest.mark.parametrize("policy", [H2O(budget=48), Sink(budget=48), Sink(budget=48, positions="cache")], ids=str)
def test_kv_types_equal_reference(
    tiny: Callable[..., tuple[Path, Weights]],
    lil: ModuleType,
    policy: H2O | Sink,
    kv: str,
    median: float,
    sets: float,
    head_dim: int,
) -> None:
    path, w = tiny("llama", head_dim=head_dim)
    engine = Engine(lil, path, sparse=make_sparse(lil, policy), type_k=GGML_TYPE[kv], type_v=GGML_TYPE[kv])
    reference = Reference(w, policy, type_k=kv, type_v=kv, type_q="q8_0" if kv.startswith("q") else None)
    compare(engine, reference, random_text(260), 60, median=median, sets=sets, score=median)
    engine.close()


@pytest.mark.parametrize("arch", ["llama", "gemma3"])
def test_attention_over_the_librarys_own_sets(
    tiny: Callable[..., tuple[Path, Weights]], lil: ModuleType, arch: str
) -> None:
    """No near tie can excuse a difference here: the reference attends to what the library says it held."""
    path, w = tiny(arch)
    text, n_prompt = random_text(300), 60
    engine = Engine(lil, path, sparse=lil.H2O(budget=32))
    held: dict[tuple[int, int, int], list[int]] = {}
    logits = [engine.eval(text[:n_prompt])]
    for pos in range(n_prompt, len(text)):
        logits.append(engine.eval(text[pos : pos + 1]))
        held |= {(il, h, pos): list(engine.slots(il, h)) for il, h in heads_of(w)}
    fed = Reference(w, Fed(sets=lambda il, h, pos: held[il, h, pos]))
    diff = np.abs(np.array(logits) - run(fed.eval, text, n_prompt, lambda: None))
    print(f"{arch}: median {np.median(diff):.5f}, max {diff.max():.5f}")
    assert diff.max() < 0.05
    engine.close()


@pytest.mark.parametrize("capacity", [None, 256])
def test_library_keeps_the_invariants(
    tiny: Callable[..., tuple[Path, Weights]], lil: ModuleType, capacity: int | None
) -> None:
    for arch in ("llama", "gemma3"):
        path, w = tiny(arch)
        sparse = lil.H2O(budget=40, capacity=capacity)
        engine = Engine(lil, path, n_ctx=768, n_batch=64, n_ubatch=64, sparse=sparse)
        _check_invariants(w, engine.eval, engine.held, random_text(600), 300, 40, capacity or 768)
        assert engine.llm.sparse_info().sparse_steps == 300
        engine.close()


@pytest.mark.parametrize("method", ["H2O", "Sink"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_large_budget_equals_full_attention(
    tiny: Callable[..., tuple[Path, Weights]], lil: ModuleType, arch: str, method: str
) -> None:
    path, _ = tiny(arch)
    prompt = random_text(60)
    texts = []
    for sparse in (None, getattr(lil, method)(budget=200)):
        engine = Engine(lil, path, sparse=sparse)
        texts.append(engine.greedy(prompt, 120))
        engine.close()
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 1
    try:
        stock = importlib.import_module("llama_cpp")
    except ImportError:
        return
    engine = Engine(stock, path)
    assert engine.greedy(prompt, 120) == texts[0]
    engine.close()


# --- a real model ----------------------------------------------------------------------------------------------------

PROSE = """\
The lighthouse stood on a spit of shingle that the sea had been trying to take back for two hundred years. Every winter
it took a little, and every spring the keeper and his sister wheeled barrows of stone along the causeway and put a
little back. Nobody paid them for it. The keeper was paid to keep the lamp, and the sister was not paid at all, but both
of them had been born in the low white house behind the tower, and neither could imagine a morning without the sound of
water working at the stones. In the autumn of the year of the great herring, a boat came in that nobody knew. It was
long and narrow, painted a green so dark that it looked black until the sun struck it, and it carried one man, who asked
the keeper, before he had so much as tied up his boat, whether the lamp had ever failed. The keeper said that it had
not. The man laughed, and said that in that case he had come to the wrong lighthouse, or to the right one on the wrong
night, and would they be so kind as to give him something hot to drink while he waited to find out which of the two it
was. So the sister made tea, and the three of them sat by the stove while the wind got up, and the stranger told them
about the other lamp.
"""


@pytest.fixture(scope="session")
def real_model() -> tuple[Path, Weights]:
    """A float32 copy of SmolLM2-135M, made once and kept beside the file that it was made from."""
    default = REPO / ".cache" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    path = Path(os.environ.get("LIL_TEST_MODEL", default))
    if not path.exists():
        pytest.skip(f"{path} is not there; LIL_TEST_MODEL names another place")
    copy = (path if os.access(path.parent, os.W_OK) else default).with_suffix(".f32.gguf")
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        to_f32(path, copy)
    return copy, Weights.load(copy)


def test_real_model_dense_equals_engine(real_model: tuple[Path, Weights], engine_module: ModuleType) -> None:
    path, w = real_model
    engine = Engine(engine_module, path)
    text = engine.llm.tokenize(PROSE.encode())[:220]
    diff = np.abs(run(engine.eval, text, 200, lambda: None) - run(Reference(w).eval, text, 200, lambda: None))
    print(f"median {np.median(diff):.5f}, max {diff.max():.5f}")
    assert diff.max() < 0.1
    assert np.median(diff) < 0.02
    engine.close()


@pytest.mark.parametrize("policy", [H2O(budget=64), Sink(budget=64)], ids=str)
def test_real_model_equals_reference(real_model: tuple[Path, Weights], lil: ModuleType, policy: H2O | Sink) -> None:
    path, w = real_model
    engine = Engine(lil, path, sparse=make_sparse(lil, policy))
    text = engine.llm.tokenize(PROSE.encode())
    assert len(text) > 260
    compare(engine, Reference(w, policy), text[:260], 200, median=0.05)
    engine.close()


def test_dense_counts() -> None:
    policy = Dense()
    policy.start([0, 2], 3)
    for il in (0, 2):
        policy.before(il, 0, 4, _NoKeys())
    for il in (0, 2):
        assert policy.before(il, 4, 1, _NoKeys()) == [[0, 1, 2, 3]] * 3
    assert (policy.n_dense, policy.n_sparse, policy.n_rows, policy.n_evicted) == (1, 0, 30, 0)
