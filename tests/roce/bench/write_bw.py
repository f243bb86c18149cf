"""ib_write_bw: it writes one buffer again and again, and compares no byte."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

from cells import BenchError, Cell, Sample
from engines import DEVICE, ON2, RAIL2, Counters

IN_FLIGHT = 16 << 20  # bytes of a queue pair
MESSAGES = 1024  # of a look at one choice, at most


class WriteBandwidth:
    """It is told the number of queue pairs (-q) and of requests in flight (-t) that is best for
    each size."""

    name = "ib_write_bw"
    scatters = compares = False

    def __init__(self, out: Path) -> None:
        self.out = out
        self.port = 18600
        # Of each size, the choices that work and the MB/s of a look at them, best first.
        self.ranked: dict[int, list[tuple[float, tuple[int, int]]]] = {}

    @staticmethod
    def choices(size: int) -> list[tuple[int, int]]:
        depths = (16, 128) if 128 * size <= IN_FLIGHT else (4, 16)
        return [(pairs, depth) for pairs in (1, 2, 4) for depth in depths]

    def measure(self, cell: Cell, seconds: float) -> Sample:
        """With several queue pairs it fails at times on emulated hosts. What has failed is not
        tried again, and the next best takes its place."""
        ranked = self.ranked[cell.size] = self.look(cell.size)
        while True:
            speed, choice = ranked[0]
            try:
                return self.run(cell.size, choice, round(speed * 1e6 * max(seconds, 0.3)))
            except BenchError as error:
                if len(ranked) == 1:
                    raise
                print(f"{self.name}: {error}", flush=True)
                del ranked[0]

    def look(self, size: int) -> list[tuple[float, tuple[int, int]]]:
        """Try every choice once."""
        if size in self.ranked:
            return self.ranked[size]
        found, reason = [], ""
        for choice in self.choices(size):
            try:
                speed = self.run(size, choice, min(2 << 20, size * MESSAGES)).speed
                found.append((speed, choice))
            except BenchError as error:
                reason = str(error)
        if not found:
            raise BenchError(reason)
        return sorted(found, reverse=True)

    def options(self) -> dict[int, str]:
        """What was measured last, of each size."""
        first = {size: ranked[0][1] for size, ranked in self.ranked.items()}
        return {size: f"-q {pairs} -t {depth}" for size, (pairs, depth) in first.items()}

    def close(self) -> None: ...

    def run(self, size: int, choice: tuple[int, int], amount: int) -> Sample:
        self.port += 1
        pairs, depth = choice
        count = max(amount // size // pairs, depth, 8)  # messages of each queue pair
        options = [
            "ib_write_bw", "-d", DEVICE, "-x", "1", "-F", "-s", str(size), "-n", str(count),
            "-q", str(pairs), "-t", str(depth), "-p", str(self.port),
        ]  # fmt: skip
        with (self.out / "bench-perftest2.log").open("a") as log:
            server = subprocess.Popen([*ON2, *options], stdout=log, stderr=log)
        counters = Counters()
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
        return counters.sample(float(found[0][3]) * (1 << 20) / 1e6, size * count * pairs)

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
