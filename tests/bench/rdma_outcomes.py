"""Two engines of ours on the software NIC: small calls beside a large one, the time until a
cancelled batch is quiet, and the time until a call has posted its first work request."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from processes import BenchError, Process, clean_environment
from programs import DRIVERS
from progress import Progress
from rdma_contenders import OURS
from rdma_options import per_second
from results import Latency, median_of, rounds_of_both
from softnic import CONTROL, COPYING, COUNTING, SoftNic

ALONE, BESIDE = "alone", "beside"
SMALL, LARGE = "small", "large"
FORMS = ("lists", "arrays", "pages")
# What is cancelled takes seconds: blocks of 64 B at this rate, or of 1 MiB over this link.
CANCELLED = {SMALL: {"rate": "100k"}, LARGE: {"bandwidth": "4"}}
CANCELS = 3  # of a kind in a round
QUIET = {"MC_LOG_LEVEL": "ERROR"}


@dataclass
class Outcomes:
    """blocks: of the large call; rate: work requests a second, beside it. By round."""

    blocks: int
    rate: str
    calls: dict[str, dict[int, Latency]] = field(default_factory=dict)  # alone, beside
    used: dict[int, float] = field(default_factory=dict)  # of the rate, beside
    cancels: dict[str, list[float]] = field(default_factory=dict)  # ms, by kind
    firsts: dict[str, list[float]] = field(default_factory=dict)  # us, by form
    why_not: str = ""  # it could not be run, or not to the end

    def slower(self) -> float | None:
        """P99 of the small calls beside the large one over their P99 alone."""
        pairs = rounds_of_both(self.calls.get(BESIDE, {}), self.calls.get(ALONE, {}))
        return median_of(beside.p99_us / alone.p99_us for beside, alone in pairs)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def latency(took: list[float]) -> Latency:
    """Of calls in order of their time."""
    n = len(took)
    return Latency(took[n // 2], took[n * 99 // 100], n)


def measure(nic: SoftNic, options: argparse.Namespace, progress: Progress) -> Outcomes:
    found = Outcomes(options.outcome_blocks, options.outcome_rate)
    with tempfile.TemporaryDirectory(prefix="mooncake-bench-") as folder:
        try:
            if nic.missing:
                raise BenchError(nic.missing)
            with Engines(nic, options, Path(folder)) as engines:
                for number in range(options.rounds):
                    progress.now(f"outcomes: round {number + 1} of {options.rounds}")
                    engines.round(number, found)
                    progress.step()
        except BenchError as error:
            found.why_not = str(error)
            progress.line(f"outcomes: {error}")
    return found


class Engines:
    """Two processes with an engine each. A context manager: it ends them."""

    def __init__(self, nic: SoftNic, options: argparse.Namespace, folder: Path) -> None:
        self.nic, self.options, self.folder = nic, options, folder
        self.processes: list[Process] = []
        self.logs = [(folder / f"{name}.log").open("w") for name in ("target", "initiator")]

    def __enter__(self) -> Engines:
        try:
            self._open()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.close()
        for log in self.logs:
            log.close()

    def _open(self) -> None:
        env = clean_environment(self.nic.environment({**OURS, **QUIET}), python=True)
        command = (self.options.python, "-u", str(DRIVERS / "outcomes_driver.py"))
        for log in self.logs:
            self.processes.append(Process(command, env, log))
        there, _ = (self._call(each, "listen", self.options.outcome_blocks)
                    for each in self.processes)  # fmt: skip
        self.initiator = self.processes[1]
        control = self.nic.folder / CONTROL
        self._call(self.initiator, "connect", there["session"], there["address"], control)
        self.nic.set(COUNTING)
        for form in FORMS:  # the first of a process is another matter
            self._call(self.initiator, "first", form)
        counted = self._call(self.initiator, "counters")
        if counted["bytes_rdma"] < counted["bytes_written"]:
            raise BenchError("outcomes: not all that was written went over rdma")

    def _call(self, process: Process, *words: object) -> dict[str, Any]:
        try:
            return process.call(*words)
        except BenchError as error:
            raise BenchError("; ".join([str(error), *last_words(self.folder)])) from error

    def round(self, number: int, found: Outcomes) -> None:
        """Everything once, in an order that turns."""
        parts = [self._calls, self._cancels, self._firsts]
        turn = number % len(parts)
        for part in parts[turn:] + parts[:turn]:
            part(number, found)

    def _calls(self, number: int, found: Outcomes) -> None:
        self.nic.set({**COUNTING, "rate": found.rate})
        for which in (ALONE, BESIDE) if number % 2 == 0 else (BESIDE, ALONE):
            answer = self._call(self.initiator, which, self.options.seconds)
            found.calls.setdefault(which, {})[number] = latency(answer["us"])
            if which == BESIDE:
                found.used[number] = answer["requests_per_second"] / per_second(found.rate)

    def _cancels(self, _: int, found: Outcomes) -> None:
        for kind, limit in CANCELLED.items():
            self.nic.set({**COPYING, **limit})
            for _ in range(CANCELS):
                answer = self._call(self.initiator, "cancel", kind)
                found.cancels.setdefault(kind, []).append(answer["ms"])

    def _firsts(self, number: int, found: Outcomes) -> None:
        self.nic.set(COUNTING)
        turn = number % len(FORMS)
        for form in FORMS[turn:] + FORMS[:turn]:
            answer = self._call(self.initiator, "first", form)
            found.firsts.setdefault(form, []).append(answer["us"])


def last_words(folder: Path) -> Iterable[str]:
    """Of the processes' logs."""
    for log in sorted(folder.glob("*.log")):
        lines = log.read_text(errors="replace").strip().splitlines()
        if lines:
            yield lines[-1][:200]
