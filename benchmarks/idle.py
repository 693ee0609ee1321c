"""Decode and prompts on a machine that does nothing else, beside other ways of waiting and stock llama-cpp-python.

    python benchmarks/idle.py MODEL.gguf [--methods none,h2o,quest] [--openmp FOLDER] [--rounds 40] [--seconds 0.5]

--openmp names the libraries of a build with OpenMP in the place of our threads, which is then run as it comes (its
threads spin), with GOMP_SPINCOUNT=3000 and with OMP_WAIT_POLICY=passive:

    cmake -S . -B build/openmp -DCMAKE_BUILD_TYPE=Release -DGGML_OPENMP=ON -DLLAVA_BUILD=OFF
    cmake --build build/openmp
    cmake --install build/openmp --component lil --prefix build/openmp/site/lil      # FOLDER: build/openmp/site/lil/lib

Every runner is a process of its own and is stopped while others have their turn; in each round all have one, in random
order. Every figure is the median over the rounds of our tokens per second by another runner's of the same round, and
the middle half.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
from pathlib import Path

from busy import Worker
from rich.console import Console
from rich.progress import track
from rich.table import Table


def runners(method: str, openmp: Path | None) -> dict[str, tuple[str, dict[str, str]]]:
    """What is run, and with which environment, by name."""
    result: dict[str, tuple[str, dict[str, str]]] = {"ours": (method, {})}
    if method == "none":
        result["stock"] = ("stock", {})
    if openmp is not None:
        libs = {"LIL_LLAMA_CPP_LIB_PATH": str(openmp.resolve())}
        result["OpenMP"] = (method, libs)
        result["OpenMP, spin count 3000"] = (method, {**libs, "GOMP_SPINCOUNT": "3000"})
        result["OpenMP, passive"] = (method, {**libs, "OMP_WAIT_POLICY": "passive"})
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--methods", default="none", help="comma-separated; none: full attention")
    parser.add_argument("--openmp", type=Path, help="a folder with libraries that were built with OpenMP")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=0.5, help="of one turn")
    parser.add_argument("--json", type=Path, help="also write the rates to this file")
    args = parser.parse_args()

    console = Console()
    title = f"{Path(args.model).name}, {args.threads} threads, {args.rounds} rounds"
    table = Table("ours / ...", "decode", "prompt of 512", title=title)
    order = random.Random(1)
    found: dict[str, list[dict[str, float]]] = {}
    for method in args.methods.split(","):
        kinds = runners(method, args.openmp)
        workers = {name: Worker(runner, args, {**os.environ, **env}) for name, (runner, env) in kinds.items()}
        rates: dict[str, dict[str, list[float]]] = {name: {"decode": [], "prompt": []} for name in workers}
        try:
            for _ in track(range(args.rounds), method, console=console):
                for what in ("decode", "prompt"):
                    for name in order.sample(list(workers), len(workers)):
                        rates[name][what].append(workers[name].rate(what, args.seconds))
        finally:
            for worker in workers.values():
                worker.close()
        for name in workers:
            cells = []
            for what in ("decode", "prompt"):
                ratios = [a / b for a, b in zip(rates["ours"][what], rates[name][what], strict=True)]
                low, middle, high = statistics.quantiles(ratios, n=4)
                cells.append(f"{middle:.3f} ({low:.3f} .. {high:.3f})")
                found.setdefault(method, []).append({f"{what}, {name}": middle})
            if name != "ours":
                table.add_row(f"{'full' if method == 'none' else method}: {name}", *cells)
    console.print(table)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
