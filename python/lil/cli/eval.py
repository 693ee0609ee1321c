from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .. import __version__
from .._errors import ConfigError
from . import _common as common

if TYPE_CHECKING:
    from ..eval.records import Answer

LINE_EVERY = 60.0  # seconds


def evaluate(
    task: Annotated[
        str, typer.Argument(metavar="TASK", help="gsm8k, math500, aime; with --data any name.", show_default=False)
    ],
    model: common.Model,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help='JSON lines, {"question": ..., "answer": ..., "id": ...} each.',
            show_default="the public data set",
        ),
    ] = None,
    methods: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="Methods, comma-separated, with options as in quest:first_page=true.",
            show_default="none",
        ),
    ] = "",
    budgets: common.Budgets = "64,128,256,512",
    full: Annotated[bool, typer.Option(help="Full attention too.")] = True,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 2048,
    limit: Annotated[
        int | None, typer.Option(min=1, help="The first problems only.", show_default="all problems")
    ] = None,
    temperature: Annotated[float, typer.Option(help="0: greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="1: off.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="0: off.")] = 0,
    min_p: Annotated[float, typer.Option(help="0: off.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
    parallel: Annotated[int, typer.Option(min=1, max=256, help="Problems that are answered at once.")] = 8,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="A system prompt.", show_default="the chat template's")
    ] = None,
    suffix: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="What follows each question.", show_default=r"think, and answer within \boxed{}"
        ),
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Without the model's chat template.")] = False,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="The run; one that ended early goes on.", show_default="named by task and model"
        ),
    ] = None,
    threads: common.Threads = None,
    gpu_layers: common.GpuLayers = 0,
    json: common.Json = None,
) -> None:
    """Ask a model the questions of a task, under each method and budget, and judge the answers.

    Every answer is on the disk as soon as it is there. The same command goes on where an earlier one ended; more
    methods, budgets or problems may be added to a run.
    """
    from ..eval.evaluation import SUFFIX, ask, machine, summarize
    from ..eval.evaluation import evaluate as answers_of
    from ..eval.generation import Sampling
    from ..eval.judging import check_judge
    from ..eval.records import AnswersFile, Run, case_label, extend_run, read_answers
    from ..eval.tasks import load_problems

    chosen = common.choices("--methods", methods) if methods.strip() else []
    at = common.numbers("--budgets", budgets)
    grid = common.grid(chosen, at)
    cases = list({case_label(label, m.budget if m else None): (label, m) for label, m in grid}.values())
    if not full:
        del cases[0]
    if not cases:
        raise ConfigError("--no-full without --methods leaves nothing to run; give methods, as in --methods quest,h2o")
    sampling = Sampling(temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p, seed=seed)
    check_judge()
    problems, source = load_problems(task, data)
    problems = problems[:limit]
    suffix = SUFFIX if suffix is None else suffix

    with common.opened(model, threads=threads, gpu_layers=gpu_layers) as session:
        name = os.path.basename(session.path)
        folder = out or f"{task}-{name.removesuffix('.gguf')}"
        asked = ask(session, problems, system=system, suffix=suffix, plain=plain)
        run = Run(
            task=task,
            model=name,
            fingerprint=session.fingerprint,
            methods=list(dict.fromkeys(label for label, _ in cases)),
            budgets=at if chosen else [],
            n_problems=len(problems),
            max_tokens=max_tokens,
            sampling=dataclasses.asdict(sampling),
            n_parallel=parallel,
            system=system,
            suffix=suffix,
            plain=plain,
            data=source,
            lil=__version__,
            machine=machine(session),
        )
        names = [case_label(label, method.budget if method else None) for label, method in cases]
        wanted = {(problem.id, case) for case in names for problem in problems}
        try:
            with AnswersFile(folder) as file:
                answers = {(answer.id, answer.case): answer for answer in read_answers(folder)}
                _check_same(folder, answers.values(), {one.problem.id: (one.text, one.problem.answer) for one in asked})
                extend_run(folder, run)
                kept = {key: answer for key, answer in answers.items() if key in wanted}
                with _progress(kept.values(), len(wanted)) as pace:
                    for answer in answers_of(
                        session,
                        cases,
                        asked,
                        max_tokens=max_tokens,
                        n_parallel=parallel,
                        sampling=sampling,
                        done=lambda id, case: (id, case) in kept,
                        tick=pace.tick,
                    ):
                        file.append(answer)
                        kept[answer.id, answer.case] = answer
                        pace.add(answer)
        except KeyboardInterrupt:
            n = sum((answer.id, answer.case) in wanted for answer in read_answers(folder))
            raise common.Interrupted(
                f"{n} of {len(wanted)} answers are in {folder}, and the same command goes on from there"
            ) from None

        by_case = {case: summarize([a for a in kept.values() if a.case == case]) for case in names}
        table = common.table(["", "n", "right, %", "95 %", "tokens", "at the limit, %"])
        for case, row in by_case.items():
            if row is not None:
                low, high = row.interval
                table.add_row(
                    case,
                    str(row.n),
                    f"{100 * row.accuracy:.1f}",
                    f"{100 * low:.1f} to {100 * high:.1f}",
                    f"{row.tokens:.0f}",
                    f"{100 * row.at_length:.1f}",
                )
        title = f"{task}, {name}: {len(problems)} problems, at most {max_tokens} tokens; answers in {folder}"
        common.show(common.console(), title, table)
        results = [{"case": case, **dataclasses.asdict(row)} for case, row in by_case.items() if row is not None]
        common.write_json(json, "eval", session, {**dataclasses.asdict(run), "out": folder}, results)


def _check_same(folder: str, answers: Iterable[Answer], asked: dict[str, tuple[str, str]]) -> None:
    """
    Raises:
        ConfigError: A recorded answer is to another question, or was judged by another answer.
    """
    for answer in answers:
        now = asked.get(answer.id)
        if now is not None and now != (answer.prompt, answer.gold):
            what = "prompt" if now[0] != answer.prompt else "right answer"
            raise ConfigError(f"{folder} holds answers to {answer.id} with another {what}; give another --out")


class Pace:
    """How long the rest of a run takes: answers left, times the tokens of an answer, by the tokens of a second.

    Args:
        tokens: Of the answers that are there.
        total: Answers that there will be.
        now: The time in seconds.
    """

    def __init__(self, tokens: list[int], total: int, now: float) -> None:
        self.total = total
        self.done = len(tokens)
        self.decoded = 0  # since the begin
        self.finished = 0  # of `decoded`, in answers that are done
        self._tokens = sum(tokens)
        self._begin = now

    def decode(self, n: int) -> None:
        self.decoded += n

    def finish(self, n: int) -> None:
        """An answer of n tokens is done."""
        self.done += 1
        self.finished += n
        self._tokens += n

    def speed(self, now: float) -> float:
        """Tokens a second."""
        return self.decoded / max(now - self._begin, 1e-9)

    def left(self, now: float) -> float | None:
        """Seconds; None before the first answer."""
        if not self.done or not self.decoded:
            return None
        tokens = (self.total - self.done) * self._tokens / self.done - (self.decoded - self.finished)
        return max(tokens, 0.0) / self.speed(now)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min" if minutes else "< 1 min"


class _Bar:
    """A `Pace` on the terminal; where standard error is none, a line now and then."""

    def __init__(self, bar: Progress, pace: Pace, check: Callable[[], None]) -> None:
        self._bar, self._pace, self._check = bar, pace, check
        self._task = bar.add_task("", total=pace.total, completed=pace.done, what="")
        self._written = time.monotonic()

    def tick(self, case: str, n: int) -> None:
        self._check()
        pace, now = self._pace, time.monotonic()
        pace.decode(n)
        what = f"left {_time(pace.left(now))}, {pace.speed(now):.0f} tokens/s"
        self._bar.update(self._task, description=case, completed=pace.done, what=what)
        if not self._bar.console.is_terminal and now > self._written + LINE_EVERY:
            self._written = now
            print(f"{case}: {pace.done} of {pace.total}, {what}", file=sys.stderr, flush=True)

    def add(self, answer: Answer) -> None:
        self._pace.finish(answer.n_tokens)


@contextmanager
def _progress(answers: Iterable[Answer], total: int) -> Iterator[_Bar]:
    stderr = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[what]}"),
        console=stderr,
        transient=True,
        disable=not stderr.is_terminal,
    )
    pace = Pace([answer.n_tokens for answer in answers], total, time.monotonic())
    with common.interrupts() as check, bar:
        yield _Bar(bar, pace, check)
