"""One runtime in a process of its own, for benchmarks that let several take turns.

    python worker.py stock|lil|ik MODEL.gguf THREADS

Reads one JSON command a line and answers with one JSON value a line:

    {"do": "fill", "n": N, "state": FILE, "options": {...}}   a context with N tokens; FILE holds their keys and values and is
                                                              made where it is missing
    {"do": "decode", "n": N}                                  median seconds of N steps
    {"do": "prompt", "n": N, "options": {...}}                seconds of a prompt in a fresh context

`options` are {"sparse": [class, {parameters}], "fused_dense": bool} for lil. Filling is cheap: the text is cut into pieces that
are evaluated as sequences of their own, each at its place, and joined. The keys and values are not those of the text read as
a whole, which does not matter for the time of a step.
"""

from __future__ import annotations

import ctypes
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

PIECE = 2048
N_BATCH = 512


def make_text(n_words: int) -> str:
    """Words in an order that does not repeat itself soon; what they say does not matter for speed."""
    words = ["the", "sea", "was", "calm", "and", "every", "ship", "went", "home", "before", "night", "fell", "on", "a", "quiet", "harbour", "town", "of", "stone"]
    return " ".join(words[(i * i + i // 17) % len(words)] for i in range(n_words))


class Engine:
    """The C API as each of the three packages gives it; contexts through `new_context`."""

    def __init__(self, model: str, threads: int) -> None:
        self.threads = threads
        self.tokens: list[int] = []
        self.pos = 0
        self.ctx: Any = None
        self.open(model)

    def open(self, model: str) -> None:
        raise NotImplementedError

    def new_context(self, n_ctx: int, n_seq_max: int, options: dict[str, Any]) -> Any:
        raise NotImplementedError

    def close_context(self, ctx: Any) -> None:
        self.api.llama_free(ctx)

    def copy(self, ctx: Any, src: int, dst: int) -> None:
        self.api.llama_memory_seq_cp(self.api.llama_get_memory(ctx), src, dst, -1, -1)

    def decode_tokens(self, ctx: Any, tokens: list[int], pos: int, seq_id: int = 0) -> None:
        api = self.api
        batch = api.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, pos + i, 1
            batch.seq_id[i][0] = seq_id
            batch.logits[i] = i == len(tokens) - 1
        status = api.llama_decode(ctx, batch)
        api.llama_get_logits_ith(ctx, -1)
        api.llama_batch_free(batch)
        if status:
            raise RuntimeError(f"llama_decode: {status}")

    def make_state(self, n: int, file: Path, options: dict[str, Any]) -> None:
        n_piece = (n + PIECE - 1) // PIECE
        ctx = self.new_context(n + 256, 1 + n_piece, options)
        for i in range(n_piece):
            for pos in range(i * PIECE, min(n, (i + 1) * PIECE), N_BATCH):
                self.decode_tokens(ctx, self.tokens[pos : min(n, pos + N_BATCH)], pos, 1 + i)
            self.copy(ctx, 1 + i, 0)
        size = self.api.llama_state_seq_get_size(ctx, 0)
        data = (ctypes.c_uint8 * size)()
        if self.api.llama_state_seq_get_data(ctx, data, size, 0) != size:
            raise RuntimeError("llama_state_seq_get_data failed")
        file.write_bytes(data)
        self.close_context(ctx)

    def fill(self, n: int, state: str, options: dict[str, Any]) -> bool:
        file = Path(state)
        if not file.exists():
            self.make_state(n, file, options)
        if self.ctx is not None:
            self.close_context(self.ctx)
        self.ctx = self.new_context(n + 1024, 1, options)
        data = file.read_bytes()
        buffer = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
        if self.api.llama_state_seq_set_data(self.ctx, buffer, len(data), 0) != len(data):
            raise RuntimeError("llama_state_seq_set_data failed")
        self.pos = n
        return True

    def decode(self, n: int) -> float:
        times = []
        for _ in range(n):
            t0 = time.perf_counter()
            self.decode_tokens(self.ctx, [self.tokens[self.pos % len(self.tokens)]], self.pos)
            times.append(time.perf_counter() - t0)
            self.pos += 1
        return statistics.median(times)

    def prompt(self, n: int, options: dict[str, Any]) -> float:
        ctx = self.new_context(n + 256, 1, options)
        # Warm up. Not in a context of its own: what that one frees is where the next one's memory comes from, and where it
        # lies makes up to 10 % of a prompt's time.
        self.decode_tokens(ctx, self.tokens[:N_BATCH], 0)
        self.api.llama_memory_clear(self.api.llama_get_memory(ctx), True)
        t0 = time.perf_counter()
        for pos in range(0, n, N_BATCH):
            self.decode_tokens(ctx, self.tokens[pos : min(n, pos + N_BATCH)], pos)
        seconds = time.perf_counter() - t0
        self.close_context(ctx)
        return seconds


class Stock(Engine):
    def open(self, model: str) -> None:
        import llama_cpp

        self.api = llama_cpp
        self.load(model)

    def load(self, model: str) -> None:
        api = self.api
        self.quiet = api.llama_log_callback(lambda level, text, data: None)
        api.llama_log_set(self.quiet, ctypes.c_void_p(0))
        api.llama_backend_init()
        self.model = api.llama_model_load_from_file(model.encode(), api.llama_model_default_params())
        text = make_text(80000).encode()
        tokens = (api.llama_token * len(text))()
        n = api.llama_tokenize(api.llama_model_get_vocab(self.model), text, len(text), tokens, len(text), True, False)
        self.tokens = list(tokens[:n])

    def params(self, n_ctx: int, n_seq_max: int) -> Any:
        params = self.api.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, N_BATCH, N_BATCH
        params.n_seq_max, params.kv_unified = n_seq_max, True
        params.n_threads = params.n_threads_batch = self.threads
        params.flash_attn_type = 1
        return params

    def new_context(self, n_ctx: int, n_seq_max: int, options: dict[str, Any]) -> Any:
        return self.api.llama_init_from_model(self.model, self.params(n_ctx, n_seq_max))


class Lil(Stock):
    def open(self, model: str) -> None:
        import lil
        from lil import _dense, _native, llama_cpp

        self.lil, self.dense, self.native, self.api = lil, _dense, _native, llama_cpp
        self.load(model)

    def new_context(self, n_ctx: int, n_seq_max: int, options: dict[str, Any]) -> Any:
        params = self.params(n_ctx, n_seq_max)
        name, arguments = options.get("sparse", (None, {}))
        if name is None and not options.get("fused_dense"):
            return self.api.llama_init_from_model(self.model, params)
        method = getattr(self.lil, name)(**arguments) if name else self.dense.Dense()
        native = method.native(n_ctx=n_ctx)
        if isinstance(getattr(method, "reselect", None), int):
            native.reselect = method.reselect
        ctx = self.native.lib.lil_init_from_model(self.model, params, native)
        if not ctx:
            raise RuntimeError(self.native.last_error())
        return ctx


class Ik(Engine):
    """ik_llama.cpp, an older API: a cache in place of a memory, no unified switch."""

    def open(self, model: str) -> None:
        from ik_llama_cpp import _ctypes_api, _internals

        self.api, self.internals = _ctypes_api, _internals
        self.model = _internals.IkModel(model)
        text = make_text(80000).encode()
        tokens = (_ctypes_api.llama_token * len(text))()
        n = _ctypes_api.llama_tokenize(self.model.model, text, len(text), tokens, len(text), True, False)
        self.tokens = list(tokens[:n])

    def new_context(self, n_ctx: int, n_seq_max: int, options: dict[str, Any]) -> Any:
        params = self.api.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, N_BATCH, N_BATCH
        params.n_seq_max = n_seq_max
        params.n_threads = params.n_threads_batch = self.threads
        params.flash_attn = True
        return self.api.llama_init_from_model(self.model.model, params)

    def fill(self, n: int, state: str, options: dict[str, Any]) -> bool:
        copy = self.api._lib.llama_kv_cache_seq_cp
        copy.argtypes, copy.restype = [ctypes.c_void_p, *[ctypes.c_int32] * 4], None
        n_piece = (n + PIECE - 1) // PIECE
        if self.ctx is not None:
            self.close_context(self.ctx)
        self.ctx = self.new_context(n + 1024, 1 + n_piece, options)
        for i in range(n_piece):
            for pos in range(i * PIECE, min(n, (i + 1) * PIECE), N_BATCH):
                self.decode_tokens(self.ctx, self.tokens[pos : min(n, pos + N_BATCH)], pos, 1 + i)
            copy(self.ctx, 1 + i, 0, -1, -1)
        self.pos = n
        return True


def main() -> int:
    engine = {"stock": Stock, "lil": Lil, "ik": Ik}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        answer = getattr(engine, command.pop("do"))(**command)
        print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
