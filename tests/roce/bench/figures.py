"""What the samples of the benchmark come to, for its report and its log."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from cells import Cell, Sample


def figures(
    samples: Mapping[Cell, Mapping[str, Sequence[Sample | None]]],
) -> list[dict[str, Any]]:
    """A row for each cell, fit for JSON; None is a round in which a contender failed."""
    return [row(cell, found) for cell, found in samples.items()]


def row(cell: Cell, found: Mapping[str, Sequence[Sample | None]]) -> dict[str, Any]:
    have = {name: [one for one in each if one] for name, each in found.items()}
    have = {name: each for name, each in have.items() if each}
    return {
        "size": cell.size, "layout": cell.layout, "blocks": cell.blocks,
        "mb_per_second": {n: statistics.median(one.speed for one in s) for n, s in have.items()},
        "wire": {n: statistics.median(one.wire for one in s) for n, s in have.items()},
        "retries": {n: sum(one.retries for one in s) for n, s in have.items()},
        "samples": {n: [one and one.speed for one in s] for n, s in found.items() if n in have},
    }  # fmt: skip


def table(rows: list[dict[str, Any]], rounds: int) -> str:
    """Ratios are medians of the rounds' ratios to whoever of the others is best in the median."""
    lines = [
        f"MB/s, medians of {rounds} interleaved rounds, and ours over the best of the others; bytes "
        "on the wire for each moved; how often the NIC tried again, in all rounds",
        f"{'blocks':>19} {'':32} {'MB/s':>8} {'wire':>6} {'again':>6}",
    ]
    for each in rows:
        for name, speed in each["mb_per_second"].items():
            over = over_best(each) if name == "ours" else None
            lines.append(
                f"{each['size']:>8} {each['layout']:>10} {name:32} {speed:8.1f} "
                f"{each['wire'][name]:6.2f} {each['retries'][name]:6d}"
                + (f" {over:.2f}x" if over else "")
            )
    return "\n".join(lines)


def over_best(row: dict[str, Any]) -> float | None:
    speeds = row["mb_per_second"]
    others = [name for name in speeds if not name.startswith("ours")]
    if "ours" not in speeds or not others:
        return None
    best = max(others, key=lambda name: speeds[name])
    pairs = zip(row["samples"]["ours"], row["samples"][best], strict=False)
    ratios = [a / b for a, b in pairs if a and b]
    return statistics.median(ratios) if ratios else None
