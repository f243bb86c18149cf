"""The RoCE lab's own measurements: its suite `bench` makes them, inside."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from machine import REPOSITORY
from progress import Progress
from results import median_of

PATTERNS = CONTIGUOUS, SCATTERED = "contiguous", "scattered"
OURS, THEIRS, PERFTEST = "ours", "upstream", "ib_write_bw"
LAB_SECONDS = 900.0
GRACE = 120.0
Key = tuple[int, str, str]  # bytes of a block, pattern, tool


@dataclass
class Lab:
    """MB/s of each round; None where a tool failed in one."""

    samples: dict[Key, list[float | None]] = field(default_factory=dict)
    why_not: str = ""  # it could not be run
    absent: dict[str, str] = field(default_factory=dict)  # tools that failed, with the reason
    compared: list[str] = field(default_factory=list)  # tools of which all bytes were compared
    raw: dict[str, Any] = field(default_factory=dict)

    def sizes(self) -> list[int]:
        return sorted({size for size, _, _ in self.samples})

    def tools(self) -> list[str]:
        return list(dict.fromkeys(tool for _, _, tool in self.samples))

    def cells(self) -> list[tuple[int, str]]:
        found = {(size, pattern) for size, pattern, _ in self.samples}
        return sorted(found, key=lambda cell: (cell[1], cell[0]))

    def speed(self, size: int, pattern: str, tool: str) -> float | None:
        return median_of(one for one in self.samples.get((size, pattern, tool), []) if one)

    def best(self, size: int, pattern: str, kinds: tuple[str, ...]) -> str | None:
        """The fastest tool whose name begins with one of these words."""
        found = [
            (speed, tool)
            for tool in self.tools()
            if tool.startswith(kinds) and (speed := self.speed(size, pattern, tool))
        ]
        return max(found)[1] if found else None

    def ratio(self, size: int, pattern: str, tool: str, other: str) -> float | None:
        """Median over the rounds of both."""
        return self._ratio((size, pattern, tool), (size, pattern, other))

    def against(self, size: int, whole: int, pattern: str, tool: str) -> float | None:
        """A size's speed over that of another, of one tool."""
        return self._ratio((size, pattern, tool), (whole, pattern, tool))

    def _ratio(self, over: Key, under: Key) -> float | None:
        pairs = zip(self.samples.get(over, []), self.samples.get(under, []), strict=False)
        return median_of(a / b for a, b in pairs if a and b)

    def as_json(self) -> dict[str, Any]:
        return {"why_not": self.why_not, **self.raw}


def measure(options: argparse.Namespace, progress: Progress) -> Lab:
    """Run the suite. Blocks for minutes."""
    folder: Path = options.build / "roce"
    report = folder / "out" / "bench.json"
    report.unlink(missing_ok=True)
    rounds = 1 if options.quick else options.lab_rounds
    env = {
        **os.environ, "ROCE_ROUNDS": str(rounds), "ROCE_LIMIT": f"{LAB_SECONDS:.0f}",
        "ROCE_SECONDS": "0.3" if options.quick else "0.6",
    }  # fmt: skip
    progress.line(f"lab: two emulated hosts, {rounds} rounds")
    try:
        done = subprocess.run(
            ["tests/roce/run.sh", str(folder), "bench"], cwd=REPOSITORY, env=env, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=LAB_SECONDS + GRACE,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return Lab(why_not=f"tests/roce/run.sh: {error}")
    if not report.exists():
        said = done.stdout.strip().splitlines()
        return Lab(why_not=f"the lab left no figures: {said[-1] if said else 'it said nothing'}")
    return read(json.loads(report.read_text()))


def read(raw: dict[str, Any]) -> Lab:
    """What the suite wrote. ib_write_bw sends one buffer again and again: it has no scattered
    blocks, so it stands beside ours in both patterns."""
    facts = raw["facts"]
    found = Lab(raw=raw, absent=facts["absent"], compared=facts["compared"])
    for cell in raw["cells"]:
        for tool, speeds in cell["samples"].items():
            found.samples[cell["size"], cell["layout"], tool] = speeds
    for size in found.sizes():
        speeds = found.samples.get((size, CONTIGUOUS, PERFTEST))
        if speeds:
            found.samples.setdefault((size, SCATTERED, PERFTEST), speeds)
    return found
