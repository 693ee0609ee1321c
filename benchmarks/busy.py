"""Decode and prompts on a machine that does something else, beside stock llama-cpp-python.

    python benchmarks/busy.py MODEL.gguf [--threads 2] [--rounds 3] [--seconds 2] [--methods none,h2o,quest]

Needs stock `llama-cpp-python` of the pinned version beside `lil-cpp`, and a POSIX system. Every runner is a process of
its own and is stopped while others have their turn. In each round every scenario is played with every runner in turn:

    idle            nothing else runs
    1 busy          one other process computes
    1 on each core  as many as there are threads
    2 on each core  twice as many
    2 models        a second model in the same process generates as well: tokens of both together
    2 processes     a second process with the same model generates as well: tokens of both together

Every figure is tokens per second by those of another runner or scenario of the same round; medians over the rounds, and
the lowest and highest of a round.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROMPT = 512  # tokens of a prompt that is measured
START = 128  # tokens before the steps that are measured
STEPS = 256  # steps before they begin again from START


def other_processes(threads: int) -> dict[str, int]:
    return {"idle": 0, "1 busy": 1, "1 on each core": threads, "2 on each core": 2 * threads}


# ---------------------------------------------------------------------------------------------------------------------
# A process with one or two models
# ---------------------------------------------------------------------------------------------------------------------


def make_llama(runner: str, model: str, threads: int) -> Any:
    options = {"n_ctx": 1024, "n_threads": threads, "n_threads_batch": threads, "flash_attn": True, "verbose": False}
    if runner == "stock":
        import llama_cpp

        return llama_cpp.Llama(model, **options)
    import lil

    return lil.Llama(model, sparse=None if runner == "none" else runner, **options)


def decode(llm: Any, tokens: list[int], seconds: float) -> float:
    """Tokens per second."""
    llm.reset()
    llm.eval(tokens[:START])
    n, begin = 0, time.perf_counter()
    while (now := time.perf_counter()) - begin < seconds:
        if llm.n_tokens >= START + STEPS:
            llm.n_tokens = START
        llm.eval([tokens[n % len(tokens)]])
        n += 1
    return n / (now - begin)


def note_rate(rates: list[float], llm: Any, tokens: list[int], seconds: float) -> None:
    rates.append(decode(llm, tokens, seconds))


def prompt(llm: Any, tokens: list[int], seconds: float) -> float:
    """Tokens per second."""
    n, begin = 0, time.perf_counter()
    while (now := time.perf_counter()) - begin < seconds:
        llm.reset()
        llm.eval(tokens[:PROMPT])
        n += PROMPT
    return n / (now - begin)


def serve(args: argparse.Namespace) -> int:
    """Answers `decode SECONDS`, `prompt SECONDS`, `both SECONDS` (two models decode at once) with tokens per second."""
    llm = make_llama(args.worker, args.model, args.threads)
    text = Path(__file__).read_text() * 3
    tokens = llm.tokenize(text.encode())[:PROMPT]
    second: list[Any] = []
    decode(llm, tokens, 0.3)
    print("ready", flush=True)
    for line in sys.stdin:
        what, seconds = line.split()
        if what == "both":
            if not second:
                second.append(make_llama(args.worker, args.model, args.threads))
                decode(second[0], tokens, 0.3)
            rates: list[float] = []
            threads = [
                threading.Thread(target=note_rate, args=(rates, one, tokens, float(seconds)))
                for one in (llm, second[0])
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            print(sum(rates), flush=True)
        else:
            print({"decode": decode, "prompt": prompt}[what](llm, tokens, float(seconds)), flush=True)
    return 0


class Worker:
    """A process that serves, stopped while it has nothing to do."""

    def __init__(self, runner: str, args: argparse.Namespace, env: dict[str, str] | None = None) -> None:
        command = [sys.executable, __file__, args.model, "--worker", runner, "--threads", str(args.threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self.read()
        self.stop()

    def read(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a worker ended with status {self.process.wait()}")
        return line

    def ask(self, what: str, seconds: float) -> None:
        assert self.process.stdin
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(f"{what} {seconds}\n")
        self.process.stdin.flush()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def rate(self, what: str, seconds: float) -> float:
        self.ask(what, seconds)
        rate = float(self.read())
        self.stop()
        return rate

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


# ---------------------------------------------------------------------------------------------------------------------
# Measuring
# ---------------------------------------------------------------------------------------------------------------------


@contextmanager
def busy(n: int) -> Iterator[None]:
    """n other processes that compute."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    if n:
        time.sleep(0.2)
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def play(
    workers: dict[str, Worker], twins: dict[str, Worker], args: argparse.Namespace
) -> dict[tuple[str, str], float]:
    """One round: tokens per second by (scenario, runner)."""
    rates = {}
    for scenario, n in other_processes(args.threads).items():
        for runner, worker in workers.items():
            with busy(n):
                # the number of threads is found within a second or two
                worker.rate("decode", args.settle if n else 0.5)
                rates[scenario, runner] = worker.rate("decode", args.seconds)
    for runner, worker in workers.items():
        rates["prompt", runner] = worker.rate("prompt", args.seconds)
        worker.rate("both", args.settle)
        rates["2 models", runner] = worker.rate("both", args.seconds)
        for seconds in (args.settle, args.seconds):
            for one in (worker, twins[runner]):
                one.ask("decode", seconds)
            rates["2 processes", runner] = float(worker.read()) + float(twins[runner].read())
        worker.stop()
        twins[runner].stop()
    return rates


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--methods", default="none", help="comma-separated; none: full attention")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one measurement")
    parser.add_argument("--settle", type=float, default=3.0, help="seconds of a scenario before it is measured")
    parser.add_argument("--json", type=Path, help="also write the rates to this file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return serve(args)

    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    console = Console()
    names = ["stock", *args.methods.split(",")]
    workers = {name: Worker(name, args) for name in names}
    twins = {name: Worker(name, args) for name in names}
    try:
        rounds = [play(workers, twins, args) for _ in track(range(args.rounds), "rounds", console=console)]
    finally:
        for worker in (*workers.values(), *twins.values()):
            worker.close()

    def ratio(above: tuple[str, str], below: tuple[str, str]) -> str:
        ratios = [r[above] / r[below] for r in rounds]
        return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} .. {max(ratios):.2f})"

    labels = {name: "stock" if name == "stock" else "full" if name == "none" else name for name in names}
    table = Table("", *(f"{labels[name]} / idle" for name in names), *(f"{labels[name]} / stock" for name in names[1:]))
    for scenario in [*other_processes(args.threads), "2 models", "2 processes", "prompt"]:
        own = ["" if scenario in ("idle", "prompt") else ratio((scenario, n), ("idle", n)) for n in names]
        table.add_row(scenario, *own, *(ratio((scenario, n), (scenario, "stock")) for n in names[1:]))
    size = f"{args.threads} threads, {args.rounds} rounds of {args.seconds:g} s"
    console.print(f"{Path(args.model).name}, {size}; tokens per second")
    console.print(table)
    if args.json:
        rows = [{f"{scenario}, {labels[name]}": rate for (scenario, name), rate in r.items()} for r in rounds]
        args.json.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
