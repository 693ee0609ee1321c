"""Decode steps of every method on a GPU, beside full attention, with and without CUDA graphs. A part of run.py.

    decode.py MODEL OUT --states FOLDER [--small]

Everything at one context takes turns, round by round, in one process that holds the model once; without graphs in
another. OUT gets a JSON object a line as soon as a context is done: its seconds are medians over the rounds, its ratio
that to full attention of the same process, with the lowest and highest of a round.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from statistics import median
from typing import Any

from lil.eval.bench_runtimes import Worker

ALL = ["Sink", "H2O", "Quest", "LessIsMore", "TidalDecode", "InfLLM"]
FEW = ["Sink", "H2O", "Quest", "LessIsMore"]  # 128k tokens of a 8B model take 16 GiB a context

# contexts, and with CUDA graphs or without
PLAN = [(32768, ALL, True), (131072, FEW, True), (32768, ["Quest"], False), (131072, ["Quest"], False)]
SMALL = [(512, ALL, True), (1024, ["Quest"], False)]

ROUNDS, STEPS = 5, 8


def measure(worker: Worker, n: int, names: list[str], states: Path, budget: int) -> list[dict[str, Any]]:
    cases = ["full", *names]
    times: dict[str, list[float]] = {name: [] for name in cases}
    for name in cases:
        options = {} if name == "full" else {"sparse": [name, {"budget": budget}]}
        # those that drop nothing can read what full attention wrote
        own = name in ("Sink", "H2O", "InfLLM")
        state = states / f"{name if own else 'full'}-{n}"
        worker("fill", n=n, state=str(state), options=options, slot=name, room=2 + ROUNDS * (STEPS + 1))
        worker("decode", n=4, slot=name, back=True)
        if own:
            state.unlink(missing_ok=True)
    for _ in range(ROUNDS):
        for name in cases:
            worker("decode", n=1, slot=name, back=True)
            times[name].append(worker("decode", n=STEPS, slot=name, back=True))
    rows = []
    for name in cases:
        ratios = [mine / theirs for mine, theirs in zip(times[name], times["full"], strict=True)]
        seconds = median(times[name])
        rows.append(
            {
                "method": name,
                "seconds": seconds,
                "ratio": seconds / median(times["full"]),
                "low": min(ratios),
                "high": max(ratios),
            }
        )
        worker("drop", slot=name)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--states", type=Path, required=True)
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()

    budget, plan = (128, SMALL) if args.small else (2048, PLAN)
    for graphs in (True, False):
        if not graphs:
            os.environ["GGML_CUDA_DISABLE_GRAPHS"] = "1"
        with Worker("lil", args.model, threads=2, gpu_layers=0 if args.small else -1) as worker:
            for n, names, with_graphs in plan:
                if with_graphs is graphs:
                    for row in measure(worker, n, names, args.states, budget):
                        row = {"context": n, "budget": budget, "graphs": graphs, **row}
                        with args.out.open("a") as out:
                            out.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
