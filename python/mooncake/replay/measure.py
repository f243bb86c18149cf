"""What was measured: a pass of one configuration by one engine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .pair import Moved
from .schedule import Job

_POINTS = 40  # of a pass in the chart


@dataclass(frozen=True)
class Way:
    """A configuration and the engine that runs it: one row of the table in each pass."""

    engine: str
    page_size: int
    allocator: str

    @property
    def title(self) -> str:
        return f"{self.engine} page {self.page_size} {self.allocator}"


@dataclass(frozen=True)
class Point:
    """One wave: virtual seconds since the begin of the pass, and what it moved."""

    at: float
    tokens: int
    runs: int
    bytes: int
    seconds: float


@dataclass
class PassResult:
    """Sums and samples of a pass."""

    way: Way
    number: int  # from 1
    row_bytes: int
    buffers: int
    prefill_rate: float  # tokens a second of a prefill server, for the time to first token
    requests: int = 0
    tokens: int = 0
    blocks: int = 0
    runs: int = 0  # stretches contiguous on both sides, of one buffer
    target_runs: int = 0  # contiguous in the decode pool
    bytes: int = 0
    messages: int | None = None
    seconds: float = 0.0  # in which something was being moved
    build_seconds: float = 0.0
    prefill_cpu: float = 0.0
    decode_cpu: float = 0.0
    transfers: list[float] = field(default_factory=list)  # seconds
    first_tokens: list[float] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def add(self, wave: Sequence[Job], moved: Moved, runs: tuple[int, int], at: float) -> None:
        """A wave was moved; runs are those of both sides and of the target alone."""
        tokens = sum(job.request.input for job in wave)
        size = sum(len(job.target) for job in wave) * self.way.page_size * self.row_bytes
        size *= self.buffers
        self.requests += len(wave)
        self.tokens += tokens
        self.blocks += moved.blocks
        self.runs += runs[0]
        self.target_runs += runs[1]
        self.bytes += size
        if "messages" in moved.counters:
            self.messages = (self.messages or 0) + moved.counters["messages"]
        self.seconds += moved.wall
        self.build_seconds += sum(moved.builds)
        self.prefill_cpu += moved.prefill_cpu
        self.decode_cpu += moved.decode_cpu
        self.transfers += moved.transfers
        self.first_tokens += [
            job.request.input / self.prefill_rate + build + transfer
            for job, build, transfer in zip(wave, moved.builds, moved.transfers, strict=True)
        ]
        self.points.append(Point(at, tokens, runs[0], size, moved.wall))

    @property
    def goodput(self) -> float:
        """MB/s of the time in which something was being moved."""
        return self.bytes / self.seconds / 1e6 if self.seconds else 0.0

    @property
    def mean_run(self) -> float:
        """Tokens."""
        return self.tokens / self.runs if self.runs else 0.0

    @property
    def mean_target_run(self) -> float:
        return self.tokens / self.target_runs if self.target_runs else 0.0

    @property
    def cpu_per_gib(self) -> float:
        """CPU seconds of both processes."""
        return (self.prefill_cpu + self.decode_cpu) / (self.bytes / 2**30) if self.bytes else 0.0

    @property
    def share(self) -> float:
        """The part of the time to the first token that the transfer takes."""
        total = sum(self.first_tokens)
        return (sum(self.transfers) + self.build_seconds) / total if total else 0.0

    def as_json(self) -> dict[str, Any]:
        return {
            "engine": self.way.engine,
            "page_size": self.way.page_size,
            "allocator": self.way.allocator,
            "pass": self.number,
            "requests": self.requests,
            "tokens": self.tokens,
            "blocks": self.blocks,
            "runs": self.runs * self.buffers,
            "mean_run_tokens": round(self.mean_run, 3),
            "mean_target_run_tokens": round(self.mean_target_run, 3),
            "messages": self.messages,
            "bytes": self.bytes,
            "seconds": self.seconds,
            "build_seconds": self.build_seconds,
            "goodput_mb_per_s": round(self.goodput, 3),
            "p50_ms": 1000 * percentile(self.transfers, 0.50),
            "p99_ms": 1000 * percentile(self.transfers, 0.99),
            "ttft_share": self.share,
            "prefill_cpu_seconds": self.prefill_cpu,
            "decode_cpu_seconds": self.decode_cpu,
            "failures": self.failures,
            "series": self._series(),
        }

    def _series(self) -> list[dict[str, float]]:
        """What the chart shows; moved is the part of the pass's bytes before the point's middle."""
        found, moved = [], 0
        for point in thinned(self.points):
            found.append({
                "at_seconds": round(point.at, 3),
                "bytes": point.bytes,
                "seconds": point.seconds,
                "runs": point.runs * self.buffers,
                "moved": round((moved + point.bytes / 2) / self.bytes, 4),
                "goodput_mb_per_s": point.bytes / point.seconds / 1e6 if point.seconds else 0.0,
                "mean_run_tokens": point.tokens / point.runs if point.runs else 0.0,
            })  # fmt: skip
            moved += point.bytes
        return found


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of all does not exceed; 0 of none."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    return ordered[min(len(ordered), max(1, math.ceil(share * len(ordered)))) - 1]


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most _POINTS, neighbours added up: each has about the same number of bytes."""
    total = sum(point.bytes for point in points)
    found: list[Point] = []
    held: list[Point] = []
    for point in points:
        held.append(point)
        if sum(each.bytes for each in held) * _POINTS >= total:
            found.append(_sum(held))
            held = []
    return [*found, _sum(held)] if held else found


def _sum(points: Sequence[Point]) -> Point:
    return Point(
        points[0].at,
        sum(point.tokens for point in points),
        sum(point.runs for point in points),
        sum(point.bytes for point in points),
        sum(point.seconds for point in points),
    )
