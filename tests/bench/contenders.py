"""Who is compared: a sender and a receiver each, opened once for the whole run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from plan import arrived, content, plan
from processes import BenchError, Process

SENDER_SEED, RECEIVER_SEED = 1, 2


@dataclass(frozen=True)
class Contender:
    """A way to move the blocks."""

    name: str
    python: str
    script: str
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """One measurement. CPU is that of both processes."""

    blocks_per_second: float
    gb_per_second: float
    cpu_seconds_per_gib: float


class Pair:
    """The two processes of a contender."""

    def __init__(self, contender: Contender, logs: Path) -> None:
        self.contender = contender
        self.logs = [
            (logs / f"{contender.name.replace(' ', '-')}-{role}.log").open("w")
            for role in ("sender", "receiver")
        ]
        self.sender, self.receiver = (
            Process(contender.python, contender.script, contender.env, log) for log in self.logs
        )
        self.about = self.sender.call("open", seed=SENDER_SEED)
        self.there = self.receiver.call("open", seed=RECEIVER_SEED)

    def aim(self, size: int, batch: int) -> int:
        """Prepare blocks of a size; the number of blocks in a batch."""
        answer = self.sender.call("aim", size=size, batch=batch, there=self.there)
        self.size, self.batch = size, int(answer["batch"])
        return self.batch

    def verify(self, expected: str) -> None:
        """Move every block once and compare the receiver's whole region."""
        self.receiver.call("fill", seed=RECEIVER_SEED)
        self.sender.call("run_once")
        got = self.receiver.call("sha256")["sha256"]
        if got != expected:
            raise BenchError(f"{self.contender.name}, {self.size} B: wrong bytes arrived")

    def measure(self, seconds: float) -> Sample:
        before = self.sender.cpu_seconds() + self.receiver.cpu_seconds()
        answer = self.sender.call("run", seconds=seconds)
        cpu = self.sender.cpu_seconds() + self.receiver.cpu_seconds() - before
        blocks = answer["batches"] * self.batch
        moved = blocks * self.size
        elapsed = answer["seconds"]
        return Sample(blocks / elapsed, moved / elapsed / 1e9, cpu / (moved / (1 << 30)))

    def close(self) -> None:
        for process in (self.sender, self.receiver):
            process.close()
        for log in self.logs:
            log.close()


def expected_hash(size: int, batch: int) -> str:
    """The receiver's region after every block of the plan arrived, and nothing else."""
    what = plan(size, batch)
    return hashlib.sha256(arrived(what, content(SENDER_SEED), content(RECEIVER_SEED))).hexdigest()
