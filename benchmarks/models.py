"""Decode steps of models beyond plain stacks, at a long context with a method and at a short one with full attention.

    python benchmarks/models.py MODEL.gguf [--context 32768] [--short 1024] [--budget 1024] [--rounds 7]
                                [--methods quest,lessismore] [--draft 4] [--repeat]

The models are random_gguf.py's (qwen3.5-2b, gpt-oss, deepseek-v2-lite): what they say means nothing. One process holds
the model and a context for each case; they take turns, round by round. Printed is the ratio of medians to full
attention at the short context, and the lowest and highest ratio of a round. The long context is evaluated once, with
full attention, and its state goes into each of the others; of large models only its first 2048 tokens (--repeat), which
stand at every place of it then. With --draft a step is a batch of one token and so many drafted ones, at the short
context too. Nothing else should run.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from common import Ratios
from lil.eval.bench_runtimes import Worker
from lil.methods import METHODS
from rich.console import Console

STEPS = 6

TARGETS = {"quest": "<= 1.10", "lessismore": "<= 1.18"}  # at 32k, budget 1024
TARGETS_MLA = dict.fromkeys(TARGETS, "<= 1.5")
TARGETS_DRAFT = dict.fromkeys(TARGETS, "<= 1.15")  # at 16k, four tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--context", type=int, default=32768)
    parser.add_argument("--short", type=int, default=1024)
    parser.add_argument("--budget", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--draft", type=int, default=0)
    parser.add_argument("--repeat", action="store_true", help="evaluate 2048 tokens only; not where no position moves")
    parser.add_argument("--mla", action="store_true", help="the targets of such models")
    parser.add_argument("--methods", default="quest,lessismore")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    cases: dict[str, tuple[int, dict[str, Any]]] = {"full, short": (args.short, {}), "full, long": (args.context, {})}
    for name in args.methods.split(","):
        if name not in METHODS:
            parser.error(f"--methods {name}: one of {', '.join(METHODS)}")
        cases[name] = (args.context, {"sparse": [METHODS[name].__name__, {"budget": args.budget}]})

    room = (2 + args.rounds * (STEPS + 1)) * (1 + args.draft)
    with (
        tempfile.TemporaryDirectory(prefix="lil-models-") as states,
        Worker("lil", args.model, threads=args.threads) as worker,
    ):
        for name, (n, options) in cases.items():
            state = str(Path(states) / str(n))
            worker("fill", n=n, state=state, options=options, slot=name, room=room, repeat=args.repeat)
            worker("decode", n=2, slot=name, back=True, draft=args.draft)
        times: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(args.rounds):
            for name in cases:
                worker("decode", n=1, slot=name, back=True, draft=args.draft)  # awake
                times[name].append(worker("decode", n=STEPS, slot=name, back=True, draft=args.draft))

    targets = TARGETS_DRAFT if args.draft else TARGETS_MLA if args.mla else TARGETS
    ratios = Ratios()
    for name, mine in times.items():
        ratios.add(f"{name} / full, short", mine, times["full, short"], targets.get(name, ""))
    console = Console()
    drafted = f", {args.draft} drafted" if args.draft else ""
    console.print(f"{Path(args.model).name}: {args.short} and {args.context} tokens, budget {args.budget}{drafted}")
    console.print(ratios.table())


if __name__ == "__main__":
    main()
