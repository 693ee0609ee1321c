from __future__ import annotations

import math
import warnings
from importlib import resources
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from .. import _calibration
from .._errors import CalibrationWarning, ConfigError
from ..methods import METHODS, Reselect, Select
from . import _common as common

if TYPE_CHECKING:
    from ..eval import Calibration, Session, Timing

_METHODS = {"tidal": ["tidal"], "lessismore": ["lessismore"], "both": ["tidal", "lessismore"]}


def calibrate(
    model: common.Model,
    text: Annotated[
        str | None, typer.Option(metavar="FILE", help="A text, UTF-8.", show_default="one that comes with lil")
    ] = None,
    method: Annotated[str, typer.Option(metavar="NAME", help="tidal, lessismore or both.")] = "both",
    budget: Annotated[int, typer.Option(min=2, help="Tokens that a step attends to.")] = 128,
    prompt: Annotated[int, typer.Option(min=2, help="Tokens of the prompt.")] = 512,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens after it, on either text.")] = 250,
    screen: Annotated[int, typer.Option(min=2, help="Tokens that every layer is screened on.")] = 32,
    tries: Annotated[int, typer.Option(min=1, help="Layers that are really run, of each method.")] = 6,
    min_ctx: Annotated[
        bool,
        typer.Option("--min-ctx/--no-min-ctx", help="Also time from which length on the selecting methods are faster."),
    ] = False,
    max_context: Annotated[int, typer.Option(min=512, help="--min-ctx: the longest length.")] = 8192,
    save: Annotated[bool, typer.Option("--save/--no-save", help="Keep the result for this model.")] = True,
    threads: common.Threads = None,
    gpu_layers: common.GpuLayers = 0,
    json: common.Json = None,
) -> None:
    """Find the re-selection layer of TidalDecode and LessIsMore for a model, and keep it.

    Every layer is screened on the first tokens of a text that repeats its prompt. The best are tried on all of it and
    on a text that goes on, and the one is chosen whose loss exceeds that of full attention least, both texts added up.
    Takes minutes.
    """
    if method not in _METHODS:
        raise ConfigError(f"--method {method!r} is unknown; give tidal, lessismore or both")
    wanted = [METHODS[name](budget=budget) for name in _METHODS[method]]
    assert all(isinstance(m, Reselect) for m in wanted)
    if prompt < budget:
        raise ConfigError(f"--prompt {prompt} must be at least the budget, {budget}: shorter texts need no method")
    if text is None:
        words = (resources.files("lil") / "data" / "calibration.txt").read_text(encoding="utf-8")
    else:
        words = common.read_text("--text", text)
    console = common.console()

    with common.opened(model, threads=threads, gpu_layers=gpu_layers) as session:
        from .. import eval as measure

        every = session.tokenize(words)
        texts = measure.make_texts(every, n_prompt=prompt, n_tokens=tokens, n_bos=session.n_bos(every))
        with common.progress() as update:
            found = measure.calibrate(
                session,
                texts,
                wanted,  # type: ignore[arg-type]
                screen=screen,
                tries=tries,
                progress=update,
            )
        for calibration in found:
            _show(console, calibration)
        entries: dict[str, dict[str, Any]] = {c.method.name: c.entry for c in found}

        timings: dict[str, list[Timing]] = {}
        if min_ctx:
            timings = _times(session, every, budget, max_context)
            _show_times(console, timings, budget)
            for name, measured in timings.items():
                length = measure.break_even(measured)
                if length is not None:
                    entries.setdefault(name, {})["min_ctx"] = {
                        str(budget): 0 if length == measured[0].n_tokens else length
                    }
        if save:
            path = None
            for name, entry in entries.items():
                path = _calibration.save(session.fingerprint, name, entry)
            console.print(f"saved for {session.fingerprint} in {path}", soft_wrap=True)
        results = {
            "saved": entries,
            "candidates": {c.method.name: [vars(x) for x in c.candidates] for c in found},
            "full": found[0].full,
            "own": {c.method.name: c.own for c in found},
            "timings": {name: [vars(t) for t in measured] for name, measured in timings.items()},
        }
        options = {"text": text, "budget": budget, "prompt": prompt, "tokens": tokens, "screen": screen, "tries": tries}
        common.write_json(json, "calibrate", session, options, results)


def _show(console: Console, of: Calibration) -> None:
    from ..eval.calibration import DIFFUSE

    columns = ["layer", "mass after: plain", "recall", "mass before: plain", "recall", "screen",
               "perplexity: plain", "recall", "excess, nats"]  # fmt: skip
    out = common.table(columns)
    plain, recall = (f"{math.exp(x):.3f}" for x in of.full)
    out.add_row("full", "", "", "", "", "", plain, recall, "0")

    def share(x: float) -> str:
        return "" if math.isnan(x) else f"{x:.3f}"

    for c in of.candidates:
        screen = "" if c.screen is None else f"{math.exp(c.screen):.3f}"
        measured = ["", "", ""] if c.loss is None else [*(f"{math.exp(x):.3f}" for x in c.loss), f"{of.excess(c):.4f}"]
        style = "bold green" if c is of.best else None
        out.add_row(str(c.layer), *map(share, (*c.after, *c.before)), screen, *measured, style=style)
    name = type(of.method).__name__
    common.show(console, f"{name}, budget {of.method.budget}, {of.n_layer} layers", out)
    console.print(f"{name}(reselect={of.best.layer})")
    diffuse = [f"{i} ({min(shares):.0%})" for i, shares in enumerate(of.own) if min(shares) < DIFFUSE]
    if diffuse:
        console.print(
            f"Layers whose own {of.method.budget} tokens hold less than {DIFFUSE:.0%} of their attention: "
            f"{', '.join(diffuse)}. " + _propose(of)
        )
    console.print()


def _propose(of: Calibration) -> str:
    n = of.dense_layers
    if n == 0:
        return "None at the start."
    if n + 2 > of.n_layer:  # it would leave no layer that chooses and one that follows
        return "With these and the first ones dense, no two layers are left: use a larger budget, or Quest."
    return f"dense_layers={n} keeps the first ones dense."


def _times(session: Session, tokens: list[int], budget: int, longest: int) -> dict[str, list[Timing]]:
    from ..eval import step_times

    lengths = [n for n in (2**i for i in range(8, 24)) if budget < n <= longest]
    if not lengths:
        raise ConfigError(f"--max-context {longest} must be above the budget, {budget}")
    methods: list[Select] = []
    for m in METHODS.values():
        if issubclass(m, Select):
            try:
                methods.append(m(budget=budget))
            except ConfigError as error:  # its smallest budget is larger
                warnings.warn(f"not timed: {error}", CalibrationWarning, stacklevel=1)
    out: dict[str, list[Timing]] = {}
    with common.progress() as update:
        done = 0
        for method in methods:

            def tick(what: str = method.name) -> None:
                nonlocal done
                done += 1
                update(done, len(methods) * len(lengths), f"times, {what}")

            out[method.name] = step_times(session, method, tokens, lengths, tick=tick)
    return out


def _show_times(console: Console, timings: dict[str, list[Timing]], budget: int) -> None:
    from ..eval import break_even

    lengths = [t.n_tokens for t in next(iter(timings.values()))]
    out = common.table(["", *map(str, lengths), "min_ctx"])
    for name, measured in timings.items():
        length = break_even(measured)
        out.add_row(name, *(f"{t.sparse / t.dense:.2f}" for t in measured), "none" if length is None else str(length))
    common.show(console, f"A sparse step's time, budget {budget}, as a share of a dense one's, by length", out)
