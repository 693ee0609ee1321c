from __future__ import annotations

import dataclasses
import json as json_format
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from .._errors import ConfigError
from . import _common as common


def passkey(
    model: common.Model,
    text: Annotated[
        str | None, typer.Option(metavar="FILE", help="Filler, UTF-8.", show_default="five sentences, repeated")
    ] = None,
    context: Annotated[str, typer.Option(metavar="NUMBERS", help="Lengths of the prompt in tokens.")] = "4096",
    methods: common.Methods = "sink,h2o,quest,lessismore",
    budgets: common.Budgets = "64,128,256,512,1024",
    depths: Annotated[int, typer.Option(min=1, help="Depths at which the key is hidden, evenly spread.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the keys.")] = 0,
    decode_question: Annotated[
        bool, typer.Option("--decode-question", help="Feed the question token by token, as Quest's program does.")
    ] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Without the model's chat template.")] = False,
    hide: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="What is hidden, with {key} for the key.",
            show_default="two sentences about a pass key",
        ),
    ] = None,
    ask: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="The question; may be empty.", show_default="What is the pass key?"),
    ] = None,
    begin: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The answer's first words.", show_default="The pass key is")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="JSON lines, one per answer; a run that ended early goes on.", show_default=False
        ),
    ] = None,
    threads: common.Threads = None,
    gpu_layers: common.GpuLayers = 0,
    json: common.Json = None,
) -> None:
    """Hide a five-digit key in a long text, ask for it at the end, and count the answers that have it.

    In the manner of the Quest paper's Table 1. The prompt is processed with full attention, the answer decoded greedily
    under each method and budget.
    """
    chosen = common.choices("--methods", methods)
    at = common.numbers("--budgets", budgets)
    lengths = common.numbers("--context", context)
    cases = common.grid(chosen, at)
    filler = None if text is None else common.read_text("--text", text)
    places = [round((i + 0.5) / depths, 6) for i in range(depths)]

    with common.opened(model, threads=threads, gpu_layers=gpu_layers) as session:
        from ..eval import FILLER, Wording, make_prompt, passkeys

        given = {"hide": hide, "ask": ask, "begin": begin}
        wording = Wording(**{name: words for name, words in given.items() if words is not None})

        settings = {
            "model": session.fingerprint,
            "text": text and os.path.basename(text),
            "seed": seed,
            "decode_question": decode_question,
            "plain": plain,
            "wording": dataclasses.asdict(wording),
        }
        # What one answer is kept under. Labels do not hold the budget.
        names = {id(method): (label, method.budget if method else None) for label, method in cases}
        labelled = [(_key(*names[id(method)]), method) for _, method in cases]
        answers = _earlier(out, settings)
        make = {"filler": filler or FILLER, "wording": wording, "seed": seed, "chat": not plain}
        for length in lengths:  # what is refused is refused before anything is run
            make_prompt(session, n_tokens=length, depth=places[0], **make)  # type: ignore[arg-type]

        def known(label: str, length: int, depth: float) -> bool:
            return (label, length, depth) in answers

        wanted = [(label, n, depth) for label, _ in labelled for n in lengths for depth in places]
        done, total = sum(key in answers for key in wanted), len(wanted)
        with common.progress() as update:
            update(done, total, "passkey")
            for answer in passkeys(
                session,
                labelled,
                contexts=lengths,
                depths=places,
                decode_question=decode_question,
                done=known,
                **make,  # type: ignore[arg-type]
            ):
                answers[answer.method, answer.context, answer.depth] = record = {
                    "method": answer.method,
                    "context": answer.context,
                    "depth": answer.depth,
                    "key": answer.key,
                    "answer": answer.answer,
                    "found": answer.found,
                    "settings": settings,
                }
                _append(out, record)
                done += 1
                update(done, total, f"{answer.method}, {answer.context} tokens")

        def share(label: str, length: int) -> float:
            return sum(answers[label, length, depth]["found"] for depth in places) / len(places)

        results = []
        for length in lengths:
            full = share(_key("full", None), length)
            table = common.table(["", *(f"B = {b}" for b in at)])
            table.add_row("full", *([f"{100 * full:.0f}"] * len(at)))
            results.append({"method": "full", "budget": None, "context": length, "found": full})
            for choice in chosen:
                row = [share(_key(choice.label, budget), length) for budget in at]
                table.add_row(choice.label, *(f"{100 * x:.0f}" for x in row))
                results += [
                    {"method": choice.label, "budget": b, "context": length, "found": x}
                    for b, x in zip(at, row, strict=True)
                ]
            common.show(common.console(), f"Keys found of {depths}, {length} tokens, in percent", table)
        common.write_json(json, "passkey", session, {**settings, "depths": depths}, results)


def _key(label: str, budget: int | None) -> str:
    return label if budget is None else f"{label} {budget}"


def _earlier(path: str | None, settings: dict[str, Any]) -> dict[tuple[str, int, float], Any]:
    """The answers of a run that ended early. A line that was cut short is left out, and ended for those that follow.

    Raises:
        ConfigError: The file is there and cannot be read.
    """
    found: dict[tuple[str, int, float], Any] = {}
    if path is None or not os.path.exists(path):
        return found
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
        if text and not text.endswith("\n"):
            with open(path, "a", encoding="utf-8") as file:
                file.write("\n")
    except OSError as error:
        raise ConfigError(f"--out {path}: {error.strerror or error}") from None
    for line in text.splitlines():
        try:
            record = json_format.loads(line)
            if record["settings"] == settings:
                found[record["method"], record["context"], record["depth"]] = record
        except (ValueError, KeyError, TypeError):
            continue
    return found


def _append(path: str | None, record: dict[str, Any]) -> None:
    if path is None:
        return
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json_format.dumps(record) + "\n")
    except OSError as error:
        raise ConfigError(f"--out {path}: {error.strerror or error}") from None
