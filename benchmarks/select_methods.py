"""The select methods against stock llama-cpp-python, and ik-llama-cpp-python where it is installed: decode and prompts.

    python benchmarks/select_methods.py MODEL.gguf [--contexts 16384,32768] [--budget 1024] [--threads 2] [--rounds 5]
                                        [--ik PYTHON]

Needs stock `llama-cpp-python` of the pinned version beside `lil-cpp`. --ik names a Python that has
`ik-llama-cpp-python`. Every runner is a process of its own, and they take turns, a few steps each, so that a machine
that slows down slows all of them. Only ratios of medians mean anything; the range of the single rounds' ratios stands
beside each.
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


def methods(budget: int, reselect: int) -> dict[str, dict[str, Any]]:
    one: dict[str, Any] = {"budget": budget}
    return {
        "fused dense": {"fused_dense": True},
        "Quest": {"sparse": ["Quest", one]},
        "InfLLM": {"sparse": ["InfLLM", one]},
        "TidalDecode": {"sparse": ["TidalDecode", one | {"reselect": reselect}]},
        "LessIsMore": {"sparse": ["LessIsMore", one | {"reselect": reselect}]},
    }


# context -> method -> most of stock's time at 1k; method -> least speed-up over stock at the same context
TARGETS_1K = {
    16384: {"Quest": 1.25, "InfLLM": 1.25, "TidalDecode": 1.45, "LessIsMore": 1.45},
    32768: {"Quest": 1.35, "InfLLM": 1.35, "TidalDecode": 1.8, "LessIsMore": 1.8},
}
TARGETS_STOCK = {16384: {"Quest": 2.3, "fused dense": 1.5}, 32768: {"Quest": 4.0}}
TARGETS_IK = {16384: 2.0, 32768: 2.5}


def target(table: dict[int, dict[str, float]], context: int, name: str, sign: str) -> str:
    value = table.get(context, {}).get(name)
    return f"{sign} {value:.2f}" if value else ""


def measure_decode(args: argparse.Namespace, context: int, ratios: Ratios, progress: Progress, states: Path) -> None:
    runs = methods(args.budget, args.reselect)
    workers = {"stock 1k": new_worker(args, "stock"), "stock": new_worker(args, "stock")}
    workers |= {name: new_worker(args, "lil") for name in runs}
    if args.ik:
        workers["ik"] = new_worker(args, "ik")

    k = name_of(context)
    task = progress.add_task(f"filling {k}", total=len(workers))
    for name, worker in workers.items():
        n = 1024 if name == "stock 1k" else context
        # what a method keeps beside keys and values is in its state, and ik's are another format; the others' are
        # stock's
        own = name if name in ("InfLLM", "ik") else "stock"
        worker("fill", n=n, state=str(states / f"{own}-{n}"), options=runs.get(name, {}))
        worker("decode", n=2)  # the first step computes page metadata
        progress.advance(task)

    times = decode_in_turns(args, k, workers, progress)
    for name in runs:
        ratios.add(
            f"decode: {name} at {k} / stock at 1k",
            times[name],
            times["stock 1k"],
            target(TARGETS_1K, context, name, "<="),
        )
    for name in runs:
        ratios.add(
            f"decode: stock at {k} / {name} at {k}",
            times["stock"],
            times[name],
            target(TARGETS_STOCK, context, name, ">="),
        )
    if args.ik:
        ratios.add(
            f"decode: ik at {k} / Quest at {k}", times["ik"], times["Quest"], f">= {TARGETS_IK.get(context, 0):.1f}"
        )
        ratios.add(f"decode: stock at {k} / ik at {k}", times["stock"], times["ik"], "")


def measure_prompts(args: argparse.Namespace, ratios: Ratios, progress: Progress) -> None:
    runs: dict[str, tuple[str, dict[str, Any]]] = {"stock": ("stock", {})}
    runs |= {name: ("lil", options) for name, options in methods(args.budget, args.reselect).items()}
    times = prompts_in_turns(args, args.prompt, runs, progress)
    for name in list(runs)[1:]:
        ratios.add(f"prompt of {name_of(args.prompt)}: {name} / stock", times[name], times["stock"], "<= 1.05")


def main() -> None:
    parser = make_parser(__doc__, contexts="16384,32768", rounds=5, steps=8)
    parser.add_argument("--prompt", type=int, default=4096)
    parser.add_argument("--budget", type=int, default=1024)
    parser.add_argument("--reselect", type=int, default=13)
    args = parser.parse_args()

    def measure(ratios: Ratios, progress: Progress, states: Path) -> None:
        for context in numbers(args.contexts):
            measure_decode(args, context, ratios, progress, states)
        if args.prompt_rounds:
            measure_prompts(args, ratios, progress)

    report(args, f"budget {args.budget}, ", measure)


if __name__ == "__main__":
    main()
