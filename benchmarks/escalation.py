"""What Guardian's actions make of answers that run away: stopped at once, or decoded on with a larger budget.

    python benchmarks/escalation.py MODEL.gguf --run RUN [--methods quest] [--budgets 64]
    python benchmarks/escalation.py MODEL.gguf --data gsm8k.jsonl [--limit 60] [--methods quest] [--budgets 64]
    python benchmarks/escalation.py MODEL.gguf --poems [--limit 4] [--every 100 --threshold 8]
    python benchmarks/escalation.py MODEL.gguf --data gsm8k.jsonl --landing 64 [--limit 8]

Greedy. Each problem is answered once with Guardian; those that it stops are answered again with each escalation: up to
the alarm they are the same. With --run the problems are those whose answers ran into the limit in a run of `lil eval`,
under the method and budget in question. --poems asks for poems of a hundred lines instead, which small models begin to
repeat, and of which none is right. With --landing every answer has a thinking that the prompt opens and Guardian closes
after that many tokens, with the beginning of the answer behind it: at the end of a sentence, with a message before it,
at once (grace 0), and what is there where the answer is simply cut.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from contextlib import closing
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import lil
from lil import Guardian
from lil._guardian import RULES
from lil.eval._chat import chat_text
from lil.eval.evaluation import SUFFIX
from lil.eval.judging import judge
from lil.eval.records import case_label, read_answers
from lil.eval.tasks import Problem, load_problems
from rich.console import Console
from rich.table import Table

ARMS: dict[str, dict[str, Any]] = {
    "stopped at once": {},
    "2 x the budget, then stop": {"action": ("widen", "stop")},
    "everything, then stop": {"action": ("widen", "stop"), "widen": None},
    "the tail taken back, everything, then stop": {"action": ("widen", "stop"), "widen": None, "rewind": True},
}
SUBJECTS = ("sea", "moon", "forest", "winter", "city", "river", "desert", "night")
NONE = "none"
ANSWER = "</think>\n\nThe final answer is \\boxed{"
MESSAGE = "\nI have thought enough and give the answer now.\n"


@dataclass
class Result:
    text: str
    tokens: int
    seconds: float
    by_model: bool  # the model ended it, neither Guardian nor the cap
    alarmed: bool
    right: bool


def answer(llama: lil.Llama, problem: Problem, prompt: list[int], guardian: Guardian, cap: int) -> Result:
    start = time.perf_counter()
    result: Any = llama.create_completion(prompt, temperature=0, max_tokens=cap, guardian=guardian)
    seconds = time.perf_counter() - start
    choice = result["choices"][0]
    report = choice["guardian"]
    by_model = choice["finish_reason"] == "stop" and choice["stop_reason"] is None
    right = judge(choice["text"], problem.answer).correct
    return Result(choice["text"], report["tokens"], seconds, by_model, report["alarmed"], right)


def prompts(llama: lil.Llama, problems: list[Problem], *, tail: str = "") -> list[list[int]]:
    session: Any = SimpleNamespace(llama=llama)
    texts = [chat_text(session, problem.question + (SUFFIX if problem.answer != NONE else "")) for problem in problems]
    return [llama.tokenize(f"{text}{tail}".encode(), add_bos=False, special=True) for text in texts]


def asked_of(args: argparse.Namespace, llama: lil.Llama, name: str, budget: int) -> list[tuple[Problem, list[int]]]:
    """The problems and their prompts."""
    if args.run is None:
        problems = chosen(args)
        return list(zip(problems, prompts(llama, problems), strict=True))
    case = case_label(name, budget)
    ran = [one for one in read_answers(args.run) if one.case == case and one.stop == "length"][: args.limit]
    if not ran:
        raise SystemExit(f"{args.run}: no answer of {case} ran into the limit; give another run, method or budget")
    problems = [Problem(one.id, "", one.gold) for one in ran]
    return [
        (problem, llama.tokenize(one.prompt.encode(), add_bos=False, special=True))
        for problem, one in zip(problems, ran, strict=True)
    ]


def escalation(args: argparse.Namespace) -> Table:
    table = Table("method, budget", "runaways of", "", "ended by the model", "right", "tokens", "seconds")
    for name in args.methods.split(","):
        for budget in map(int, args.budgets.split(",")):
            method = lil.METHODS[name](budget=budget)
            with closing(lil.Llama(args.model, n_ctx=args.cap + 1024, sparse=method, verbose=False)) as llama:
                asked = asked_of(args, llama, name, budget)
                of = len(asked)
                for arm, what in ARMS.items():
                    guardian = Guardian(rule=args.rule, every=args.every, threshold=args.threshold, **what)
                    results = [(p, t, answer(llama, p, t, guardian, args.cap)) for p, t in asked]
                    asked = [(p, t) for p, t, result in results if result.alarmed]  # up to the alarm they are the same
                    alarmed = [result for _, _, result in results if result.alarmed]
                    add(table, f"{name}, {budget}", f"{len(alarmed)} of {of}", arm, alarmed)
    return table


def landing(args: argparse.Namespace) -> Table:
    # the first alarm comes after so many tokens, whatever they say; then only the model ends the answer
    common: dict[str, Any] = {
        "every": args.landing,
        "rule": "paper",
        "threshold": 1e9,
        "on_alarm": lambda alarm: None if alarm.alarms == 1 else "flag",
    }
    close: Any = "close_think"
    arms = {
        "stopped": Guardian(rule="paper", every=args.landing, threshold=1e9),
        "closed at once": Guardian(**common, action=close, think_end=ANSWER, grace=0),
        "landed": Guardian(**common, action=close, think_end=ANSWER),
        "landed, with a message": Guardian(**common, action=close, think_end=ANSWER, message=MESSAGE),
    }
    table = Table("thinking", "answers of", "", "ended by the model", "right", "tokens", "seconds")
    with closing(lil.Llama(args.model, n_ctx=args.cap + 1024, verbose=False)) as llama:
        problems = chosen(args)
        asked = list(zip(problems, prompts(llama, problems, tail="<think>\n"), strict=True))
        for arm, guardian in arms.items():
            results = [answer(llama, p, t, guardian, args.cap) for p, t in asked]
            whole = sum(bool(r.text.partition("</think>")[2].strip()) and r.by_model for r in results)
            add(table, f"{args.landing} tokens", f"{len(results)}, {whole} whole", arm, results)
    return table


def chosen(args: argparse.Namespace) -> list[Problem]:
    poems = [Problem(s, f"Write a poem about the {s} that has one hundred lines.", NONE) for s in SUBJECTS]
    return (poems if args.poems else load_problems("gsm8k", args.data)[0])[: args.limit]


def add(table: Table, what: str, of: str, arm: str, results: list[Result]) -> None:
    n = max(1, len(results))
    table.add_row(
        what,
        of,
        arm,
        str(sum(r.by_model for r in results)),
        str(sum(r.right for r in results)),
        f"{sum(r.tokens for r in results) / n:.0f}",
        f"{sum(r.seconds for r in results) / n:.1f}",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--run", help="a folder that lil eval wrote")
    group.add_argument("--data", help="GSM8K as JSON lines")
    group.add_argument("--poems", action="store_true")
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--methods", default="quest")
    parser.add_argument("--budgets", default="64")
    parser.add_argument("--cap", type=int, default=2048)
    parser.add_argument("--rule", choices=RULES, default=Guardian().rule)
    parser.add_argument("--every", type=int, default=Guardian().every)
    parser.add_argument("--threshold", type=float, default=Guardian().threshold)
    parser.add_argument("--landing", type=int, default=None, metavar="TOKENS")
    args = parser.parse_args()
    warnings.simplefilter("ignore", lil.CalibrationWarning)

    if args.run is not None and args.landing is not None:
        parser.error("--landing wants problems of its own; give it --data")
    Console(width=120).print((escalation if args.landing is None else landing)(args))
    return 0


if __name__ == "__main__":
    sys.exit(main())
