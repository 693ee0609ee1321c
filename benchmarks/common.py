"""What the benchmarks share: ratios of measurements that took turns."""

from __future__ import annotations

import statistics

from rich.table import Table


class Ratios:
    """Ratios of rounds; each measurement's median, and the lowest and highest ratio of a single round."""

    def __init__(self) -> None:
        self.rows: list[dict[str, object]] = []

    def add(self, what: str, above: list[float], below: list[float], target: str) -> None:
        ratios = [a / b for a, b in zip(above, below, strict=True)]
        self.rows.append(
            {
                "what": what,
                "ratio": statistics.median(above) / statistics.median(below),
                "low": min(ratios),
                "high": max(ratios),
                "target": target,
            }
        )

    def add_exact(self, what: str, ratio: float, target: str) -> None:
        self.rows.append({"what": what, "ratio": ratio, "low": ratio, "high": ratio, "target": target})

    def table(self) -> Table:
        table = Table("measurement", "ratio", "rounds", "target")
        for r in self.rows:
            table.add_row(r["what"], f"{r['ratio']:.3f}", f"{r['low']:.3f} .. {r['high']:.3f}", r["target"])
        return table
