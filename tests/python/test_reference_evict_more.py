"""TOVA and R-KV: the library, in both forms, against the reference.

Whose single query or rare cut decides, a near tie changes everything after it. So the reference judges each cut of the
library by its own scores, then drops what the library dropped: every step is compared on the same state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from reference import ARCHITECTURES, RKV, TOVA, Reference, Weights, write_tiny
from test_reference import GGML_TYPE, Engine, heads_of, random_text

FORMS = ("fused", "portable")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Weights]]:
    """tiny(arch, **write_tiny's arguments) -> the file and its weights, made once."""
    folder = tmp_path_factory.mktemp("tiny")

    @cache
    def make(arch: str, **kwargs: Any) -> tuple[Path, Weights]:
        name = "-".join([arch, *(f"{k}{v}" for k, v in sorted(kwargs.items()))])
        path = write_tiny(folder / f"{name}.gguf", arch, **kwargs)
        return path, Weights.load(path)

    return make


@pytest.fixture
def lil() -> ModuleType:
    return pytest.importorskip("lil")


class Judge:
    """The reference's side of a cut: lets the library decide, and notes how far its choice is from the reference's.

    Attributes:
        alike: Per cut and head, the share of the tokens dropped that the reference would have dropped.
        gaps: How much higher the highest score dropped is than it need be, in standard deviations of the scores. 0
            where both drop the same.
    """

    def judge(self, engine: Engine) -> None:
        self.engine = engine
        self.alike: list[float] = []
        self.gaps: list[float] = []

    def _drop_lowest(
        self: Any, il: int, head: int, n_gone: int, n_protected: int, score: Mapping[int, np.float32]
    ) -> list[int]:
        held = self._held[il, head]
        left = set(self.engine.slots(il, head))
        gone = [p for p in held if p not in left]
        assert len(gone) == n_gone
        assert not set(gone) & set(held[len(held) - n_protected :])
        ranked = sorted(held[: len(held) - n_protected], key=lambda p: (score[p], p))
        self.alike.append(len(set(gone) & set(ranked[:n_gone])) / n_gone)
        highest = max(score[p] for p in gone)
        self.gaps.append(float((highest - score[ranked[n_gone - 1]]) / np.std([score[p] for p in ranked])))
        self._drop(il, head, gone)
        return gone


class JudgedTOVA(Judge, TOVA):
    pass


class JudgedRKV(Judge, RKV):
    pass


Judged = JudgedTOVA | JudgedRKV


def make_sparse(lil: ModuleType, policy: Judged, form: str) -> Any:
    """The library's method of the same parameters as a reference's policy."""
    fields: dict[str, Any] = {"budget": policy.budget, "capacity": policy.capacity, "form": form}
    if isinstance(policy, JudgedTOVA):
        return lil.TOVA(**fields)
    return lil.RKV(buffer=policy.buffer, observed=policy.window, lam=policy.lam, threshold=policy.threshold, **fields)


def compare(
    engine: Engine,
    reference: Reference,
    batches: Sequence[Sequence[int]],
    *,
    limit: float = 0.05,
    score: float = 0.01,
    gap: float = 0.002,
    alike: float = 0.99,
) -> None:
    """Logits at all steps, what each head holds, TOVA's scores, and every cut.

    limit, score: the largest logit difference, the mean relative score difference.
    gap, alike: the largest mean gap of the cuts, the least mean share of tokens that both drop. Single cuts of R-KV may
        differ by more: a cosine on the other side of the threshold moves a score at once.
    """
    policy: Any = reference.policy
    policy.judge(engine)
    diff: list[float] = []
    scores: list[float] = []
    for batch in batches:
        logits = engine.eval(batch)
        diff.append(float(np.abs(logits - reference.eval(batch)).max()))
        for il, h in heads_of(reference.weights):
            held = engine.slots(il, h)
            assert sorted(held) == policy.held(il, h)
            if isinstance(policy, TOVA):
                theirs = policy.scores(il, h)
                scores.append(float(np.median([abs(held[p] - s) / (s + 1e-3) for p, s in theirs.items()])))
    gaps, same = np.array(policy.gaps), np.mean(policy.alike)
    print(
        f"logits {max(diff):.4f}; {len(gaps)} cuts, alike {same:.4f}, gaps {gaps.mean():.5f}, {gaps.max():.4f}", end=""
    )
    print(f"; scores {np.mean(scores):.5f}" if scores else "")
    assert max(diff) < limit
    assert len(gaps) > 20
    assert gaps.mean() < gap
    assert same > alike
    if isinstance(policy, TOVA):
        assert gaps.max() < 20 * gap
    if scores:
        assert np.mean(scores) < score
    info = engine.llm.sparse_info()
    counts = (info.dense_steps, info.sparse_steps, info.rows_read, info.evicted)
    assert counts == (policy.n_dense, policy.n_sparse, policy.n_rows, policy.n_evicted)


def split(text: Sequence[int], n_prompt: int, n_batch: int = 512) -> list[Sequence[int]]:
    """A prompt in batches, then one token each."""
    prompt = [text[i : min(i + n_batch, n_prompt)] for i in range(0, n_prompt, n_batch)]
    return [*prompt, *([t] for t in text[n_prompt:])]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "policy",
    [
        JudgedTOVA(budget=32),
        JudgedRKV(budget=48, buffer=16),
        JudgedRKV(budget=40, buffer=7, window=3, lam=0.6, threshold=0.2),
        JudgedRKV(budget=32, buffer=1, window=5, lam=0.0),
    ],
    ids=str,
)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_method_equals_reference(
    tiny: Callable[..., tuple[Path, Weights]], lil: ModuleType, arch: str, policy: Judged, form: str
) -> None:
    path, w = tiny(arch)
    engine = Engine(lil, path, sparse=make_sparse(lil, policy, form))
    compare(engine, Reference(w, policy), split(random_text(200), 60))
    assert engine.llm.sparse_info().form == form
    engine.close()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("policy", [JudgedTOVA(budget=40), JudgedRKV(budget=40, buffer=12, window=16)], ids=str)
def test_short_prompt_grows_past_the_budget(
    tiny: Callable[..., tuple[Path, Weights]], lil: ModuleType, policy: Judged, form: str
) -> None:
    path, w = tiny("llama")
    engine = Engine(lil, path, sparse=make_sparse(lil, policy, form))
    compare(engine, Reference(w, policy), split(random_text(140), 10))
    assert engine.llm.sparse_info().dense_steps == 30
    engine.close()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "policy", [JudgedTOVA(budget=32, capacity=256), JudgedRKV(budget=64, capacity=256, buffer=20)], ids=str
)
@pytest.mark.parametrize("arch", ["qwen2", "gemma3"])
def test_chunked_prompt_equals_reference(
    tiny: Callable[..., tuple[Path, Weights]], lil: ModuleType, arch: str, policy: Judged, form: str
) -> None:
    path, w = tiny(arch)
    engine = Engine(lil, path, n_ctx=1024, n_batch=64, n_ubatch=64, sparse=make_sparse(lil, policy, form))
    compare(engine, Reference(w, policy, n_ubatch=64), split(random_text(600), 500, 64))
    assert engine.llm.sparse_info().capacity == 256
    engine.close()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("kv", "limit", "gap", "alike"),
    [("f32", 0.05, 0.002, 0.99), ("bf16", 0.05, 0.01, 0.98), ("q8_0", 0.1, 0.01, 0.98), ("q4_0", 0.5, 0.02, 0.97)],
)
@pytest.mark.parametrize("policy", [JudgedTOVA(budget=48), JudgedRKV(budget=48, buffer=12)], ids=str)
def test_kv_types_equal_reference(
    tiny: Callable[..., tuple[Path, Weights]],
    lil: ModuleType,
    policy: Judged,
    kv: str,
    limit: float,
    gap: float,
    alike: float,
    form: str,
) -> None:
    path, w = tiny("llama", head_dim=64)
    # the reference rounds queries as llama.cpp's attention does; the op does not round them
    settings = {"type_k": GGML_TYPE[kv], "type_v": GGML_TYPE[kv], "fused_dense": False}
    engine = Engine(lil, path, sparse=make_sparse(lil, policy, form), **settings)
    reference = Reference(w, policy, type_k=kv, type_v=kv, type_q="q8_0" if kv.startswith("q") else None)
    compare(engine, reference, split(random_text(200), 60), limit=limit, score=0.05, gap=gap, alike=alike)
    engine.close()
