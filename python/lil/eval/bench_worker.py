"""One runtime in a process of its own, for measurements that take turns. A script: it runs in Pythons without lil, too.

    python bench_worker.py lil|stock|ik MODEL.gguf THREADS [GPU_LAYERS]

Answers one JSON value a line: first the number of the text's tokens, then one for each JSON command that it reads:

    {"do": "fill", "n": N, "state": FILE, "options": {...}, "slot": NAME, "room": R}
                                     makes the context NAME with N tokens and room for R more; FILE holds their keys and
                                     values, and is made where it is missing
    {..., "repeat": true}            only the first piece of the text is evaluated, and repeated
    {"do": "decode", "n": N, "slot": NAME, "back": B}   median seconds of N steps; B: they are taken back if they can be
    {..., "draft": D}                                   each with D tokens behind it, as if they were drafted
    {"do": "steps", "slot": NAME}                       decode steps so far that attended to a part; null: unknown
    {"do": "prompt", "n": N, "options": {...}}          seconds of a prompt in a fresh context
    {"do": "peak", "slot": NAME}                        most bytes of memory that this process ever held, after one more
                                                        part of a prompt and some steps; null: the system does not say

`options` are {"sparse": [class, {parameters}], "fused_dense": bool or None} for lil, {"flash_attn": bool} for stock,
otherwise {}. They, `slot`, `room`, `back` and `repeat` may be left out. A failure ends the process; the last line of
standard error says why.

Filling is cheap. The text is cut into pieces that are evaluated as sequences of their own, each at its place, and
joined. A method that evicts is given the last tokens only, more than it holds. The keys and values are not those of the
text read as a whole, which does not matter for the time of a step.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # the names in this file's folder are not meant for others' imports
    sys.path = [path for path in sys.path if os.path.abspath(path) != os.path.dirname(os.path.abspath(__file__))]

import ctypes
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PIECE = 2048
N_BATCH = 512
ROOM = 1024
PEAK_STEPS = 8

# fmt: off
WORDS = ["the", "sea", "was", "calm", "and", "every", "ship", "went", "home", "before", "night", "fell", "on", "a",
         "quiet", "harbour", "town", "of", "stone"]
# fmt: on
N_WORDS = 20000  # of the text, which begins anew where it ends


def make_text(n_words: int) -> str:
    """Words in an order that does not repeat itself soon; what they say does not matter for speed."""
    return " ".join(WORDS[(i * i + i // 17) % len(WORDS)] for i in range(n_words))


def batches(begin: int, end: int) -> Iterator[tuple[int, int]]:
    """The batches of a prompt, from and to."""
    for start in range(begin, end, N_BATCH):
        yield start, min(end, start + N_BATCH)


class Engine:
    """The C API as each of the packages gives it; contexts through `new_context`."""

    api: Any
    states: Any  # what has the functions of saved states
    model: Any

    def __init__(self, model: str, threads: int, gpu_layers: int = 0) -> None:
        self.threads = threads
        self.gpu_layers = 0x7FFFFFFF if gpu_layers < 0 else gpu_layers
        self.contexts: dict[str, Any] = {}
        self.at: dict[str, int] = {}  # tokens of each
        self.open(model)
        text = make_text(N_WORDS).encode()
        room = 3 * len(text) + 1  # where a vocabulary lacks the mark for spaces, each is three bytes
        tokens = (self.api.llama_token * room)()
        n = self.api.llama_tokenize(self.vocabulary(), text, len(text), tokens, room, True, False)
        if n < 1:
            raise RuntimeError(f"the model's vocabulary makes no tokens of an English text (llama_tokenize: {n})")
        self.tokens = list(tokens[:n])

    def open(self, model: str) -> None:
        raise NotImplementedError

    def vocabulary(self) -> Any:
        raise NotImplementedError

    def new_context(self, n_ctx: int, n_seq_max: int, options: dict[str, Any]) -> Any:
        raise NotImplementedError

    def evicting(self, options: dict[str, Any]) -> int:
        """The budget of a method that evicts; 0 with others."""
        return 0

    def clear(self, ctx: Any) -> None:
        self.api.llama_memory_clear(self.api.llama_get_memory(ctx), True)

    def decode_tokens(self, ctx: Any, begin: int, end: int, seq_id: int = 0, steps: bool = False) -> None:
        """Evaluates the text's tokens from `begin` to `end`, at their positions. Of a prompt the last logits are asked
        for, of steps all."""
        api, n = self.api, end - begin
        batch = api.llama_batch_init(n, 0, 1)
        batch.n_tokens = n
        for i in range(n):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = self.tokens[(begin + i) % len(self.tokens)], begin + i, 1
            batch.seq_id[i][0] = seq_id
            batch.logits[i] = steps or i == n - 1
        status = api.llama_decode(ctx, batch)
        api.llama_get_logits_ith(ctx, -1)
        api.llama_batch_free(batch)
        if status:
            raise RuntimeError(f"llama_decode of {n} tokens after {begin}: {status}")

    def make_state(self, n: int, file: Path, options: dict[str, Any], repeat: bool) -> None:
        budget = self.evicting(options)
        ctx = self.new_context(n + 256, 1 if budget else 1 + n_pieces(n), options)
        if budget:  # over the budget for good; a step after each batch cuts what is held
            for begin, end in batches(max(0, n - budget - N_BATCH), n):
                cut = end - begin > 2
                self.decode_tokens(ctx, begin, end - cut)
                if cut:
                    self.decode_tokens(ctx, end - 1, end)
        else:
            for i in range(n_pieces(n)):
                end = min(n, (i + 1) * PIECE)
                if i > 0 and repeat:
                    self.repeat_first(ctx, 1 + i, i * PIECE, end)
                else:
                    for batch in batches(i * PIECE, end):
                        self.decode_tokens(ctx, *batch, 1 + i)
                self.join(ctx, 1 + i)
        if not self.states.llama_state_seq_save_file(ctx, os.fsencode(file), 0, (self.api.llama_token * 1)(), 0):
            raise RuntimeError(f"{file}: the state of {n} tokens could not be written")
        self.api.llama_free(ctx)

    def repeat_first(self, ctx: Any, seq_id: int, begin: int, end: int) -> None:
        """Gives a sequence the first one's tokens, moved to `begin`."""
        api = self.states
        size = api.llama_state_seq_get_size(ctx, 1)
        data = (ctypes.c_uint8 * size)()
        if not (
            api.llama_state_seq_get_data(ctx, data, size, 1) and api.llama_state_seq_set_data(ctx, data, size, seq_id)
        ):
            raise RuntimeError(f"the first {PIECE} tokens could not be repeated at {begin}")
        memory = self.api.llama_get_memory(ctx)
        self.api.llama_memory_seq_add(memory, seq_id, 0, -1, begin)
        self.api.llama_memory_seq_rm(memory, seq_id, end, -1)

    def fill(
        self, n: int, state: str, options: dict[str, Any], slot: str = "", room: int = ROOM, repeat: bool = False
    ) -> bool:
        self.drop(slot)
        if not os.path.exists(state):
            self.make_state(n, Path(state), options, repeat)
        self.contexts[slot] = ctx = self.new_context(n + room, 1, options)
        tokens, count = (self.api.llama_token * 1)(), ctypes.c_size_t()
        if not self.states.llama_state_seq_load_file(ctx, os.fsencode(state), 0, tokens, 1, ctypes.byref(count)):
            raise RuntimeError(f"{state}: not a state that this context takes; delete the file")
        # a loaded state does not say that anyone sampled from it: the next token would not be a decode step
        last = n - 1 if self.remove(ctx, n - 1) else n
        self.decode_tokens(ctx, last, last + 1)
        self.at[slot] = last + 1
        return True

    def drop(self, slot: str) -> None:
        if slot in self.contexts:
            self.api.llama_free(self.contexts.pop(slot))

    def join(self, ctx: Any, seq_id: int) -> None:
        """Appends a sequence to sequence 0."""
        self.api.llama_memory_seq_cp(self.api.llama_get_memory(ctx), seq_id, 0, -1, -1)

    def remove(self, ctx: Any, at: int) -> bool:
        """Takes back the tokens from `at` on. False: a method has dropped others for them."""
        return bool(self.api.llama_memory_seq_rm(self.api.llama_get_memory(ctx), 0, at, -1))

    def decode(self, n: int, slot: str = "", back: bool = False, draft: int = 0) -> float:
        ctx, at, times = self.contexts[slot], self.at[slot], []
        for i in range(at, at + n * (1 + draft), 1 + draft):
            begin = time.perf_counter()
            self.decode_tokens(ctx, i, i + 1 + draft, steps=True)
            times.append(time.perf_counter() - begin)
        if not (back and self.remove(ctx, at)):
            self.at[slot] = at + n * (1 + draft)
        return statistics.median(times)

    def steps(self, slot: str = "") -> int | None:
        return None

    def prompt(self, n: int, options: dict[str, Any]) -> float:
        ctx = self.new_context(n + 256, 1, options)
        # Warm up. Not in a context of its own: what that one frees is where the next one's memory comes from, and where
        # it lies makes up to 10 % of a prompt's time.
        self.decode_tokens(ctx, 0, min(N_BATCH, max(2, n // 8)))
        self.clear(ctx)
        start = time.perf_counter()
        for begin, end in batches(0, n):
            self.decode_tokens(ctx, begin, end)
        seconds = time.perf_counter() - start
        self.api.llama_free(ctx)
        return seconds

    def peak(self, slot: str = "") -> int | None:
        at = self.at[slot]
        self.decode_tokens(self.contexts[slot], at, at + N_BATCH)
        self.at[slot] = at + N_BATCH
        self.decode(PEAK_STEPS, slot)
        return peak_bytes()


class Stock(Engine):
    """llama-cpp-python."""

    def open(self, model: str) -> None:
        import llama_cpp

        self.load(llama_cpp, model)

    def load(self, api: Any, model: str) -> None:
        self.api = self.states = api
        self.quiet = api.llama_log_callback(lambda level, text, data: None)
        api.llama_log_set(self.quiet, ctypes.c_void_p(0))
        api.llama_backend_init()
        params = api.llama_model_default_params()
        params.n_gpu_layers = self.gpu_layers
        self.model = api.llama_model_load_from_file(model.encode(), params)
        if not self.model:
            raise RuntimeError(f"{model}: cannot be loaded")

    def vocabulary(self) -> Any:
        return self.api.llama_model_get_vocab(self.model)

    def params(self, n_ctx: int, n_seq_max: int) -> Any:
        params = self.api.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, N_BATCH, N_BATCH
        params.n_seq_max, params.kv_unified = n_seq_max, True
        params.n_threads = params.n_threads_batch = self.threads
        params.flash_attn_type = 1
        return params

    def new_context(self, n_ctx: int, n_seq_max: int, options: dict[str, Any]) -> Any:
        params = self.params(n_ctx, n_seq_max)
        params.flash_attn_type = int(options.get("flash_attn", True))
        ctx = self.api.llama_init_from_model(self.model, params)
        if not ctx:
            raise RuntimeError(f"no context of {n_ctx} tokens; perhaps for want of memory")
        return ctx


class Lil(Stock):
    """This package."""

    def open(self, model: str) -> None:
        import lil
        from lil import _native, llama_cpp, methods
        from lil.methods.dense import Dense

        self.lil, self.dense, self.native, self.methods = lil, Dense, _native, methods
        self.load(llama_cpp, model)

    def method(self, options: dict[str, Any]) -> Any:
        name, arguments = options.get("sparse", (None, {}))
        if name:
            return getattr(self.lil, name)(**arguments)
        return self.dense() if options.get("fused_dense") else None

    def evicting(self, options: dict[str, Any]) -> int:
        method = self.method(options)
        return method.budget if isinstance(method, self.methods.Evict) else 0

    def new_context(self, n_ctx: int, n_seq_max: int, options: dict[str, Any]) -> Any:
        method, fused_dense = self.method(options), options.get("fused_dense")
        if method is None and fused_dense is False:
            return super().new_context(n_ctx, n_seq_max, options)
        params = self.params(n_ctx, n_seq_max)
        if method is None:
            native = self.native.lib.lil_sparse_default_params(0)
            native.fused_dense = self.methods.FUSED_DENSE_AUTO
        else:
            method.check_context(n_ctx=n_ctx, n_ubatch=N_BATCH)
            native = method.native(n_ctx=n_ctx, fused_dense=fused_dense)
        ctx = self.native.lib.lil_init_from_model(self.model, params, native)
        if not ctx:
            raise RuntimeError(self.native.last_error())
        return ctx

    def steps(self, slot: str = "") -> int | None:
        info = self.native.SparseInfo()
        found = self.native.lib.lil_sparse_get_info(self.contexts[slot], ctypes.byref(info))
        return int(info.n_sparse) if found and info.method != self.dense.code() else None


class Ik(Engine):
    """ik-llama-cpp-python, an older API: a cache in place of a memory. Its bindings lack some functions."""

    def open(self, model: str) -> None:
        from ik_llama_cpp import _ctypes_api, _internals

        self.api, self.states = _ctypes_api, _ctypes_api._lib
        self.holder = _internals.IkModel(model, n_gpu_layers=self.gpu_layers)
        self.model = self.holder.model
        pointer, number, size = ctypes.c_void_p, ctypes.c_int32, ctypes.c_size_t
        for name, result, arguments in [
            ("llama_kv_cache_seq_cp", None, [pointer, *[number] * 4]),
            ("llama_kv_cache_seq_rm", ctypes.c_bool, [pointer, *[number] * 3]),
            ("llama_state_seq_save_file", size, [pointer, ctypes.c_char_p, number, pointer, size]),
            ("llama_state_seq_load_file", size, [pointer, ctypes.c_char_p, number, pointer, size, pointer]),
        ]:
            function = getattr(self.states, name)
            function.restype, function.argtypes = result, arguments

    def vocabulary(self) -> Any:
        return self.model

    def clear(self, ctx: Any) -> None:
        self.api.llama_kv_cache_clear(ctx)

    def join(self, ctx: Any, seq_id: int) -> None:
        self.states.llama_kv_cache_seq_cp(ctx, seq_id, 0, -1, -1)

    def remove(self, ctx: Any, at: int) -> bool:
        return bool(self.states.llama_kv_cache_seq_rm(ctx, 0, at, -1))

    def new_context(self, n_ctx: int, n_seq_max: int, options: dict[str, Any]) -> Any:
        params = self.api.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, N_BATCH, N_BATCH
        params.n_seq_max = n_seq_max
        params.n_threads = params.n_threads_batch = self.threads
        params.flash_attn = True
        ctx = self.api.llama_init_from_model(self.model, params)
        if not ctx:
            raise RuntimeError(f"no context of {n_ctx} tokens; perhaps for want of memory")
        return ctx


def n_pieces(n: int) -> int:
    return (n + PIECE - 1) // PIECE


def peak_bytes() -> int | None:
    """Most bytes of memory that this process ever held; None where the system does not say."""
    try:  # Linux's getrusage counts the parent's memory in, from before this program took the process over
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> int:
    # What the native libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    engine = {"stock": Stock, "lil": Lil, "ik": Ik}[sys.argv[1]](sys.argv[2], *map(int, sys.argv[3:]))
    print(json.dumps(len(engine.tokens)), file=answers, flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        answer = getattr(engine, command.pop("do"))(**command)
        print(json.dumps(answer), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
