"""What a method costs and saves on a model and a machine: time of a step, of a prompt, memory. Next to full attention.

Everything that is compared takes turns, round by round, so that a machine that slows down slows all of it:

- **decode steps** in one process per runtime, which holds the model once and a context for each method;
- **prompts** in a fresh process each, because where the weights and the cache come to lie in memory makes some percent
  of a prompt's time, and the median is to be one over such places;
- **peak memory** in a process of its own for each method.

A process is stopped while another has its turn.
"""

from __future__ import annotations

import dataclasses
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from .. import _calibration, llama_cpp
from .._context import full_info
from .._errors import CalibrationWarning, ConfigError
from ..methods import Evict, Method, Select
from ..methods.rkv import RKV
from ._session import Session
from .bench_rows import BenchRow
from .bench_runtimes import OURS, Runtime, Worker
from .bench_worker import N_BATCH, PEAK_STEPS

CONTEXTS = (1024, 4096, 16384)
PROMPT = 1024
LEAST = 16  # tokens of the shortest context

_PEAK_ROOM = N_BATCH + PEAK_STEPS  # positions of a context beyond its tokens

Tick = Callable[[int, int, str], None]


def _room(rounds: int, steps: int) -> int:
    return 2 + rounds * (steps + 1)


def _silent(done: int, total: int, what: str) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Case:
    """Something that is measured.

    Args:
        label: "full", or the method as the command line took it.
        method: None for full attention. Nothing in it is "auto" that a calibration knows.
        kv_bytes: Context -> bytes of its cache. Empty where full attention's is not known, or the runtime not ours.
    """

    runtime: Runtime
    label: str = "full"
    method: Method | None = None
    kv_bytes: dict[int, int] = field(default_factory=dict)

    @property
    def what(self) -> str:
        """For progress."""
        if self.method is not None:
            return f"{self.label}, budget {self.method.budget}"
        return "full" if self.runtime is OURS else self.runtime.name

    @property
    def options(self) -> dict[str, Any]:
        """As the worker takes them."""
        if self.method is None:
            return {}
        return {"sparse": [type(self.method).__name__, dataclasses.asdict(self.method)]}

    def state(self, n: int) -> str:
        """The name of the file with `n` tokens' keys and values. Those that can share one do."""
        if self.method is None or (isinstance(self.method, Select) and self.method.from_full):
            what = "full"
        else:
            what = f"{self.label}-{self.method.budget}"
        ours = self.runtime is OURS or (self.runtime.kind == "stock" and self.runtime.version == llama_cpp.__version__)
        return f"{'lil' if ours else self.runtime.kind}-{what}-{n}".replace(":", "-")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `benchmark` is to measure: checked, and accepted by the model. From `make_plan`.

    Args:
        path: The GGUF file.
        fingerprint: The name under which calibrations know the model.
        cases: lil's full attention first.
        contexts: Tokens.
        prompt: Tokens of the prompt; 0: none is measured.
    """

    path: str
    fingerprint: str
    cases: list[Case]
    contexts: list[int]
    prompt: int
    rounds: int
    steps: int
    threads: int
    gpu_layers: int


def make_plan(
    path: str,
    methods: Sequence[tuple[str, Method | None]],
    *,
    contexts: Sequence[int] | None = None,
    prompt: int | None = None,
    rounds: int = 5,
    steps: int = 8,
    threads: int,
    gpu_layers: int = 0,
    others: Sequence[Runtime] = (),
) -> Plan:
    """Loads the model once, and makes every context once, so that what is refused is refused before anything is run.

    Args:
        path: A GGUF file.
        methods: (label, method) each, ("full", None) first.
        contexts: Tokens. None: those of 1024, 4096 and 16384 that the model was trained for.
        prompt: Tokens. None: 1024, or the training length.
        rounds: Repetitions.
        steps: Decode steps of a round, of which the median counts.
        gpu_layers: -1: all.
        others: Runtimes beside lil; each measured with full attention.

    Raises:
        ModelError: The file is missing, or cannot be loaded.
        ConfigError: A context or prompt longer than the model was trained for; a method that cannot work.
        ContextError: The model does not go with a method.
    """
    with Session(path, n_threads=threads, n_gpu_layers=gpu_layers) as session:
        trained = session.llama._model.n_ctx_train()
        if contexts is None:
            contexts = [n for n in CONTEXTS if n <= trained] or [trained]
        if prompt is None:
            prompt = min(PROMPT, trained)
        for option, n in [*(("--contexts", n) for n in contexts), ("--prompt", prompt)]:
            if n > trained:
                raise ConfigError(f"{option} {n}: the model was trained for {trained} tokens; give at most {trained}")
        cases = []
        for label, method in methods:
            known = method
            if isinstance(method, Select) and method.uncalibrated:
                known = method.calibrated(_calibration.lookup(session.fingerprint, method))
            if known is not None:
                longest = max(*contexts, prompt) + max(_PEAK_ROOM, _room(rounds, steps))
                known.check_context(n_ctx=longest, n_ubatch=N_BATCH)
            cases.append(Case(runtime=OURS, label=label, method=known, kv_bytes=_kv_bytes(session, method, contexts)))
        if not cases[0].kv_bytes:  # what the others' would be compared with
            cases = [dataclasses.replace(case, kv_bytes={}) for case in cases]
        return Plan(
            path=path,
            fingerprint=session.fingerprint,
            cases=[*cases, *(Case(runtime=runtime) for runtime in others)],
            contexts=list(contexts),
            prompt=prompt,
            rounds=rounds,
            steps=steps,
            threads=threads,
            gpu_layers=gpu_layers,
        )


def _kv_bytes(session: Session, method: Method | None, contexts: Sequence[int]) -> dict[int, int]:
    """Bytes of the cache of each context, as allocated. Empty where they are not known."""
    found = {}
    for i, n in enumerate(contexts):
        with warnings.catch_warnings():
            if i:  # once is enough
                warnings.simplefilter("ignore", CalibrationWarning)
            with session.context(method, n_ctx=n) as context:
                info = context.info()
                if info is None:
                    info = full_info(context._native, session.llama.metadata, steps=0, tokens_read=0)
        if info.kv_bytes is None:
            return {}
        found[n] = info.kv_bytes
    return found


def benchmark(plan: Plan, *, tick: Tick = _silent) -> list[BenchRow]:
    """Measures a plan.

    Peak memory is that of a process whose context was filled cheaply, with one batch of a prompt and some steps after
    it. A long prompt in an evicting cache of n_ctx slots holds a little more for the while of the prompt.

    Args:
        tick: Called with what is done, of how much, and what comes next.

    Raises:
        NativeError: A process that measured ended; the message has its last words.
    """
    n_cases = len(plan.cases)
    total = len(plan.contexts) * (2 * n_cases + plan.rounds) + bool(plan.prompt) * plan.rounds * n_cases
    done = 0

    def next_is(what: str) -> None:
        nonlocal done
        tick(done, total, what)
        done += 1

    rows: list[BenchRow] = []
    if plan.prompt:
        rows += _prompts(plan, next_is)
    for n in plan.contexts:
        with tempfile.TemporaryDirectory(prefix="lil-bench-") as states:
            rows += _steps(plan, n, Path(states), next_is)
            rows += _memory(plan, n, Path(states), next_is)
    tick(total, total, "")
    return rows


def _worker(plan: Plan, runtime: Runtime) -> Worker:
    return Worker(runtime.kind, plan.path, threads=plan.threads, python=runtime.python, gpu_layers=plan.gpu_layers)


def _prompts(plan: Plan, next_is: Callable[[str], None]) -> list[BenchRow]:
    times: list[list[float]] = [[] for _ in plan.cases]
    for _ in range(plan.rounds):
        for case, into in zip(plan.cases, times, strict=True):
            next_is(f"prompt, {case.what}")
            with _worker(plan, case.runtime) as worker:
                into.append(worker("prompt", n=plan.prompt, options=case.options))
    return [_row(case, "prompt", plan.prompt, mine, times[0]) for case, mine in zip(plan.cases, times, strict=True)]


def _steps(plan: Plan, n: int, states: Path, next_is: Callable[[str], None]) -> list[BenchRow]:
    cases = list(enumerate(plan.cases))
    times: list[list[float]] = [[] for _ in cases]
    with ExitStack() as stack:
        workers = {
            runtime.kind: stack.enter_context(_worker(plan, runtime))
            for runtime in dict.fromkeys(case.runtime for case in plan.cases)
        }
        before = []
        for i, case in cases:
            next_is(f"filling {n} tokens, {case.what}")
            worker = workers[case.runtime.kind]
            state = str(states / case.state(n))
            worker("fill", n=n, state=state, options=case.options, slot=str(i), room=_room(plan.rounds, plan.steps))
            worker("decode", n=2, slot=str(i), back=True)  # the first one computes what a method keeps for pages
            before.append(worker("steps", slot=str(i)))
        for _ in range(plan.rounds):
            next_is(f"steps after {n} tokens")
            for i, case in cases:
                workers[case.runtime.kind]("decode", n=1, slot=str(i), back=True)  # awake
                times[i].append(workers[case.runtime.kind]("decode", n=plan.steps, slot=str(i), back=True))
        dense = [
            case.method is not None and workers[case.runtime.kind]("steps", slot=str(i)) == before[i]
            for i, case in cases
        ]
    return [_row(case, "decode", n, times[i], times[0], dense=dense[i]) for i, case in cases]


def _memory(plan: Plan, n: int, states: Path, next_is: Callable[[str], None]) -> list[BenchRow]:
    kv = [case.kv_bytes.get(n) for case in plan.cases]
    peak: list[int | None] = []
    for case in plan.cases:
        next_is(f"memory with {n} tokens, {case.what}")
        with _worker(plan, case.runtime) as worker:
            worker("fill", n=n, state=str(states / case.state(n)), options=case.options, room=_PEAK_ROOM)
            peak.append(worker("peak"))
    rows = []
    for measure, found in (("kv_bytes", kv), ("peak_bytes", peak)):
        for case, size in zip(plan.cases, found, strict=True):
            if size is not None and found[0] is not None:
                rows.append(_row(case, measure, n, [size], [found[0]]))
    return rows


def _row(
    case: Case, measure: str, n: int, values: Sequence[float], full: Sequence[float], *, dense: bool = False
) -> BenchRow:
    ratios = [mine / theirs for mine, theirs in zip(values, full, strict=True)]
    return BenchRow(
        runtime=case.runtime.kind,
        method=case.label,
        budget=None if case.method is None else case.method.budget,
        measure=measure,
        context=n,
        value=median(values),
        low=min(values),
        high=max(values),
        ratio=median(values) / median(full),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
        dense=dense,
    )


def rare_cuts(plan: Plan) -> dict[str, int]:
    """Label -> steps from one cut of the cache to the next, for methods whose usual step has none: R-KV."""
    return {case.label: case.method.buffer + 1 for case in plan.cases if isinstance(case.method, RKV)}


def keeps_n_ctx(plan: Plan) -> list[str]:
    """The labels of the evicting methods that were given no capacity, and so save no memory."""
    found = (case.label for case in plan.cases if isinstance(case.method, Evict) and case.method.capacity is None)
    return list(dict.fromkeys(found))
