"""What Guardian's actions make of answers that run away: stopped at once, or decoded on with a larger budget.

    python benchmarks/escalation.py MODEL.gguf --run RUN [--methods quest] [--budgets 64]
    python benchmarks/escalation.py MODEL.gguf --data gsm8k.jsonl [--limit 60] [--methods quest] [--budgets 64]
    python benchmarks/escalation.py MODEL.gguf --poems [--limit 4] [--every 100 --threshold 8]
    python benchmarks/escalation.py MODEL.gguf --data gsm8k.jsonl --landing 64 [--limit 8]

Greedy. Each problem is answered once with Guardian; those that it stops are answered again with each escalation, the
same up to the alarm, and once with full attention. With --run they are the answers of a run of `lil eval` that ran into
the limit under the method and budget in question, and that the rule would have stopped. Up to the alarm these are
decoded as recorded: by itself a model need not write again what it wrote in a batch. --poems asks for poems of a
hundred lines instead, which small models begin to repeat, and of which none is right. With --landing every answer has a
thinking that the prompt opens and Guardian closes after that many tokens, with the beginning of the answer behind it:
at the end of a sentence, with a message before it, at once (grace 0), and what is there where the answer is simply cut.
Seconds are the processor's, of all threads.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections import deque
from contextlib import closing
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import lil
import numpy as np
from lil import Guardian
from lil._guardian import RULES
from lil.eval._chat import chat_text
from lil.eval.evaluation import SUFFIX
from lil.eval.judging import check_judge, judge
from lil.eval.records import case_label, read_answers
from lil.eval.replay import replay
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


@dataclass(frozen=True)
class Asked:
    problem: Problem
    prompt: list[int]
    begin: tuple[int, ...] = ()  # of the answer


class Reciting(lil.Llama):
    """A model whose answer begins with `begin`, greedily. What is taken back of that is not said again."""

    begin: deque[int]

    def sample(self, *args: Any, **kwargs: Any) -> int:
        if self.begin:
            lil.llama_cpp.llama_get_logits_ith(self.ctx, -1)[self.begin.popleft()] = np.finfo(np.float32).max
        return super().sample(*args, **kwargs)


@dataclass
class Result:
    text: str
    tokens: int
    seconds: float
    by_model: bool  # the model ended it, neither Guardian nor the cap
    alarmed: bool
    right: bool


def answer(llama: Reciting, asked: Asked, guardian: Guardian, cap: int) -> Result:
    llama.begin = deque(asked.begin)
    start = time.process_time()
    result: Any = llama.create_completion(asked.prompt, temperature=0, max_tokens=cap, guardian=guardian)
    seconds = time.process_time() - start
    choice = result["choices"][0]
    report = choice["guardian"]
    by_model = choice["finish_reason"] == "stop" and choice["stop_reason"] is None
    right = judge(choice["text"], asked.problem.answer).correct
    print(f"{asked.problem.id}: {report['tokens']} tokens, {report['events']}", file=sys.stderr)
    return Result(choice["text"], report["tokens"], seconds, by_model, report["alarmed"], right)


def ask(llama: lil.Llama, problems: list[Problem], *, tail: str = "") -> list[Asked]:
    session: Any = SimpleNamespace(llama=llama)
    texts = [chat_text(session, problem.question + (SUFFIX if problem.answer != NONE else "")) for problem in problems]
    return [Asked(problem, tokens(llama, f"{text}{tail}")) for problem, text in zip(problems, texts, strict=True)]


def tokens(llama: lil.Llama, text: str) -> list[int]:
    return llama.tokenize(text.encode(), add_bos=False, special=True)


def recorded(args: argparse.Namespace, llama: lil.Llama, case: str, rule: Guardian) -> tuple[int, list[Asked]]:
    """How many answers of a run ran away, and those that the rule would have stopped, as far as the alarm."""
    ran = [one for one in read_answers(args.run) if one.case == case and one.stop == "length"][: args.limit]
    if not ran:
        raise SystemExit(f"{args.run}: no answer of {case} ran into the limit; give another run, method or budget")
    alarms = [(one, replay(one, rule).tokens_at_alarm) for one in ran]
    return len(ran), [
        Asked(Problem(one.id, "", one.gold), tokens(llama, one.prompt), tuple(one.tokens[:n]))
        for one, n in alarms
        if n is not None
    ]


def escalation(args: argparse.Namespace) -> Table:
    table = Table("method, budget", "runaways of", "", "ended by the model", "right", "tokens", "seconds")
    common: dict[str, Any] = {"rule": args.rule, "every": args.every, "threshold": args.threshold}
    context: dict[str, Any] = {"n_ctx": args.cap + 1024, "n_threads": args.threads, "verbose": False}
    for name in args.methods.split(","):
        for budget in map(int, args.budgets.split(",")):
            with closing(Reciting(args.model, sparse=lil.METHODS[name](budget=budget), **context)) as llama:
                if args.run:
                    of, asked = recorded(args, llama, case_label(name, budget), Guardian(**common))
                else:
                    asked = ask(llama, chosen(args))
                    of = len(asked)
                for arm, what in ARMS.items():
                    results = [(one, answer(llama, one, Guardian(**common, **what), args.cap)) for one in asked]
                    asked = [one for one, result in results if result.alarmed]  # up to the alarm they are the same
                    alarmed = [result for _, result in results if result.alarmed]
                    add(table, f"{name}, {budget}", f"{len(alarmed)} of {of}", arm, alarmed)
            with closing(Reciting(args.model, **context)) as llama:
                anew = [Asked(one.problem, one.prompt) for one in asked]
                full = [answer(llama, one, Guardian(**common), args.cap) for one in anew]
                add(table, f"{name}, {budget}", f"{len(full)} of {of}", "full attention from the start", full)
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
    with closing(Reciting(args.model, n_ctx=args.cap + 1024, n_threads=args.threads, verbose=False)) as llama:
        asked = ask(llama, chosen(args), tail="<think>\n")
        for arm, guardian in arms.items():
            results = [answer(llama, one, guardian, args.cap) for one in asked]
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
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--landing", type=int, default=None, metavar="TOKENS")
    args = parser.parse_args()
    warnings.simplefilter("ignore", lil.CalibrationWarning)
    check_judge()

    if args.run is not None and args.landing is not None:
        parser.error("--landing wants problems of its own; give it --data")
    wide = [name for name, method in lil.METHODS.items() if issubclass(method, lil.Select)]
    if not set(args.methods.split(",")) <= set(wide):
        parser.error(f"--methods {args.methods}: only the select family can widen; give some of {','.join(wide)}")
    Console(width=120).print((escalation if args.landing is None else landing)(args))
    return 0


if __name__ == "__main__":
    sys.exit(main())
