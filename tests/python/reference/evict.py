"""Which cached tokens a query sees: full attention, and the methods of the evict family as they are defined.

A policy is asked once per full-attention layer and batch. A batch of exactly one token is a decode step, a longer one a
piece of the prompt. It answers with the positions that each KV head still holds, after evicting what has to go; the model
then attends to those and, causally, to the batch itself, and shows the policy the queries and the probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["H2O", "Dense", "Fed", "LayerView", "Policy", "Sink"]

F32 = NDArray[np.float32]
Positions = list[list[int]]  # per KV head, ascending


class LayerView(Protocol):
    """What a policy may read of a layer's cache."""

    scale: float

    def keys(self, head: int, positions: Sequence[int]) -> F32:
        """The keys of one KV head at these positions, as attention reads them, [len(positions), head_dim]."""
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
    """What Sink and H2O share: when something goes. What goes is up to `_cut`."""

    budget: int = field(kw_only=True)
    capacity: int | None = field(default=None, kw_only=True)

    def _make_room(self, il: int, pos: int, n_new: int, view: LayerView) -> None:
        n_held = len(self._held[il, 0])
        if n_new == 1 and n_held + 1 > self.budget:
            # A decode step: with the current token, budget are left.
            self._cut(il, self.budget, 1, view)
        elif n_new > 1 and self.capacity is not None and n_held + n_new > self.capacity:
            # A piece of the prompt that would not fit: make the cache as small as a decode step would.
            if self.budget + n_new > self.capacity:
                raise ValueError(f"capacity = {self.capacity}: must be at least {self.budget + n_new} for this batch")
            self._cut(il, self.budget, 0, view)

    def _cut(self, il: int, n: int, n_coming: int, view: LayerView) -> None:
        """Leaves n tokens, of which n_coming (the current one, or none) are still to come."""
        raise NotImplementedError


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

    The score of a token is the sum, over all queries so far and the query heads of its group, of its softmax probability.

    Args:
        budget: Tokens that a decode step attends to, the current one included.
        capacity: Tokens that fit the cache; a prompt that does not is cut on the way. None: everything fits.
        recent: Last tokens that stay, the current one included. 0: budget // 2.
        prompt_scores: "exact": every prompt query counts, as it attended. "window": prompt queries wait, and the last 64
            that do are counted over the keys held at the next cut or decode step.
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
            held, score = self._held[il, h], self._score[il, h]
            n_protected = self.recent - n_coming
            others = held[: len(held) - n_protected]
            n_gone = len(held) + n_coming - n
            # The lowest first; of equal ones the older first.
            gone = sorted(others, key=lambda p: (score.get(p, np.float32(0)), p))[:n_gone]
            self._drop(il, h, gone)
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
