"""Full attention with `fused_dense=None` against stock llama-cpp-python's, and ik-llama-cpp-python's where it is
installed.

    python benchmarks/full.py MODEL.gguf [--contexts 1024,4096,16384] [--prompts 512,4096] [--threads 2] [--rounds 6]
                              [--ik PYTHON]

Stock runs with FlashAttention off, which is how it comes, and on. Needs stock `llama-cpp-python` of the pinned version
beside `lil-cpp`; --ik names a Python that has `ik-llama-cpp-python`. Every runner is a process of its own, and they
take turns, a few steps each, so that a machine that slows down slows all of them; prompts have a fresh process each,
because where memory comes to lie makes some percent of their time. Only ratios of medians mean anything; the range of
the rounds' ratios stands beside each.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import Ratios
from lil.eval.bench_runtimes import Worker
from rich.console import Console
from rich.progress import Progress

# runner -> kind of worker, options
RUNNERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ours": ("lil", {"fused_dense": None}),
    "stock, FlashAttention off": ("stock", {"flash_attn": False}),
    "stock, FlashAttention on": ("stock", {"flash_attn": True}),
    "ik": ("ik", {}),
}

TARGETS = {1024: 0.92, 4096: 0.70, 16384: 0.52}  # Qwen2.5-Coder-0.5B Q4_K_M, most of stock's time


def name_of(n: int) -> str:
    return f"{n // 1024}k" if n % 1024 == 0 else str(n)


def add_rows(ratios: Ratios, what: str, times: dict[str, list[float]], target: str) -> None:
    for name in times:
        if name != "ours":
            ratios.add(f"{what}: ours / {name}", times["ours"], times[name], target if name.startswith("stock") else "")


def measure_decode(
    args: argparse.Namespace, context: int, runners: list[str], ratios: Ratios, progress: Progress, states: Path
) -> None:
    workers = {}
    task = progress.add_task(f"filling {name_of(context)}", total=len(runners))
    for name in runners:
        kind, options = RUNNERS[name]
        workers[name] = Worker(
            kind, args.model, threads=args.threads, python=args.ik if kind == "ik" else sys.executable
        )
        own = name.replace(" ", "-") if name != "ours" else "stock,-FlashAttention-on"  # of one form, and exchangeable
        workers[name]("fill", n=context, state=str(states / f"{own}-{context}"), options=options)
        workers[name]("decode", n=2)
        progress.advance(task)

    times: dict[str, list[float]] = {name: [] for name in runners}
    task = progress.add_task(f"decode at {name_of(context)}", total=args.rounds)
    for _ in range(args.rounds):
        for name, worker in workers.items():
            worker("decode", n=1)  # awake
            times[name].append(worker("decode", n=args.steps))
        progress.advance(task)
    for worker in workers.values():
        worker.close()

    add_rows(
        ratios,
        f"decode at {name_of(context)}",
        times,
        f"<= {TARGETS[context]:.2f}" if context in TARGETS else "<= 1.02",
    )


def measure_prompts(args: argparse.Namespace, n: int, runners: list[str], ratios: Ratios, progress: Progress) -> None:
    times: dict[str, list[float]] = {name: [] for name in runners}
    task = progress.add_task(f"prompts of {name_of(n)}", total=args.prompt_rounds * len(runners))
    for _ in range(args.prompt_rounds):
        for name in runners:
            kind, options = RUNNERS[name]
            worker = Worker(kind, args.model, threads=args.threads, python=args.ik if kind == "ik" else sys.executable)
            times[name].append(worker("prompt", n=n, options=options))
            worker.close()
            progress.advance(task)
    add_rows(ratios, f"prompt of {name_of(n)}, and the first token", times, "<= 1.02")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--contexts", default="1024,4096,16384")
    parser.add_argument("--prompts", default="512,4096")
    parser.add_argument("--prompt-rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=6, help="decode steps of a round")
    parser.add_argument("--ik", metavar="PYTHON", help="a Python with ik-llama-cpp-python")
    parser.add_argument("--states", type=Path, help="keep the filled contexts here, for the next run")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    args = parser.parse_args()

    runners = [name for name in RUNNERS if name != "ik" or args.ik]
    console = Console()
    ratios = Ratios()
    with tempfile.TemporaryDirectory() as temporary, Progress(console=console) as progress:
        states = args.states or Path(temporary)
        states.mkdir(parents=True, exist_ok=True)
        for context in (int(c) for c in args.contexts.split(",") if c):
            measure_decode(args, context, runners, ratios, progress, states)
        for n in (int(p) for p in args.prompts.split(",") if p):
            measure_prompts(args, n, runners, ratios, progress)

    console.print(f"{Path(args.model).name}, {args.threads} threads, {args.rounds} rounds of {args.steps} steps")
    console.print(ratios.table())
    if args.json:
        args.json.write_text(json.dumps(ratios.rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
