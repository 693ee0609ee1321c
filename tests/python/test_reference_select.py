"""The reference of the select family, TOVA and R-KV alone: cases worked out by hand, and what must always hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from reference import (
    NEVER,
    PAGE,
    RKV,
    TOVA,
    InfLLM,
    LayerView,
    LessIsMore,
    Policy,
    Quest,
    RaaS,
    Reference,
    Select,
    TidalDecode,
    Weights,
    merge_ranks,
    page_bounds,
    page_scores,
    write_tiny,
)
from reference.evict import Positions

F32 = NDArray[np.float32]


# --- helpers ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Weights]:
    """tiny(arch, **write_tiny's arguments) -> the weights, made once."""
    folder = tmp_path_factory.mktemp("tiny")

    @cache
    def make(arch: str, **kwargs: Any) -> Weights:
        name = "-".join([arch, *(f"{k}{v}" for k, v in sorted(kwargs.items()))])
        return Weights.load(write_tiny(folder / f"{name}.gguf", arch, **kwargs))

    return make


class Keys:
    """A layer with these keys, [n_tokens, n_head_kv, head_dim]; one number per token is one head of one channel."""

    scale = 1.0

    def __init__(self, keys: Any) -> None:
        k = np.asarray(keys, np.float32)
        self.k = k.reshape(len(k), 1, 1) if k.ndim == 1 else k

    def keys(self, head: int, positions: Sequence[int]) -> F32:
        return self.k[list(positions), head]

    def far_keys(self, head: int, positions: Sequence[int]) -> F32:
        return -self.keys(head, positions)  # so that a test sees which it was


def queries(q: Any) -> F32:
    """[n_head_kv, G, head_dim]; one number is one head of one channel."""
    return np.asarray(q, np.float32).reshape((1, 1, 1) if np.ndim(q) == 0 else np.shape(q))


def decode(policy: Select, pos: int, q: Any, view: LayerView, il: int = 0, probs: Any = None) -> list[list[int]]:
    """One decode step of one layer. Returns what the heads saw, the current token included; probs default to 0."""
    q = queries(q)
    seen = policy.select(il, pos, q, view, -q)
    assert all(len(s) == len(seen[0]) and s == sorted(set(s)) for s in seen)
    held = [policy.held(il, h) for h in range(len(seen))]
    assert held == [[*s, pos] for s in seen]
    p = np.zeros((*q.shape[:2], 1, len(held[0])), np.float32)
    policy.after(il, pos, q[:, :, None], seen, p if probs is None else p + np.asarray(probs, np.float32))
    return held


def prompt(policy: Policy, pos: int, probs: Any, view: LayerView, il: int = 0, q: Any = None) -> list[list[int]]:
    """A piece of the prompt of one layer with one head, whose queries have these probabilities; returns what it
    sees."""
    p = np.asarray(probs, np.float32)
    seen = policy.before(il, pos, len(p), view)
    q = np.zeros(len(p), np.float32) if q is None else np.asarray(q, np.float32)
    policy.after(il, pos, q.reshape(1, 1, len(p), 1), seen, p[None, None])
    return seen


def fill(policy: Policy, n: int, n_head_kv: int = 1) -> None:
    """A prompt of n tokens of layer 0 that no query attends to."""
    seen = policy.before(0, 0, n, Keys(np.zeros(n)))
    policy.after(0, 0, np.zeros((n_head_kv, 1, n, 1), np.float32), seen, np.zeros((n_head_kv, 1, n, n), np.float32))


def spans(*parts: int | tuple[int, int]) -> list[int]:
    """spans(3, (16, 32)) -> [3, 16, ..., 31]"""
    return [p for part in parts for p in ([part] if isinstance(part, int) else range(*part))]


def random_text(n: int, seed: int = 0) -> list[int]:
    return [1, *np.random.default_rng(seed).integers(259, 512, n - 1).tolist()]


def steps(reference: Reference, text: Sequence[int], n_prompt: int) -> Iterator[tuple[int, F32]]:
    """Prompt, then one token at a time: tokens so far and the logits, after each batch."""
    for batch in [text[:n_prompt], *([t] for t in text[n_prompt:])]:
        logits = reference.eval(batch)
        yield reference.n_tokens, logits


def run(reference: Reference, text: Sequence[int], n_prompt: int) -> F32:
    """The logits of all steps, [n_steps + 1, n_vocab]."""
    return np.array([logits for _, logits in steps(reference, text, n_prompt)])


def all_methods(budget: int, **kwargs: Any) -> list[Select]:
    """Needs a budget of 40 and five layers."""
    return [
        Quest(budget=budget, dense_layers=2, **kwargs),
        Quest(budget=budget, first_page=True, dense_layers=2, **kwargs),
        InfLLM(budget=budget, **kwargs),
        InfLLM(budget=budget, positions="clipped", **kwargs),
        TidalDecode(budget=budget, reselect=3, dense_layers=2, **kwargs),
        LessIsMore(budget=budget, reselect=3, dense_layers=2, **kwargs),
        RaaS(budget=budget, **kwargs),
    ]


# --- what every method keeps to --------------------------------------------------------------------------------------


def test_large_budget_is_dense(tiny: Callable[..., Weights]) -> None:
    w = tiny("llama", n_layer=5)
    text = random_text(70)
    dense = run(Reference(w), text, 40)
    policies: list[Any] = [*all_methods(70), TOVA(budget=70), RKV(budget=70, buffer=20)]
    for policy in policies:
        assert np.array_equal(run(Reference(w, policy), text, 40), dense)
        assert (policy.n_dense, policy.n_sparse, policy.n_evicted) == (30, 0, 0)
        assert policy.n_rows == sum(range(41, 71)) * w.hp.n_layer * w.hp.n_head_kv


def test_min_ctx_is_dense_longer(tiny: Callable[..., Weights]) -> None:
    w = tiny("qwen3", n_layer=5)
    text = random_text(64)
    dense = run(Reference(w), text, 20)
    for policy in all_methods(40, min_ctx=60):
        logits = run(Reference(w, policy), text, 20)
        # 21 to 59 tokens are dense, 60 are not
        assert np.array_equal(logits[:40], dense[:40])
        assert (policy.n_dense, policy.n_sparse) == (39, 5)
        assert not np.array_equal(logits[40], dense[40])


@pytest.mark.parametrize("arch", ["llama", "gemma3"])
@pytest.mark.parametrize("budget", [40, 53, 64])
def test_never_more_than_the_budget(tiny: Callable[..., Weights], arch: str, budget: int) -> None:
    w = tiny(arch, n_layer=10 if arch == "gemma3" else 5)
    layers, heads = w.hp.full_layers, range(w.hp.n_head_kv)
    assert len(layers) == 5
    text = random_text(110)
    for policy in all_methods(budget):
        rows = 0
        n_dense_layers = {Quest: 2, TidalDecode: 4, LessIsMore: 4}.get(type(policy), 0)
        for n, logits in steps(Reference(w, policy), text, 30):
            assert np.isfinite(logits).all()
            for depth, il in enumerate(layers):
                held = [policy.held(il, h) for h in heads]
                if n == 30:  # the prompt
                    assert held == [[]] * len(heads)
                    continue
                rows += sum(map(len, held))
                for s in held:
                    assert s == sorted(set(s))
                    assert s[-1] == n - 1 and s[0] >= 0
                    if n <= budget or depth < n_dense_layers:
                        assert s == list(range(n))
                    elif isinstance(policy, (Quest, RaaS)):
                        # all pages whole but the current one
                        assert len(s) == (budget // PAGE - 1) * PAGE + (n - 1) % PAGE + 1 <= budget
                    elif isinstance(policy, (TidalDecode, LessIsMore)):
                        assert len(s) == budget
                    else:
                        assert len(s) <= budget
                if isinstance(policy, (InfLLM, LessIsMore)) and n > 30:
                    assert held[0] == held[1]
        assert (policy.n_dense, policy.n_sparse) == (budget - 30, 110 - budget)
        assert policy.n_rows == rows


def test_reset_forgets(tiny: Callable[..., Weights]) -> None:
    w = tiny("qwen2", n_layer=5)
    text = random_text(60)
    for policy in [*all_methods(40), TOVA(budget=40), RKV(budget=40, buffer=10)]:
        reference = Reference(w, policy)
        a = run(reference, text, 20)
        reference.reset()
        assert np.array_equal(run(reference, text, 20), a)


# --- Quest -----------------------------------------------------------------------------------------------------------


def test_page_bound_holds_for_every_key() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 15, 16, 17, 50):
        keys = rng.standard_normal((n, 8)).astype(np.float32)
        q = rng.standard_normal((3, 8)).astype(np.float32)
        low, high = page_bounds(keys)
        assert low.shape == high.shape == (-(-n // 16), 8)
        bound = page_scores(q, low, high)
        assert bound.shape == (3, len(low))
        for j in range(n):
            assert (low[j // 16] <= keys[j]).all() and (keys[j] <= high[j // 16]).all()
            assert (q @ keys[j] <= bound[:, j // 16] + 1e-5).all()


def test_page_score_by_hand() -> None:
    keys = np.zeros((17, 2), np.float32)
    keys[3], keys[9], keys[16] = (2, -1), (-1, 5), (-3, 1)
    low, high = page_bounds(keys)
    assert low.tolist() == [[-1, -1], [-3, 1]] and high.tolist() == [[2, 5], [-3, 1]]
    # 1*2 + 1*5, 1*2 - 2*-1; then the one key itself
    assert page_scores(np.array([[1, 1], [1, -2]], np.float32), low, high).tolist() == [[7, -2], [4, -5]]


class _Checked(Quest):
    """Looks at the bound in a model's every sparse step."""

    n_checked = 0

    def _choose(self, il: int, pos: int, q: F32, view: LayerView, q_far: F32 | None) -> Positions:
        for h in range(len(q)):
            keys = view.keys(h, range(pos + 1))
            bound = page_scores(q[h], *page_bounds(keys))
            assert (q[h] @ keys.T <= np.repeat(bound, PAGE, axis=1)[:, : pos + 1] + 1e-3).all()
            self.n_checked += 1
        return super()._choose(il, pos, q, view, q_far)


@pytest.mark.parametrize("kv", ["f16", "q8_0"])
def test_page_bound_holds_in_a_model(tiny: Callable[..., Weights], kv: str) -> None:
    policy = _Checked(budget=40)
    run(
        Reference(tiny("phi3"), policy, type_k=kv, type_v=kv, type_q="q8_0" if kv == "q8_0" else None),
        random_text(60),
        30,
    )
    assert policy.n_checked == 20 * 4 * 2


def test_quest_by_hand() -> None:
    policy = Quest(dense_layers=2, budget=40)  # two pages
    policy.start([0, 2, 5], 1)
    keys = np.zeros(100)
    keys[5], keys[20], keys[40] = 3, -4, 3  # pages 0, 1, 2
    view = Keys(keys)
    prompt(policy, 0, np.zeros((39, 39)), view, 5)
    assert decode(policy, 39, 1, view, 5) == [spans((0, 40))]  # 40 tokens fit
    for il in (0, 2):
        assert decode(policy, 40, 1, view, il) == [spans((0, 41))]  # the first two layers are dense
    assert decode(policy, 40, 1, view, 5) == [spans((0, 16), (32, 41))]
    assert decode(policy, 40, -1, view, 5) == [spans((16, 41))]
    # the current page has one token, then sixteen, then the next page begins
    assert decode(policy, 47, -1, view, 5) == [spans((16, 48))]
    # pages 0 and 2 tie: the newer
    assert decode(policy, 48, 1, view, 5) == [spans((32, 49))]
    assert decode(policy, 63, 1, view, 5) == [spans((32, 64))]
    assert decode(policy, 64, -1, view, 5) == [spans((16, 32), 64)]
    assert (policy.n_dense, policy.n_sparse) == (0, 1)  # steps are counted in the first layer
    assert policy.n_rows == 40 + 41 + 41 + 25 + 25 + 32 + 17 + 32 + 17


def test_quest_groups_and_heads_by_hand() -> None:
    keys = np.zeros((49, 2, 1))
    keys[5, 0], keys[20, 0] = 3, -4
    keys[5, 1], keys[40, 1] = 3, -1
    policy = Quest(dense_layers=2, budget=32)
    policy.start([0, 1, 2], 2)
    # head 0: 1 and -0.5 give pages 3, 2, 0: page 0. -1 and 0.5 in place of it: page 1. head 1 chooses for itself.
    assert decode(policy, 48, [[[1], [-0.5]], [[0], [-1]]], Keys(keys), 2) == [spans((0, 16), 48), spans((32, 49))]
    assert decode(policy, 48, [[[0.5], [-1]], [[1], [0]]], Keys(keys), 2) == [spans((16, 32), 48), spans((0, 16), 48)]


def test_quest_first_page_by_hand() -> None:
    keys = np.zeros(70)
    keys[20], keys[50] = 5, 4
    policy = Quest(dense_layers=2, budget=50, first_page=True)
    policy.start([0, 1, 2], 1)
    assert decode(policy, 64, 1, Keys(keys), 2) == [spans((0, 32), 64)]
    assert decode(policy, 64, -1, Keys(keys), 2) == [spans((0, 16), (48, 65))]  # all tie
    # page 0 is the best itself: it is not counted twice
    assert decode(policy, 69, 1, Keys(np.r_[9, keys[1:]]), 2) == [spans((0, 32), (64, 70))]
    # just the two
    policy = Quest(dense_layers=2, budget=33, first_page=True)
    policy.start([0, 1, 2], 1)
    assert decode(policy, 64, 1, Keys(keys), 2) == [spans((0, 16), 64)]


def test_quest_refuses_less_than_its_pages() -> None:
    for kwargs in ({"budget": 15}, {"budget": 31, "first_page": True}):
        with pytest.raises(ValueError, match="budget"):
            Quest(**kwargs)
    policy = Quest(dense_layers=2, budget=16)  # the current page alone
    policy.start([0, 1, 2], 1)
    assert decode(policy, 16, 1, Keys(np.zeros(17)), 2) == [[16]]


# --- InfLLM ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "k", "window"),
    [
        (37, 1, 18),
        (40, 1, 21),
        (52, 1, 33),
        (53, 2, 26),
        (64, 2, 37),
        (127, 6, 68),
        (128, 2, 77),
        (136, 3, 69),
        (1024, 30, 525),
    ],
)
def test_infllm_shares_the_budget(budget: int, k: int, window: int) -> None:
    policy = InfLLM(budget=budget)
    n = 8 if budget < 128 else 16
    assert (policy.n_block, policy.n_blocks, policy.window) == (n, k, window)
    assert 4 + k * n + (n - 1) + window == budget
    assert budget // 2 <= window < budget // 2 + n


def test_infllm_refuses_a_budget_without_blocks() -> None:
    for kwargs in (
        {"budget": 36},
        {"budget": 40, "block": 16},
        {"budget": 64, "n_repr": 9},
        {"budget": 64, "n_repr": 0},
    ):
        with pytest.raises(ValueError):
            InfLLM(**kwargs)


def _small_infllm(**kwargs: Any) -> InfLLM:
    """One first token, one of the blocks (1, 2), (3, 4), (5, 6), ..., a window of 4."""
    policy = InfLLM(**{"budget": 8, "n_init": 1, "block": 2, "n_repr": 1, **kwargs})
    assert (policy.n_blocks, policy.window) == (1, 4)
    policy.start([0], 1)
    return policy


def test_infllm_sets_by_hand() -> None:
    policy = _small_infllm()
    fill(policy, 7)
    keys = np.zeros(20)
    keys[2], keys[3] = 2, 1
    view = Keys(keys)
    assert decode(policy, 7, 1, view) == [spans((0, 8))]
    # 5 to 8 are the window; blocks (1, 2) and (3, 4) can be chosen. No scores: the newer token represents a block.
    assert decode(policy, 8, 1, view) == [[0, 1, 2, 5, 6, 7, 8]]
    # 5 has left the window but its block has not: eight tokens, the budget
    assert decode(policy, 9, 1, view) == [[0, 1, 2, 5, 6, 7, 8, 9]]
    # (5, 6) can be chosen now, and does not score
    assert decode(policy, 10, 1, view) == [[0, 1, 2, 7, 8, 9, 10]]
    # 4 is the newest of ties with itself and 6
    assert decode(policy, 11, -1, view) == [[0, 5, 6, 7, 8, 9, 10, 11]]
    assert (policy.n_dense, policy.n_sparse, policy.n_rows) == (1, 4, 8 + 7 + 8 + 7 + 8)


def test_infllm_scores_by_hand() -> None:
    policy = _small_infllm()
    # query 0 to 5; the window is 4 wide: query 4 and 5 no longer count for tokens 0 and 0, 1
    prompt(
        policy,
        0,
        [
            [1, 0, 0, 0, 0, 0],
            [0.5, 0.5, 0, 0, 0, 0],
            [0.25, 0.25, 0.5, 0, 0, 0],
            [0.25, 0.5, 0, 0.25, 0, 0],
            [0.5, 0.25, 0, 0.125, 0.125, 0],
            [0.25, 0.5, 0.125, 0, 0, 0.125],
        ],
        Keys(np.zeros(6)),
    )
    assert policy.scores(0, 0) == {0: 2.0, 1: 1.5, 2: 0.625, 3: 0.375, 4: 0.125, 5: 0.125}
    # A dense decode step counts: 3 to 6 are in its window.
    decode(policy, 6, 0, Keys(np.zeros(7)), probs=[0.25, 0.25, 0, 0.25, 0.125, 0, 0.125])
    assert policy.scores(0, 0) == {0: 2.0, 1: 1.5, 2: 0.625, 3: 0.625, 4: 0.25, 5: 0.125, 6: 0.125}
    decode(policy, 7, 0, Keys(np.zeros(8)), probs=[0, 0, 0, 0.5, 0.5, 0, 0, 0])
    assert policy.scores(0, 0)[3] == 0.625 and policy.scores(0, 0)[4] == 0.75
    assert [policy.representatives(0, 0, b) for b in (0, 1)] == [[1], [4]]
    # A sparse one: the columns are 0, the block, and 5 to 8. Block (1, 2) is known by 1 alone, whatever 2 would give.
    keys = np.zeros(9)
    keys[2], keys[4] = 9, 1
    held = decode(policy, 8, 1, Keys(keys), probs=[0.5, 0.25, 0, 0.125, 0, 0, 0.125])
    assert held == [[0, 3, 4, 5, 6, 7, 8]]
    assert policy.scores(0, 0) == {0: 2.0, 1: 1.5, 2: 0.625, 3: 0.625, 4: 0.75, 5: 0.25, 6: 0.125, 7: 0, 8: 0.125}


def test_infllm_heads_share_by_hand() -> None:
    policy = InfLLM(budget=8, n_init=1, block=2, n_repr=2)
    policy.start([0], 2)
    fill(policy, 8, 2)
    keys = np.zeros((9, 2, 1))
    keys[1, 0], keys[2, 0] = 3, 1  # head 0 likes (1, 2): (1 + 1)*(3 + 1) = 8
    keys[3, 1] = 5  # head 1 likes (3, 4): (1 + 0.5)*5 = 7.5
    q = np.array([[[1], [1]], [[1], [0.5]]])
    assert decode(policy, 8, q, Keys(keys)) == [[0, 1, 2, 5, 6, 7, 8]] * 2
    keys[4, 1] = 1  # 9
    policy.start([0], 2)
    fill(policy, 8, 2)
    assert decode(policy, 8, q, Keys(keys)) == [[0, 3, 4, 5, 6, 7, 8]] * 2


def test_infllm_clipped_scores_blocks_by_far_keys() -> None:
    keys = np.zeros(9)
    keys[2] = 1
    # decode() hands in the negative of q, Keys the negative of the keys: their product is the same ...
    policy = _small_infllm(positions="clipped")
    fill(policy, 8)
    assert decode(policy, 8, 1, Keys(keys)) == [[0, 1, 2, 5, 6, 7, 8]]
    # ... and with ordinary keys it is not
    view = Keys(keys)
    view.far_keys = view.keys  # type: ignore[method-assign]
    policy.start([0], 1)
    fill(policy, 8)
    assert decode(policy, 8, 1, view) == [[0, 3, 4, 5, 6, 7, 8]]


def test_infllm_clips_by_hand() -> None:
    policy = _small_infllm(positions="clipped", min_ctx=12)
    assert policy.far == 4
    assert policy.clips(0, 10).tolist() == [False] * 8 + [True] * 2
    assert policy.clips(9, 3).tolist() == [True] * 3
    assert not policy.clips(7, 1)[0]
    assert not policy.clips(10, 1)[0]  # 11 tokens: a dense decode step
    assert policy.clips(11, 1)[0]
    assert not _small_infllm().clips(0, 20).any()


class _Spied(InfLLM):
    """Keeps the last probabilities of each layer and the tokens that they belong to."""

    def after(self, il: int, pos: int, q: F32, seen: Positions, probs: F32) -> None:
        super().after(il, pos, q, seen, probs)
        self.last = (pos, [[*s, *range(pos, pos + q.shape[2])] for s in seen], probs)


def _softmax_at_distance(ref: Reference, text: Sequence[int], last: Any, far: int | None) -> float:
    """The largest difference of layer 0's probabilities from queries that see each key min(i - j, far) away."""
    pos, columns, probs = last
    x = ref.weights["token_embd.weight"][np.array(text)]
    w = ref.weights["blk.0.attn_norm.weight"]
    x = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + ref.hp.norm_eps) * w
    q, k, _ = ref._qkv(x, 0)
    n_head_kv, n_group, n_new, _ = probs.shape
    worst = 0.0
    for h in range(n_head_kv):
        for r in range(n_new):
            i = pos + r
            js = np.array([j for j in columns[h] if j <= i])
            away = i - js if far is None else np.minimum(i - js, far)
            for g in range(n_group):
                query = q[i, h * n_group + g]
                turned = ref._rope(np.repeat(query[None, None], len(js), axis=0), away, 0)[:, 0]
                logits = (turned * k[js, h]).sum(axis=1) * ref.hp.attn_scale
                p = np.exp(logits - logits.max())
                worst = max(worst, float(np.abs(p / p.sum() - probs[h, g, r, : len(js)]).max()))
    return worst


@pytest.mark.parametrize("arch", ["llama", "qwen2"])
def test_clipped_model_sees_keys_at_the_windows_distance(tiny: Callable[..., Weights], arch: str) -> None:
    w = tiny(arch, n_layer=1)
    text = random_text(70)
    policy = _Spied(budget=40, positions="clipped")  # a window of 21
    ref = Reference(w, policy)
    ref.eval(text[:40])
    assert _softmax_at_distance(ref, text, policy.last, None) < 2e-3  # a prompt up to the budget is ordinary
    ref.eval(text[40:60])
    assert policy.last[2].shape[2] == 20
    assert _softmax_at_distance(ref, text, policy.last, 21) < 2e-3
    assert _softmax_at_distance(ref, text, policy.last, None) > 2e-2
    for n in range(60, 70):
        ref.eval(text[n : n + 1])
        assert len(policy.last[1][0]) <= 40
        assert _softmax_at_distance(ref, text, policy.last, 21) < 2e-3
    # a prompt that crosses the budget in one piece is the same as in two
    once = _Spied(budget=40, positions="clipped")
    assert np.abs(Reference(w, once).eval(text[:60]) - Reference(w, policy, n_ubatch=40).eval(text[:60])).max() < 5e-3


def test_infllm_keeps_its_books(tiny: Callable[..., Weights]) -> None:
    w = tiny("llama")
    for budget in (40, 59):
        for positions in ("absolute", "clipped"):
            policy = InfLLM(budget=budget, positions=positions)  # type: ignore[arg-type]

            for n, _ in steps(Reference(w, policy), random_text(100), 30):
                if n <= budget:
                    continue
                n_left = n - policy.window
                n_rest = (n_left - 4) % 8
                assert (n_left - 4) // 8 > policy.n_blocks
                for il in range(w.hp.n_layer):
                    held = policy.held(il, 0)
                    assert held == policy.held(il, 1)
                    assert len(held) == 4 + 8 * policy.n_blocks + n_rest + policy.window <= budget
                    assert set(held) >= set(range(4)) | set(range(n_left - n_rest, n))
                    blocks = [p for p in held if 4 <= p < n_left - n_rest]
                    assert all(blocks[i : i + 8] == spans((blocks[i], blocks[i] + 8)) for i in range(0, len(blocks), 8))
                    assert all((p - 4) % 8 == 0 for p in blocks[::8])


# --- TidalDecode and LessIsMore --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [TidalDecode, LessIsMore])
def test_reselect_must_be_a_later_layer(method: Any) -> None:
    for c in (2, 6, 0):
        with pytest.raises(ValueError, match="reselect"):
            method(budget=16, reselect=c, dense_layers=2).start(range(6), 1)
    for c in (3, 5):
        method(budget=16, reselect=c).start(range(6), 1)


def test_tidal_by_hand() -> None:
    policy = TidalDecode(dense_layers=2, budget=4, reselect=4)
    policy.start([1, 3, 5, 7, 9, 11], 2)
    everything = [spans((0, 7))] * 2
    a = np.zeros((7, 2, 2))
    a[:, 0, 0] = [5, 0, 0, 4, 0, 0, 0]  # head 0, its first query
    a[:, 0, 1] = [0, 0, 9, 0, 0, 0, 0]  # its second
    a[:, 1, 0] = [0, 1, 0, -1, 0, 0, 9]  # the current token is the best, and has its place anyway
    q = np.array([[[1, 0], [0, 1]], [[1, 0], [1, 0]]])
    for il in (1, 3, 5):
        assert decode(policy, 6, q, Keys(a), il) == everything
    # head 1: 1, then of the ties the newer
    chosen = [[0, 2, 3, 6], [1, 4, 5, 6]]
    assert decode(policy, 6, q, Keys(a), 7) == chosen
    # layer c attends to everything and chooses anew, by its own keys
    b = np.zeros((7, 2, 2))
    b[[1, 2, 4], 0, 0] = 1
    b[:3, 1, 0] = 1
    assert decode(policy, 6, q, Keys(b), 9) == everything
    assert decode(policy, 6, q, Keys(a), 11) == [[1, 2, 4, 6], [0, 1, 2, 6]]
    assert (policy.n_dense, policy.n_sparse, policy.n_rows) == (0, 1, 2 * (4 * 7 + 2 * 4))


def test_tidal_is_dense_up_to_the_budget() -> None:
    policy = TidalDecode(dense_layers=2, budget=4, reselect=3)
    policy.start(range(5), 1)
    for pos, held in ((3, [0, 1, 2, 3]), (4, [1, 2, 3, 4])):
        for il in range(5):
            last = decode(policy, pos, 0, Keys(np.zeros(5)), il)
        assert last == [held]
    with pytest.raises(ValueError, match="budget"):
        TidalDecode(budget=1, reselect=3)


def test_merge_ranks_by_hand() -> None:
    # K = 4. First of all: 7, 3, 7 (again); second: 3 (again), 5, 9; cut
    assert merge_ranks([[7, 3, 1], [3, 5, 2], [7, 9, 4]], 4) == [7, 3, 5, 9]
    assert merge_ranks([[7, 3, 1], [3, 5, 2], [7, 9, 4]], 3) == [7, 3, 5]
    assert merge_ranks([[1, 2], [1, 2]], 4) == [1, 2]


def test_lessismore_by_hand() -> None:
    policy = LessIsMore(dense_layers=2, budget=9, reselect=3, n_sink=3, ratio=0.25)  # 3 first, 2 last, 4 ranked
    assert (policy.n_recent, policy.n_ranked) == (2, 4)
    policy.start(range(5), 2)
    # 14 tokens: 0 to 2, 12 and 13; 3 to 11 are ranked. Three of four heads as in the example above, one per channel.
    keys = np.zeros((14, 2, 2))
    keys[[7, 3, 4], 0, 0] = 9, 8, 7
    keys[[3, 5, 6], 0, 1] = 9, 8, 7
    keys[[7, 9, 8], 1, 0] = 9, 8, 7
    keys[[7, 3, 4], 1, 1] = 9, 8, 7
    keys[[0, 1, 2, 12, 13]] = 99  # are in the set, not in the ranking
    q = np.array([[[1, 0], [0, 1]], [[1, 0], [0, 1]]])
    for il in range(3):
        assert decode(policy, 13, q, Keys(keys), il) == [spans((0, 14))] * 2
    # after 3: layer c; for the layers after it
    assert decode(policy, 13, q, Keys(np.zeros((14, 2, 2))), 3) == [spans((0, 14))] * 2
    # all tie: the newest, and they are the same for all heads
    assert decode(policy, 13, q, Keys(keys), 4) == [[0, 1, 2, 8, 9, 10, 11, 12, 13]] * 2
    policy = LessIsMore(dense_layers=2, budget=9, reselect=4, n_sink=3, ratio=0.25)
    policy.start(range(6), 2)
    decode(policy, 13, q, Keys(keys), 2)
    assert decode(policy, 13, q, Keys(keys), 3) == [[0, 1, 2, 3, 5, 7, 9, 12, 13]] * 2


def test_lessismore_refuses_less_than_its_parts() -> None:
    for kwargs in ({"budget": 3, "n_sink": 1}, {"budget": 5}, {"budget": 20, "ratio": 0.8}):
        with pytest.raises(ValueError, match="budget"):
            LessIsMore(reselect=3, **kwargs)
    assert LessIsMore(budget=6, reselect=3).n_ranked == 1


def test_layers_share_a_set_until_the_next(tiny: Callable[..., Weights]) -> None:
    w = tiny("llama", n_layer=7)
    for policy in (
        TidalDecode(dense_layers=2, budget=12, reselect=4),
        LessIsMore(dense_layers=2, budget=12, reselect=4),
    ):
        differ = 0
        for n, _ in steps(Reference(w, policy), random_text(50), 30):
            if n == 30:
                continue
            for h in range(2):
                for il in (0, 1, 2, 4):
                    assert policy.held(il, h) == list(range(n))
                assert len(policy.held(3, h)) == len(policy.held(5, h)) == 12
                assert policy.held(5, h) == policy.held(6, h)
                differ += policy.held(3, h) != policy.held(5, h)
        assert differ > 20
        assert policy.n_rows == sum(2 * (4 * n + 3 * 12) for n in range(31, 51))


# --- RaaS ------------------------------------------------------------------------------------------------------------


def test_raas_by_hand() -> None:
    policy = RaaS(budget=55)  # three pages
    policy.start([0], 1)
    keys = np.zeros(100)
    keys[3], keys[40] = 1, 5
    view = Keys(keys)
    prompt(policy, 0, np.zeros((10, 10)), view)
    for pos in range(10, 55):
        assert decode(policy, pos, 1, view) == [spans((0, pos + 1))]
        if pos == 31:
            # step 22. Of two pages the best one is stamped, page 0; page 1 has its last token's own stamp.
            assert policy.stamps(0, 0) == [NEVER, 22]
        if pos == 39:
            # pages 1 and 2 tie: page 2 is stamped
            assert policy.stamps(0, 0) == [NEVER, 22, 30]
    assert policy.now == 45
    # Page 3 began at step 39; pages 0 and 2 are the better half of four.
    assert policy.stamps(0, 0) == [NEVER, 22, 45, 45]
    assert policy._stamp[0, 0][32] == 45 and policy._stamp[0, 0][48] == 39
    # The first sparse step: page 1 has the oldest stamp.
    assert decode(policy, 55, 1, view) == [spans((0, 16), (32, 56))]
    assert policy.stamps(0, 0) == [NEVER, 22, 46, 46]
    assert (policy.n_dense, policy.n_sparse, policy.n_rows) == (45, 1, sum(range(11, 56)) + 40)
    for pos in range(56, 64):
        decode(policy, pos, 1, view)
    assert policy.stamps(0, 0) == [NEVER, 22, 54, 54]
    # Page 4 begins. 2 and 3 have the same stamp: 2, the older, goes, however good it is.
    assert decode(policy, 64, 1, view) == [spans((0, 16), (48, 65))]
    assert policy.stamps(0, 0) == [NEVER, 22, 54, 54, 55]
    # -1: pages 3 and 4 are the better half of the three (two of them); page 3's old tokens are stamped
    assert decode(policy, 65, -1, view) == [spans((0, 16), (48, 66))]
    assert policy.stamps(0, 0) == [NEVER, 22, 54, 56, 56]
    assert policy._stamp[0, 0][48] == 56


def test_raas_stamps_its_share_by_hand() -> None:
    keys = np.zeros(96)
    keys[[20, 40]] = 2, 3
    for ratio, stamped in ((0.01, {2}), (0.25, {2}), (0.26, {1, 2}), (0.75, {1, 2, 3}), (1.0, {0, 1, 2, 3})):
        policy = RaaS(budget=64, ratio=ratio)
        policy.start([0], 1)
        for _ in range(56):
            policy._stamp[0, 0].append(0)  # as if decoded long ago
        policy.now = 100
        decode(policy, 56, 1, Keys(keys))
        assert {p for p, s in enumerate(policy.stamps(0, 0)) if s == 101} == stamped | {3}  # the current token's own
        assert (policy._stamp[0, 0][48] == 101) == (3 in stamped)


def test_raas_prompt_goes_last() -> None:
    policy = RaaS(budget=48)
    policy.start([0], 1)
    view = Keys(np.zeros(150))
    prompt(policy, 0, np.zeros((100, 100)), view)
    assert policy.stamps(0, 0) == [NEVER] * 7
    assert decode(policy, 100, 1, view) == [spans((64, 101))]
    for pos in range(101, 112):
        decode(policy, pos, 1, view)
    # page 6 has four of the prompt's tokens
    assert decode(policy, 112, 1, view) == [spans((80, 113))]
    for pos in range(113, 128):
        decode(policy, pos, 1, view)
    # page 7 has none and goes before them, new as it is
    assert decode(policy, 128, 1, view) == [spans((80, 112), 128)]
    # a second piece of prompt does not expire either
    prompt(policy, 129, np.zeros((10, 139)), view)
    assert policy.stamps(0, 0)[7:] == [28, NEVER]
    assert decode(policy, 139, 1, view) == [spans((80, 112), (128, 140))]
    assert policy.now == 30


def test_raas_refuses_less_than_a_page() -> None:
    for kwargs in ({"budget": 15}, {"budget": 16, "ratio": 0.0}, {"budget": 16, "ratio": 1.5}):
        with pytest.raises(ValueError):
            RaaS(**kwargs)


def test_raas_pages_do_not_come_back(tiny: Callable[..., Weights]) -> None:
    w = tiny("llama")
    policy = RaaS(budget=119)
    dead: dict[tuple[int, int], set[int]] = {(il, h): set() for il in range(4) for h in range(2)}

    for n, _ in steps(Reference(w, policy), random_text(300), 24):
        for (il, h), gone in dead.items():
            assert len(policy.stamps(il, h)) == -(-n // 16)
            if n > 119:
                held = set(policy.held(il, h))
                assert not held & gone
                gone |= set(range(n)) - held
                assert held >= set(range(24))  # the prompt's two pages
    assert len({frozenset(d) for d in dead.values()}) > 1  # heads and layers differ


# --- TOVA ------------------------------------------------------------------------------------------------------------


def test_tova_by_hand() -> None:
    policy = TOVA(budget=3)
    policy.start([0], 1)
    view = Keys(np.zeros(20))
    prompt(policy, 0, [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0.25, 0.5, 0.125, 0.125]], view)
    assert policy.scores(0, 0) == {0: 0.25, 1: 0.5, 2: 0.125, 3: 0.125}
    # 4 comes: two of four go, the lowest; both tie below 0.25
    assert prompt(policy, 4, [[0.25, 0.25, 0.5]], view) == [[0, 1]]
    # the older of the tie goes
    assert prompt(policy, 5, [[0.5, 0.25, 0.25]], view) == [[1, 4]]
    assert policy.scores(0, 0) == {1: 0.5, 4: 0.25, 5: 0.25}
    assert prompt(policy, 6, [[0.25, 0.5, 0.25]], view) == [[1, 5]]
    # only the newest query counts: 1, which had most so far, ties with 6 and goes
    assert prompt(policy, 7, [[0.5, 0.375, 0.125]], view) == [[5, 6]]
    # the newest held token is not protected
    assert prompt(policy, 8, [[0.5, 0.25, 0.25]], view) == [[5, 6]]
    assert (policy.n_dense, policy.n_sparse, policy.n_rows, policy.n_evicted) == (0, 5, 15, 6)


def test_tova_sums_over_all_heads() -> None:
    policy = TOVA(budget=3)
    policy.start([0], 2)
    view = Keys(np.zeros((9, 2, 1)))
    seen = policy.before(0, 0, 3, view)
    probs = np.zeros((2, 2, 3, 3), np.float32)
    probs[0, 0, 2], probs[0, 1, 2] = [0.75, 0.125, 0.125], [0, 0.25, 0.75]
    probs[1, 0, 2], probs[1, 1, 2] = [0.125, 0.75, 0.125], [0, 0.5, 0.5]
    probs[:, :, :2] = 9  # earlier queries do not matter
    policy.after(0, 0, np.zeros((2, 2, 3, 1), np.float32), seen, probs)
    assert policy.scores(0, 0) == policy.scores(0, 1) == {0: 0.875, 1: 1.625, 2: 1.5}
    assert policy.before(0, 3, 1, view) == [[1, 2]] * 2


def test_tova_cuts_a_prompt_that_does_not_fit() -> None:
    policy = TOVA(budget=3, capacity=8)
    policy.start([0], 1)
    view = Keys(np.zeros(20))
    last = [0.0, 0.5, 0.0, 0.25, 0.0, 0.25]
    assert prompt(policy, 0, [last] * 6, view) == [[]]
    assert prompt(policy, 6, [[0.125] * 8, [*last, 0.125, 0]], view) == [[0, 1, 2, 3, 4, 5]]  # eight fit
    assert prompt(policy, 8, [[0.2] * 5] * 2, view) == [[1, 3, 5]]
    with pytest.raises(ValueError, match="capacity"):
        prompt(policy, 10, [[0.2] * 9] * 6, view)
    with pytest.raises(ValueError, match="budget"):
        TOVA(budget=1)


# --- R-KV ------------------------------------------------------------------------------------------------------------


def _rkv(n: int, q: Any, **kwargs: Any) -> RKV:
    """A one-layer, one-head policy that has seen n tokens in one prompt, with these queries of one channel."""
    policy = RKV(**kwargs)
    policy.start([0], 1)
    prompt(policy, 0, np.zeros((n, n)), Keys(np.zeros(n)), q=q)
    return policy


def test_rkv_importance_by_hand() -> None:
    # The last two queries are 1 and 2; query 10 does not see key 11.
    keys = np.zeros(12)
    keys[9], keys[0], keys[11] = np.log(7), np.log(4), np.log(2)
    policy = _rkv(12, [9.0] * 10 + [1.0, 2.0], budget=12, buffer=4, window=2, lam=1.0)
    first = np.array([4, 1, 1, 1, 1, 1, 1, 1, 1, 7, 1, 0]) / 20
    second = np.array([16, 1, 1, 1, 1, 1, 1, 1, 1, 49, 1, 4]) / 78
    mean = (first + second) / 2
    pooled = [mean[0]] * 4 + [mean[4]] * 2 + [mean[9]] * 6
    assert np.allclose(policy.importance(0, 0, Keys(keys)), pooled, atol=1e-6)
    # Another token would make 13: cut to 8 with it. 11 stays; 4 and 5 go, and of 0 to 3, which tie, the older.
    policy._held[0, 0] = list(range(12))
    assert prompt(policy, 12, np.zeros((1, 8)), Keys(np.r_[keys, 0])) == [[3, 6, 7, 8, 9, 10, 11]]
    assert policy.n_evicted == 5
    # then nothing goes until the budget is full
    for pos in range(13, 17):
        assert len(prompt(policy, pos, np.zeros((1, pos - 4)), Keys(np.zeros(20)))[0]) == pos - 5
    assert len(policy.held(0, 0)) == 12
    assert len(prompt(policy, 17, np.zeros((1, 8)), Keys(np.zeros(20)))[0]) == 7
    assert (policy.n_dense, policy.n_sparse, policy.n_rows) == (0, 6, 8 + 9 + 10 + 11 + 12 + 8)


def test_rkv_importance_takes_the_groups_largest_logit() -> None:
    policy = RKV(budget=12, buffer=4, window=3)
    policy.start([0], 1)
    view = Keys(np.log([[[2, 1]], [[1, 4]]]))
    seen = policy.before(0, 0, 2, view)
    q = np.zeros((1, 2, 2, 2), np.float32)
    q[0, 0, :, 0] = q[0, 1, :, 1] = 1  # one query head per channel
    policy.after(0, 0, q, seen, np.zeros((1, 2, 2, 2), np.float32))
    # logits log 2 and log 4; query 0 sees token 0 alone; two queries so far though the window is three; all are
    # neighbours
    mean = np.array([1 + 2 / 6, 4 / 6]) / 2
    assert np.allclose(policy.importance(0, 0, view), mean.max(), atol=1e-6)


def test_rkv_redundancy_by_hand() -> None:
    a, b = (2, 0), (0, 3)
    keys = np.array([a, b, a, a, b], np.float32).reshape(5, 1, 2)
    policy = RKV(budget=5, buffer=1, window=2, lam=0.0)
    policy.start([0], 1)
    policy.before(0, 0, 5, Keys(keys))
    policy.after(0, 0, np.zeros((1, 1, 5, 2), np.float32), [[]], np.zeros((1, 1, 5, 5), np.float32))
    # Rows: 0 is like 2 and 3, of which 3 is let off; 1 like 4, let off; 2 like 0 and 3 (off); 3 like 0 and 2 (off); 4
    # like 1 (off). Means 2/5, 0, 1/5, 0, 0.
    e = np.exp([0.4, 0, 0.2, 0, 0])
    assert np.allclose(policy.redundancy(0, 0, Keys(keys)), e / e.sum(), atol=1e-6)
    # 5 comes: four are left with it. 4 stays, the most alike of the rest go.
    assert policy.before(0, 5, 1, Keys(keys)) == [[1, 3, 4]]


def test_rkv_keeps_what_is_below_the_threshold() -> None:
    keys = np.array([[1, 0], [0.6, 0.8], [0, 1]], np.float32).reshape(3, 1, 2)
    policy = RKV(budget=9, buffer=1, window=2, threshold=0.7)
    policy.start([0], 1)
    policy.before(0, 0, 3, Keys(keys))
    # cosines 0.6, 0 and 0.8: only 0.8 is above. Row 1 lets off 2, row 2 lets off 1, row 0 none.
    mean = np.array([0.6, 0.6, 0.0]) / 3
    assert np.allclose(policy.redundancy(0, 0, Keys(keys)), np.exp(mean) / np.exp(mean).sum(), atol=1e-6)


def test_rkv_weighs_both() -> None:
    # 0 to 9 are the same key; alike, but for the window's last. Importance is the same for all.
    policy = _rkv(10, [0.0] * 10, budget=10, buffer=3, window=3, lam=0.5)
    keys = np.r_[np.ones(10), 0]
    view = Keys(keys)
    z = 0.5 * policy.importance(0, 0, view) - 0.5 * policy.redundancy(0, 0, view)
    # every row lets off 9, row 9 lets off 8
    assert z[9] > z[8] > z[7] and np.allclose(z[:8], z[0])
    assert prompt(policy, 10, np.zeros((1, 7)), view) == [[4, 5, 6, 7, 8, 9]]


def test_rkv_cuts_a_prompt_that_does_not_fit() -> None:
    policy = RKV(budget=10, capacity=20, buffer=4, window=2)
    policy.start([0], 1)
    view = Keys(np.zeros(40))
    assert prompt(policy, 0, np.zeros((10, 10)), view) == [[]]
    assert prompt(policy, 10, np.zeros((10, 20)), view) == [spans((0, 10))]
    assert prompt(policy, 20, np.zeros((5, 11)), view) == [spans((14, 20))]  # all tie: the older go
    assert policy.n_evicted == 14
    for kwargs in ({"budget": 136}, {"budget": 20, "buffer": 12}, {"budget": 20, "buffer": 10, "window": 0}):
        with pytest.raises(ValueError):
            RKV(**kwargs)
    assert RKV(budget=137).n_left == 9


@pytest.mark.parametrize("capacity", [None, 80])
def test_new_evicting_methods_keep_their_invariants(tiny: Callable[..., Weights], capacity: int | None) -> None:
    w = tiny("qwen3")
    for policy in (TOVA(budget=32, capacity=capacity), RKV(budget=40, buffer=12, window=6, capacity=capacity)):
        before: dict[tuple[int, int], set[int]] = {}
        for n, logits in steps(Reference(w, policy, n_ubatch=40), random_text(160), 120):
            assert np.isfinite(logits).all()
            for il in range(w.hp.n_layer):
                for h in range(w.hp.n_head_kv):
                    now = set(policy.held(il, h))
                    assert n - 1 in now and now <= set(range(n))
                    if n > 120:
                        assert len(now) <= policy.budget
                        assert now <= before[il, h] | {n - 1}
                    if isinstance(policy, RKV):
                        assert now >= set(range(n - policy.window, n))
                        if n > 120 and capacity is None:
                            assert len(now) == 28 + (n - 121) % 13
                    else:
                        assert now == set(policy.held(il, 0))
                        assert n == 120 or len(now) == 32
                    before[il, h] = now
        assert policy.n_sparse == 40 and policy.n_dense == 0
