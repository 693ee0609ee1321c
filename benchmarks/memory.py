"""What a context really takes: resident memory by method and length of the context, and what it costs that memory comes
as tokens come.

    python benchmarks/memory.py MODEL.gguf [--threads 2] [--rounds 5] [--base PYTHON]

The resident memory of a process (Linux) is read after a chat of 500 tokens, and after prompts and the decode steps
behind them, every case in a process of its own. Then the times of a prompt and of decode steps beside another runtime,
in turn: stock `llama-cpp-python` of the pinned version, which takes all of a cache's memory when the context is made,
or with --base the `lil` that PYTHON imports, such as an earlier one. Every prompt follows a `clear`, so ours takes each
page anew.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

N_BATCH = 512
MIB = 2**20

# name -> method, its options; "full" is full attention with FlashAttention
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("", {}),
    "Sink": ("Sink", {}),
    "H2O": ("H2O", {}),
    "H2O, capacity 2048": ("H2O", {"capacity": 2048}),
    "Quest": ("Quest", {}),
    "InfLLM": ("InfLLM", {}),
    "LessIsMore": ("LessIsMore", {"reselect": 5}),
}


def resident() -> int:
    """Bytes of memory that this process takes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("benchmarks/memory.py reads /proc/self/status, which this system does not have")


class Worker:
    """What runs in a process of its own: a context that is fed tokens."""

    def __init__(self, args: argparse.Namespace) -> None:
        package: Any = __import__(args.package)
        name, options = METHODS[args.method]
        if name:
            options = {"sparse": getattr(package, name)(budget=args.budget, **options)}
        begin = time.perf_counter()
        self.llm = package.Llama(
            args.model, n_ctx=args.n_ctx, n_batch=N_BATCH, n_threads=args.threads, n_threads_batch=args.threads,
            flash_attn=True, verbose=False, **options,
        )  # fmt: skip
        self.made = time.perf_counter() - begin
        words = ("the river went under a bridge and nobody saw it but an old boat with two stones " * 2000).split()
        text = " ".join(word + str(i * i % 97) * (i % 5 == 0) for i, word in enumerate(words))
        self.tokens = self.llm.tokenize(text.encode())

    def clear(self) -> float:
        begin = time.perf_counter()
        self.llm._ctx.kv_cache_clear()
        self.llm.reset()
        return time.perf_counter() - begin

    def prompt(self, n: int) -> float:
        """Seconds of n tokens, behind those that are there."""
        seconds = 0.0
        for i in range(0, n, N_BATCH):
            batch = self.tokens[i : min(n, i + N_BATCH)]
            begin = time.perf_counter()
            self.llm.eval(batch)
            seconds += time.perf_counter() - begin
        return seconds

    def decode(self, n: int) -> float:
        """Mean seconds of n steps: a page that is taken in one of them counts."""
        begin = time.perf_counter()
        for i in range(n):
            self.llm.eval([self.tokens[i % 1000]])
        return (time.perf_counter() - begin) / n

    def memory(self) -> dict[str, int | None]:
        info = self.llm.sparse_info()
        return {"rss": resident(), "kv_bytes": info.kv_bytes, "kv_resident": info.kv_resident}

    def serve(self) -> None:
        for line in sys.stdin:
            name, *numbers = line.split()
            print(json.dumps(getattr(self, name)(*map(int, numbers))), flush=True)


class Remote:
    """A worker in a process of its own."""

    def __init__(
        self, args: argparse.Namespace, method: str, n_ctx: int, *, package: str = "lil", python: str = sys.executable
    ) -> None:
        command = [
            python,
            __file__,
            args.model,
            "--worker",
            "--package",
            package,
            "--method",
            method,
            "--n-ctx",
            str(n_ctx),
        ]
        command += ["--threads", str(args.threads), "--budget", str(args.budget)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, *what: object) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(" ".join(map(str, what)) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a worker ended early; its message is above")
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure_memory(args: argparse.Namespace, tick: Callable[[str], None]) -> list[dict[str, Any]]:
    """Every case in a process of its own: prompt tokens, then decode steps, then all of it removed."""
    cases = [("full", 1024, 400, 100), ("full", args.context, 400, 100)]
    cases += [
        ("H2O", args.context, 1100, 8),
        ("H2O", args.context, args.prompt, 8),
        ("H2O, capacity 2048", args.context, args.prompt, 8),
    ]
    cases += [(name, args.context, args.prompt, 8) for name in ("full", "Sink", "Quest", "InfLLM", "LessIsMore")]
    rows = []
    for method, n_ctx, n_prompt, n_steps in cases:
        tick(f"memory: {method}, n_ctx {n_ctx}, {n_prompt} tokens")
        run = Remote(args, method, n_ctx)
        fresh = run("memory")
        run("prompt", n_prompt)
        prompt = run("memory")
        run("decode", n_steps)
        row = {
            "method": method,
            "n_ctx": n_ctx,
            "prompt": n_prompt,
            "steps": n_steps,
            "fresh": fresh,
            "full": prompt,
            "after": run("memory"),
        }
        run("clear")
        rows.append(row | {"cleared": run("memory")})
        run.close()
    return rows


def measure_times(args: argparse.Namespace, ratios: Any, tick: Callable[[str], None]) -> None:
    base = {"python": args.base} if args.base else {"package": "llama_cpp"}
    what = "before" if args.base else "stock"
    for method in args.time:
        tick(f"time: {method}, ours and {what}")
        runs = {"ours": Remote(args, method, args.context), what: Remote(args, method, args.context, **base)}
        times: dict[str, dict[str, list[float]]] = {name: {} for name in runs}
        for run in runs.values():
            run("prompt", N_BATCH)
        for _ in range(args.rounds):
            for name in runs:
                times[name].setdefault("clear", []).append(runs[name]("clear"))
            for name in runs:
                times[name].setdefault("prompt", []).append(runs[name]("prompt", args.time_prompt))
            for _ in range(args.turns):
                for name in runs:
                    times[name].setdefault("decode", []).append(runs[name]("decode", args.steps))
        for run in runs.values():
            run.close()
        for key, label, target in (
            ("prompt", f"a prompt of {args.time_prompt}, every page taken anew", "<= 1.01"),
            ("decode", f"decode behind it, {args.steps} steps in turn", "<= 1.01"),
            ("clear", "clear", ""),
        ):
            ratios.add(f"{method}: {label}: ours / {what}", times["ours"][key], times[what][key], target)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model")
    parser.add_argument("--context", type=int, default=32768)
    parser.add_argument("--prompt", type=int, default=8192, help="tokens of the long prompt")
    parser.add_argument("--time-prompt", type=int, default=2048, help="tokens of the prompts that are timed")
    parser.add_argument("--budget", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turns", type=int, default=8, help="turns of decode steps in a round")
    parser.add_argument("--steps", type=int, default=8, help="decode steps of a turn")
    parser.add_argument("--base", metavar="PYTHON", help="an interpreter with another lil, to compare times with")
    parser.add_argument("--time", nargs="+", choices=METHODS, default=["full"], help="what is timed")
    parser.add_argument("--only", choices=("memory", "times"))
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    for name in ("--package", "--method"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--n-ctx", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        Worker(args).serve()
        return 0

    from common import Ratios
    from rich.console import Console
    from rich.table import Table

    console = Console()
    ratios = Ratios()
    rows: list[dict[str, Any]] = []

    def tick(text: str) -> None:
        console.print(text, style="dim")

    if args.only != "times":
        rows = measure_memory(args, tick)
        table = Table("method", "n_ctx", "prompt + steps", "fresh", "prompt", "steps", "cleared", "cache", "of")
        for row in rows:
            after = row["after"]
            table.add_row(
                row["method"], str(row["n_ctx"]), f"{row['prompt']} + {row['steps']}",
                *(f"{row[key]['rss'] / MIB:.0f}" for key in ("fresh", "full", "after", "cleared")),
                f"{after['kv_resident'] / MIB:.1f}", f"{after['kv_bytes'] / MIB:.0f}",
            )  # fmt: skip
        console.print(
            "resident memory, MiB, of the process (fresh, after the prompt, after the steps, cleared) and of its "
            "cache after the steps"
        )
        console.print(table)
        rss = [row["after"]["rss"] for row in rows]
        k, long = args.context // 1024, args.prompt // 1024
        ratios.add_exact(f"after a chat of 500 tokens: n_ctx {k}k / 1k", rss[1] / rss[0], "<= 1.05")
        ratios.add_exact(f"H2O at {k}k: after a prompt of {long}k / of 1.1k", rss[3] / rss[2], "<= 1.10")
        ratios.add_exact(
            f"H2O at {k}k after a prompt of {long}k: without / with capacity=2048", rss[3] / rss[4], "<= 1.10"
        )
    if args.only != "memory":
        measure_times(args, ratios, tick)

    console.print(f"{Path(args.model).name}, budget {args.budget}, {args.threads} threads")
    console.print(ratios.table())
    if args.json:
        args.json.write_text(json.dumps({"memory": rows, "ratios": ratios.rows}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
