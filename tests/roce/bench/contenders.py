"""Who is measured: an engine on each host, ours or upstream's; and ib_write_bw."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[3]
MOVER = Path(__file__).with_name("mover.py")
ON2 = ("on2", "run")
DEVICE, RAIL2 = "rxe0", "192.0.2.2"
MEMORY = 16 << 20
POISON = 0xA5


class BenchError(Exception):
    """A contender cannot be measured, for the reason in the text."""


@dataclass(frozen=True)
class Cell:
    """Blocks of one size, of which a batch has enough to be worth a call."""

    size: int
    layout: str  # contiguous or scattered

    @property
    def blocks(self) -> int:
        return max(4, min(2048, (4 << 20) // self.size))


class Process:
    """mover.py on one of the hosts."""

    def __init__(self, python: Path, prefix: Sequence[str], log: Path) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MC_", "PYTHON"))}
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [*prefix, str(python), "-u", str(MOVER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**kept, "MC_FORCE_HCA": "1", "MC_LOCAL": "0"},
            )
        self.log = log
        self.answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.answers.put(line)
        self.answers.put("")

    def call(self, op: str, timeout: float = 60.0, **arguments: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"op": op, **arguments}) + "\n")
            self.process.stdin.flush()
            line = self.answers.get(timeout=timeout)
        except (OSError, queue.Empty) as error:
            raise BenchError(f"{op}: {type(error).__name__} after {timeout:.0f} s") from error
        if not line:
            raise BenchError(f"{op}: the process has ended, see {self.log}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise BenchError(f"{op}: {answer['error']}")
        return answer

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


class Engines:
    """An engine on each host, that writes from here to there."""

    def __init__(self, name: str, python: Path, out: Path) -> None:
        if not python.exists():
            raise BenchError(f"{python} does not exist")
        self.name = name
        self.here = Process(python, (), out / f"bench-{name}1.log")
        self.there = Process(python, ON2, out / f"bench-{name}2.log")
        hosts = (os.environ["ROCE_HOST1"], os.environ["ROCE_HOST2"])
        started = [
            process.call("start", 90, host=host, device=DEVICE, size=MEMORY)
            for process, host in zip((self.here, self.there), hosts, strict=True)
        ]
        self.target = {key: started[1][key] for key in ("session", "address")}

    def aim(self, cell: Cell, local: list[int], remote: list[int]) -> None:
        """Set the blocks of the next measurements, and check that all of their bytes arrive and
        no others."""
        blocks: dict[str, Any] = {"local": local, "remote": remote, "size": cell.size}
        self.here.call("aim", **self.target, **blocks)
        self.there.call("fill", value=POISON)
        self.here.call("write", seconds=0)
        wanted = self.here.call("expected", fill=POISON, **blocks)["sha"]
        if self.there.call("sha")["sha"] != wanted:
            raise BenchError("wrong bytes have arrived")

    def measure(self, seconds: float) -> float:
        """MB/s, of a million bytes."""
        found = self.here.call("write", seconds=seconds)
        return float(found["bytes"] / found["seconds"] / 1e6)

    def close(self) -> None:
        for process in (self.here, self.there):
            process.close()


class WriteBandwidth:
    """ib_write_bw: it writes one buffer again and again, and checks no byte. It is told the
    number of queue pairs (-q) and of requests in flight (-t) that is best for each size."""

    name = "ib_write_bw"
    CHOICES = tuple((pairs, depth) for pairs in (1, 2, 4) for depth in (16, 128))

    def __init__(self, out: Path) -> None:
        self.out = out
        self.port = 18600
        self.best: dict[int, tuple[int, int]] = {}

    def aim(self, cell: Cell) -> None:
        """Find what is best for a size. What fails, as four queue pairs do at times on an
        emulated host, is not."""
        if cell.size in self.best:
            return
        speeds: dict[tuple[int, int], float] = {}
        reason = ""
        for choice in self.CHOICES:
            try:
                speeds[choice] = self.run(cell.size, choice, 2 << 20)
            except BenchError as error:
                reason = str(error)
        if not speeds:
            raise BenchError(reason)
        self.best[cell.size] = max(speeds, key=lambda choice: speeds[choice])

    def measure(self, size: int) -> float:
        return self.run(size, self.best[size], 8 << 20)

    def run(self, size: int, choice: tuple[int, int], amount: int) -> float:
        self.port += 1
        pairs, depth = choice
        count = max(amount // size // pairs, depth, 8)
        options = [
            "ib_write_bw", "-d", DEVICE, "-x", "1", "-F", "-s", str(size), "-n", str(count),
            "-q", str(pairs), "-t", str(depth), "-p", str(self.port),
        ]  # fmt: skip
        with (self.out / "bench-perftest2.log").open("a") as log:
            server = subprocess.Popen([*ON2, *options], stdout=log, stderr=log)
        try:
            self.wait_for_listener()
            done = subprocess.run(
                [*options, RAIL2], capture_output=True, text=True, timeout=60, check=False
            )
            server.wait(20)
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"{' '.join(options)}: not done in time") from error
        finally:
            with contextlib.suppress(ProcessLookupError):
                server.kill()
            server.wait()
        rows = [line.split() for line in done.stdout.splitlines()]
        found = [row for row in rows if len(row) >= 4 and row[0] == str(size)]
        if done.returncode != 0 or not found:
            said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            raise BenchError(f"{' '.join(options)}: {'; '.join(said[-3:])}")
        # Its MB is 2^20 bytes.
        return float(found[0][3]) * (1 << 20) / 1e6

    def wait_for_listener(self) -> None:
        wanted = f":{self.port:04X} "
        for _ in range(200):  # a look takes 50 ms and more
            tables = subprocess.run(
                [*ON2, "cat", "/proc/net/tcp", "/proc/net/tcp6"],
                capture_output=True, text=True, timeout=30, check=True,
            )  # fmt: skip
            for line in tables.stdout.splitlines():
                words = line.split()
                if len(words) > 3 and words[3] == "0A" and f"{words[1]} ".endswith(wanted):
                    return
        raise BenchError(f"nobody listens on port {self.port} of host 2")
