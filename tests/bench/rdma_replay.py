"""The replay of the incident over the software NIC, run again and again."""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from processes import BenchError, clean_environment
from progress import Progress
from rdma_options import per_second
from results import median_of
from softnic import COPYING, SoftNic

RUN_SECONDS = 300.0
FIFO, RUNS = "fifo", "runs"
QUIET = {"MC_LOG_LEVEL": "ERROR"}
Pass = dict[str, Any]


@dataclass
class Replays:
    """What the runs reported. rate: work requests a second; link: bits a second."""

    rate: float
    link: float
    reports: list[dict[str, Any]] = field(default_factory=list)
    why_not: str = ""  # it could not be run, or not again

    def passes(self, page: int, allocator: str, number: int) -> list[Pass]:
        """Of every run the one pass."""
        return [
            each
            for report in self.reports
            for each in report["passes"]
            if (each["page_size"], each["allocator"], each["pass"]) == (page, allocator, number)
        ]

    def last(self) -> int:
        return max(
            (each["pass"] for report in self.reports for each in report["passes"]), default=0
        )

    def median(self, found: Iterable[Pass], of: Callable[[Pass], float]) -> float | None:
        return median_of(map(of, found))

    def ratio(
        self, over: list[Pass], under: list[Pass], of: Callable[[Pass], float]
    ) -> float | None:
        """Median over the runs of one pass's figure over another's in the same run; a run has
        all passes."""
        pairs = zip(over, under, strict=False)
        return median_of(of(a) / of(b) for a, b in pairs if of(b))

    def bound(self, each: Pass) -> float:
        """Seconds that the NIC needs, stretch by stretch of a pass: for the bytes, or for a
        work request a run, whichever is more there."""
        return sum(
            max(8 * point["bytes"] / self.link, point["runs"] / self.rate)
            for point in each["series"]
        )

    def as_json(self) -> dict[str, Any]:
        return {"work_requests_per_s": self.rate, "link_bits_per_s": self.link,
                "why_not": self.why_not, "runs": self.reports}  # fmt: skip


def per_token(each: Pass) -> float:
    return float(each["seconds"] / each["tokens"])


def messages_per_mib(each: Pass) -> float:
    return float(each["messages"] / (each["bytes"] / 2**20))


def cpu_per_gib(each: Pass) -> float:
    seconds = each["prefill_cpu_seconds"] + each["decode_cpu_seconds"]
    return float(seconds / (each["bytes"] / 2**30))


def measure(nic: SoftNic, options: argparse.Namespace, progress: Progress) -> Replays:
    found = Replays(per_second(options.replay_rate), options.replay_link * 1e9)
    settings = {**COPYING, "rate": options.replay_rate, "bandwidth": f"{options.replay_link:g}"}
    with tempfile.TemporaryDirectory(prefix="mooncake-bench-") as folder:
        report = Path(folder) / "replay.json"
        for number in range(options.rounds):
            progress.now(f"replay: run {number + 1} of {options.rounds}")
            try:
                found.reports.append(replay(nic.environment(QUIET, settings), options, report))
            except BenchError as error:
                found.why_not = str(error)
                progress.line(f"replay: {error}")
                break
            progress.step()
    return found


def command(options: argparse.Namespace, report: Path) -> list[str]:
    load = 64 if options.quick else options.replay_scale
    return [
        options.python, "-m", "mooncake", "replay", "--transport", "rdma",
        "--page-size", "1,64", "--allocator", f"{FIFO},{RUNS}", "--load-scale", str(load),
        "--scale", "16" if options.quick else "8", "--json", str(report), "--plain",
    ]  # fmt: skip


def replay(nic_env: dict[str, str], options: argparse.Namespace, report: Path) -> dict[str, Any]:
    """One run. Raises BenchError."""
    env = clean_environment(nic_env, python=True)
    try:
        done = subprocess.run(
            command(options, report), env=env, check=False, capture_output=True,
            text=True, timeout=RUN_SECONDS,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"mooncake replay: {error}") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise BenchError(
            f"mooncake replay ended with {done.returncode}: {said[-1] if said else ''}"
        )
    found: dict[str, Any] = json.loads(report.read_text())
    used = found["engines"][0]["transport"]
    if used != "rdma":
        raise BenchError(f"mooncake replay used {used}")
    return found
