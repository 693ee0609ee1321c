from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from .._errors import ConfigError
from . import _common as common

if TYPE_CHECKING:
    from ..eval.bench_rows import BenchRow
    from ..eval.bench_runtimes import Runtime

NONE = "none"
MIB = 1 << 20


def bench(
    model: common.Model,
    methods: common.Methods = "sink,h2o,quest,lessismore",
    budgets: common.Budgets = "512",
    contexts: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBERS",
            help="Lengths in tokens at which a step and the memory are measured.",
            show_default="those of 1024,4096,16384 that the model was trained for",
        ),
    ] = None,
    prompt: Annotated[
        int | None,
        typer.Option(min=0, help="Tokens of the prompt that is measured; 0: none.", show_default="1024"),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Repetitions, in which everything takes its turn.")] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Decode steps of a round.")] = 8,
    stock: Annotated[
        str | None,
        typer.Option(
            metavar="PYTHON",
            help="A Python that has llama-cpp-python, to measure it too; none: leave it out.",
            show_default="this one, where it has it",
        ),
    ] = None,
    ik: Annotated[
        str | None,
        typer.Option(
            metavar="PYTHON",
            help="A Python that has ik-llama-cpp-python, to measure it too; none: leave it out.",
            show_default="this one, where it has it",
        ),
    ] = None,
    threads: common.Threads = None,
    gpu_layers: common.GpuLayers = 0,
    json: common.Json = None,
    csv: Annotated[
        str | None, typer.Option("--csv", metavar="FILE", help="Write the results there too.", show_default=False)
    ] = None,
    plots: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Write plots there, as PNG and SVG.", show_default=False),
    ] = None,
) -> None:
    """Measure speed and memory of each method and budget, next to full attention and other runtimes.

    Time of a decode step at growing contexts, speed of a prompt, KV memory, peak memory. What is compared takes turns.
    """
    from .._native import lib
    from ..eval.bench import benchmark, keeps_n_ctx, make_plan, rare_cuts
    from ..eval.bench_plots import check_plots, write_plots
    from ..eval.bench_rows import write_csv
    from ..eval.bench_runtimes import PACKAGES, find_runtime

    chosen = common.choices("--methods", methods)
    at = common.numbers("--budgets", budgets)
    cases = common.grid(chosen, at)
    lengths = None if contexts is None else sorted(common.numbers("--contexts", contexts, least=16))
    if prompt is not None and 0 < prompt < 2:
        raise ConfigError(f"--prompt {prompt}: give at least 2 tokens, or 0 for no prompt")
    for option, path in (("--json", json), ("--csv", csv)):
        _check_file(option, path)
    if plots is not None:
        check_plots("--plots", plots)
    others = [
        found
        for kind, python in (("stock", stock), ("ik", ik))
        if python != NONE and (found := find_runtime(kind, python)) is not None
    ]

    plan = make_plan(
        model,
        cases,
        contexts=lengths,
        prompt=prompt,
        rounds=rounds,
        steps=steps,
        threads=threads or lib.lil_n_threads(),
        gpu_layers=gpu_layers,
        others=others,
    )
    with common.progress() as update:
        rows = benchmark(plan, tick=update)

    names = {runtime.kind: runtime.name for runtime in others}
    console = common.console()
    _tables(console, rows, names, rounds=rounds, steps=steps)
    for kind, package in PACKAGES.items():
        if kind not in names and {"stock": stock, "ik": ik}[kind] != NONE:
            _say(console, f"Not measured: {package.name}, which is not installed here; --{kind} PYTHON names another.")
    if unbounded := keeps_n_ctx(plan):
        label = unbounded[0]
        _say(
            console,
            f"{', '.join(unbounded)}: the cache has room for the whole context; "
            f"{label}:capacity={max(at) + 1024}, for one, makes it smaller.",
        )
    for label, every in rare_cuts(plan).items():
        _say(console, f"{label}: cuts its cache every {every} steps, which the median step does not show.")
    _say(
        console,
        '"of full" is divided by lil\'s full attention in the same run, which took turns with the others. Only these '
        "ratios mean much: absolute times are this machine's, at this hour.",
    )

    options = {
        "methods": methods,
        "budgets": at,
        "contexts": plan.contexts,
        "prompt": plan.prompt,
        "rounds": rounds,
        "steps": steps,
        "threads": plan.threads,
        "gpu_layers": gpu_layers,
        "runtimes": _versions(others),
    }
    common.write_json(json, "bench", plan, options, [row.to_record() for row in rows])
    if csv is not None:
        write_csv(csv, rows)
    if plots is not None:
        written = write_plots(plots, rows, title=os.path.basename(model), names=names)
        _say(console, f"Plots: {len(written)} files in {plots}")


def _check_file(option: str, path: str | None) -> None:
    """What takes long is not to end in a file that cannot be written.

    Raises:
        ConfigError: It is a folder, or is to be in one that is not there.
    """
    if path is None:
        return
    if Path(path).is_dir():
        raise ConfigError(f"{option} {path}: it is a directory; give a file")
    if not Path(path).parent.is_dir():
        raise ConfigError(f"{option} {path}: there is no directory {Path(path).parent}; make it, or give another file")


def _versions(others: Sequence[Runtime]) -> dict[str, str]:
    return {runtime.kind: runtime.version for runtime in others}


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True)


def _label(row: BenchRow, names: Mapping[str, str]) -> str:
    if row.runtime != "lil":
        return names[row.runtime]
    return row.case + (" (dense)" if row.dense else "")


def _ratio(row: BenchRow | None) -> str:
    return "" if row is None or row.ratio is None else f"{row.ratio:.2f}"


def _tables(console: Console, rows: Sequence[BenchRow], names: Mapping[str, str], *, rounds: int, steps: int) -> None:
    prompts = [row for row in rows if row.measure == "prompt"]
    if prompts:
        out = common.table(["", "tokens/s", "ms", "low .. high", "of full"])
        for row in prompts:
            spread = f"{1e3 * row.low:.1f} .. {1e3 * row.high:.1f}"
            speed, time = f"{row.context / row.value:.1f}", f"{1e3 * row.value:.1f}"
            out.add_row(_label(row, names), speed, time, spread, _ratio(row))
        common.show(console, f"A prompt of {prompts[0].context} tokens, median of {rounds}", out)

    found = {(row.runtime, row.case, row.context, row.measure): row for row in rows}
    for n in sorted({row.context for row in rows if row.measure == "decode"}):
        out = common.table(["", "ms", "low .. high", "of full", "tokens/s", "KV MiB", "of full", "peak MiB", "of full"])
        here = [row for row in rows if row.measure == "decode" and row.context == n]
        for row in here:
            kv, peak = (found.get((row.runtime, row.case, n, measure)) for measure in ("kv_bytes", "peak_bytes"))
            out.add_row(
                _label(row, names),
                f"{1e3 * row.value:.2f}",
                f"{1e3 * row.low:.2f} .. {1e3 * row.high:.2f}",
                _ratio(row),
                f"{1 / row.value:.1f}",
                "" if kv is None else f"{kv.value / MIB:.1f}",
                _ratio(kv),
                "" if peak is None else f"{peak.value / MIB:.0f}",
                _ratio(peak),
            )
        title = f"After {n} tokens: a decode step, median of {rounds} x {steps}; the cache; peak memory of the process"
        common.show(console, title, out)
        if any(row.dense for row in here):
            _say(console, "dense: a context within the budget, in which every step attends to everything.")
