"""What a transfer should take: T = calls * t0 + the bytes' time and the runs' time.

Three constants of an engine on a machine, measured before a replay's first request: what a call
costs (t0), what a run costs however short it is, and how fast long runs go. Where a NIC does both,
the bytes and the runs go side by side and the longer of the two counts; where one CPU
does both, they add up.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Costs:
    """Seconds, and bytes a second."""

    call: float
    run: float  # on top of its bytes
    link: float
    overlap: bool = False  # bytes and runs go side by side

    def seconds(self, calls: float, runs: float, size: float) -> float:
        by_bytes, by_runs = size / self.link, runs * self.run
        together = max(by_bytes, by_runs) if self.overlap else by_bytes + by_runs
        return calls * self.call + together

    def shares(self, calls: float, runs: float, size: float) -> dict[str, float]:
        """The parts of the time that calls, runs and bytes take."""
        parts = {
            "calls": calls * self.call,
            "runs": runs * self.run,
            "bytes": size / self.link,
        }
        total = sum(parts.values())
        return {name: part / total if total else 0.0 for name, part in parts.items()}


def costs_of(calibrations: Sequence[Mapping[str, Any]], engine: str, overlap: bool) -> Costs | None:
    """From a report's calibrations of an engine; None if there are none."""
    found = sorted(
        (each for each in calibrations if each["engine"] == engine),
        key=lambda each: float(each["block_bytes"]),
    )
    if not found:
        return None
    smallest = found[0]
    call = statistics.median(each["call_seconds"] for each in found)
    link = statistics.median(
        each["large_bytes"] / max(1e-9, each["large_seconds"] - call) for each in found
    )
    moving = max(0.0, smallest["scattered_seconds"] - call) / smallest["blocks"]
    run = moving if overlap else max(0.0, moving - smallest["block_bytes"] / link)
    return Costs(call, run, link, overlap)
