"""The tables of docs/gpu.md from what a kit's run.sh wrote on a machine with a GPU.

python scripts/gpu_results.py RESULTS.json            print them
python scripts/gpu_results.py RESULTS.json --write    put them into docs/gpu.md, between the two marks there
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent.parent / "docs" / "gpu.md"
BEGIN, END = "<!-- gpu_results: begin -->", "<!-- gpu_results: end -->"

# what the project wants of it: (what, tokens of the context, lowest ratio to full attention's speed)
ATTENTION_TARGETS = [("Quest", 32768, 5.0), ("Quest", 131072, 10.0), ("Sink", 2048, 1 / 1.05), ("H2O", 2048, 1 / 1.05)]
DECODE_TARGET = 1.6  # times full attention's speed at 128k
BANDWIDTH_TARGET = 0.6  # of a copy's


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def kilo(n: int) -> str:
    return f"{n // 1024}k"


def parts_table(parts: list[dict[str, Any]]) -> str:
    def says(part: dict[str, Any]) -> str:
        data = part.get("data") or {}
        words = part.get("why") or data.get("says") or "; ".join(v for v in data.values() if isinstance(v, str))
        return str(words).splitlines()[0] if words else ""

    return table(["part", "", "seconds", ""], [[p["name"], p["status"], p["seconds"], says(p)] for p in parts])


def attention_table(rows: list[dict[str, Any]]) -> str:
    return table(
        ["context", "attention of a layer", "us", "times full attention's speed", "of a copy's bandwidth"],
        [
            [
                kilo(r["context"]),
                r["what"],
                f"{r['us']:.1f}",
                f"{r['ratio']:.2f} ({r['ratio_low']:.2f} to {r['ratio_high']:.2f})",
                f"{100 * r['share']:.0f} %",
            ]
            for r in rows
        ],
    )


def decode_table(rows: list[dict[str, Any]]) -> str:
    return table(
        ["context", "CUDA graphs", "method", "ms a token", "of full attention's time"],
        [
            [
                kilo(r["context"]),
                "on" if r["graphs"] else "off",
                r["method"],
                f"{1000 * r['seconds']:.2f}",
                f"{r['ratio']:.3f} ({r['low']:.3f} to {r['high']:.3f})",
            ]
            for r in rows
        ],
    )


def targets_table(attention: list[dict[str, Any]], decode: list[dict[str, Any]]) -> str:
    found: list[list[str]] = []

    def add(what: str, wanted: str, got: float | None, least: float) -> None:
        verdict = "not measured" if got is None else "met" if got >= least else "missed"
        found.append([what, wanted, "" if got is None else f"{got:.2f}", verdict])

    for what, n, least in ATTENTION_TARGETS:
        got = next((r["ratio"] for r in attention if r["what"] == what and r["context"] == n), None)
        add(f"{what}, attention at {kilo(n)}", f"{least:.2f} x full attention's speed", got, least)
    at_128k = [r for r in decode if r["context"] == 131072 and r["graphs"] and r["method"] == "Quest"]
    add("Quest, decode at 128k", f"{DECODE_TARGET} x", 1 / at_128k[0]["ratio"] if at_128k else None, DECODE_TARGET)
    list_128k = [r for r in attention if r["what"] == "our kernel, all tokens" and r["context"] == 131072]
    got = list_128k[0]["share"] if list_128k else None
    add("our kernel at 128k", f"{BANDWIDTH_TARGET} of a copy's bandwidth", got, BANDWIDTH_TARGET)
    return table(["target", "wanted", "measured", ""], found)


def render(results: dict[str, Any]) -> str:
    machine, parts = results["machine"], results["parts"]

    def rows(name: str) -> list[dict[str, Any]]:
        return next(((p.get("data") or {}).get("rows", []) for p in parts if p["name"] == name), [])

    attention, decode = rows("attention"), rows("decode")
    where = machine["gpu"] or "no GPU: a rehearsal, whose figures mean nothing"
    pieces = [f"{where}; Python {machine['python']}, kit {machine['kit']}.", parts_table(parts)]
    if attention or decode:
        pieces.append(targets_table(attention, decode))
    if attention:
        pieces.append(attention_table(attention))
    if decode:
        pieces.append(decode_table(decode))
    return "\n\n".join(pieces)


def write(page: Path, text: str) -> None:
    """Puts `text` between the marks.

    Raises:
        ValueError: The page lacks the marks.
    """
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page}: needs the lines {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    try:
        results = json.loads(args.results.read_text(encoding="utf-8"))
        text = render(results)
    except OSError as error:
        parser.error(f"{args.results}: {error.strerror}")
    except (ValueError, KeyError, TypeError) as error:
        parser.error(f"{args.results}: not what run.sh writes ({error!r})")
    if not args.write:
        print(text)
    elif results["small"]:
        sys.exit("lil: these are a rehearsal's; docs/gpu.md is for a GPU's")
    else:
        write(PAGE, text)


if __name__ == "__main__":
    main()
