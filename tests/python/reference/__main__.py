"""Writes the tiny random models that the C tests use: python -m reference FOLDER (from tests/python)."""

from __future__ import annotations

import sys
from pathlib import Path

from .gguf_models import ARCHITECTURES, write_tiny

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for arch in ARCHITECTURES:
        path = folder / f"tiny-{arch}.gguf"
        if not path.exists():
            # as many full-attention layers as re-selection needs: gemma3's are every second one
            write_tiny(path, arch, n_layer=12 if arch == "gemma3" else 6)

    # heads that every GPU backend's FlashAttention takes
    path = folder / "tiny-llama64.gguf"
    if not path.exists():
        write_tiny(path, "llama", n_layer=6, head_dim=64)
