"""The methods that select: the library, in both forms, against the reference.

In a random model near ties are common, and one other token changes all layers and tokens after it. So the reference
judges each choice of the library by its own scores, then attends to what the library chose: every step is compared on
the same state, and logits must agree at all of them. Free-running comparisons, each side with its own choices, are
there as well.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from reference import (
    ARCHITECTURES,
    NEVER,
    PAGE,
    Fed,
    InfLLM,
    LayerView,
    LessIsMore,
    Quest,
    RaaS,
    Reference,
    Select,
    TidalDecode,
    Weights,
    write_tiny,
)
from reference.evict import Positions
from reference.select import count_dense_layers, group_page_scores, page_tokens
from test_reference import GGML_TYPE, PROSE, Engine, heads_of, jaccard, random_text, real_model  # noqa: F401

F32 = NDArray[np.float32]

N_LAYER = 6  # full-attention layers


# --- models and methods ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Weights]]:
    """tiny(arch, **write_tiny's arguments) -> the file and its weights, made once."""
    folder = tmp_path_factory.mktemp("tiny")

    @cache
    def make(arch: str, **kwargs: Any) -> tuple[Path, Weights]:
        kwargs.setdefault("n_layer", 2 * N_LAYER if arch == "gemma3" else N_LAYER)
        name = "-".join([arch, *(f"{k}{v}" for k, v in sorted(kwargs.items()))])
        path = write_tiny(folder / f"{name}.gguf", arch, **kwargs)
        w = Weights.load(path)
        assert len(w.hp.full_layers) == N_LAYER
        return path, w

    return make


@pytest.fixture
def lil() -> ModuleType:
    return pytest.importorskip("lil")


def make_sparse(lil: ModuleType, policy: Select, form: str = "auto") -> Any:
    """The library's method of the same parameters as a reference's policy."""
    ours = next(getattr(lil, base.__name__) for base in type(policy).__mro__ if hasattr(lil, base.__name__))
    both = {f.name for f in fields(ours)} & {f.name for f in fields(policy)}
    return ours(form=form, **{name: getattr(policy, name) for name in both})


def forms_of(policy: Select) -> tuple[str, ...]:
    if isinstance(policy, RaaS):
        return ("fused",)
    if isinstance(policy, InfLLM) and policy.far:
        return ("portable",)
    return ("fused", "portable")


def in_forms(*policies: Select, form: str | None = None) -> list[Any]:
    """Parameters (policy, form): each policy in every form that it has, or in `form` where it has that, otherwise in
    the other."""
    out = []
    for p in policies:
        forms = forms_of(p)
        chosen = forms if form is None else (form,) if form in forms else forms
        out += [pytest.param(p, f, id=f"{p}-{f}") for f in chosen]
    return out


def batches_of(text: Sequence[int], *n: int) -> list[Sequence[int]]:
    """Of each n a piece of prompt of n tokens, or, where it is negative, -n tokens one by one."""
    out: list[Sequence[int]] = []
    at = 0
    for size in n:
        out += [text[at : at + size]] if size > 0 else [[t] for t in text[at : at - size]]
        at += abs(size)
    return out


# --- the judges ------------------------------------------------------------------------------------------------------


class Judge:
    """The reference's side of a choice: checks what must be so, notes how good the rest is, and lets the library
    decide.

    Attributes:
        alike: Per choice, the share of what the reference would have chosen that the library chose.
        gaps: How much better the best that was left out is than the worst that was chosen, in standard deviations of
            the scores, or as a share of the ranks. 0 where both choose the same.
    """

    def judge(self, engine: Engine) -> None:
        self.engine = engine
        self.alike: list[float] = []
        self.gaps: list[float] = []

    def _got(self: Any, il: int, pos: int) -> Positions:
        """What the library's heads attended to besides the current token, which must be there."""
        got = []
        for h in range(self._n_head_kv):
            held = self.engine.held(il, h)
            assert held[-1] == pos
            got.append(held[:-1])
        return got

    def _note(self, score: F32, got: Collection[int], expected: Collection[int], unit: float) -> None:
        missed, extra = sorted(set(expected) - set(got)), sorted(set(got) - set(expected))
        assert len(missed) == len(extra)
        self.alike.append(1 - len(missed) / max(1, len(expected)))
        gap = max(0.0, float(score[missed].max() - score[extra].min())) if missed else 0.0
        self.gaps.append(gap / unit)


class JudgedQuest(Judge, Quest):
    def _choose(self, il: int, pos: int, q: F32, view: LayerView, q_far: F32 | None) -> Positions:
        got, expected = self._got(il, pos), super()._choose(il, pos, q, view, q_far)
        if self._layers.index(il) < count_dense_layers(self.dense_layers, len(self._layers)):
            assert got == expected
            return got
        fixed = {0, pos // PAGE} if self.first_page else {pos // PAGE}
        among = [p for p in range(pos // PAGE) if p not in fixed]
        for h in range(self._n_head_kv):
            pages, best = ({p // PAGE for p in tokens} - fixed for tokens in (got[h], expected[h]))
            assert got[h] == page_tokens(pages | fixed, pos)  # whole pages, and those that must be there
            assert len(pages) == self.budget // PAGE - len(fixed)
            score = group_page_scores(q[h], view.keys(h, range(pos + 1)))
            self._note(score, pages, best, float(np.std(score[among])))
        return got


class JudgedInfLLM(Judge, InfLLM):
    """Where the last representative of a head leads by less than `near` of its score, either that or the next may be
    one."""

    near: float = 0.002

    def _favour(self, il: int, b: int, sign: int, q: F32, view: LayerView, q_far: F32 | None) -> float:
        """A block's score, with such representatives as make sign * score largest."""
        total = 0.0
        for h in range(self._n_head_kv):
            tokens = self.representatives(il, h, b)
            cases = [tokens]
            score = self.scores(il, h)
            first = self.n_init + b * self.n_block
            others = [p for p in range(first, first + self.n_block) if p not in tokens]
            if others:
                other = max(others, key=lambda p: score[p])
                if score[tokens[-1]] - score[other] < self.near * score[tokens[-1]]:
                    cases.append([*tokens[:-1], other])
            total += max(sign * float(self.head_score(h, case, q, view, q_far)) for case in cases)
        return sign * total

    def _choose(self, il: int, pos: int, q: F32, view: LayerView, q_far: F32 | None) -> Positions:
        got, expected = self._got(il, pos), super()._choose(il, pos, q, view, q_far)
        n_whole = self.n_whole(pos)
        end = self.n_init + n_whole * self.n_block

        def split(tokens: Sequence[int]) -> tuple[list[int], set[int]]:
            """What is not in blocks, and the blocks."""
            blocks = {(p - self.n_init) // self.n_block for p in tokens if self.n_init <= p < end}
            return [p for p in tokens if not self.n_init <= p < end], blocks

        assert all(g == got[0] for g in got)  # heads share the blocks
        (others, blocks), (others_expected, best) = split(got[0]), split(expected[0])
        assert others == others_expected
        assert len(got[0]) == len(expected[0]) == len(others) + len(blocks) * self.n_block  # whole blocks
        score = self.block_scores(il, pos, q, view, q_far)
        unit = float(np.std(score))
        for b in blocks ^ best:
            score[b] = self._favour(il, b, 1 if b in blocks else -1, q, view, q_far)
        self._note(score, blocks, best, unit)
        return got


class _JudgedReselect(Judge):
    def _choose(self: Any, il: int, pos: int, q: F32, view: LayerView, q_far: F32 | None) -> Positions:
        depth = self._layers.index(il)
        # A layer's set is seen in the next one, which must not be one that chooses.
        seen = depth + 1 < len(self._layers) and depth + 1 != self.reselect
        self._next = self._layers[depth + 1] if seen else None
        expected: Positions = super()._choose(il, pos, q, view, q_far)  # type: ignore[misc]
        assert self._got(il, pos) == expected
        return expected


class JudgedTidal(_JudgedReselect, TidalDecode):
    def _pick(self, pos: int, q: F32, view: LayerView) -> Positions:
        expected = super()._pick(pos, q, view)
        if self._next is None:
            return expected
        got = self._got(self._next, pos)
        for h in range(self._n_head_kv):
            assert len(got[h]) == self.budget - 1
            score = (q[h] @ view.keys(h, range(pos)).T).max(axis=0)
            self._note(score, got[h], expected[h], float(np.std(score)))
        return got


class JudgedLessIsMore(_JudgedReselect, LessIsMore):
    def _pick(self, pos: int, q: F32, view: LayerView) -> Positions:
        expected = super()._pick(pos, q, view)
        if self._next is None:
            return expected
        got = self._got(self._next, pos)
        assert all(g == got[0] for g in got)
        first_recent = pos + 1 - self.n_recent
        assert len(got[0]) == self.budget - 1
        assert set(got[0]) >= {*range(self.n_sink), *range(first_recent, pos)}
        # A token is as good as its best rank in any head's list.
        between = range(self.n_sink, first_recent)
        logits = np.concatenate([q[h] @ view.keys(h, between).T for h in range(self._n_head_kv)])
        rank = np.argsort(np.argsort(-logits, axis=1, kind="stable"), axis=1).min(axis=0)
        score = np.r_[np.zeros(self.n_sink, np.float32), -rank]
        ranked, best = (set(s) & set(between) for s in (got[0], expected[0]))
        self._note(score, ranked, best, len(between))
        return got


class JudgedRaaS(Judge, RaaS):
    """The stamps of the library are not seen, only the pages that are alive. A page whose score is within `near`
    standard deviations of making the other side may have been stamped or not; the pages that go must be explained by
    the rest."""

    near: float = 0.02

    def start(self, layers: Sequence[int], n_head_kv: int) -> None:
        super().start(layers, n_head_kv)
        # per page the least and the largest stamp that the library's may have
        self._range: dict[tuple[int, int], list[list[int]]] = {key: [] for key in self._held}
        self._dead: dict[tuple[int, int], set[int]] = {key: set() for key in self._held}
        self.n_unsure = 0

    def _append(self, il: int, pos: int, n_new: int, stamp: int) -> None:
        for h in range(self._n_head_kv):
            for page in range(pos // PAGE, (pos + n_new - 1) // PAGE + 1):
                if page == len(self._range[il, h]):
                    self._range[il, h].append([stamp, stamp])
                self._range[il, h][page] = [max(s, stamp) for s in self._range[il, h][page]]

    def before(self, il: int, pos: int, n_new: int, view: LayerView) -> Positions:
        self._append(il, pos, n_new, NEVER)
        return super().before(il, pos, n_new, view)

    def select(self, il: int, pos: int, q: F32, view: LayerView, q_far: F32 | None = None) -> Positions:
        self._append(il, pos, 1, self.now + (il == self._layers[0]))
        return super().select(il, pos, q, view, q_far)

    def _stamp_best(self, il: int, head: int, pos: int, alive: Sequence[int], score: F32) -> None:
        super()._stamp_best(il, head, pos, alive, score)
        order = np.sort(score)[::-1]
        n = int(np.ceil(self.ratio * len(alive)))
        last, first = order[n - 1], order[n] if n < len(alive) else -np.inf
        near = self.near * np.std(score)
        for page, s in zip(alive, score, strict=True):
            low_high = self._range[il, head][page]
            if s >= last - near:
                low_high[1] = max(low_high[1], self.now)
                if s > first + near:
                    low_high[0] = max(low_high[0], self.now)
                else:
                    self.n_unsure += 1

    def _choose(self, il: int, pos: int, q: F32, view: LayerView, q_far: F32 | None) -> Positions:
        got, expected = self._got(il, pos), super()._choose(il, pos, q, view, q_far)
        current = pos // PAGE
        for h in range(self._n_head_kv):
            key = il, h
            pages, best = ({p // PAGE for p in tokens} - {current} for tokens in (got[h], expected[h]))
            assert got[h] == page_tokens(pages | {current}, pos)
            assert len(pages) == self.budget // PAGE - 1
            assert not pages & self._dead[key]
            gone = set(range(current)) - pages
            low, high = ([(s[i], p) for p, s in enumerate(self._range[key])] for i in (0, 1))
            # What goes can be older than what stays.
            assert (
                not gone
                or not pages
                or max(low[p] for p in gone - self._dead[key] or gone) <= min(high[p] for p in pages)
            )
            self._dead[key] |= gone
            self.alike.append(len(pages & best) / len(pages) if pages else 1.0)
            # Go on from the library's state.
            for p in gone:
                self._range[key][p] = [-1, -1]
                self._stamp[key][p * PAGE : (p + 1) * PAGE] = [-1] * PAGE
            for p in pages - best:
                self._stamp[key][p * PAGE] = self._range[key][p][1]
        return got


def compare(
    engine: Engine,
    reference: Reference,
    batches: Sequence[Sequence[int]],
    *,
    limit: float = 0.05,
    gap: float = 0.002,
    alike: float = 0.99,
    score: float = 0.01,
) -> None:
    """Logits at all steps, what every head of every layer attends to, InfLLM's scores, and all counters.

    limit: the largest logit difference.
    gap, alike: the largest mean gap of the choices, the least mean share of a choice that both make.
    score: the largest mean of InfLLM's relative score differences.
    """
    policy: Any = reference.policy
    policy.judge(engine)
    diff: list[float] = []
    scores: list[float] = []
    for batch in batches:
        logits = engine.eval(batch)
        diff.append(float(np.abs(logits - reference.eval(batch)).max()))
        if len(batch) == 1:
            for il, h in heads_of(reference.weights):
                slots = engine.slots(il, h)
                assert sorted(slots) == policy.held(il, h)
                if isinstance(policy, InfLLM):
                    theirs = policy.scores(il, h)
                    scores.append(float(np.median([abs(s - theirs[p]) / (theirs[p] + 1e-3) for p, s in slots.items()])))
    gaps, same = np.array(policy.gaps or [0.0]), np.mean(policy.alike)
    print(
        f"logits {max(diff):.4f}; {len(policy.alike)} choices, alike {same:.4f}, gaps {gaps.mean():.6f}, "
        f"{gaps.max():.4f}",
        end="",
    )
    print(f"; scores {np.mean(scores):.5f}" if scores else f"; unsure {getattr(policy, 'n_unsure', 0)}")
    assert max(diff) < limit
    assert len(policy.alike) > 10
    assert gaps.mean() < gap
    assert same > alike
    if scores:
        assert np.mean(scores) < score
    info = engine.llm.sparse_info()
    counts = (info.dense_steps, info.sparse_steps, info.rows_read, info.evicted)
    assert counts == (policy.n_dense, policy.n_sparse, policy.n_rows, policy.n_evicted)


# One of each method; budgets that fill whole pages and that do not.
METHODS: tuple[Any, ...] = (
    JudgedQuest(budget=75),
    JudgedInfLLM(budget=75),
    JudgedInfLLM(budget=60, positions="clipped"),
    JudgedTidal(budget=48, reselect=4),
    JudgedLessIsMore(budget=48, reselect=4),
    JudgedRaaS(budget=100),
)


# --- step by step ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "policy", "form"),
    [
        pytest.param(arch, *p.values, id=f"{arch}-{p.id}")
        for arch in ARCHITECTURES
        for p in in_forms(*METHODS, form=None if arch == "llama" else "fused")
    ],
)
def test_method_equals_reference(
    tiny: Callable[..., tuple[Path, Weights]], lil: ModuleType, arch: str, policy: Any, form: str
) -> None:
    """128 tokens: the first step begins a page."""
    path, w = tiny(arch)
    engine = Engine(lil, path, sparse=make_sparse(lil, policy, form))
    compare(engine, Reference(w, policy), batches_of(random_text(200), 128, -16))
    info = engine.llm.sparse_info()
    assert (info.form, info.n_layer) == (form, N_LAYER)
    engine.close()


@pytest.mark.parametrize(
    ("n_head", "n_head_kv", "policy", "form"),
    [
        pytest.param(n_head, n_head_kv, *p.values, id=f"{n_head}-{n_head_kv}-{p.id}")
        for n_head, n_head_kv, form in ((4, 4, "fused"), (7, 1, "portable"))
        for p in in_forms(*METHODS, form=form)
    ],
)
def test_group_sizes_equal_reference(
    tiny: Callable[..., tuple[Path, Weights]], lil: ModuleType, n_head: int, n_head_kv: int, policy: Any, form: str
) -> None:
    path, w = tiny("llama", n_head=n_head, n_head_kv=n_head_kv)
    engine = Engine(lil, path, sparse=make_sparse(lil, policy, form))
    compare(engine, Reference(w, policy), batches_of(random_text(200), 141, -12))
    engine.close()


# kv -> limit, gap, alike, form
KV_TYPES = {
    "f32": (0.05, 0.002, 0.99, "fused"),
    "bf16": (0.05, 0.002, 0.98, "portable"),
    "q8_0": (0.1, 0.005, 0.98, "fused"),
}


@pytest.mark.parametrize(
    ("kv", "policy", "form"),
    [
        pytest.param(kv, *p.values, id=f"{kv}-{p.id}")
        for kv in KV_TYPES
        for p in in_forms(*METHODS, form=KV_TYPES[kv][-1])
        if kv != "q8_0" or not p.values[0].far  # the library refuses to turn quantised keys
    ],
)
def test_kv_types_equal_reference(
    tiny: Callable[..., tuple[Path, Weights]],
    lil: ModuleType,
    kv: str,
    policy: Any,
    form: str,
) -> None:
    limit, gap, alike, _ = KV_TYPES[kv]
    path, w = tiny("llama", head_dim=64)
    engine = Engine(lil, path, sparse=make_sparse(lil, policy, form), type_k=GGML_TYPE[kv], type_v=GGML_TYPE[kv])
    reference = Reference(w, policy, type_k=kv, type_v=kv, type_q="q8_0" if kv.startswith("q") else None)
    compare(engine, reference, batches_of(random_text(200), 127, -16), limit=limit, gap=gap, alike=alike)
    engine.close()


@pytest.mark.parametrize(
    ("policy", "form"),
    in_forms(
        JudgedQuest(budget=48, first_page=True, dense_layers=1),
        JudgedQuest(budget=31),
        JudgedQuest(budget=64, min_ctx=137),
        JudgedInfLLM(budget=128),
        JudgedInfLLM(budget=50, n_init=0, block=5, n_repr=5),
        JudgedInfLLM(budget=48, n_repr=1, min_ctx=100),
        JudgedInfLLM(budget=47, n_init=3, block=7, n_repr=2, positions="clipped"),
        JudgedTidal(budget=2, reselect=4),
        JudgedTidal(budget=75, reselect=3, min_ctx=90),
        JudgedTidal(budget=100, reselect=5, dense_layers=2),
        JudgedLessIsMore(budget=6, reselect=4),
        JudgedLessIsMore(budget=75, reselect=4, n_sink=0, ratio=0.6, dense_layers=2),
        JudgedLessIsMore(budget=100, reselect=5, min_ctx=110),
        JudgedRaaS(budget=48, ratio=0.2),
        JudgedRaaS(budget=20),
        JudgedRaaS(budget=75, ratio=1.0, min_ctx=100),
    ),
)
def test_parameters_equal_reference(
    tiny: Callable[..., tuple[Path, Weights]], lil: ModuleType, policy: Any, form: str
) -> None:
    """A prompt that ends one token behind a page's end, steps over page borders, more prompt, more steps."""
    path, w = tiny("qwen3")
    engine = Engine(lil, path, sparse=make_sparse(lil, policy, form))
    compare(engine, Reference(w, policy), batches_of(random_text(200), 33, -20, 80, -12))
    engine.close()


@pytest.mark.parametrize(("policy", "form"), in_forms(*METHODS, form="fused"))
def test_short_prompt_grows_past_the_budget(
    tiny: Callable[..., tuple[Path, Weights]], lil: ModuleType, policy: Any, form: str
) -> None:
    path, w = tiny("llama")
    n = 200
    engine = Engine(lil, path, sparse=make_sparse(lil, policy, form))
    compare(engine, Reference(w, policy), batches_of(random_text(400), 20, -(policy.budget - 20 + n)))
    info = engine.llm.sparse_info()
    assert (info.dense_steps, info.sparse_steps) == (policy.budget - 20, n)
    engine.close()


@pytest.mark.parametrize(("policy", "form"), in_forms(*METHODS, form="fused"))
def test_chunked_prompt_equals_reference(
    tiny: Callable[..., tuple[Path, Weights]], lil: ModuleType, policy: Any, form: str
) -> None:
    path, w = tiny("qwen2")
    engine = Engine(lil, path, n_ubatch=64, sparse=make_sparse(lil, policy, form))
    compare(engine, Reference(w, policy, n_ubatch=64), batches_of(random_text(400), 300, -20))
    engine.close()


@pytest.mark.parametrize("arch", ["llama", "gemma3"])
def test_clipped_beyond_the_training_length(
    tiny: Callable[..., tuple[Path, Weights]], lil: ModuleType, arch: str
) -> None:
    path, w = tiny(arch, n_ctx_train=64)
    policy = JudgedInfLLM(budget=48, positions="clipped")
    assert policy.window < 64
    engine = Engine(lil, path, sparse=make_sparse(lil, policy))
    compare(engine, Reference(w, policy), batches_of(random_text(200), 170, -30))
    # It matters: the library with positions as they are computes something else.
    clipped = engine.llm._ctx.get_logits_ith(-1)[: engine.llm.n_vocab()]
    engine.close()
    engine = Engine(lil, path, sparse=lil.InfLLM(budget=48))
    for batch in batches_of(random_text(200), 170, -30):
        absolute = engine.eval(batch)
    assert np.abs(absolute - np.array(clipped)).max() > 0.5
    engine.close()


@pytest.mark.parametrize("form", ["fused", "portable"])
@pytest.mark.parametrize("kv", ["f16", "q8_0"])
def test_quest_takes_the_best_bounds(
    tiny: Callable[..., tuple[Path, Weights]], lil: ModuleType, kv: str, form: str
) -> None:
    """Not in the mean: every page left out has a bound no better than those chosen, but for rounding."""
    path, w = tiny("llama", head_dim=64)
    policy = JudgedQuest(budget=64)
    engine = Engine(lil, path, sparse=make_sparse(lil, policy, form), type_k=GGML_TYPE[kv], type_v=GGML_TYPE[kv])
    reference = Reference(w, policy, type_k=kv, type_v=kv, type_q="q8_0" if kv == "q8_0" else None)
    compare(engine, reference, batches_of(random_text(300), 200, -24), limit=0.1)
    assert max(policy.gaps) < (0.02 if kv == "f16" else 0.05)
    engine.close()


@pytest.mark.parametrize(("policy", "form"), in_forms(*(p for p in METHODS if not p.far), form="portable"))
def test_attention_over_the_librarys_own_sets(
    tiny: Callable[..., tuple[Path, Weights]], lil: ModuleType, policy: Any, form: str
) -> None:
    """The attention alone: the reference, which knows nothing of the method, attends to what the library says it
    did."""
    path, w = tiny("llama")
    engine = Engine(lil, path, sparse=make_sparse(lil, policy, form))
    fed = Reference(w, Fed(sets=lambda il, h, pos: engine.held(il, h)))
    diff = [
        float(np.abs(engine.eval(b) - fed.eval(b)).max()) for b in batches_of(random_text(300), policy.budget - 10, -50)
    ]
    print(f"median {np.median(diff):.5f}, max {max(diff):.5f}")
    assert max(diff) < 0.05
    engine.close()


# --- each with its own choices ---------------------------------------------------------------------------------------


def compare_free(
    engine: Engine, reference: Reference, text: Sequence[int], n_prompt: int, *, median: float, sets: float = 0.98
) -> None:
    """Teacher-forced: logits, the sets of all sparse steps, and counters."""
    policy: Any = reference.policy
    similar: list[float] = []
    diff: list[F32] = []
    for batch in batches_of(text, n_prompt, n_prompt - len(text)):
        diff.append(np.abs(engine.eval(batch) - reference.eval(batch)))
        if len(batch) == 1 and not policy.is_dense(reference.n_tokens):
            for il, h in heads_of(reference.weights):
                held, expected = engine.held(il, h), policy.held(il, h)
                assert len(held) == len(expected)
                if len(held) < reference.n_tokens:
                    similar.append(jaccard(held, expected))
    print(f"logits: median {np.median(diff):.5f}, max {np.max(diff):.3f}; sets: {np.mean(similar):.4f}")
    assert np.median(diff) < median
    assert np.mean(similar) > sets
    info = engine.llm.sparse_info()
    counts = (info.dense_steps, info.sparse_steps, info.rows_read, info.evicted)
    assert counts == (policy.n_dense, policy.n_sparse, policy.n_rows, policy.n_evicted)


@pytest.mark.parametrize(
    "policy",
    [
        Quest(budget=64),
        InfLLM(budget=64),
        InfLLM(budget=64, positions="clipped"),
        TidalDecode(budget=64, reselect=4),
        LessIsMore(budget=64, reselect=4),
        RaaS(budget=64),
    ],
    ids=str,
)
def test_free_running_equals_reference(tiny: Callable[..., tuple[Path, Weights]], lil: ModuleType, policy: Any) -> None:
    path, w = tiny("llama")
    engine = Engine(lil, path, sparse=make_sparse(lil, policy))
    compare_free(engine, Reference(w, policy), random_text(160), 80, median=0.02)
    engine.close()


@pytest.mark.parametrize(
    "policy",
    [
        Quest(budget=64),
        InfLLM(budget=64),
        InfLLM(budget=64, positions="clipped"),
        TidalDecode(budget=64, reselect=18),
        LessIsMore(budget=64, reselect=18),
        RaaS(budget=64),
    ],
    ids=str,
)
def test_real_model_equals_reference(
    real_model: tuple[Path, Weights],  # noqa: F811
    lil: ModuleType,
    policy: Any,
) -> None:
    path, w = real_model
    engine = Engine(lil, path, sparse=make_sparse(lil, policy))
    text = engine.llm.tokenize(PROSE.encode())
    compare_free(engine, Reference(w, policy), text[:180], 120, median=0.05)
    engine.close()
