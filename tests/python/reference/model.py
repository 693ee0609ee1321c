"""The forward pass of the tested architectures in NumPy, with a policy for what a query sees.

Float32 throughout; keys and values are rounded the way the cache rounds them. Shapes are rows of tokens: an activation
is [n_tokens, n_embd], a weight [n_out, n_in] as GGUF files hold it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import gguf
import numpy as np
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray

from .evict import Dense, Policy, Positions
from .select import Select

__all__ = ["HParams", "Reference", "Weights", "round_kv"]

F32 = NDArray[np.float32]

_NEOX = {"llama": False, "qwen2": True, "qwen3": True, "gemma3": True, "phi3": True}


@dataclass(frozen=True)
class HParams:
    """What a GGUF's metadata says about the model."""

    arch: str
    n_vocab: int
    n_ctx_train: int
    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_rot: int  # first channels of a head that RoPE turns
    neox: bool  # RoPE pairs channel i with i + n_rot/2; otherwise 2i with 2i + 1
    norm_eps: float
    rope_base: tuple[float, ...]  # per layer
    rope_scale: tuple[float, ...]  # per layer, positions are multiplied by it
    rope_mscale: float  # cos and sin are multiplied by it
    n_ctx_orig: int  # phi3: above this context length the long RoPE factors are used
    window: tuple[int, ...]  # per layer, tokens in the sliding window; 0: full attention
    attn_scale: float

    @property
    def full_layers(self) -> list[int]:
        """The layers that a method acts on."""
        return [il for il in range(self.n_layer) if self.window[il] == 0]


@dataclass
class Weights:
    """A GGUF's parameters and tensors as float32. Load it once and share it between references."""

    hp: HParams
    tensors: dict[str, F32] = field(repr=False)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Weights:
        reader = gguf.GGUFReader(path)
        tensors = {
            t.name: np.asarray(dequantize(t.data, t.tensor_type), dtype=np.float32).reshape(
                [int(n) for n in reversed(t.shape)]
            )
            for t in reader.tensors
        }
        return cls(_hparams(reader, tensors), tensors)

    def get(self, name: str, il: int | None = None) -> F32 | None:
        """A tensor, None where the file has none of that name."""
        return self.tensors.get(name if il is None else f"blk.{il}.{name}")

    def __getitem__(self, name: str) -> F32:
        return self.tensors[name]


def _hparams(reader: gguf.GGUFReader, tensors: dict[str, F32]) -> HParams:
    def get(key: str, default: Any = None) -> Any:
        f = reader.fields.get(key)
        return default if f is None else f.contents()

    arch = get("general.architecture")
    if arch not in _NEOX:
        raise ValueError(f"architecture {arch!r}: the reference knows {', '.join(_NEOX)}")
    n_layer = get(f"{arch}.block_count")
    n_embd = get(f"{arch}.embedding_length")
    n_head = get(f"{arch}.attention.head_count")
    head_dim = get(f"{arch}.attention.key_length", n_embd // n_head)
    n_ctx_train = get(f"{arch}.context_length")
    scaling = get(f"{arch}.rope.scaling.type", "none")
    if scaling not in ("none", "linear", "longrope"):
        raise ValueError(f"RoPE scaling {scaling!r}: the reference knows none, linear, longrope")
    scale = 1.0 / get(f"{arch}.rope.scaling.factor", 1.0) if scaling == "linear" else 1.0
    base = get(f"{arch}.rope.freq_base", 10000.0)

    bases, scales, window = [base] * n_layer, [scale] * n_layer, [0] * n_layer
    if arch == "gemma3" and get(f"{arch}.attention.sliding_window", 0):
        pattern = get(f"{arch}.attention.sliding_window_pattern", 6)
        if isinstance(pattern, int):
            pattern = [il % pattern < pattern - 1 for il in range(n_layer)]
        for il in range(n_layer):
            if pattern[il]:
                bases[il], scales[il] = get(f"{arch}.rope.freq_base_swa", 10000.0), 1.0
                window[il] = get(f"{arch}.attention.sliding_window")

    attn_scale = head_dim**-0.5
    if arch == "gemma3" and n_layer == 62:
        attn_scale = (n_embd // n_head) ** -0.5  # the 27B is told by its layers, as upstream does
    return HParams(
        arch=arch,
        n_vocab=tensors["token_embd.weight"].shape[0],
        n_ctx_train=n_ctx_train,
        n_layer=n_layer,
        n_embd=n_embd,
        n_head=n_head,
        n_head_kv=get(f"{arch}.attention.head_count_kv", n_head),
        head_dim=head_dim,
        n_rot=get(f"{arch}.rope.dimension_count", head_dim),
        neox=_NEOX[arch],
        norm_eps=get(f"{arch}.attention.layer_norm_rms_epsilon"),
        rope_base=tuple(bases),
        rope_scale=tuple(scales),
        rope_mscale=get(f"{arch}.rope.scaling.attn_factor", 1.0),
        n_ctx_orig=get(f"{arch}.rope.scaling.original_context_length", n_ctx_train),
        window=tuple(window),
        attn_scale=attn_scale,
    )


def _hadamard(n: int) -> F32:
    """The orthonormal Hadamard matrix, [n, n]; n a power of two."""
    h = np.ones((1, 1), np.float32)
    while len(h) < n:
        h = np.block([[h, h], [h, -h]])
    return (h / np.sqrt(n)).astype(np.float32)


def _rotate(x: F32, block: int) -> F32:
    """Turns pieces of `block` channels by a Hadamard matrix, [..., head_dim]; it is its own inverse."""
    return (x.reshape(*x.shape[:-1], -1, block) @ _hadamard(block)).reshape(x.shape)


def _rotates(kind: str, block: int) -> bool:
    """Whether a cache of type `kind` holds turned rows."""
    return block > 0 and kind not in ("f16", "f32", "bf16")


def round_kv(x: F32, kind: str, *, block: int = 0) -> F32:
    """Rounds rows as a cache of type `kind` does, [..., head_dim].

    Args:
        x: Keys (roped) or values.
        kind: "f32" (FlashAttention reads it as F16), "f16", "bf16", "q8_0" or "q4_0".
        block: Before it quantises, upstream turns pieces of this many channels by a Hadamard matrix; 0: not. They are
            turned back here.
    """
    if kind in ("f16", "f32"):
        return x.astype(np.float16).astype(np.float32)
    qtype = gguf.GGMLQuantizationType[kind.upper()]
    turn = _rotates(kind, block)
    y = np.ascontiguousarray(_rotate(x, block) if turn else x, np.float32)
    y = dequantize(quantize(y, qtype), qtype).reshape(x.shape).astype(np.float32)
    return _rotate(y, block) if turn else y


def _rms_norm(x: F32, weight: F32 | None, eps: float) -> F32:
    y: F32 = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True, dtype=np.float32) + np.float32(eps))
    return y if weight is None else y * weight


def _silu(x: F32) -> F32:
    return (x / (1.0 + np.exp(-x))).astype(np.float32)


def _gelu(x: F32) -> F32:
    """The tanh form, through half precision as the CPU backend's table is."""
    h = x.astype(np.float16).astype(np.float32)
    y = 0.5 * h * (1.0 + np.tanh(np.float32(0.79788456080286535588) * h * (1.0 + np.float32(0.044715) * h * h)))
    y = y.astype(np.float16).astype(np.float32)
    return np.where(x <= -10, np.float32(0), np.where(x >= 10, x, y)).astype(np.float32)


def _linear(x: F32, weight: F32, bias: F32 | None = None) -> F32:
    y = x @ weight.T
    return y if bias is None else y + bias


@dataclass
class _Layer:
    """One layer's cache: every token ever seen; what a method evicted is in here, but is never read again."""

    scale: float
    raw: F32  # keys before RoPE, [n_tokens, n_head_kv, head_dim]
    k: F32  # keys as attention reads them: roped by their place in the text, and turned as the cache holds them
    v: F32  # [n_tokens, n_head_kv, head_dim]

    def keys(self, head: int, positions: Sequence[int]) -> F32:
        return self.k[list(positions), head]

    def far_keys(self, head: int, positions: Sequence[int]) -> F32:
        return self.raw[list(positions), head]  # RoPE to position 0 changes nothing


class Reference:
    """A model with a cache. Feed it tokens, read logits.

    Args:
        model: A GGUF file, or Weights already loaded.
        policy: What a full-attention layer holds or reads. None: everything. Layers with a sliding window keep that.
        n_ubatch: Tokens of one batch. What is longer is cut into such pieces, as the library does; a piece of exactly
            one token counts as a decode step.
        type_k, type_v: How the cache rounds, see round_kv.
        type_q: How the backend rounds queries before it multiplies them with keys; None: not. The CPU rounds to "q8_0"
            where keys are quantised, and that is a part of what the other side's logits differ by.
        n_ctx: phi3 picks its RoPE factors by it.
    """

    def __init__(
        self,
        model: Weights | str | os.PathLike[str],
        policy: Policy | None = None,
        *,
        n_ubatch: int = 512,
        type_k: str = "f16",
        type_v: str = "f16",
        type_q: str | None = None,
        n_ctx: int = 0,
    ) -> None:
        self.weights = model if isinstance(model, Weights) else Weights.load(model)
        self.hp = self.weights.hp
        self.policy: Policy = Dense() if policy is None else policy
        if isinstance(policy, Select) and policy.far:
            if self.hp.rope_mscale != 1:
                raise ValueError(f"rope_mscale = {self.hp.rope_mscale}: clipped positions are known for 1 only")
            if type_k not in ("f16", "f32", "bf16"):
                raise ValueError(f"type_k = {type_k!r}: clipped positions are known for f16, f32 and bf16")
        self.n_ubatch = n_ubatch
        self.type_k, self.type_v, self.type_q = type_k, type_v, type_q
        self.n_ctx = n_ctx or self.hp.n_ctx_train
        # Upstream rotates quantised rows where it can: K in the largest blocks that fit, V in blocks of 64.
        rotates = self.hp.head_dim % 64 == 0
        self._block_k = self.hp.head_dim & -self.hp.head_dim if rotates else 0
        self._block_v = 64 if rotates else 0
        # Attention reads turned keys, with turned queries: no q.k changes by it, but what goes by channels does
        # (Quest's bounds).
        self._turns_k = _rotates(type_k, self._block_k)
        self.reset()

    def reset(self) -> None:
        """Forgets all tokens."""
        hp = self.hp
        self.n_tokens = 0
        self.policy.start(hp.full_layers, hp.n_head_kv)
        empty = np.zeros((0, hp.n_head_kv, hp.head_dim), np.float32)
        self._layers = [_Layer(hp.attn_scale, empty, empty, empty) for _ in range(hp.n_layer)]

    def eval(self, tokens: Sequence[int]) -> F32:
        """Appends tokens and returns the logits after the last of them, [n_vocab]."""
        for i in range(0, len(tokens), self.n_ubatch):
            x = self._forward(np.asarray(tokens[i : i + self.n_ubatch], np.int64))
        return self._head(x[-1:])[0]

    def greedy(self, tokens: Sequence[int], n: int) -> list[int]:
        """Appends tokens, then n - 1 best ones, and returns the n best."""
        out = [int(np.argmax(self.eval(tokens)))]
        while len(out) < n:
            out.append(int(np.argmax(self.eval(out[-1:]))))
        return out

    def _head(self, x: F32) -> F32:
        """[n, n_embd] -> logits [n, n_vocab]"""
        w = self.weights
        out = w.get("output.weight")
        x = _rms_norm(x, w["output_norm.weight"], self.hp.norm_eps)
        return _linear(x, w["token_embd.weight"] if out is None else out, w.get("output.bias"))

    def _forward(self, tokens: NDArray[np.int64]) -> F32:
        """One batch through all layers, [n_tokens] -> [n_tokens, n_embd]."""
        hp, w = self.hp, self.weights
        x = w["token_embd.weight"][tokens]
        if hp.arch == "gemma3":
            x = x * np.float32(np.sqrt(np.float32(hp.n_embd)))
        for il in range(hp.n_layer):
            y = _rms_norm(x, w.get("attn_norm.weight", il), hp.norm_eps)
            y = self._attention(y, il)
            if hp.arch == "gemma3":
                y = _rms_norm(y, w.get("post_attention_norm.weight", il), hp.norm_eps)
            x = x + y
            y = _rms_norm(x, w.get("ffn_norm.weight", il), hp.norm_eps)
            y = self._ffn(y, il)
            if hp.arch == "gemma3":
                y = _rms_norm(y, w.get("post_ffw_norm.weight", il), hp.norm_eps)
            x = x + y
        self.n_tokens += len(tokens)
        return x

    def _ffn(self, x: F32, il: int) -> F32:
        w = self.weights
        up = _linear(x, w[f"blk.{il}.ffn_up.weight"])
        if self.hp.arch == "phi3":
            gate, up = np.split(up, 2, axis=-1)
        else:
            gate = _linear(x, w[f"blk.{il}.ffn_gate.weight"])
        act = _gelu(gate) if self.hp.arch == "gemma3" else _silu(gate)
        return _linear(act * up, w[f"blk.{il}.ffn_down.weight"])

    def _qkv(self, x: F32, il: int) -> tuple[F32, F32, F32]:
        """[n, n_embd] -> q [n, n_head, d], k and v [n, n_head_kv, d], before RoPE."""
        hp, w = self.hp, self.weights
        n_q, n_kv = hp.n_head * hp.head_dim, hp.n_head_kv * hp.head_dim
        fused = w.get("attn_qkv.weight", il)
        if fused is not None:
            q, k, v = np.split(_linear(x, fused, w.get("attn_qkv.bias", il)), [n_q, n_q + n_kv], axis=-1)
        else:
            q, k, v = (_linear(x, w[f"blk.{il}.attn_{n}.weight"], w.get(f"attn_{n}.bias", il)) for n in ("q", "k", "v"))
        q = q.reshape(len(x), hp.n_head, hp.head_dim)
        k = k.reshape(len(x), hp.n_head_kv, hp.head_dim)
        v = v.reshape(len(x), hp.n_head_kv, hp.head_dim)
        if hp.arch in ("qwen3", "gemma3"):
            q = _rms_norm(q, w.get("attn_q_norm.weight", il), hp.norm_eps)
            k = _rms_norm(k, w.get("attn_k_norm.weight", il), hp.norm_eps)
        return q, k, v

    def _rope(self, x: F32, pos: NDArray[np.int64], il: int) -> F32:
        """Turns x [n, heads, d] to positions pos [n]."""
        hp, w = self.hp, self.weights
        half = hp.n_rot // 2
        freq = hp.rope_base[il] ** (-np.arange(half, dtype=np.float64) / half)
        factors = w.get("rope_freqs.weight")
        if factors is None:
            factors = w.get("rope_factors_long.weight" if self.n_ctx > hp.n_ctx_orig else "rope_factors_short.weight")
        if factors is not None:
            freq = freq / factors
        angle = pos[:, None] * freq * hp.rope_scale[il]  # [n, half]
        cos = (np.cos(angle) * hp.rope_mscale).astype(np.float32)[:, None]
        sin = (np.sin(angle) * hp.rope_mscale).astype(np.float32)[:, None]
        y = x.copy()
        a, b = (slice(0, half), slice(half, 2 * half)) if hp.neox else (slice(0, 2 * half, 2), slice(1, 2 * half, 2))
        y[..., a] = x[..., a] * cos - x[..., b] * sin
        y[..., b] = x[..., a] * sin + x[..., b] * cos
        return y

    def _turn(self, q: F32, at: NDArray[np.int64], il: int) -> F32:
        """Queries [n, n_head, d] at positions `at` as attention uses them, [n_head_kv, G, n, d]."""
        q = self._rope(q, at, il)
        if self.type_q is not None:
            q = round_kv(q, self.type_q, block=self._block_k)
        if self._turns_k:
            q = _rotate(q, self._block_k)
        return q.reshape(len(q), self.hp.n_head_kv, -1, self.hp.head_dim).transpose(1, 2, 0, 3)

    def _attention(self, x: F32, il: int) -> F32:
        """[n, n_embd] -> [n, n_embd], and appends to the layer's cache."""
        hp, w = self.hp, self.weights
        layer, n, pos = self._layers[il], len(x), self.n_tokens
        at = np.arange(pos, pos + n)

        q, k, v = self._qkv(x, il)
        full = hp.window[il] == 0
        select = self.policy if full and isinstance(self.policy, Select) else None
        far = select.far if select is not None else 0

        roped = round_kv(self._rope(k, at, il), self.type_k, block=self._block_k)
        # What is to be seen at a distance is turned back from what the cache holds.
        raw = self._rope(roped, -at, il) if far else round_kv(k, self.type_k, block=self._block_k)
        layer.raw = np.concatenate([layer.raw, raw])
        layer.k = np.concatenate([layer.k, _rotate(roped, self._block_k) if self._turns_k else roped])
        layer.v = np.concatenate([layer.v, round_kv(v, self.type_v, block=self._block_v)])

        q_at = self._turn(q, at, il)
        q_far = self._turn(q, np.full(n, far), il) if far else None
        seen: Positions
        if select is not None and n == 1:
            seen = select.select(il, pos, q_at[:, :, 0], layer, None if q_far is None else q_far[:, :, 0])
        elif full:
            seen = self.policy.before(il, pos, n, layer)
        else:
            seen = [list(range(max(0, pos - hp.window[il] + 1), pos))] * hp.n_head_kv
        rows = np.array([[*s, *at] for s in seen])  # [n_head_kv, n_kv], the positions that the batch sees
        heads = np.arange(hp.n_head_kv)[:, None]

        if full and self.policy.cache_positions:
            # Slots are in order of position, the same number in each head: row j is slot j.
            slots = np.arange(rows.shape[1])
            keys = np.stack([self._rope(layer.raw[rows[h], h : h + 1], slots, il)[:, 0] for h in range(hp.n_head_kv)])
            if self._turns_k:
                keys = _rotate(keys, self._block_k)
            q_at = self._turn(q, slots[-n:], il)
        else:
            keys = layer.k[rows, heads]  # [n_head_kv, n_kv, d]
        values = layer.v[rows, heads]  # [n_head_kv, n_kv, d]

        logits = (q_at @ keys[:, None].swapaxes(-1, -2)) * np.float32(hp.attn_scale)  # [n_head_kv, G, n, n_kv]
        ahead = rows[:, None, None, :] - at[None, None, :, None]  # how far a key is ahead of a query
        if select is not None and q_far is not None:
            # What is farther away than `far` is seen at that distance: the query there, the key at 0.
            keys = np.stack([layer.far_keys(h, rows[h]) for h in range(hp.n_head_kv)])
            clipped = (q_far @ keys[:, None].swapaxes(-1, -2)) * np.float32(hp.attn_scale)
            logits = np.where(select.clips(pos, n)[:, None] & (ahead <= -far), clipped, logits)
        hidden = ahead > 0 if full else (ahead > 0) | (ahead <= -hp.window[il])
        logits = np.where(hidden, np.float32(-np.inf), logits)
        probs = np.exp(logits - logits.max(axis=-1, keepdims=True))
        probs /= probs.sum(axis=-1, keepdims=True)
        if full:
            self.policy.after(il, pos, q_at, seen, probs)
        y = probs @ values[:, None]  # [n_head_kv, G, n, d]
        y = y.transpose(2, 0, 1, 3).reshape(n, hp.n_head * hp.head_dim)
        return _linear(y, w[f"blk.{il}.attn_output.weight"], w.get("attn_output.bias", il))
