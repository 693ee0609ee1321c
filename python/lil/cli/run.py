from __future__ import annotations

import dataclasses
import sys
from typing import Annotated

import typer

from .._errors import ConfigError
from . import _common as common
from . import _talking as talking
from ._talk import Answer


def run(
    model: common.Model,
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="- or nothing: standard input.", show_default=False)
    ] = None,
    file: Annotated[
        list[str] | None,
        typer.Option(
            "--file", "-f", metavar="FILE", help="A text after the prompt; -: standard input.", show_default=False
        ),
    ] = None,
    system: talking.System = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the prompt as it is, without a chat template.")] = False,
    sparse: common.Sparse = None,
    guardian: common.Guarded = None,
    ctx: talking.Context = 8192,
    max_tokens: talking.MaxTokens = None,
    temp: talking.Temperature = 0.8,
    top_k: talking.TopK = 40,
    top_p: talking.TopP = 0.95,
    min_p: talking.MinP = 0.05,
    seed: talking.Seed = None,
    threads: common.Threads = None,
    gpu_layers: common.GpuLayers = 0,
    json: Annotated[
        str | None,
        typer.Option(
            "--json", metavar="FILE", help="Write answer and figures there; -: instead of the text.", show_default=False
        ),
    ] = None,
) -> None:
    """One answer, on standard output.

    git diff | lil run MODEL "A message for this commit:" -f -

    Thinking goes to standard error where that is a terminal, and is left out otherwise.
    """
    text = _prompt(prompt, file or [])
    if raw and system is not None:
        raise ConfigError("--system has no meaning with --raw, which uses no chat template; drop one of the two")
    talk = talking.opened(
        model,
        sparse=sparse,
        guardian=guardian,
        ctx=ctx,
        max_tokens=max_tokens,
        temp=temp,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=seed,
        threads=threads,
        gpu_layers=gpu_layers,
    )
    try:
        stops: list[str] = []
        thinks = False
        if raw:
            tokens = talk.llama.tokenize(text.encode())
        else:
            talking.check_template(talk, "--raw continues the prompt as it is")
            tokens, stops, thinks = talk.chat_prompt([*talking.messages(system), {"role": "user", "content": text}])
        answer = Answer()
        for thinking, piece in talk.answer(tokens, stops, thinks=thinks, into=answer):
            if thinking and sys.stderr.isatty():
                talking.show(piece, to=sys.stderr, dim=True)
            elif not thinking and json != "-":
                talking.show(piece, to=sys.stdout)
        if json != "-":
            print()
        for what in _ends(answer):
            print(f"lil: {what}", file=sys.stderr)
        methods = {"sparse": common.notation(talk.llama.sparse), "guardian": common.notation(talk.guardian)}
        options = {"prompt": text, "system": system, "raw": raw, **methods}
        results = {**dataclasses.asdict(answer), "sparse": dataclasses.asdict(talk.llama.sparse_info())}
        common.write_json(json, "run", talk, options, results)
        if answer.interrupted:
            raise KeyboardInterrupt
    finally:
        talk.close()


def _prompt(prompt: str | None, files: list[str]) -> str:
    """The prompt and what comes after it.

    Raises:
        ConfigError: Nothing, not UTF-8, standard input twice, or a file that cannot be read.
    """
    names = [*(["-"] if prompt == "-" or (prompt is None and not files) else []), *files]
    if names.count("-") > 1:
        raise ConfigError("-: standard input can be read once; drop one of the two")
    if "-" in names and sys.stdin.isatty():
        print("lil: reading the prompt from standard input, to its end (Ctrl-D)", file=sys.stderr)
    parts = [] if prompt in (None, "-") else [str(prompt)]
    for name in names:
        parts.append(common.read_text("-f", name) if name != "-" else _standard_input())
    text = "\n\n".join(part.strip("\n") for part in parts)
    if not text.strip():
        raise ConfigError("the prompt is empty; give one as an argument, with -f FILE, or on standard input")
    return text


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError:
        raise ConfigError("standard input: not UTF-8 text") from None


def _ends(answer: Answer) -> list[str]:
    """What is to be said of how an answer ended."""
    said = [f"Guardian {what}" for what in answer.guardian_did]
    if answer.stop_reason == "guardian":
        said.append(f"Guardian ended the answer after {answer.n_tokens} tokens")
    if answer.finish_reason == "length":
        said.append(f"the answer was cut after {answer.n_tokens} tokens (--max-tokens, --ctx)")
    return said
