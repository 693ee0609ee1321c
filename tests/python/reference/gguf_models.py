"""Tiny random GGUF models for tests, and float32 copies of real ones.

A tiny model has every part that its architecture has in a full-size file, random float32 weights, and a tokenizer of
bytes. The weights are scaled so that a test means something: attention is neither uniform nor one-hot, some tokens
gather much more of it than others (what H2O is about), and the best token usually leads by a clear margin.

    python gguf_models.py FOLDER [NAME ...]   those of MODELS that are not there yet, or older than this file, as
                                              tiny-NAME.gguf; it needs nothing but NumPy and gguf
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import dequantize
from numpy.typing import NDArray

__all__ = ["ARCHITECTURES", "MODELS", "to_f32", "write_tiny"]

F32 = NDArray[np.float32]

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3", "phi3")

# what the C tests run on: one of each architecture, with as many full-attention layers as re-selection needs (gemma3's
# are every second one), and one with heads that every GPU backend's FlashAttention takes
MODELS: dict[str, dict[str, Any]] = {
    **{arch: {"arch": arch, "n_layer": 12 if arch == "gemma3" else 6} for arch in ARCHITECTURES},
    "llama64": {"arch": "llama", "n_layer": 6, "head_dim": 64},
}

# The tokenizer: three control tokens, the 256 bytes, a space, and then pairs of small letters up to n_vocab.
UNK, BOS, EOS = 0, 1, 2
FIRST_BYTE = 3
SPACE = FIRST_BYTE + 256
SPACE_MARK = "\u2581"  # how a SentencePiece vocabulary spells a space


def _vocabulary(n_vocab: int) -> tuple[list[str], list[float], list[int]]:
    """Texts, scores and types of a SentencePiece vocabulary that holds every byte, each list [n_vocab]."""
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    texts = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)] + [SPACE_MARK]
    texts += [a + b for a in letters for b in letters]
    if not SPACE < n_vocab <= len(texts):
        raise ValueError(f"n_vocab = {n_vocab}: must be {SPACE + 1} to {len(texts)}")
    texts = texts[:n_vocab]

    kind = gguf.TokenType
    types = [kind.UNKNOWN, kind.CONTROL, kind.CONTROL] + [kind.BYTE] * 256 + [kind.NORMAL] * (n_vocab - SPACE)
    scores = [0.0] * SPACE + [-float(i) for i in range(n_vocab - SPACE)]
    return texts, scores, [int(t) for t in types]


def _loudness(n_vocab: int) -> F32:
    """How strongly each token's output row is scaled, [n_vocab]: greedy text stays printable and never ends early."""
    loud = np.ones(n_vocab, np.float32)
    printable = np.arange(0x20, 0x7F) + FIRST_BYTE
    loud[: FIRST_BYTE + 256] = 0.05
    loud[printable] = 1.0
    return loud


def write_tiny(
    path: str | os.PathLike[str],
    arch: str,
    *,
    n_layer: int = 4,
    n_embd: int | None = None,
    n_ff: int = 256,
    n_head: int = 6,
    n_head_kv: int = 2,
    head_dim: int = 32,
    n_vocab: int = 512,
    n_ctx_train: int = 4096,
    n_swa: int = 32,
    swa_pattern: int = 2,
    seed: int = 1,
) -> Path:
    """Writes a random float32 model, the same for the same arguments, and returns its path.

    Args:
        path: The file, overwritten if there.
        arch: One of ARCHITECTURES.
        n_embd: Width of the residual stream. None: 128 where the architecture lets it differ from n_head * head_dim
            (llama, qwen3, gemma3), so that nothing depends on their being the same, n_head * head_dim otherwise.
        head_dim: A multiple of 32, so that K and V rows can be quantised. From 64 on (multiples of 64), llama.cpp also
            rotates K and V before it quantises them.
        n_swa: gemma3: the sliding window, in tokens.
        swa_pattern: gemma3: every swa_pattern-th layer attends fully, the others in the window.
        seed: Of the weights.
    """
    if arch not in ARCHITECTURES:
        raise ValueError(f"arch = {arch!r}: must be one of {', '.join(ARCHITECTURES)}")
    if n_head % n_head_kv:
        raise ValueError(f"n_head = {n_head}: must be a multiple of n_head_kv = {n_head_kv}")
    free_width = arch in ("llama", "qwen3", "gemma3")
    if n_embd is None:
        n_embd = 128 if free_width else n_head * head_dim
    if not free_width and n_embd != n_head * head_dim:
        raise ValueError(f"n_embd = {n_embd}: {arch} needs n_head * head_dim = {n_head * head_dim}")

    rng = np.random.default_rng([seed, ARCHITECTURES.index(arch)])
    n_q, n_kv = n_head * head_dim, n_head_kv * head_dim

    def normal(*shape: int, std: float) -> F32:
        return (std * rng.standard_normal(shape)).astype(np.float32)

    def matrix(n_out: int, n_in: int, gain: float) -> F32:
        """[n_out, n_in], `gain` times as loud at its output as at its input."""
        return normal(n_out, n_in, std=gain / np.sqrt(n_in))

    def norm(n: int, mean: float = 1.0) -> F32:
        return (mean * (1.0 + 0.1 * rng.standard_normal(n))).astype(np.float32)

    out = gguf.GGUFWriter(path, arch)
    out.add_name("tiny random")  # with "phi3" in it, upstream would look for Phi-3's special tokens
    out.add_context_length(n_ctx_train)
    out.add_embedding_length(n_embd)
    out.add_block_count(n_layer)
    out.add_feed_forward_length(n_ff)
    out.add_head_count(n_head)
    out.add_head_count_kv(n_head_kv)
    out.add_key_length(head_dim)
    out.add_value_length(head_dim)
    out.add_rope_dimension_count(head_dim)
    out.add_layer_norm_rms_eps(1e-6 if arch in ("qwen2", "qwen3", "gemma3") else 1e-5)
    out.add_rope_freq_base({"llama": 1e4, "qwen2": 1e6, "qwen3": 1e6, "gemma3": 1e6, "phi3": 1e4}[arch])
    out.add_file_type(gguf.LlamaFileType.ALL_F32)
    out.add_vocab_size(n_vocab)
    if arch == "gemma3":
        out.add_sliding_window(n_swa)
        out.add_sliding_window_pattern(swa_pattern)
        out.add_rope_freq_base_swa(1e4)

    texts, scores, types = _vocabulary(n_vocab)
    out.add_tokenizer_model("llama")
    out.add_tokenizer_pre("default")
    out.add_token_list(texts)
    out.add_token_scores(scores)
    out.add_token_types(types)
    out.add_bos_token_id(BOS)
    out.add_eos_token_id(EOS)
    out.add_unk_token_id(UNK)
    out.add_add_bos_token(True)
    out.add_add_eos_token(False)
    out.add_add_space_prefix(False)

    # Embeddings share a direction. It gives every head a mean query, so some keys draw attention from all queries.
    shared = normal(n_embd, std=0.7)
    embd = normal(n_vocab, n_embd, std=1.0) + shared
    loud = _loudness(n_vocab)[:, None]
    if arch == "gemma3":
        # The model multiplies embeddings by sqrt(n_embd), and uses them as the output matrix as well. Random signs in
        # the last norm keep it from repeating its input.
        out.add_tensor("token_embd.weight", embd * loud / np.float32(np.sqrt(n_embd)))
        signs = rng.choice(np.array([-1.0, 1.0], np.float32), n_embd)
        out.add_tensor("output_norm.weight", norm(n_embd, 3.0) * signs)
    else:
        out.add_tensor("token_embd.weight", embd)
        out.add_tensor("output_norm.weight", norm(n_embd))
        head = matrix(n_vocab, n_embd, 3.5)
        head -= np.outer(head @ shared, shared) / np.float32(shared @ shared)  # not the same best token every time
        out.add_tensor("output.weight", (head * loud).astype(np.float32))

    # q . k / sqrt(head_dim) has a standard deviation of about 1.25 * 1.25
    qk_norm = arch in ("qwen3", "gemma3")
    qk_gain = 1.0 if qk_norm else 1.25
    for il in range(n_layer):
        blk = f"blk.{il}."
        wq, wk, wv = matrix(n_q, n_embd, qk_gain), matrix(n_kv, n_embd, qk_gain), matrix(n_kv, n_embd, 1.0)
        out.add_tensor(blk + "attn_norm.weight", norm(n_embd))
        if arch == "phi3":
            out.add_tensor(blk + "attn_qkv.weight", np.concatenate([wq, wk, wv]))
        else:
            out.add_tensor(blk + "attn_q.weight", wq)
            out.add_tensor(blk + "attn_k.weight", wk)
            out.add_tensor(blk + "attn_v.weight", wv)
        if arch == "qwen2":
            out.add_tensor(blk + "attn_q.bias", normal(n_q, std=0.4))
            out.add_tensor(blk + "attn_k.bias", normal(n_kv, std=0.4))
            out.add_tensor(blk + "attn_v.bias", normal(n_kv, std=0.2))
        if qk_norm:
            out.add_tensor(blk + "attn_q_norm.weight", norm(head_dim, 1.25))
            out.add_tensor(blk + "attn_k_norm.weight", norm(head_dim, 1.25))
        out.add_tensor(blk + "attn_output.weight", matrix(n_embd, n_q, 1.5))
        out.add_tensor(blk + "ffn_norm.weight", norm(n_embd))
        w_gate, w_up = matrix(n_ff, n_embd, 1.0), matrix(n_ff, n_embd, 1.0)
        if arch == "phi3":
            out.add_tensor(blk + "ffn_up.weight", np.concatenate([w_gate, w_up]))
        else:
            out.add_tensor(blk + "ffn_gate.weight", w_gate)
            out.add_tensor(blk + "ffn_up.weight", w_up)
        out.add_tensor(blk + "ffn_down.weight", matrix(n_embd, n_ff, 1.0))
        if arch == "gemma3":
            out.add_tensor(blk + "post_attention_norm.weight", norm(n_embd, 0.6))
            out.add_tensor(blk + "post_ffw_norm.weight", norm(n_embd, 0.6))

    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return Path(path)


def to_f32(path_in: str | os.PathLike[str], path_out: str | os.PathLike[str]) -> Path:
    """Writes a copy of a GGUF with every tensor as float32, metadata unchanged, and returns its path.

    With quantised weights llama.cpp rounds activations to 8 bits, and then two correct implementations differ by 0.3
    and more in logits; with float32 weights they can be compared. One tensor is in memory at a time; the file appears
    whole or not at all, also where several processes make it at once. 135M parameters take a few seconds and 0.6 GB.
    """
    path_in, path_out = Path(path_in), Path(path_out)
    reader = gguf.GGUFReader(path_in)
    with _whole(path_out) as part:
        _write_f32(reader, part)
    return path_out


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A place for what `path` will stand for once it is written."""
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        part = Path(folder) / path.name
        yield part
        part.replace(path)


def _write_f32(reader: gguf.GGUFReader, path: Path) -> None:
    out = gguf.GGUFWriter(path, str(reader.fields["general.architecture"].contents()))
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        out.add_key_value(name, field.contents(), field.types[0], sub_type=sub_type)
    out.add_file_type(gguf.LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        shape = [int(n) for n in reversed(tensor.shape)]
        out.add_tensor_info(tensor.name, shape, np.dtype(np.float32), 4 * int(tensor.n_elements))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_ti_data_to_file()
    for tensor in reader.tensors:
        out.write_tensor_data(np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))
    out.close()


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or MODELS:
        path = folder / f"tiny-{name}.gguf"
        if not path.exists() or path.stat().st_mtime < Path(__file__).stat().st_mtime:
            with _whole(path) as part:  # half of one would be taken for up to date
                write_tiny(part, **MODELS[name])


if __name__ == "__main__":
    main()
