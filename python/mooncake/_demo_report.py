"""How the demo looks: progress while it runs, a table at its end."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, field
from typing import Any, TextIO


@dataclass
class Result:
    """What became of one model's requests. Filled under the runner's lock."""

    model: str
    title: str
    note: str
    tokens: int = 0
    blocks: int = 0
    runs: int = 0
    bytes: int = 0
    block_bytes: int = 0
    transfers: list[tuple[float, float]] = field(default_factory=list)  # begin, end in seconds
    failures: list[str] = field(default_factory=list)
    verified: bool = True  # whether contents were compared

    @property
    def rate(self) -> float:
        """GB/s: bytes over the time in which at least one transfer ran."""
        busy, until = 0.0, -math.inf
        for begin, end in sorted(self.transfers):
            busy += max(0.0, end - max(begin, until))
            until = max(until, end)
        return self.bytes / busy / 1e9 if busy else 0.0

    def percentile(self, share: float) -> float:
        """The transfer time, in milliseconds, that this share of requests did not exceed."""
        times = sorted(end - begin for begin, end in self.transfers)
        if not times:
            return 0.0
        return 1000 * times[min(len(times), max(1, math.ceil(share * len(times)))) - 1]

    def as_json(self) -> dict[str, Any]:
        """The figures for --json."""
        return {
            "model": self.model,
            "note": self.note,
            "requests": len(self.transfers),
            "tokens": self.tokens,
            "blocks": self.blocks,
            "runs": self.runs,
            "block_bytes": self.block_bytes,
            "bytes": self.bytes,
            "gigabytes_per_second": round(self.rate, 4),
            "p50_ms": round(self.percentile(0.50), 3),
            "p99_ms": round(self.percentile(0.99), 3),
            "verified": self.verified,
            "failures": self.failures,
        }


_HEADING = (
    "model",
    "requests",
    "tokens",
    "blocks",
    "block_B",
    "runs",
    "MiB",
    "GB/s",
    "P50_ms",
    "P99_ms",
    "result",
)


def table(results: list[Result]) -> str:
    """The results, one line each, under a heading."""
    return aligned([list(_HEADING), *(_row(result) for result in results)])


def aligned(rows: list[list[str]], left: int = 1) -> str:
    """Rows as columns of text, the first left of them flush left, with a rule below the first
    row."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _row(result: Result) -> list[str]:
    done = "verified" if result.verified else "not compared"
    return [
        result.title,
        f"{len(result.transfers):,}",
        f"{result.tokens:,}",
        f"{result.blocks:,}",
        f"{result.block_bytes:,}",
        f"{result.runs:,}",
        f"{result.bytes / 2**20:,.0f}",
        f"{result.rate:.2f}",
        f"{result.percentile(0.50):.1f}",
        f"{result.percentile(0.99):.1f}",
        f"{len(result.failures)} FAILED" if result.failures else done,
    ]


class Progress:
    """A bar on a terminal, a line for each quarter elsewhere. Safe for concurrent use."""

    _WIDTH = 30

    def __init__(self, title: str, total: int, out: TextIO) -> None:
        self._title = title
        self._total = total
        self._out = out
        self._bar = out.isatty()
        self._lock = threading.Lock()
        self._done = 0
        self._bytes = 0
        self._begin = time.monotonic()

    def step(self, size: int) -> None:
        """One more request, of size bytes, is done."""
        with self._lock:
            self._done += 1
            self._bytes += size
            quarter = self._done * 4 // self._total > (self._done - 1) * 4 // self._total
            if self._bar:
                filled = self._WIDTH * self._done // self._total
                bar = "#" * filled + "." * (self._WIDTH - filled)
                print(
                    f"\r{self._title} [{bar}] {self._text()} ", end="", file=self._out, flush=True
                )
            elif quarter:
                print(f"{self._title}: {self._text()}", file=self._out, flush=True)

    def _text(self) -> str:
        seconds = time.monotonic() - self._begin
        return (
            f"{self._done}/{self._total} requests, {self._bytes / 2**20:,.0f} MiB, {seconds:.1f} s"
        )

    def end(self) -> None:
        """Leave the bar's line."""
        if self._bar and self._done:
            print(file=self._out, flush=True)
