"""python -m lil.demo [MODEL] [--budget N] [--max-tokens N]

One question, answered with full attention, Sink and H2O, with and without Guardian; then an answer that runs into a
loop, which Guardian ends. Greedy, so that every run writes the same.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from . import H2O, Guardian, LilError, Llama, Sink
from .methods import Evict

QUESTION = "Explain how rain forms, and why it falls in drops."
LOOP = "Write a poem about the sea that has one hundred lines."
MODELS = (".cache/models/SmolLM2-135M-Instruct.Q4_1.gguf",)


@dataclass
class Answer:
    """One row of a table."""

    attention: str
    guardian: bool
    tokens: int = 0
    seconds: float = 0.0  # from the first token to the last, so without the prompt
    kv_resident: int | None = None
    end: str = "running"
    text: str = ""

    @property
    def rate(self) -> float:
        return (self.tokens - 1) / self.seconds if self.seconds else 0.0


def table(title: str, answers: list[Answer]) -> Table:
    out = Table(title=title, title_justify="left", title_style="bold")
    for name, justify in (
        ("attention", "left"),
        ("Guardian", "left"),
        ("tokens", "right"),
        ("tokens/s", "right"),
        ("KV memory", "right"),
        ("ended by", "left"),
    ):
        out.add_column(name, justify=justify)  # type: ignore[arg-type]
    for answer in answers:
        out.add_row(
            answer.attention,
            "on" if answer.guardian else "off",
            str(answer.tokens),
            f"{answer.rate:.1f}",
            "?" if answer.kv_resident is None else f"{answer.kv_resident / 2**20:.1f} MiB",
            Text(answer.end, style={"running": "dim", "Guardian": "bold green"}.get(answer.end, "")),
        )
    return out


@contextmanager
def opened(model: str, n_ctx: int, sparse: Evict | None) -> Iterator[Llama]:
    llama = Llama(model, n_ctx=n_ctx, n_batch=256, n_ubatch=256, flash_attn=True, sparse=sparse, verbose=False)
    try:
        yield llama
    finally:
        llama.close()


def ask(llama: Llama, question: str, answer: Answer, max_tokens: int) -> Iterator[None]:
    """Fills in `answer` while it is written; yields after each token."""
    begin = None
    for chunk in llama.create_chat_completion(
        [{"role": "user", "content": question}],
        temperature=0,
        max_tokens=max_tokens,
        stream=True,
        guardian=Guardian() if answer.guardian else False,
    ):
        choice = chunk["choices"][0]
        now = time.perf_counter()
        if piece := choice["delta"].get("content"):
            begin = begin or now
            answer.seconds = now - begin
            answer.tokens += 1
            answer.text += piece
        if choice["finish_reason"] is not None:
            names = {"stop": "end of answer", "length": "token limit"}
            by_guardian = choice.get("stop_reason") == "guardian"
            answer.end = "Guardian" if by_guardian else names[choice["finish_reason"]]
        answer.kv_resident = llama.sparse_info().kv_resident  # it grows with the answer
        yield


def show(console: Console, title: str, llama: Llama, question: str, rows: list[Answer], row: Answer, most: int) -> None:
    """Asks once more, with the table and the end of the answer on the terminal meanwhile."""
    rows.append(row)
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        shown = 0.0
        for _ in ask(llama, question, row, most):
            now = time.perf_counter()
            if now - shown > 0.12:
                shown = now
                tail = " ".join(row.text.split())[-(console.width - 8) :]
                grid = Table.grid()
                grid.add_row(table(title, rows))
                grid.add_row(Text(f"... {tail}", style="dim"))
                live.update(grid)
    if not console.is_terminal:
        console.print(f"{row.attention}, Guardian {'on' if row.guardian else 'off'}: {row.tokens} tokens, {row.end}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lil.demo", description=__doc__.split("\n\n", 1)[1])
    parser.add_argument("path", nargs="?", metavar="MODEL", help="a GGUF file of an instruction-tuned model")
    parser.add_argument("--model", metavar="MODEL", help="the same")
    parser.add_argument("--budget", type=int, default=256, help="tokens that a sparse step attends to (%(default)s)")
    parser.add_argument("--max-tokens", type=int, default=600, help="limit of an answer (%(default)s)")
    parser.add_argument("--n-ctx", type=int, default=4096, help="context length (%(default)s)")
    options = parser.parse_args(argv)
    console = Console()

    model = options.path or options.model or os.environ.get("LIL_TEST_MODEL")
    model = model or next((path for path in MODELS if os.path.exists(path)), None)
    if model is None:
        parser.error("no model: give the path of a GGUF file")

    capacity = options.budget + 256
    try:
        methods: list[tuple[str, Evict | None]] = [
            ("full", None),
            (f"Sink, budget {options.budget}", Sink(budget=options.budget, capacity=capacity)),
            (f"H2O, budget {options.budget}", H2O(budget=options.budget, capacity=capacity)),
        ]
        console.print(f"model    {os.path.basename(model)}, context {options.n_ctx}, {os.cpu_count()} cores, greedy")
        console.print(f"question {QUESTION}\n")
        title = "One question, six ways"
        rows: list[Answer] = []
        for name, method in methods:
            with opened(model, options.n_ctx, method) as llama:
                for guardian in (False, True):
                    row = Answer(name, guardian)
                    show(console, title, llama, QUESTION, rows, row, options.max_tokens)
        console.print(table(title, rows))

        console.print(f"\nquestion {LOOP}\n")
        title = "An answer that goes round in circles"
        rows = []
        with opened(model, options.n_ctx, None) as llama:
            for guardian in (False, True):
                show(console, title, llama, LOOP, rows, Answer("full", guardian), max(options.max_tokens, 1000))
        console.print(table(title, rows))
        console.print(Text("It ended with:\n" + rows[-1].text[-260:].strip(), style="dim"))
        saved = rows[0].tokens - rows[1].tokens
        console.print(f"\nGuardian left {saved} tokens unwritten that held nothing new.")
    except LilError as error:
        console.print(f"lil.demo: {error}", style="red", highlight=False)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
