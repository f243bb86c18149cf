"""MB/s between the two emulated hosts: ours beside upstream's wheel and ib_write_bw.

Runs on host 1 of the lab. All contenders are measured in turn, round by round, so that what else
happens on the machine happens to each of them. Prints a table of medians and writes all samples to
ROCE_OUT/bench.json. ROCE_ROUNDS and ROCE_SECONDS change how much is measured.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from contenders import MEMORY, REPOSITORY, BenchError, Cell, Engines, WriteBandwidth

SIZES = (512, 4 << 10, 64 << 10, 1 << 20)
CELLS = [Cell(size, layout) for layout in ("contiguous", "scattered") for size in SIZES]
PYTHONS = {
    "ours": REPOSITORY / "build/venv/bin/python",
    "upstream": REPOSITORY / "build/venv-upstream/bin/python",
}
Samples = dict[Cell, dict[str, list[float]]]


def offsets(cell: Cell) -> tuple[list[int], list[int]]:
    """Where the blocks of a cell are, here and there. Of scattered ones no two are neighbours in
    the list and in both memories."""
    if cell.layout == "contiguous":
        same = [i * cell.size for i in range(cell.blocks)]
        return same, same
    slots = range(MEMORY // cell.size)
    pick = random.Random(cell.size)
    here, there = (pick.sample(slots, cell.blocks) for _ in range(2))
    return [i * cell.size for i in here], [i * cell.size for i in there]


def start(out: Path, absent: dict[str, str]) -> list[Engines]:
    engines = []
    for name, python in PYTHONS.items():
        try:
            engines.append(Engines(name, python, out))
        except BenchError as error:
            absent[name] = str(error)
    return engines


def measure(
    engines: list[Engines], perftest: WriteBandwidth, rounds: int, seconds: float,
    absent: dict[str, str],
) -> Samples:  # fmt: skip
    """Whoever fails twice in a row is absent from then on."""
    samples: Samples = {cell: {} for cell in CELLS}

    def one(name: str, cell: Cell, call: Callable[[], float]) -> None:
        for attempt in (1, 2):
            try:
                samples[cell].setdefault(name, []).append(call())
                return
            except BenchError as error:
                if attempt == 2:
                    absent[name] = f"{cell.size} B {cell.layout}: {error}"

    def write_bandwidth(cell: Cell) -> float:
        perftest.aim(cell)
        return perftest.measure(cell.size)

    def engine(contender: Engines, cell: Cell) -> float:
        contender.aim(cell, *offsets(cell))
        return contender.measure(seconds)

    for number in range(rounds):
        for cell in CELLS:
            # It has no scattered blocks.
            if perftest.name not in absent and cell.layout == "contiguous":
                one(perftest.name, cell, partial(write_bandwidth, cell))
            for contender in engines:
                if contender.name not in absent:
                    one(contender.name, cell, partial(engine, contender, cell))
        print(f"round {number + 1} of {rounds} is done", flush=True)
    return samples


def medians(samples: Samples) -> list[dict[str, object]]:
    rows = []
    for cell, speeds in samples.items():
        found = {name: statistics.median(values) for name, values in speeds.items()}
        rows.append({"size": cell.size, "layout": cell.layout, "blocks": cell.blocks,
                     "mb_per_second": found, "samples": speeds})  # fmt: skip
    return rows


def table(rows: list[dict[str, object]]) -> str:
    names = ("ours", "upstream", "ib_write_bw")
    lines = [
        "MB/s, medians of interleaved rounds",
        f"{'blocks':>20} " + " ".join(f"{name:>12}" for name in names) + "  ours / best other",
    ]
    for row in rows:
        speeds = row["mb_per_second"]
        assert isinstance(speeds, dict)
        cells = " ".join(f"{speeds[n]:12.1f}" if n in speeds else f"{'-':>12}" for n in names)
        others = [speed for name, speed in speeds.items() if name != "ours"]
        ratio = f"{speeds['ours'] / max(others):17.2f}x" if others and "ours" in speeds else ""
        lines.append(f"{row['size']!s:>8} {row['layout']!s:>11} {cells} {ratio}")
    return "\n".join(lines)


def main() -> int:
    long = bool(os.environ.get("ROCE_LONG"))
    rounds = int(os.environ.get("ROCE_ROUNDS", 7 if long else 3))
    seconds = float(os.environ.get("ROCE_SECONDS", 2.0 if long else 1.0))
    out = Path(os.environ["ROCE_OUT"])
    absent: dict[str, str] = {}
    perftest = WriteBandwidth(out)
    engines = start(out, absent)
    try:
        samples = measure(engines, perftest, rounds, seconds, absent)
    finally:
        for contender in engines:
            contender.close()
    rows = medians(samples)
    best = {size: f"-q {pairs} -t {depth}" for size, (pairs, depth) in perftest.best.items()}
    facts = {"rounds": rounds, "seconds": seconds, "kernel": os.uname().release,
             "ib_write_bw": best, "absent": absent}  # fmt: skip
    (out / "bench.json").write_text(json.dumps({"facts": facts, "cells": rows}, indent=1) + "\n")
    print(table(rows))
    print("ib_write_bw's best:", ", ".join(f"{size} B {how}" for size, how in best.items()))
    for name, reason in absent.items():
        print(f"{name} is absent: {reason}")
    return int("ours" in absent)


if __name__ == "__main__":
    sys.exit(main())
