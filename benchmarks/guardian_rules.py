"""Guardian's rules, and what others have, over made loops and sound texts (benchmarks/texts).

    python benchmarks/guardian_rules.py MODEL [--seeds 4] [--every 250] [--thresholds 10,30] [--families] [--dry]
                                        [--json FILE]

Of MODEL only the vocabulary is read: it says what a token is. The part "choose" of the set has the families that the
numbers of rule "text" were chosen on; the others say what they are worth. --thresholds has that rule with others than
20 as well, each of its rates so many 20ths: how far it is from missing loops and from cutting what is sound.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections import Counter
from pathlib import Path

from common import numbers
from lil import Guardian, Llama
from lil.eval.stops import Detector, Dry, GuardianStop, NGrams, ZlibRatio
from rich.console import Console
from rich.table import Table
from texts import PARTS, make_texts
from texts.measure import Score, make_samples, score


def detectors(every: int, thresholds: list[int], dry: bool) -> list[Detector]:
    """As `lil replay --compare` has them; DRY, which ends nothing, where asked for."""
    return [
        GuardianStop(guardian=Guardian(every=every, rule="paper")),
        GuardianStop(guardian=Guardian(every=every, rule="text")),
        *(GuardianStop(guardian=Guardian(every=every, rule="text", threshold=number)) for number in thresholds),
        NGrams(min_size=1, max_size=20, min_count=3),
        NGrams(min_size=4, max_size=128, min_count=4),
        NGrams(min_size=16, max_size=1024, min_count=4),
        ZlibRatio(window=224),
        *([Dry(least=10.0)] if dry else []),
    ]


def families(names: list[str]) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(Counter(names).items())) or "-"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--seeds", type=int, default=4, help="sets, from the seeds 0, 1, ...")
    parser.add_argument("--every", type=int, default=250)
    parser.add_argument("--thresholds", type=numbers, default=[], help='of rule "text", besides 20')
    parser.add_argument("--families", action="store_true", help="what was missed and cut, and each family's delays")
    parser.add_argument("--dry", action="store_true", help="DRY as well: some minutes")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    texts = [text for seed in range(args.seeds) for text in make_texts(seed)]
    samples = make_samples(texts, Llama(args.model, vocab_only=True, verbose=False))
    ways = detectors(args.every, args.thresholds, args.dry)
    console, record = Console(), []
    for part in PARTS:
        some = [sample for sample in samples if sample.text.part == part]
        table = Table("", "setting", "loops ended", "median delay, tokens", "sound texts cut", title=f"part: {part}")
        found: list[tuple[Detector, Score]] = [(one, score(one, some)) for one in ways]
        for detector, one in found:
            early = f", {one.n_early} before they began" if one.n_early else ""
            delay = "-" if one.delay is None else f"{one.delay:.0f}"
            table.add_row(
                detector.name,
                detector.settings,
                f"{one.n_ended} of {one.n_loops}{early}",
                delay,
                f"{len(one.cut)} of {one.n_sound}",
            )
            record.append(
                {"part": part, "name": detector.name, "settings": detector.settings, **dataclasses.asdict(one)}
            )
        console.print(table)
        if args.families:
            for detector, one in found:
                console.print(f"{detector.name}, {detector.settings}: missed {families(one.missed)}; cut "
                              f"{families(one.cut)}; delays {one.delays}", soft_wrap=True)  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
