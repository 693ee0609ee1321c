"""How much faster `lil eval` is with several problems at once: tokens per second, against one at a time.

    python benchmarks/eval_parallel.py MODEL.gguf [--methods full,h2o,quest] [--budget 128] [--parallel 8] [--threads 2]

Everything counts: prompts, places that wait for the last answers, judging. The two take turns, in every round over
other problems; only ratios mean anything, and the range of the single rounds' ratios stands beside each.
"""

from __future__ import annotations

import argparse
import time
import warnings

from common import Ratios
from lil import CalibrationWarning
from lil.eval import Session
from lil.eval.evaluation import ask, evaluate
from lil.eval.tasks import Problem
from lil.methods import METHODS
from rich.console import Console
from rich.progress import Progress

NAMES = ("Ada", "Ben", "Chen", "Dara", "Eli", "Fatou", "Goran", "Hana")


def problem(i: int) -> Problem:
    name, boxes, each, price = NAMES[i % len(NAMES)], 3 + i % 7, 12 + i % 11, 2 + i % 5
    question = (
        f"{name} packs {boxes} boxes with {each} candles each. {i % 3 + 1} candles of every box break on the way to "
        f"the market. "
        f"{name} sells all the others for ${price} each, and pays $15 for the stall. How many dollars does {name} "
        f"take home?"
    )
    return Problem(str(i), question, str(boxes * (each - i % 3 - 1) * price - 15))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--methods", default="full,h2o,quest")
    parser.add_argument("--budget", type=int, default=128)
    parser.add_argument("--parallel", type=int, default=8)
    parser.add_argument(
        "--problems", type=int, default=16, help="of a round with several at once; 2 of them, one at a time"
    )
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    warnings.simplefilter("ignore", CalibrationWarning)

    ratios = Ratios()
    names = args.methods.split(",")
    with Session(args.model, n_threads=args.threads) as session, Progress(transient=True) as progress:
        task = progress.add_task("answering", total=len(names) * args.rounds)

        def speed(name: str, first: int, n: int, n_parallel: int) -> float:
            method = None if name == "full" else METHODS[name](budget=args.budget)
            asked = ask(session, [problem(i) for i in range(first, first + n)])
            begin = time.perf_counter()
            answers = evaluate(session, [(name, method)], asked, max_tokens=args.tokens, n_parallel=n_parallel)
            return sum(answer.n_tokens for answer in answers) / (time.perf_counter() - begin)

        for name in names:
            speed(name, 0, 1, 1)  # awake
            alone, beside = [], []
            for i in range(args.rounds):
                alone.append(speed(name, i * args.problems, 2, 1))
                beside.append(speed(name, i * args.problems, args.problems, args.parallel))
                progress.advance(task)
            target = ">= 2.50" if name == "full" and args.parallel == 8 else ""
            ratios.add(f"tokens/s: {name}, {args.parallel} at once / one at a time", beside, alone, target)
    Console(width=140).print(ratios.table())


if __name__ == "__main__":
    main()
