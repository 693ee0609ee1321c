"""Sink and H2O against stock llama-cpp-python, side by side in one process: decode, prompts, KV memory.

    python benchmarks/runtime.py MODEL.gguf [--context 16384] [--budget 1024] [--threads 2] [--rounds 5]

Needs stock `llama-cpp-python` of the pinned version beside `lil-cpp`. The measurements take turns, so that a machine
that slows down slows all of them: decoding in one process, a few steps each; prompts in a process each, because of
several models in one process the first to be loaded lies better in memory (by up to 6 % here). Only ratios of medians
mean anything; the range of the single rounds' ratios stands beside each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import lil
import llama_cpp
from common import Ratios
from lil.eval.bench_worker import make_text
from rich.console import Console
from rich.progress import Progress

N_BATCH = 512


class Runner:
    """A context of one of the two packages that is fed tokens."""

    def __init__(self, name: str, package: object, model: str, n_ctx: int, threads: int, **options: object) -> None:
        self.name = name
        self.llm = package.Llama(  # type: ignore[attr-defined]
            model, n_ctx=n_ctx, n_batch=N_BATCH, n_threads=threads, n_threads_batch=threads,
            flash_attn=True, verbose=False, **options,
        )  # fmt: skip
        self.tokens: list[int] = []

    def prompt(self, tokens: list[int], tick: Callable[[int], None] = lambda n: None) -> float:
        """Evaluates a prompt from the beginning; seconds."""
        self.llm.reset()
        self.tokens = tokens
        seconds = 0.0
        for i in range(0, len(tokens), N_BATCH):
            t0 = time.perf_counter()
            self.llm.eval(tokens[i : i + N_BATCH])
            seconds += time.perf_counter() - t0
            tick(min(N_BATCH, len(tokens) - i))
        return seconds

    def decode(self, n: int) -> float:
        """Median seconds of n steps."""
        times = []
        for i in range(n):
            token = self.tokens[i % len(self.tokens)]
            t0 = time.perf_counter()
            self.llm.eval([token])
            times.append(time.perf_counter() - t0)
        return statistics.median(times)


def stock_kv_bytes(runner: Runner, n_ctx: int) -> int:
    """Bytes of an F16 cache of n_ctx cells, from the model's shapes."""
    model = runner.llm._model.model
    head_dim = llama_cpp.llama_model_n_embd(model) // llama_cpp.llama_model_n_head(model)
    return 2 * 2 * n_ctx * llama_cpp.llama_model_n_layer(model) * llama_cpp.llama_model_n_head_kv(model) * head_dim


def make_runner(name: str, model: str, n_ctx: int, threads: int, budget: int) -> Runner:
    options = {
        "stock": {},
        "none": {},
        "sink": {"sparse": lil.Sink(budget=budget)},
        "h2o": {"sparse": lil.H2O(budget=budget)},
    }[name]
    return Runner(name, llama_cpp if name == "stock" else lil, model, n_ctx, threads, **options)


def prompt_in_process(name: str, args: argparse.Namespace) -> float:
    """Seconds of a prompt of args.prompt tokens, in a process of its own."""
    command = [sys.executable, __file__, args.model, "--worker", name]
    for option in ("prompt", "budget", "threads"):
        command += [f"--{option}", str(getattr(args, option))]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def work(args: argparse.Namespace) -> int:
    runner = make_runner(args.worker, args.model, args.prompt, args.threads, args.budget)
    tokens = runner.llm.tokenize(make_text(args.prompt * 2).encode())[: args.prompt]
    runner.prompt(tokens[:N_BATCH])  # warm up
    print(runner.prompt(tokens))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--context", type=int, default=16384)
    parser.add_argument("--prompt", type=int, default=4096)
    parser.add_argument("--budget", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="decode steps of a round")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return work(args)

    console = Console()
    ratios = Ratios()
    n_short, room = 1024, 2 * args.rounds * args.steps + 256

    with Progress(console=console) as progress:
        # decode: stock at 1k, everything at the long context
        def new(name: str, n: int) -> tuple[Runner, int]:
            return make_runner(name, args.model, n + room, args.threads, args.budget), n

        short = [new("stock", n_short), new("none", n_short)]
        for runner, _ in short:
            runner.name += " 1k"
        runners = [*short, *(new(name, args.context) for name in ("stock", "sink", "h2o"))]
        tokens = runners[0][0].llm.tokenize(make_text(args.context * 2).encode())
        assert len(tokens) >= args.context, "the text is too short for this tokenizer"

        task = progress.add_task("filling contexts", total=sum(n for _, n in runners))
        for runner, n in runners:
            progress.update(task, description=f"filling {n} tokens: {runner.name}")
            runner.prompt(tokens[:n], lambda k: progress.advance(task, k))
            runner.decode(2)  # the cut of the prompt is not a step like the others

        times: dict[str, list[float]] = {runner.name: [] for runner, _ in runners}
        task = progress.add_task("decode", total=args.rounds)
        for _ in range(args.rounds):
            for runner, _ in runners:
                times[runner.name].append(runner.decode(args.steps))
            progress.advance(task)

        k = f"{args.context // 1024}k"
        ratios.add(f"decode: Sink at {k} / stock at 1k", times["sink"], times["stock 1k"], "<= 1.10")
        ratios.add(f"decode: H2O at {k} / stock at 1k", times["h2o"], times["stock 1k"], "<= 1.10")
        ratios.add(f"decode: stock at {k} / Sink at {k}", times["stock"], times["sink"], ">= 2.5")
        ratios.add(f"decode: stock at {k} / H2O at {k}", times["stock"], times["h2o"], ">= 2.5")
        ratios.add("decode: sparse=None at 1k / stock at 1k", times["none 1k"], times["stock 1k"], "<= 1.02")
        del runners, short

        # prompts
        names = ("stock", "none", "sink", "h2o")
        rounds = max(3, args.rounds // 2 + 1)
        times = {name: [] for name in names}
        task = progress.add_task("prompts", total=rounds * len(names))
        for _ in range(rounds):
            for name in names:
                times[name].append(prompt_in_process(name, args))
                progress.advance(task)

        k = f"{args.prompt // 1024}k"
        ratios.add(f"prompt of {k}: H2O / stock", times["h2o"], times["stock"], "<= 1.5")
        ratios.add(f"prompt of {k}: Sink / stock", times["sink"], times["stock"], "<= 1.05")
        ratios.add(f"prompt of {k}: sparse=None / stock", times["none"], times["stock"], "<= 1.02")

        # memory
        for kind in (lil.Sink, lil.H2O):
            small = Runner(
                "small",
                lil,
                args.model,
                32768,
                args.threads,
                sparse=kind(budget=args.budget, capacity=2048, kept_prompts=0),
            )
            full = stock_kv_bytes(small, 32768)
            ratios.add_exact(
                f"KV memory, n_ctx 32768: stock / {kind.__name__}, capacity 2048",
                full / small.llm.sparse_info().kv_bytes,
                ">= 15",
            )

    console.print(
        f"{Path(args.model).name}, budget {args.budget}, {args.threads} threads, {args.rounds} rounds of "
        f"{args.steps} steps"
    )
    console.print(ratios.table())
    if args.json:
        args.json.write_text(json.dumps(ratios.rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
