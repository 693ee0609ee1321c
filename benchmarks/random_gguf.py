"""Writes a model of random weights in the shape of a real one, for speed alone: what it says means nothing.

    python benchmarks/random_gguf.py OUT.gguf [--shape llama-8b] [--type q8_0] [--layers N] [--n-ctx 131072]

For `lil bench` where a large model is wanted and none can be had. Tensors are written one after the other, so memory
holds one. Needs the package gguf.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator
from typing import NamedTuple

import gguf
import numpy as np
from numpy.typing import NDArray

TYPES = {
    "f16": gguf.GGMLQuantizationType.F16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
    "q4_0": gguf.GGMLQuantizationType.Q4_0,
}


class Shape(NamedTuple):
    arch: str
    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_vocab: int
    rope_base: float


SHAPES = {
    "llama-8b": Shape("llama", 32, 4096, 14336, 32, 8, 128, 128256, 5e5),  # Llama 3.1 8B
    "qwen-7b": Shape("qwen2", 28, 3584, 18944, 28, 4, 128, 152064, 1e6),  # Qwen2.5 7B
    "qwen-0.5b": Shape("qwen2", 24, 896, 4864, 14, 2, 64, 151936, 1e6),  # Qwen2.5 0.5B
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


def tensors(s: Shape, n_layer: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes, outputs first; one dimension: a norm or a bias."""
    yield "token_embd.weight", (s.n_vocab, s.n_embd)
    yield "output_norm.weight", (s.n_embd,)
    yield "output.weight", (s.n_vocab, s.n_embd)
    n_q, n_kv = s.n_head * s.head_dim, s.n_head_kv * s.head_dim
    for il in range(n_layer):
        blk = f"blk.{il}."
        yield blk + "attn_norm.weight", (s.n_embd,)
        for name, n in (("q", n_q), ("k", n_kv), ("v", n_kv)):
            yield f"{blk}attn_{name}.weight", (n, s.n_embd)
            if s.arch == "qwen2":
                yield f"{blk}attn_{name}.bias", (n,)
        yield blk + "attn_output.weight", (s.n_embd, n_q)
        yield blk + "ffn_norm.weight", (s.n_embd,)
        yield blk + "ffn_gate.weight", (s.n_ff, s.n_embd)
        yield blk + "ffn_up.weight", (s.n_ff, s.n_embd)
        yield blk + "ffn_down.weight", (s.n_embd, s.n_ff)


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
    out.add_rope_dimension_count(s.head_dim)
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
        if len(shape) == 1:
            out.add_tensor_info(name, shape, np.dtype(np.float32), 4 * shape[0])
        else:
            rows = (shape[0], shape[1] // block * size)
            out.add_tensor_info(name, rows, np.dtype(np.uint8), rows[0] * rows[1], raw_dtype=kind)

    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_ti_data_to_file()

    rng = np.random.default_rng(1)
    for name, shape in tensors(s, n_layer):
        if len(shape) == 1:
            out.write_tensor_data(np.full(shape, 0.0 if name.endswith("bias") else 1.0, np.float32))
        else:
            out.write_tensor_data(matrix(rng, kind, *shape))
    out.close()


if __name__ == "__main__":
    main()
