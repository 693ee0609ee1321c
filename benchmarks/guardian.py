"""What Guardian costs: microseconds per token, memory, and against recompressing the text with zlib as the paper does.

    python benchmarks/guardian.py [--tokens 131072] [--every 250] [--text FILE]

The text counts 4 bytes a token, about what a BPE vocabulary makes of English. Without --text it is generated: words by
a fixed random walk, which compresses like prose.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import zlib
from pathlib import Path

import lil
from lil._text_rule import TextRule
from rich.console import Console
from rich.table import Table

BYTES_PER_TOKEN = 4


def make_prose(n: int, seed: int = 1) -> bytes:
    """n bytes that compress about as prose does: a vocabulary of 4,000 words with Zipf's frequencies."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("etaoinshrdlucmfw", k=rng.randint(2, 9))) for _ in range(4000)]
    weights = [1 / (i + 3) for i in range(len(words))]
    out: list[str] = []
    size = 0
    while size < n:
        sentence = " ".join(rng.choices(words, weights, k=rng.randint(5, 18))).capitalize() + ". "
        out.append(sentence)
        size += len(sentence)
    return "".join(out).encode()[:n]


def make_loop(n: int) -> bytes:
    """n bytes: 2,000 of prose, then one paragraph of it again and again."""
    start = make_prose(2000)
    unit = start[-311:]
    return (start + unit * (n // len(unit) + 1))[:n]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=131072)
    parser.add_argument("--every", type=int, default=250)
    parser.add_argument("--text", type=Path)
    args = parser.parse_args()

    n = args.tokens * BYTES_PER_TOKEN
    texts = {"prose": make_prose(n), "loop": make_loop(n)}
    if args.text:
        data = args.text.read_bytes()
        texts[args.text.name] = (data * (n // len(data) + 1))[:n]

    table = Table(
        "text",
        "us per token",
        'with rule "text"',
        "bytes of memory per byte",
        "check: LZ77 us",
        "check: zlib us",
        "zlib / LZ77, last check",
        "zlib / LZ77, all checks",
    )
    step = args.every * BYTES_PER_TOKEN

    for name, text in texts.items():
        lz, rule = lil.LZ77(), TextRule()
        total = zlib_total = rule_total = before = 0.0
        last: list[tuple[float, float]] = []
        for i in range(0, n, step):
            chunk = text[i : i + step]
            t0 = time.perf_counter()
            lz.feed(chunk)
            _ = lz.size
            t1 = time.perf_counter()
            len(zlib.compress(text[: i + len(chunk)]))
            t2 = time.perf_counter()
            total += t1 - t0
            zlib_total += t2 - t1
            last.append((t1 - t0, t2 - t1))

            # the rule's own part, which looks twice as often
            growth, before = (lz.size - before) / 2, lz.size
            t3 = time.perf_counter()
            for part in (chunk[: step // 2], chunk[step // 2 :]):
                rule.feed(part)
                rule.check(growth)
            rule_total += time.perf_counter() - t3
        # the last checks alone: the state of a text of this length
        tail = last[-20:]
        own, other = sorted(a for a, _ in tail)[len(tail) // 2], sorted(b for _, b in tail)[len(tail) // 2]
        table.add_row(
            name, f"{1e6 * total / args.tokens:.3f}", f"{1e6 * (total + rule_total) / args.tokens:.3f}",
            f"{lz.memory / n:.1f}", f"{1e6 * own:.0f}", f"{1e6 * other:.0f}",
            f"{other / own:.0f}", f"{zlib_total / total:.0f}",
        )  # fmt: skip

    console = Console()
    console.print(f"{args.tokens} tokens of {BYTES_PER_TOKEN} bytes, a check every {args.every}")
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
