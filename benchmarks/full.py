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
from pathlib import Path
from typing import Any

from common import (
    Ratios,
    decode_in_turns,
    make_parser,
    name_of,
    new_worker,
    numbers,
    prompts_in_turns,
    report,
)
from rich.progress import Progress

# runner -> kind of worker, options
RUNNERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ours": ("lil", {"fused_dense": None}),
    "stock, FlashAttention off": ("stock", {"flash_attn": False}),
    "stock, FlashAttention on": ("stock", {"flash_attn": True}),
    "ik": ("ik", {}),
}

TARGETS = {1024: 0.92, 4096: 0.70, 16384: 0.52}  # Qwen2.5-Coder-0.5B Q4_K_M, most of stock's time


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
        workers[name] = new_worker(args, kind)
        own = name.replace(" ", "-") if name != "ours" else "stock,-FlashAttention-on"  # of one form, and exchangeable
        workers[name]("fill", n=context, state=str(states / f"{own}-{context}"), options=options)
        workers[name]("decode", n=2)
        progress.advance(task)

    add_rows(
        ratios,
        f"decode at {name_of(context)}",
        decode_in_turns(args, name_of(context), workers, progress),
        f"<= {TARGETS[context]:.2f}" if context in TARGETS else "<= 1.02",
    )


def main() -> None:
    parser = make_parser(__doc__, contexts="1024,4096,16384", rounds=6, steps=6)
    parser.add_argument("--prompts", default="512,4096")
    args = parser.parse_args()
    runners = [name for name in RUNNERS if name != "ik" or args.ik]

    def measure(ratios: Ratios, progress: Progress, states: Path) -> None:
        for context in numbers(args.contexts):
            measure_decode(args, context, runners, ratios, progress, states)
        for n in numbers(args.prompts):
            times = prompts_in_turns(args, n, {name: RUNNERS[name] for name in runners}, progress)
            add_rows(ratios, f"prompt of {name_of(n)}, and the first token", times, "<= 1.02")

    report(args, "", measure)


if __name__ == "__main__":
    main()
