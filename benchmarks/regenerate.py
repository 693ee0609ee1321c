"""What going back to a prompt costs: the first token of another answer to the same prompt, as a share of the first's.

    python benchmarks/regenerate.py MODEL.gguf --text FILE [--context 8192] [--methods sink,h2o,tova,rkv] [--threads 2]

The evicting methods drop tokens for the answer; what another one needs comes back from the kept end of the prompt. Both
must be the same text. One run each, of a copy against a whole prompt.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from lil import METHODS, Llama
from rich.console import Console
from rich.table import Table

N_ANSWER = 16


def answer(llm: Llama, prompt: list[int]) -> tuple[float, list[int]]:
    """Seconds to the first token, and the answer."""
    begin = time.perf_counter()
    stream = llm.generate(prompt, temp=0.0)
    tokens = [next(stream)]
    seconds = time.perf_counter() - begin
    tokens += [next(stream) for _ in range(N_ANSWER - 1)]
    stream.close()
    return seconds, tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--methods", default="sink,h2o,tova,rkv")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    table = Table("method", "another answer / the first", "the same text")
    for name in args.methods.split(","):
        llm = Llama(
            args.model,
            n_ctx=args.context + 2 * N_ANSWER,
            sparse=METHODS[name](),
            n_threads=args.threads,
            n_threads_batch=args.threads,
            verbose=False,
        )
        prompt = llm.tokenize(args.text.read_bytes())[: args.context]
        (first, wanted), (again, got) = answer(llm, prompt), answer(llm, prompt)
        table.add_row(name, f"{again / first:.4f}", str(got == wanted))
        llm.close()
    Console().print(table)


if __name__ == "__main__":
    main()
