"""What was measured: samples by cell, contender and round, and what follows from them."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from plan import Cell


@dataclass(frozen=True)
class Sample:
    """One measurement of a throughput. CPU is that of all processes of the contender."""

    gb_per_second: float
    blocks_per_second: float
    cpu_seconds_per_gib: float


@dataclass(frozen=True)
class Latency:
    """One measurement of blocking calls, one after the other."""

    p50_us: float
    p99_us: float
    calls: int


Speeds = dict[str, dict[int, Sample]]
"""By contender, by round."""


@dataclass
class Results:
    cells: dict[Cell, Speeds] = field(default_factory=dict)
    latencies: dict[str, dict[int, Latency]] = field(default_factory=dict)
    # What moved the bytes, where that was not what the contender is named for.
    strayed: dict[tuple[Cell, str], str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)  # why a contender was not run
    failed: dict[str, str] = field(default_factory=dict)  # or why it left during the run
    about: dict[str, str] = field(default_factory=dict)  # versions
    lanes: int = 0  # connections of ours over tcp, threads of the limits

    def speed(self, cell: Cell, name: str) -> float | None:
        return self._median(cell, name, lambda sample: sample.gb_per_second)

    def blocks(self, cell: Cell, name: str) -> float | None:
        return self._median(cell, name, lambda sample: sample.blocks_per_second)

    def cpu(self, cell: Cell, name: str) -> float | None:
        return self._median(cell, name, lambda sample: sample.cpu_seconds_per_gib)

    def _median(self, cell: Cell, name: str, get: Callable[[Sample], float]) -> float | None:
        samples = self.cells.get(cell, {}).get(name)
        return statistics.median(map(get, samples.values())) if samples else None

    def ratio(self, cell: Cell, ours: str, other: str) -> float | None:
        """Median over the rounds of ours divided by the other's in the same round."""
        return self._ratio(cell, ours, other, lambda sample: sample.gb_per_second)

    def cpu_ratio(self, cell: Cell, ours: str, other: str) -> float | None:
        return self._ratio(cell, ours, other, lambda sample: sample.cpu_seconds_per_gib)

    def _ratio(
        self, cell: Cell, ours: str, other: str, get: Callable[[Sample], float]
    ) -> float | None:
        speeds = self.cells.get(cell, {})
        pairs = rounds_of_both(speeds.get(ours, {}), speeds.get(other, {}))
        return median_of(get(a) / get(b) for a, b in pairs if get(b))

    def best(self, cell: Cell, names: Iterable[str]) -> str | None:
        """The one with the highest median."""
        found = [(speed, name) for name in names if (speed := self.speed(cell, name))]
        return max(found)[1] if found else None

    def latency(self, name: str) -> tuple[float, float] | None:
        """Median over the rounds of P50 and of P99, microseconds."""
        rounds = self.latencies.get(name)
        if not rounds:
            return None
        return (
            statistics.median(each.p50_us for each in rounds.values()),
            statistics.median(each.p99_us for each in rounds.values()),
        )

    def latency_ratio(self, name: str, limit: str) -> float | None:
        pairs = rounds_of_both(self.latencies.get(name, {}), self.latencies.get(limit, {}))
        return median_of(a.p50_us / b.p50_us for a, b in pairs)

    def as_json(self) -> dict[str, Any]:
        """Every sample."""
        return {
            "versions": self.about,
            "not_run": self.absent,
            "failed": self.failed,
            "lanes": self.lanes,
            "cells": [
                {
                    **dataclasses.asdict(cell),
                    "contenders": {
                        name: {
                            "strayed_to": self.strayed.get((cell, name)),
                            "rounds": {n: dataclasses.asdict(s) for n, s in rounds.items()},
                        }
                        for name, rounds in speeds.items()
                    },
                }
                for cell, speeds in self.cells.items()
            ],
            "latency": {
                name: {n: dataclasses.asdict(s) for n, s in rounds.items()}
                for name, rounds in self.latencies.items()
            },
        }


def rounds_of_both(ours: dict[int, Any], other: dict[int, Any]) -> list[tuple[Any, Any]]:
    return [(ours[n], other[n]) for n in sorted(ours.keys() & other.keys())]


def median_of(values: Iterable[float]) -> float | None:
    found = list(values)
    return statistics.median(found) if found else None
