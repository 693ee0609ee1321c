"""The methods of the select family as they are defined: every token stays, and each decode step reads a part of them.

The model asks `before` for a piece of the prompt, which sees everything, and `select` for a decode step, with the
queries as attention uses them (roped and rounded). "Layer c" counts the full-attention layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .evict import F32, Dense, LayerView, Positions

__all__ = [
    "NEVER",
    "PAGE",
    "InfLLM",
    "LessIsMore",
    "Quest",
    "RaaS",
    "Select",
    "TidalDecode",
    "group_page_scores",
    "merge_ranks",
    "page_bounds",
    "page_scores",
    "page_tokens",
]

PAGE = 16  # tokens of a page, by position
NEVER = 2**30  # the time stamp of a prompt's token: it does not expire


def _best(scores: Iterable[float], n: int) -> list[int]:
    """The indices of the n largest, best first; of equal ones the newer (larger) index first."""
    s = list(scores)
    return sorted(range(len(s)), key=lambda j: (s[j], j), reverse=True)[:n]


def count_dense_layers(dense_layers: int | None, n_layer: int) -> int:
    """How many of the n_layer full-attention layers attend to everything, the first ones."""
    if dense_layers is not None:
        return dense_layers
    return 2 if n_layer >= 16 else 1 if n_layer >= 8 else 0


def page_bounds(keys: F32) -> tuple[F32, F32]:
    """Per page and channel the minimum and the maximum of keys [n, d] at positions 0 to n - 1, each [n_pages, d]."""
    starts = range(0, len(keys), PAGE)
    low = np.array([keys[s : s + PAGE].min(axis=0) for s in starts], np.float32)
    high = np.array([keys[s : s + PAGE].max(axis=0) for s in starts], np.float32)
    return low, high


def page_scores(q: F32, low: F32, high: F32) -> F32:
    """sum_i max(q_i*low_i, q_i*high_i), which no q.k of the page exceeds: q [G, d], bounds [n_pages, d] -> [G,
    n_pages]."""
    return np.maximum(q[:, None] * low, q[:, None] * high).sum(axis=-1, dtype=np.float32)


def group_page_scores(q: F32, keys: F32) -> F32:
    """The largest of a group's page scores: q [G, d], keys [n, d] -> [n_pages]."""
    low, high = page_bounds(keys)
    return page_scores(q, low, high).max(axis=0)


def page_tokens(pages: Iterable[int], n: int) -> list[int]:
    """The tokens before n of these pages, ascending."""
    return [p for page in sorted(pages) for p in range(page * PAGE, min(page * PAGE + PAGE, n))]


def merge_ranks(rankings: Sequence[Sequence[int]], n: int) -> list[int]:
    """All rankings' first, in their order, then all rankings' second, ...; without duplicates; the first n."""
    out: list[int] = []
    for rank in range(max(len(r) for r in rankings)):
        for ranking in rankings:
            if len(out) < n and rank < len(ranking) and ranking[rank] not in out:
                out.append(ranking[rank])
    return out


@dataclass
class Select(Dense):
    """What the select methods share: when a step is sparse, and what is counted. What it reads is up to `_choose`.

    Args:
        budget: Tokens that one KV head of one layer attends to in a decode step, the current one included.
        min_ctx: With fewer tokens than this, the current one included, a step attends to everything, as it does while
            they are at most `budget`.
    """

    budget: int = field(kw_only=True)
    min_ctx: int = field(default=0, kw_only=True)
    far: int = field(default=0, init=False, repr=False)  # clipped: how far away a key can seem at most; 0: not clipped

    def is_dense(self, n_tokens: int) -> bool:
        """Whether the decode step that makes n_tokens attends to all of them."""
        return n_tokens <= self.budget or n_tokens < self.min_ctx

    def clips(self, pos: int, n_new: int) -> NDArray[np.bool_]:
        """Which queries of a batch see keys at a distance of at most `far`, [n_new]."""
        return np.zeros(n_new, np.bool_)

    def before(self, il: int, pos: int, n_new: int, view: LayerView) -> Positions:
        """A piece of the prompt: everything."""
        return [list(range(pos)) for _ in range(self._n_head_kv)]

    def select(self, il: int, pos: int, q: F32, view: LayerView, q_far: F32 | None = None) -> Positions:
        """The cached positions that a decode step at `pos` sees, besides itself, ascending; every head equally many.

        q: as attention uses it, [n_head_kv, G, head_dim]. q_far: where `far` is set, the same queries turned to
            position `far`.
        The view already has the current token's key.
        """
        dense = self.is_dense(pos + 1)
        if dense:
            seen: Positions = [list(range(pos)) for _ in range(self._n_head_kv)]
        else:
            seen = self._choose(il, pos, q, view, q_far)
        for h in range(self._n_head_kv):
            self._held[il, h] = [*seen[h], pos]
        self.n_rows += sum(len(s) + 1 for s in seen)
        if il == self._layers[0]:
            self.n_dense += dense
            self.n_sparse += not dense
        return seen

    def held(self, il: int, head: int) -> list[int]:
        """The positions that a KV head attended to in the last decode step, ascending, with the current one; none
        before."""
        return super().held(il, head)

    def _choose(self, il: int, pos: int, q: F32, view: LayerView, q_far: F32 | None) -> Positions:
        """What select() answers in a sparse step."""
        raise NotImplementedError


@dataclass
class Quest(Select):
    """Quest (arXiv 2406.10774): the current page and the floor(budget/16) - 1 with the best bound on q.k, per KV head.

    The bound of a group is the maximum over its query heads.

    Args:
        budget: At least one page, two with first_page.
        first_page: Page 0 is always among them.
        dense_layers: The first layers, which attend to everything. None: see `count_dense_layers`.
    """

    first_page: bool = False
    dense_layers: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        least = 2 * PAGE if self.first_page else PAGE
        if self.budget < least:
            raise ValueError(f"budget = {self.budget}: must be at least {least}")

    def _choose(self, il: int, pos: int, q: F32, view: LayerView, q_far: F32 | None) -> Positions:
        if self._layers.index(il) < count_dense_layers(self.dense_layers, len(self._layers)):
            return [list(range(pos)) for _ in range(self._n_head_kv)]
        current = pos // PAGE
        seen = []
        for h in range(self._n_head_kv):
            score = group_page_scores(q[h], view.keys(h, range(pos + 1)))
            fixed = {current, 0} if self.first_page else {current}
            others = [p for p in _best(score, len(score)) if p not in fixed]
            pages = fixed | set(others[: self.budget // PAGE - len(fixed)])
            seen.append(page_tokens(pages, pos))
        return seen


@dataclass
class InfLLM(Select):
    """InfLLM (arXiv 2402.04617): the first n_init tokens, the best n_blocks blocks before a window, and the window.

    Token j is in the window of query i where i - j < window. Block b is the tokens from n_init + b*block on; a query
    can choose it when all of them have left its window. Until then, those that have left it are attended to as well. No
    layer is dense.

    A token's score, per KV head, is the softmax probability, as computed, that it got from the queries that had it in
    their window, prompt and decode, summed over them and the group. A block's representatives are its n_repr tokens
    with the largest score; the block's score is the sum of q.k over all heads and their representatives.

    Args:
        budget: Such that n_blocks, which takes what the window's half leaves, is at least 1.
        n_init: First tokens that are always attended to.
        block: Tokens of a block. None: 16, 8 where budget < 128.
        n_repr: Representatives of a block, per KV head.
        positions: "clipped": a query that has more than budget tokens up to itself, in the prompt or decoding, sees
            every key outside its window as if it were exactly `window` away. Dense decode steps are ordinary.
            "absolute": where they are.
    """

    n_init: int = 4
    block: int | None = None
    n_repr: int = 4
    positions: Literal["absolute", "clipped"] = "absolute"
    n_block: int = field(default=0, init=False, repr=False)  # tokens of a block
    n_blocks: int = field(default=0, init=False, repr=False)  # k: blocks that a step chooses
    window: int = field(default=0, init=False, repr=False)  # w

    def __post_init__(self) -> None:
        n = self.n_block = self.block if self.block is not None else 16 if self.budget >= 128 else 8
        if not 1 <= self.n_repr <= n:
            raise ValueError(f"n_repr = {self.n_repr}: must be 1 to the block's {n}")
        if self.n_init < 0:
            raise ValueError(f"n_init = {self.n_init}: must not be negative")
        self.n_blocks = (self.budget - self.n_init - self.budget // 2 - (n - 1)) // n
        if self.n_blocks < 1:
            raise ValueError(f"budget = {self.budget}: leaves no room for a block of {n} beside the window")
        self.window = self.budget - self.n_init - self.n_blocks * n - (n - 1)
        self.far = self.window if self.positions == "clipped" else 0

    def start(self, layers: Sequence[int], n_head_kv: int) -> None:
        super().start(layers, n_head_kv)
        self._score: dict[tuple[int, int], F32] = {key: np.zeros(0, np.float32) for key in self._held}

    def clips(self, pos: int, n_new: int) -> NDArray[np.bool_]:
        if self.far == 0 or (n_new == 1 and self.is_dense(pos + 1)):
            return np.zeros(n_new, np.bool_)
        return np.arange(pos + 1, pos + n_new + 1) > self.budget

    def after(self, il: int, pos: int, q: F32, seen: Positions, probs: F32) -> None:
        n_head_kv, _, n_new, _ = q.shape
        at = np.arange(pos, pos + n_new)
        for h in range(n_head_kv):
            columns = np.array([*seen[h], *at])
            in_window = at[:, None] - columns < self.window  # [n_new, n_cached + n_new]
            total = np.where(in_window, probs[h], np.float32(0)).sum(axis=(0, 1), dtype=np.float32)
            score = np.zeros(pos + n_new, np.float32)
            score[:pos] = self._score[il, h]
            score[columns] += total
            self._score[il, h] = score

    def scores(self, il: int, head: int) -> dict[int, float]:
        """position -> score of every token so far."""
        return {p: float(s) for p, s in enumerate(self._score[il, head])}

    def representatives(self, il: int, head: int, b: int) -> list[int]:
        """The positions of block b's representatives, best first. Final once the block can be chosen."""
        first = self.n_init + b * self.n_block
        return [first + j for j in _best(self._score[il, head][first : first + self.n_block], self.n_repr)]

    def n_whole(self, pos: int) -> int:
        """Blocks that a query at pos can choose: all of their tokens have left its window."""
        return max(0, (pos - self.window + 1 - self.n_init) // self.n_block)

    def block_scores(self, il: int, pos: int, q: F32, view: LayerView, q_far: F32 | None) -> F32:
        """[n_whole(pos)], with the arguments of select()"""
        score = np.zeros(self.n_whole(pos), np.float32)
        for b in range(len(score)):
            for h in range(self._n_head_kv):
                score[b] += self.head_score(h, self.representatives(il, h, b), q, view, q_far)
        return score

    def head_score(self, head: int, tokens: Sequence[int], q: F32, view: LayerView, q_far: F32 | None) -> np.float32:
        """What a KV head adds to the score of a block that these tokens represent."""
        if self.far:
            assert q_far is not None
            return np.float32((q_far[head] @ view.far_keys(head, tokens).T).sum(dtype=np.float32))
        return np.float32((q[head] @ view.keys(head, tokens).T).sum(dtype=np.float32))

    def _choose(self, il: int, pos: int, q: F32, view: LayerView, q_far: F32 | None) -> Positions:
        score = self.block_scores(il, pos, q, view, q_far)
        starts = [self.n_init + b * self.n_block for b in sorted(_best(score, self.n_blocks))]
        seen = [*range(self.n_init)]
        seen += [p for s in starts for p in range(s, s + self.n_block)]
        seen += range(self.n_init + len(score) * self.n_block, pos)  # no whole block yet, and the window
        return [list(seen) for _ in range(self._n_head_kv)]


@dataclass
class _Reselect(Select):
    """What TidalDecode and LessIsMore share: which layers choose. What they choose is up to `_pick`.

    Layers before `first` are dense. Layers `first` and `reselect` attend to everything and choose; those after each use
    it.
    """

    reselect: int = field(kw_only=True)
    dense_layers: int | None = field(default=None, kw_only=True)
    first: int = field(default=0, init=False)  # the first layer that chooses

    def start(self, layers: Sequence[int], n_head_kv: int) -> None:
        self.first = count_dense_layers(self.dense_layers, len(layers))
        if not self.first < self.reselect < len(layers):
            raise ValueError(
                f"reselect = {self.reselect}: must be {self.first + 1} to {len(layers) - 1}, counted among the "
                f"full-attention layers"
            )
        super().start(layers, n_head_kv)
        self._set: Positions = []

    def _choose(self, il: int, pos: int, q: F32, view: LayerView, q_far: F32 | None) -> Positions:
        depth = self._layers.index(il)
        if depth in (self.first, self.reselect):
            self._set = [sorted(s) for s in self._pick(pos, q, view)]
        if depth <= self.first or depth == self.reselect:
            return [list(range(pos)) for _ in range(self._n_head_kv)]
        return [list(s) for s in self._set]

    def _pick(self, pos: int, q: F32, view: LayerView) -> Positions:
        """The set of each KV head, without the current token."""
        raise NotImplementedError


@dataclass
class TidalDecode(_Reselect):
    """TidalDecode (arXiv 2410.05076): layers `first` and c choose, per KV head, the budget - 1 largest q.k (the maximum
    over the group) and the current token; the layers after each attend to those. Layers before `first` are dense.

    Args:
        budget: At least 2.
        reselect: c, among the full-attention layers; above `first`, below their number.
        dense_layers: The first layers, which attend to everything. None: see `count_dense_layers`.
    """

    def __post_init__(self) -> None:
        if self.budget < 2:
            raise ValueError(f"budget = {self.budget}: must be at least 2")

    def _pick(self, pos: int, q: F32, view: LayerView) -> Positions:
        logits = [(q[h] @ view.keys(h, range(pos)).T).max(axis=0) for h in range(self._n_head_kv)]
        return [_best(x, self.budget - 1) for x in logits]


@dataclass
class LessIsMore(_Reselect):
    """LessIsMore (arXiv 2508.07101): as TidalDecode, with one set for all heads.

    It has the first n_sink tokens, the last floor(ratio*budget), and the best of those between: every query head ranks
    them by q.k, and the rankings are merged rank by rank until the set has `budget`.

    Args:
        budget: Such that at least one token is recent and one ranked.
        reselect: c, among the full-attention layers; above `first`, below their number.
        dense_layers: The first layers, which attend to everything. None: see `count_dense_layers`.
        n_sink: First tokens that are always attended to.
        ratio: The share of the budget that the last tokens, the current one included, have.
    """

    n_sink: int = 4
    ratio: float = 0.25
    n_recent: int = field(default=0, init=False, repr=False)
    n_ranked: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        self.n_recent = math.floor(self.ratio * self.budget)
        self.n_ranked = self.budget - self.n_sink - self.n_recent
        if self.n_recent < 1 or self.n_ranked < 1:
            raise ValueError(
                f"budget = {self.budget}: leaves {self.n_recent} recent and {self.n_ranked} ranked tokens; must "
                f"leave one of each"
            )

    def _pick(self, pos: int, q: F32, view: LayerView) -> Positions:
        first_recent = pos + 1 - self.n_recent
        between = range(self.n_sink, first_recent)
        rankings = []
        for h in range(self._n_head_kv):
            for logits in q[h] @ view.keys(h, between).T:  # query heads ascending
                rankings.append([between[j] for j in _best(logits, len(between))])
        ranked = merge_ranks(rankings, self.n_ranked)
        return [[*range(self.n_sink), *ranked, *range(first_recent, pos)]] * self._n_head_kv


@dataclass
class RaaS(Select):
    """RaaS (arXiv 2502.11147): the pages that were useful last. A page's time stamp, per KV head, is its tokens'
    largest.

    A decoded token's stamp is the number of decode steps so far, its own included; a prompt's token does not expire. In
    a sparse step the current page and the floor(budget/16) - 1 others with the largest (stamp, index) are alive and
    attended to; in a dense one all are. Then those ceil(ratio * alive) of them with the best page scores (Quest's) are
    stamped with this step. All layers are sparse. So a page that is not alive does not come back, and the prompt's go
    last, the older first.

    Args:
        budget: At least one page.
        ratio: The share of alive pages that a step stamps.
    """

    ratio: float = 0.5

    def __post_init__(self) -> None:
        if self.budget < PAGE:
            raise ValueError(f"budget = {self.budget}: must be at least {PAGE}")
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio = {self.ratio}: must be above 0 and at most 1")

    def start(self, layers: Sequence[int], n_head_kv: int) -> None:
        super().start(layers, n_head_kv)
        self.now = 0  # decode steps so far
        self._stamp: dict[tuple[int, int], list[int]] = {key: [] for key in self._held}  # per token

    def stamps(self, il: int, head: int) -> list[int]:
        """The time stamp of each page."""
        stamp = self._stamp[il, head]
        return [max(stamp[s : s + PAGE]) for s in range(0, len(stamp), PAGE)]

    def before(self, il: int, pos: int, n_new: int, view: LayerView) -> Positions:
        for h in range(self._n_head_kv):
            self._stamp[il, h] += [NEVER] * n_new
        return super().before(il, pos, n_new, view)

    def select(self, il: int, pos: int, q: F32, view: LayerView, q_far: F32 | None = None) -> Positions:
        if il == self._layers[0]:
            self.now += 1
        for h in range(self._n_head_kv):
            self._stamp[il, h].append(self.now)
        seen = super().select(il, pos, q, view, q_far)
        for h in range(self._n_head_kv):
            alive = sorted({p // PAGE for p in [*seen[h], pos]})
            score = group_page_scores(q[h], view.keys(h, range(pos + 1)))
            self._stamp_best(il, h, pos, alive, score[alive])
        return seen

    def _stamp_best(self, il: int, head: int, pos: int, alive: Sequence[int], score: F32) -> None:
        """Stamps the best of the alive pages, whose scores these are."""
        best = _best(score, math.ceil(self.ratio * len(alive)))
        for p in page_tokens((alive[j] for j in best), pos + 1):
            self._stamp[il, head][p] = max(self._stamp[il, head][p], self.now)

    def _choose(self, il: int, pos: int, q: F32, view: LayerView, q_far: F32 | None) -> Positions:
        current = pos // PAGE
        seen = []
        for h in range(self._n_head_kv):
            others = _best(self.stamps(il, h)[:current], self.budget // PAGE - 1)
            seen.append(page_tokens([*others, current], pos))
        return seen
