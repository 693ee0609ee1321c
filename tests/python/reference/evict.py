"""Which cached tokens a query sees: full attention, and the methods of the evict family as they are defined.

A policy is asked once per full-attention layer and batch. A batch of exactly one token is a decode step, a longer one a
piece of the prompt. It answers with the positions that each KV head still holds, after evicting what has to go; the
model then attends to those and, causally, to the batch itself, and shows the policy the queries and the probabilities.

A policy of the select family (see select.py) is asked for a decode step with the step's queries instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["H2O", "RKV", "TOVA", "Dense", "Fed", "LayerView", "Policy", "Sink"]

F32 = NDArray[np.float32]
Positions = list[list[int]]  # per KV head, ascending


class LayerView(Protocol):
    """What a policy may read of a layer's cache."""

    scale: float

    def keys(self, head: int, positions: Sequence[int]) -> F32:
        """The keys of one KV head at these positions, as attention reads them, [len(positions), head_dim]."""
        ...

    def far_keys(self, head: int, positions: Sequence[int]) -> F32:
        """The same keys turned to position 0, for queries that see them at one distance (InfLLM, clipped)."""
        ...


class Policy(Protocol):
    """Says what a layer holds, and counts as the library does (lil_sparse_info)."""

    n_dense: int  # decode steps that attended to everything
    n_sparse: int  # the others
    n_rows: int  # rows that decode steps attended to: tokens x KV heads x layers
    n_evicted: int  # tokens evicted, per KV head and layer
    cache_positions: bool  # keys and queries take the position of their slot

    def start(self, layers: Sequence[int], n_head_kv: int) -> None:
        """Forgets everything. `layers` are the model's indices of the full-attention layers."""

    def before(self, il: int, pos: int, n_new: int, view: LayerView) -> Positions:
        """The cached positions that a batch of n_new tokens from position `pos` on sees, besides itself."""
        ...

    def after(self, il: int, pos: int, q: F32, seen: Positions, probs: F32) -> None:
        """Shows the queries [n_head_kv, G, n_new, head_dim] and their softmax [n_head_kv, G, n_new, n_cached + n_new].

        Columns of probs: first the positions of `seen` (what before() returned), then the batch.
        """

    def held(self, il: int, head: int) -> list[int]:
        """The positions that a KV head holds now, ascending."""
        ...


@dataclass
class Dense:
    """Full attention."""

    cache_positions: bool = field(default=False, init=False, repr=False)
    n_dense: int = field(default=0, init=False, repr=False)
    n_sparse: int = field(default=0, init=False, repr=False)
    n_rows: int = field(default=0, init=False, repr=False)
    n_evicted: int = field(default=0, init=False, repr=False)

    def start(self, layers: Sequence[int], n_head_kv: int) -> None:
        self.n_dense = self.n_sparse = self.n_rows = self.n_evicted = 0
        self._layers = list(layers)
        self._n_head_kv = n_head_kv
        self._held: dict[tuple[int, int], list[int]] = {(il, h): [] for il in layers for h in range(n_head_kv)}

    def before(self, il: int, pos: int, n_new: int, view: LayerView) -> Positions:
        self._make_room(il, pos, n_new, view)
        seen = [list(self._held[il, h]) for h in range(self._n_head_kv)]
        for h in range(self._n_head_kv):
            self._held[il, h] += range(pos, pos + n_new)
        if n_new == 1:
            self.n_rows += sum(len(s) + 1 for s in seen)
            if il == self._layers[0]:
                if len(seen[0]) < pos:
                    self.n_sparse += 1
                else:
                    self.n_dense += 1
        return seen

    def after(self, il: int, pos: int, q: F32, seen: Positions, probs: F32) -> None:
        pass

    def held(self, il: int, head: int) -> list[int]:
        return list(self._held[il, head])

    def _make_room(self, il: int, pos: int, n_new: int, view: LayerView) -> None:
        """Evicts what has to go before n_new tokens come."""

    def _drop(self, il: int, head: int, gone: Sequence[int]) -> None:
        dropped = set(gone)
        self._held[il, head] = [p for p in self._held[il, head] if p not in dropped]
        if il == self._layers[0] and head == 0:
            self.n_evicted += len(dropped)


@dataclass
class Fed(Dense):
    """Tests the attention itself: decode steps see the positions that a callback names, the prompt sees everything.

    Args:
        sets: (layer, KV head, position of the current token) -> the positions to attend to. The current token is always
            attended to, named or not. Every head of a layer must be given equally many.
    """

    sets: Callable[[int, int, int], Sequence[int]] = field(kw_only=True)

    def before(self, il: int, pos: int, n_new: int, view: LayerView) -> Positions:
        if n_new == 1:
            for h in range(self._n_head_kv):
                self._held[il, h] = sorted(p for p in set(self.sets(il, h, pos)) if p < pos)
        return super().before(il, pos, n_new, view)


@dataclass
class _Evict(Dense):
    """What the evicting methods share: when something goes. What goes is up to `_cut`."""

    budget: int = field(kw_only=True)
    capacity: int | None = field(default=None, kw_only=True)

    @property
    def n_left(self) -> int:
        """Tokens left after a cut, the current one included where a decode step makes it."""
        return self.budget

    def _make_room(self, il: int, pos: int, n_new: int, view: LayerView) -> None:
        n_held = len(self._held[il, 0])
        if n_new == 1 and n_held + 1 > self.budget:
            # A decode step: with the current token, n_left are left.
            self._cut(il, self.n_left, 1, view)
        elif n_new > 1 and self.capacity is not None and n_held + n_new > self.capacity:
            # A piece of the prompt that would not fit: make the cache as small as a decode step would.
            if self.budget + n_new > self.capacity:
                raise ValueError(f"capacity = {self.capacity}: must be at least {self.budget + n_new} for this batch")
            self._cut(il, self.n_left, 0, view)

    def _cut(self, il: int, n: int, n_coming: int, view: LayerView) -> None:
        """Leaves n tokens, of which n_coming (the current one, or none) are still to come."""
        raise NotImplementedError

    def _drop_lowest(
        self, il: int, head: int, n_gone: int, n_protected: int, score: Mapping[int, np.float32]
    ) -> list[int]:
        """Drops the n_gone lowest scores, of equal ones the older, the last n_protected tokens aside; returns what
        went."""
        held = self._held[il, head]
        gone = sorted(held[: len(held) - n_protected], key=lambda p: (score.get(p, np.float32(0)), p))[:n_gone]
        self._drop(il, head, gone)
        return gone


@dataclass
class Sink(_Evict):
    """StreamingLLM (arXiv 2309.17453): the first n_sink tokens and the last budget - n_sink.

    Args:
        budget: Tokens that a decode step attends to, the current one included.
        capacity: Tokens that fit the cache; a prompt that does not is cut on the way. None: everything fits.
        n_sink: First tokens that stay.
        positions: "cache": a key's position is its place among those held, "absolute": its place in the text.
    """

    n_sink: int = 4
    positions: Literal["absolute", "cache"] = "absolute"

    def __post_init__(self) -> None:
        if self.budget < self.n_sink + 1:
            raise ValueError(f"budget = {self.budget}: must be at least n_sink + 1 = {self.n_sink + 1}")
        self.cache_positions = self.positions == "cache"

    def _cut(self, il: int, n: int, n_coming: int, view: LayerView) -> None:
        for h in range(self._n_head_kv):
            held = self._held[il, h]
            n_last = n - self.n_sink - n_coming
            last = held[len(held) - n_last :] if n_last > 0 else []
            keep = set(held[: self.n_sink]) | set(last)
            self._drop(il, h, [p for p in held if p not in keep])


@dataclass
class H2O(_Evict):
    """Heavy-hitter oracle (arXiv 2306.14048): the last `recent` tokens and those with the most accumulated attention.

    The score of a token is the sum, over all queries so far and the query heads of its group, of its softmax
    probability.

    Args:
        budget: Tokens that a decode step attends to, the current one included.
        capacity: Tokens that fit the cache; a prompt that does not is cut on the way. None: everything fits.
        recent: Last tokens that stay, the current one included. 0: budget // 2.
        prompt_scores: "exact": every prompt query counts, as it attended. "window": prompt queries wait, and the last
            64 that do are counted over the keys held at the next cut or decode step.
    """

    recent: int = 0
    prompt_scores: Literal["exact", "window"] = "exact"
    window: int = field(default=64, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.budget < 2:
            raise ValueError(f"budget = {self.budget}: must be at least 2")
        self.recent = self.recent or self.budget // 2
        if not 1 <= self.recent < self.budget:
            raise ValueError(f"recent = {self.recent}: must be 1 to {self.budget - 1}")

    def start(self, layers: Sequence[int], n_head_kv: int) -> None:
        super().start(layers, n_head_kv)
        self._score: dict[tuple[int, int], dict[int, np.float32]] = {key: {} for key in self._held}
        # "window": prompt queries of a layer that wait, (position, [n_head_kv, G, head_dim])
        self._queries: dict[int, list[tuple[int, F32]]] = {il: [] for il in layers}

    def scores(self, il: int, head: int) -> dict[int, float]:
        """position -> accumulated score of what a KV head holds."""
        return {p: float(self._score[il, head].get(p, np.float32(0))) for p in self._held[il, head]}

    def before(self, il: int, pos: int, n_new: int, view: LayerView) -> Positions:
        if n_new == 1:
            self._settle(il, view)
        return super().before(il, pos, n_new, view)

    def after(self, il: int, pos: int, q: F32, seen: Positions, probs: F32) -> None:
        n_head_kv, _, n_new, _ = q.shape
        if n_new > 1 and self.prompt_scores == "window":
            new = [(pos + i, q[:, :, i]) for i in range(n_new)]
            self._queries[il] = (self._queries[il] + new)[-self.window :]
            return
        for h in range(n_head_kv):
            total = probs[h].sum(axis=(0, 1), dtype=np.float32)
            for p, s in zip([*seen[h], *range(pos, pos + n_new)], total, strict=True):
                self._add(il, h, p, s)

    def _add(self, il: int, head: int, p: int, s: np.float32) -> None:
        score = self._score[il, head]
        score[p] = np.float32(score.get(p, np.float32(0)) + s)

    def _cut(self, il: int, n: int, n_coming: int, view: LayerView) -> None:
        self._settle(il, view)
        for h in range(self._n_head_kv):
            score = self._score[il, h]
            n_gone = len(self._held[il, h]) + n_coming - n
            gone = self._drop_lowest(il, h, n_gone, self.recent - n_coming, score)
            for p in gone:
                score.pop(p, None)

    def _settle(self, il: int, view: LayerView) -> None:
        """ "window": adds what the waiting prompt queries give to the keys held now, and forgets the queries."""
        queries, self._queries[il] = self._queries[il], []
        for h in range(self._n_head_kv):
            held = self._held[il, h]
            keys, at = view.keys(h, held), np.array(held)
            for pos, q in queries:
                logits = (q[h] @ keys.T) * np.float32(view.scale)  # [G, n_held]
                logits[:, at > pos] = -np.inf
                probs = np.exp(logits - logits.max(axis=1, keepdims=True))
                probs /= probs.sum(axis=1, keepdims=True)
                for p, s in zip(held, probs.sum(axis=0), strict=True):
                    self._add(il, h, p, s)


@dataclass
class TOVA(_Evict):
    """TOVA (arXiv 2401.06104): what the last query attended to most. One set per layer, shared by its heads.

    The score of a held token is the softmax probability that the newest query so far, of the prompt or decoded, gave
    it, summed over all query heads of the layer. The current token aside, none is protected.

    Args:
        budget: Tokens that a decode step attends to, the current one included.
        capacity: Tokens that fit the cache; a prompt that does not is cut on the way. None: everything fits.
    """

    def __post_init__(self) -> None:
        if self.budget < 2:
            raise ValueError(f"budget = {self.budget}: must be at least 2")

    def start(self, layers: Sequence[int], n_head_kv: int) -> None:
        super().start(layers, n_head_kv)
        self._score: dict[int, dict[int, np.float32]] = {il: {} for il in layers}

    def scores(self, il: int, head: int) -> dict[int, float]:
        """position -> score of what a layer holds, the same for every head."""
        return {p: float(self._score[il][p]) for p in self._held[il, head]}

    def after(self, il: int, pos: int, q: F32, seen: Positions, probs: F32) -> None:
        total = probs[:, :, -1].sum(axis=(0, 1), dtype=np.float32)  # [n_cached + n_new]
        self._score[il] = dict(zip(self._held[il, 0], total, strict=True))

    def _cut(self, il: int, n: int, n_coming: int, view: LayerView) -> None:
        n_gone = len(self._held[il, 0]) + n_coming - n
        for h in range(self._n_head_kv):
            self._drop_lowest(il, h, n_gone, 0, self._score[il])


@dataclass
class RKV(_Evict):
    """R-KV (arXiv 2505.24133): keys that the last queries attend to and that are not alike. Cuts `buffer` tokens at a
    time.

    Z = lam*I - (1 - lam)*R per KV head, over the held tokens in order; the lowest go.
    I, importance: per query, the softmax over the keys that are not newer of the group's largest q.k*scale; the mean
    over the last `window` queries; the maximum over 7 neighbours in order. R, redundancy: the cosines of a key with the
    others, without, for each of those, the newest above `threshold`; their mean; the softmax over keys.

    Args:
        budget: Tokens that a decode step attends to at most, the current one included.
        capacity: Tokens that fit the cache; a prompt that does not is cut on the way. None: everything fits.
        buffer: A cut leaves budget - buffer.
        window: Queries that are looked at, and last tokens that stay, the current one included.
        lam: The weight of importance against redundancy.
        threshold: Cosine above which two keys count as alike.
    """

    buffer: int = 128
    window: int = 8
    lam: float = 0.1
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window = {self.window}: must be at least 1")
        if not 0 <= self.buffer < self.budget - self.window:
            raise ValueError(
                f"buffer = {self.buffer}: must be 0 to budget - window - 1 = {self.budget - self.window - 1}"
            )

    @property
    def n_left(self) -> int:
        return self.budget - self.buffer

    def start(self, layers: Sequence[int], n_head_kv: int) -> None:
        super().start(layers, n_head_kv)
        # The last `window` queries of a layer, (position, [n_head_kv, G, head_dim]).
        self._queries: dict[int, list[tuple[int, F32]]] = {il: [] for il in layers}

    def after(self, il: int, pos: int, q: F32, seen: Positions, probs: F32) -> None:
        new = [(pos + i, q[:, :, i]) for i in range(q.shape[2])]
        self._queries[il] = (self._queries[il] + new)[-self.window :]

    def importance(self, il: int, head: int, view: LayerView) -> F32:
        """I of what a KV head holds, [n_held]."""
        held = self._held[il, head]
        keys, at = view.keys(head, held), np.array(held)
        mean = np.zeros(len(held), np.float32)
        for pos, q in self._queries[il]:
            logits = ((q[head] @ keys.T) * np.float32(view.scale)).max(axis=0)
            logits[at > pos] = -np.inf
            probs = np.exp(logits - logits.max())
            mean += probs / probs.sum() / np.float32(len(self._queries[il]))
        return np.array([mean[max(0, j - 3) : j + 4].max() for j in range(len(held))], np.float32)

    def redundancy(self, il: int, head: int, view: LayerView) -> F32:
        """R of what a KV head holds, [n_held]."""
        keys = view.keys(head, self._held[il, head])
        unit = keys / np.maximum(np.linalg.norm(keys, axis=1, keepdims=True), np.float32(1e-12))
        similar = unit @ unit.T
        np.fill_diagonal(similar, 0)
        for row in similar:
            above = np.nonzero(row > self.threshold)[0]
            if len(above):
                row[above[-1]] = 0
        mean = similar.mean(axis=0, dtype=np.float32)
        e = np.exp(mean - mean.max())
        return (e / e.sum()).astype(np.float32)

    def _cut(self, il: int, n: int, n_coming: int, view: LayerView) -> None:
        lam = np.float32(self.lam)
        for h in range(self._n_head_kv):
            held = self._held[il, h]
            z = lam * self.importance(il, h, view) - (1 - lam) * self.redundancy(il, h, view)
            score = dict(zip(held, z, strict=True))
            self._drop_lowest(il, h, len(held) + n_coming - n, self.window - n_coming, score)
