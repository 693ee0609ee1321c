"""What the benchmarks share: measurements that take turns, ratios of them, and the frame around both."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lil.eval.bench_runtimes import Worker
from rich.console import Console
from rich.progress import Progress
from rich.table import Table


class Ratios:
    """Ratios of rounds; each measurement's median, and the lowest and highest ratio of a single round."""

    def __init__(self) -> None:
        self.rows: list[dict[str, object]] = []

    def add(self, what: str, above: list[float], below: list[float], target: str) -> None:
        ratios = [a / b for a, b in zip(above, below, strict=True)]
        self.rows.append(
            {
                "what": what,
                "ratio": statistics.median(above) / statistics.median(below),
                "low": min(ratios),
                "high": max(ratios),
                "target": target,
            }
        )

    def add_exact(self, what: str, ratio: float, target: str) -> None:
        self.rows.append({"what": what, "ratio": ratio, "low": ratio, "high": ratio, "target": target})

    def table(self) -> Table:
        table = Table("measurement", "ratio", "rounds", "target")
        for r in self.rows:
            table.add_row(r["what"], f"{r['ratio']:.3f}", f"{r['low']:.3f} .. {r['high']:.3f}", r["target"])
        return table


def name_of(n: int) -> str:
    return f"{n // 1024}k" if n % 1024 == 0 else str(n)


def new_worker(args: argparse.Namespace, kind: str) -> Worker:
    """A process with the model: of "lil", "stock", or "ik", for which args.ik names the Python."""
    return Worker(kind, args.model, threads=args.threads, python=args.ik if kind == "ik" else sys.executable)


def decode_in_turns(
    args: argparse.Namespace, what: str, workers: Mapping[str, Worker], progress: Progress
) -> dict[str, list[float]]:
    """Each worker's time of a decode step, a value a round of args.steps. Closes them."""
    times: dict[str, list[float]] = {name: [] for name in workers}
    task = progress.add_task(f"decode at {what}", total=args.rounds)
    for _ in range(args.rounds):
        for name, worker in workers.items():
            worker("decode", n=1)  # awake
            times[name].append(worker("decode", n=args.steps))
        progress.advance(task)
    for worker in workers.values():
        worker.close()
    return times


def prompts_in_turns(
    args: argparse.Namespace, n: int, runs: Mapping[str, tuple[str, dict[str, Any]]], progress: Progress
) -> dict[str, list[float]]:
    """The time of a prompt of n tokens, args.prompt_rounds values for each run, which is a worker's kind and options.

    Each value has a process of its own: where memory comes to lie makes some percent of it.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    task = progress.add_task(f"prompts of {name_of(n)}", total=args.prompt_rounds * len(runs))
    for _ in range(args.prompt_rounds):
        for name, (kind, options) in runs.items():
            worker = new_worker(args, kind)
            times[name].append(worker("prompt", n=n, options=options))
            worker.close()
            progress.advance(task)
    return times


def make_parser(doc: str, *, contexts: str, rounds: int, steps: int) -> argparse.ArgumentParser:
    """The arguments that the benchmarks of decode steps and prompts have in common."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--contexts", default=contexts)
    parser.add_argument("--prompt-rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--steps", type=int, default=steps, help="decode steps of a round")
    parser.add_argument("--ik", metavar="PYTHON", help="a Python with ik-llama-cpp-python")
    parser.add_argument("--states", type=Path, help="keep the filled contexts here, for the next run")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    return parser


def report(args: argparse.Namespace, note: str, measure: Callable[[Ratios, Progress, Path], None]) -> None:
    """Runs measure(ratios, progress, folder of states), prints the ratios and writes them to args.json."""
    console = Console()
    ratios = Ratios()
    with tempfile.TemporaryDirectory() as temporary, Progress(console=console) as progress:
        states = args.states or Path(temporary)
        states.mkdir(parents=True, exist_ok=True)
        measure(ratios, progress, states)
    console.print(f"{Path(args.model).name}, {note}{args.threads} threads, {args.rounds} rounds of {args.steps} steps")
    console.print(ratios.table())
    if args.json:
        args.json.write_text(json.dumps(ratios.rows, indent=1))


def numbers(text: str) -> list[int]:
    """ "1024,4096" as numbers; nothing is none."""
    return [int(word) for word in text.split(",") if word]
