from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from . import _common as common


def ppl(
    model: common.Model,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A text, UTF-8.", show_default=False)],
    methods: common.Methods = "sink,h2o,quest,lessismore",
    budgets: common.Budgets = "64,128,256",
    prompt: Annotated[int, typer.Option(min=2, help="Tokens of the prompt, which is processed densely.")] = 512,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens after it, fed one by one.")] = 400,
    repeat: Annotated[bool, typer.Option("--repeat", help="Repeat the prompt instead of going on: recall.")] = False,
    threads: common.Threads = None,
    gpu_layers: common.GpuLayers = 0,
    json: common.Json = None,
) -> None:
    """Perplexity of a text under each method and budget, next to full attention.

    The text is teacher-forced: the prompt at once, then token by token.
    """
    chosen = common.choices("--methods", methods)
    at = common.numbers("--budgets", budgets)
    cases = common.grid(chosen, at)
    text = common.read_text("FILE", file)

    with common.opened(model, threads=threads, gpu_layers=gpu_layers) as session:
        from ..eval import perplexity, recall_text, token_losses
        from ..eval.losses import check_length

        every = session.tokenize(text)
        n_bos = session.n_bos(every)
        check_length(every, n_prompt=prompt, n_tokens=0 if repeat else tokens)
        if repeat:
            sequence = recall_text(every, n_prompt=prompt, n_tokens=tokens, n_bos=n_bos)
        else:
            sequence = every[: prompt + tokens]
        n = len(sequence) - prompt

        results: list[dict[str, Any]] = []
        with common.progress() as update:
            done = 0
            for label, method in cases:
                what = label if method is None else f"{label}, budget {method.budget}"

                def tick(what: str = what) -> None:
                    nonlocal done
                    done += 1
                    update(done, n * len(cases), what)

                with session.context(method, n_ctx=len(sequence)) as context:
                    begin = time.perf_counter()
                    losses = token_losses(context.eval, sequence, n_prompt=prompt, tick=tick)
                    info = context.info()
                results.append(
                    {
                        "method": label,
                        "budget": method and method.budget,
                        "reselect": info and info.reselect,
                        "form": info and info.form,
                        "perplexity": perplexity(losses),
                        "loss": float(losses.mean()),
                        "sparse_steps": info.sparse_steps if info else 0,
                        "seconds": time.perf_counter() - begin,
                    }
                )

        what = "the prompt repeated" if repeat else "the text going on"
        out = common.table(["", *(f"B = {b}" for b in at)])
        full, *others = results
        out.add_row("full", *([f"{full['perplexity']:.2f}"] * len(at)))
        for i, choice in enumerate(chosen):
            row = others[i * len(at) : (i + 1) * len(at)]
            layers = {r["reselect"] for r in row} - {None}
            name = choice.label + (f" (c = {layers.pop()})" if len(layers) == 1 else "")
            out.add_row(name, *(f"{r['perplexity']:.2f}" for r in row))
        common.show(common.console(), f"Perplexity of {n} tokens after {prompt}, {what}", out)
        options = {"file": file, "prompt": prompt, "tokens": n, "repeat": repeat}
        common.write_json(json, "ppl", session, options, results)
