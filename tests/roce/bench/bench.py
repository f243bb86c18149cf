"""MB/s between the two emulated hosts: ours beside upstream's wheel and ib_write_bw.

Runs on host 1 of the lab. All contenders are measured in turn, round by round, so that what else
happens on the machine happens to each of them. An engine's bytes are compared before each
measurement, and must have gone over the rail. Prints a table of medians and writes all samples to
ROCE_OUT/bench.json.

ROCE_ROUNDS, ROCE_SECONDS and ROCE_SIZES, such as "4096 65536", change what is measured;
ROCE_MINUTES after how long no further round begins. ROCE_VARIANTS are variables with which ours is
measured once more, such as "MC_MAX_WR=64 MC_RDMA_QUEUE_PAIRS=2": two more contenders.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from cells import CELLS, BenchError
from engines import REPOSITORY, Engines
from figures import figures, table
from rounds import Contender, Rounds
from write_bw import WriteBandwidth

PYTHONS = {
    "ours": REPOSITORY / "build/venv/bin/python",
    "upstream": REPOSITORY / "build/venv-upstream/bin/python",
}


def start(out: Path) -> Rounds:
    contenders: list[Contender] = [WriteBandwidth(out)]
    absent = {}
    wanted = [(name, python, "") for name, python in PYTHONS.items()]
    variants = os.environ.get("ROCE_VARIANTS", "").split()
    wanted += [(f"ours, {each}", PYTHONS["ours"], each) for each in variants]
    for name, python, variable in wanted:
        try:
            contenders.append(Engines(name, python, out, variable))
        except BenchError as error:
            absent[name] = str(error)
    sizes = [int(word) for word in os.environ.get("ROCE_SIZES", "").split()]
    cells = [cell for cell in CELLS if not sizes or cell.size in sizes]
    return Rounds(contenders, cells, absent)


def main() -> int:
    began = time.monotonic()
    long = bool(os.environ.get("ROCE_LONG"))
    rounds = int(os.environ.get("ROCE_ROUNDS", 7))
    seconds = float(os.environ.get("ROCE_SECONDS", 2.0 if long else 0.6))
    minutes = float(os.environ.get("ROCE_MINUTES", 40.0 if long else 8.5))
    out = Path(os.environ["ROCE_OUT"])
    found = start(out)
    print(f"the engines took {time.monotonic() - began:.0f} s to start", flush=True)
    try:
        found.run(rounds, seconds, began + 60 * minutes)
    finally:
        for each in found.contenders:
            each.close()
    best = {size: how for each in found.contenders if isinstance(each, WriteBandwidth)
            for size, how in each.options().items()}  # fmt: skip
    facts = {
        "rounds": found.done, "seconds": seconds, "kernel": os.uname().release,
        "ib_write_bw": best, "absent": found.absent,
        "compared": [each.name for each in found.contenders if each.compares],
    }  # fmt: skip
    rows = figures(found.samples)
    (out / "bench.json").write_text(json.dumps({"facts": facts, "cells": rows}, indent=1) + "\n")
    print(table(rows, found.done))
    print("ib_write_bw compares no byte; its best:",
          ", ".join(f"{size} B {how}" for size, how in best.items()))  # fmt: skip
    for name, reason in found.absent.items():
        print(f"{name} is absent: {reason}")
    return int("ours" in found.absent)


if __name__ == "__main__":
    sys.exit(main())
