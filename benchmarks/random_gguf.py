"""Writes a model of random weights in the shape of a real one, for speed alone: what it says means nothing.

    python benchmarks/random_gguf.py OUT.gguf [--shape llama-8b] [--type q8_0] [--layers N] [--n-ctx 131072]

For `lil bench` where a large model is wanted and none can be had. Tensors are written one after the other, so memory
holds one. Needs the package gguf.
"""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import gguf
import numpy as np
from numpy.typing import NDArray

Tensor = tuple[str, tuple[int, ...]]  # its name, and its shape with the rows' length last

TYPES = {
    "f16": gguf.GGMLQuantizationType.F16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
    "q4_0": gguf.GGMLQuantizationType.Q4_0,
}


@dataclass(frozen=True)
class Shape:
    """Sizes of a model. The base is a plain stack: llama, qwen2."""

    arch: str
    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_vocab: int
    rope_base: float

    def add(self, out: gguf.GGUFWriter) -> None:
        """Metadata beyond those of a plain stack."""
        out.add_rope_dimension_count(self.head_dim)

    def qkv(self, blk: str, *, gated: bool = False) -> Iterator[Tensor]:
        n_q, n_kv = self.n_head * self.head_dim, self.n_head_kv * self.head_dim
        for name, n in (("q", 2 * n_q if gated else n_q), ("k", n_kv), ("v", n_kv)):
            yield f"{blk}attn_{name}.weight", (n, self.n_embd)
            if self.arch in ("qwen2", "gpt-oss"):
                yield f"{blk}attn_{name}.bias", (n,)
        yield blk + "attn_output.weight", (self.n_embd, n_q)

    def ffn(self, blk: str) -> Iterator[Tensor]:
        yield blk + "ffn_gate.weight", (self.n_ff, self.n_embd)
        yield blk + "ffn_up.weight", (self.n_ff, self.n_embd)
        yield blk + "ffn_down.weight", (self.n_embd, self.n_ff)

    def layer(self, il: int) -> Iterator[Tensor]:
        blk = f"blk.{il}."
        yield blk + "attn_norm.weight", (self.n_embd,)
        yield from self.qkv(blk)
        yield blk + "ffn_norm.weight", (self.n_embd,)
        yield from self.ffn(blk)


@dataclass(frozen=True)
class Qwen35(Shape):
    """Three layers of a gated delta net, then one of attention with a gate; positions of several dimensions."""

    interval: int = 4
    n_heads_linear: int = 16  # of keys and of values
    state: int = 128
    conv: int = 4

    def add(self, out: gguf.GGUFWriter) -> None:
        out.add_rope_dimension_count(64)
        out.add_rope_dimension_sections([11, 11, 10, 0])
        out.add_key_length(self.head_dim)
        out.add_value_length(self.head_dim)
        out.add_full_attention_interval(self.interval)
        out.add_ssm_conv_kernel(self.conv)
        out.add_ssm_inner_size(self.n_heads_linear * self.state)
        out.add_ssm_state_size(self.state)
        out.add_ssm_time_step_rank(self.n_heads_linear)
        out.add_ssm_group_count(self.n_heads_linear)

    def layer(self, il: int) -> Iterator[Tensor]:
        blk = f"blk.{il}."
        yield blk + "attn_norm.weight", (self.n_embd,)
        if (il + 1) % self.interval == 0:
            yield from self.qkv(blk, gated=True)
            yield blk + "attn_q_norm.weight", (self.head_dim,)
            yield blk + "attn_k_norm.weight", (self.head_dim,)
        else:
            n = self.n_heads_linear * self.state
            yield blk + "attn_qkv.weight", (3 * n, self.n_embd)
            yield blk + "attn_gate.weight", (n, self.n_embd)
            yield blk + "ssm_conv1d.weight", (3 * n, self.conv)
            yield blk + "ssm_dt.bias", (self.n_heads_linear,)
            yield blk + "ssm_a", (self.n_heads_linear,)
            yield blk + "ssm_beta.weight", (self.n_heads_linear, self.n_embd)
            yield blk + "ssm_alpha.weight", (self.n_heads_linear, self.n_embd)
            yield blk + "ssm_norm.weight", (self.state,)
            yield blk + "ssm_out.weight", (self.n_embd, n)
        yield blk + "post_attention_norm.weight", (self.n_embd,)
        yield from self.ffn(blk)


@dataclass(frozen=True)
class GptOss(Shape):
    """Every other layer in a window, learned sinks, a mixture of experts."""

    n_expert: int = 32
    n_expert_used: int = 4
    window: int = 128

    def add(self, out: gguf.GGUFWriter) -> None:
        super().add(out)
        out.add_key_length(self.head_dim)
        out.add_value_length(self.head_dim)
        out.add_sliding_window(self.window)
        out.add_expert_count(self.n_expert)
        out.add_expert_used_count(self.n_expert_used)
        out.add_expert_feed_forward_length(self.n_ff)

    def layer(self, il: int) -> Iterator[Tensor]:
        blk = f"blk.{il}."
        yield blk + "attn_norm.weight", (self.n_embd,)
        yield from self.qkv(blk)
        yield blk + "attn_output.bias", (self.n_embd,)
        yield blk + "attn_sinks.weight", (self.n_head,)
        yield blk + "post_attention_norm.weight", (self.n_embd,)
        yield blk + "ffn_gate_inp.weight", (self.n_expert, self.n_embd)
        yield blk + "ffn_gate_inp.bias", (self.n_expert,)
        for name, n_out, n_in in (
            ("gate", self.n_ff, self.n_embd),
            ("up", self.n_ff, self.n_embd),
            ("down", self.n_embd, self.n_ff),
        ):
            yield f"{blk}ffn_{name}_exps.weight", (self.n_expert, n_out, n_in)
            yield f"{blk}ffn_{name}_exps.bias", (self.n_expert, n_out)


@dataclass(frozen=True)
class DeepSeek2(Shape):
    """Compressed keys and values (MLA), absorbed: one KV head. The first layer is dense, the others a mixture."""

    lora: int = 512
    rope: int = 64
    n_expert: int = 64
    n_expert_used: int = 6
    n_shared: int = 2
    n_ff_expert: int = 1408

    def add(self, out: gguf.GGUFWriter) -> None:
        out.add_rope_dimension_count(self.rope)
        out.add_kv_lora_rank(self.lora)
        out.add_key_length(self.lora + self.rope)
        out.add_value_length(self.lora)
        out.add_key_length_mla(self.head_dim + self.rope)
        out.add_value_length_mla(self.head_dim)
        out.add_leading_dense_block_count(1)
        out.add_expert_count(self.n_expert)
        out.add_expert_used_count(self.n_expert_used)
        out.add_expert_shared_count(self.n_shared)
        out.add_expert_feed_forward_length(self.n_ff_expert)
        out.add_expert_gating_func(gguf.ExpertGatingFuncType.SOFTMAX)
        out.add_expert_weights_scale(1.0)

    def layer(self, il: int) -> Iterator[Tensor]:
        blk = f"blk.{il}."
        yield blk + "attn_norm.weight", (self.n_embd,)
        yield blk + "attn_q.weight", (self.n_head * (self.head_dim + self.rope), self.n_embd)
        yield blk + "attn_kv_a_mqa.weight", (self.lora + self.rope, self.n_embd)
        yield blk + "attn_kv_a_norm.weight", (self.lora,)
        yield blk + "attn_k_b.weight", (self.n_head, self.lora, self.head_dim)
        yield blk + "attn_v_b.weight", (self.n_head, self.head_dim, self.lora)
        yield blk + "attn_output.weight", (self.n_embd, self.n_head * self.head_dim)
        yield blk + "ffn_norm.weight", (self.n_embd,)
        if il == 0:
            yield from self.ffn(blk)
            return
        yield blk + "ffn_gate_inp.weight", (self.n_expert, self.n_embd)
        for name, n_out, n_in in (
            ("gate", self.n_ff_expert, self.n_embd),
            ("up", self.n_ff_expert, self.n_embd),
            ("down", self.n_embd, self.n_ff_expert),
        ):
            yield f"{blk}ffn_{name}_exps.weight", (self.n_expert, n_out, n_in)
            n = (n_out * self.n_shared, n_in) if name != "down" else (n_out, n_in * self.n_shared)
            yield f"{blk}ffn_{name}_shexp.weight", n


SHAPES = {
    "llama-8b": Shape("llama", 32, 4096, 14336, 32, 8, 128, 128256, 5e5),  # Llama 3.1 8B
    "qwen-7b": Shape("qwen2", 28, 3584, 18944, 28, 4, 128, 152064, 1e6),  # Qwen2.5 7B
    "qwen-0.5b": Shape("qwen2", 24, 896, 4864, 14, 2, 64, 151936, 1e6),  # Qwen2.5 0.5B
    "qwen3.5-2b": Qwen35("qwen35", 24, 2048, 6144, 8, 2, 256, 248320, 1e7),  # 6 layers of attention
    "tiny-hybrid": Qwen35("qwen35", 16, 128, 256, 4, 2, 64, 512, 1e7, n_heads_linear=2, state=64),  # for tests
    "gpt-oss": GptOss("gpt-oss", 12, 2880, 2880, 64, 8, 64, 201088, 1.5e5),  # half of gpt-oss-20b's layers
    "deepseek-v2-lite": DeepSeek2("deepseek2", 27, 2048, 10944, 16, 1, 128, 102400, 1e4),
}


POOL = 64 << 20  # bytes of random weights, which repeat: random numbers are slower than any disk


@functools.cache
def pool(kind: gguf.GGMLQuantizationType, n_in: int) -> NDArray[np.uint8]:
    """Blocks as they lie in the file, of a standard deviation of about 1/sqrt(n_in)."""
    _, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = np.frombuffer(np.random.default_rng(1).bytes(POOL // size * size), np.uint8).reshape(-1, size).copy()
    if kind == gguf.GGMLQuantizationType.F16:  # a sign, a fixed exponent, a random mantissa
        exponent = int(15 - np.log2(np.sqrt(n_in)) - 0.5)
        blocks[:, 1] = (blocks[:, 1] & 0x83) | exponent << 2
    else:  # the scale; the numbers behind it are random integers of 8 or 4 bits
        spread = 73.9 if kind == gguf.GGMLQuantizationType.Q8_0 else 4.6
        blocks[:, :2] = np.frombuffer(np.float16(1 / (spread * np.sqrt(n_in))).tobytes(), np.uint8)
    return blocks.reshape(-1)


def matrix(rng: np.random.Generator, kind: gguf.GGMLQuantizationType, n_out: int, n_in: int) -> NDArray[np.uint8]:
    """Rows as they lie in the file: the pool from somewhere on, again and again where it is too short."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = pool(kind, n_in)
    begin = int(rng.integers(len(blocks) // size)) * size
    return np.resize(np.concatenate([blocks[begin:], blocks[:begin]]), (n_out, n_in // block * size))


def tensors(s: Shape, n_layer: int) -> Iterator[Tensor]:
    """Names and shapes, outputs first."""
    yield "token_embd.weight", (s.n_vocab, s.n_embd)
    yield "output_norm.weight", (s.n_embd,)
    yield "output.weight", (s.n_vocab, s.n_embd)
    for il in range(n_layer):
        yield from s.layer(il)


def is_f32(name: str, shape: tuple[int, ...]) -> bool:
    """Norms, biases, and what is too small to be worth a smaller type."""
    return len(shape) == 1 or name.endswith(".bias") or min(shape) < 32 or "gate_inp" in name


def small(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if "norm" in name:
        return np.ones(shape, np.float32)
    if name.endswith("ssm_a"):
        return np.full(shape, -1.0, np.float32)
    if len(shape) == 1 or name.endswith(".bias"):
        return np.zeros(shape, np.float32)
    return (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--shape", choices=SHAPES, default="llama-8b")
    parser.add_argument("--type", choices=TYPES, default="q8_0")
    parser.add_argument("--layers", type=int, help="fewer than the shape has")
    parser.add_argument("--n-ctx", type=int, default=131072)
    args = parser.parse_args()

    try:
        open(args.out, "wb").close()
    except OSError as err:
        parser.error(f"{args.out} cannot be written: {err.strerror}")

    s, kind = SHAPES[args.shape], TYPES[args.type]
    n_layer = args.layers or s.n_layer

    out = gguf.GGUFWriter(args.out, s.arch)
    out.add_name("random")
    out.add_context_length(args.n_ctx)
    out.add_embedding_length(s.n_embd)
    out.add_block_count(n_layer)
    out.add_feed_forward_length(s.n_ff)
    out.add_head_count(s.n_head)
    out.add_head_count_kv(s.n_head_kv)
    s.add(out)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_rope_freq_base(s.rope_base)
    out.add_vocab_size(s.n_vocab)

    # bytes, then words that no text has
    names = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
    names += [f"<w{i}>" for i in range(s.n_vocab - len(names))]
    kinds = gguf.TokenType
    out.add_tokenizer_model("llama")
    out.add_tokenizer_pre("default")
    out.add_token_list(names)
    out.add_token_scores([-float(i) for i in range(s.n_vocab)])
    out.add_token_types(
        [int(kinds.UNKNOWN)]
        + 2 * [int(kinds.CONTROL)]
        + 256 * [int(kinds.BYTE)]
        + (s.n_vocab - 259) * [int(kinds.NORMAL)]
    )
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    out.add_unk_token_id(0)
    out.add_add_bos_token(True)

    block, size = gguf.GGML_QUANT_SIZES[kind]
    for name, shape in tensors(s, n_layer):
        if is_f32(name, shape):
            out.add_tensor_info(name, shape, np.dtype(np.float32), 4 * math.prod(shape))
        else:
            rows = (*shape[:-1], shape[-1] // block * size)
            out.add_tensor_info(name, rows, np.dtype(np.uint8), math.prod(rows), raw_dtype=kind)

    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_ti_data_to_file()

    rng = np.random.default_rng(1)
    for name, shape in tensors(s, n_layer):
        if is_f32(name, shape):
            out.write_tensor_data(small(rng, name, shape))
        else:
            out.write_tensor_data(matrix(rng, kind, math.prod(shape[:-1]), shape[-1]))
    out.close()


if __name__ == "__main__":
    main()
