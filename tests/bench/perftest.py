"""ucx_perftest as a contender: two processes a measurement, with a message of a block.

It puts one buffer again and again, which stays in the cache, and its buffers are memory that UCX
allocated, for shm shared by both processes: it shows what UCX can do, not what a walk over
pages costs. It has no way to check bytes, and its latency is half of a round trip in which both
ends spin.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path

from contenders import Contender
from plan import Laid, Workspace
from processes import BenchError, clean_environment
from results import Latency, Sample

MIB = 1 << 20
LISTEN_SECONDS = 20.0
RUN_SECONDS = 60.0
FEWEST = 64  # messages: of fewer the report shows how they start and end
LISTENING = "0A"  # the state in /proc/net/tcp
COLUMNS = ("iterations", "percentile_us", "average_us", "overall_us", "average_mb", "overall_mb")


class Perftest:
    def __init__(self, contender: Contender, workspace: Workspace) -> None:
        self.contender = contender
        self.env = clean_environment(contender.env, python=False)
        self.about = f"ucx_perftest of {version(contender.command[0], self.env)}"
        self.running: list[subprocess.Popen[bytes]] = []
        self.out = workspace.folder / f"{contender.name.replace(' ', '-')}.log"

    def aim(self, laid: Laid, threads: int) -> None:
        self.laid = laid
        self.bandwidth = ("-t", "ucp_put_bw", "-s", str(laid.cell.size))
        self.rate = self._rate()
        _, self.startup = self._run(*self.bandwidth, "-n", "1", "-w", "1")

    def _rate(self) -> float:
        """Messages a second, about: two runs, the second as long as the first tells."""
        messages = FEWEST
        for _ in range(2):
            line, _ = self._run(*self.bandwidth, "-n", str(messages), "-w", "16")
            rate = max(line["overall_mb"] * MIB / self.laid.cell.size, 1.0)
            messages = max(int(rate * 0.05), FEWEST)
        return rate

    def verify(self) -> str:
        """It cannot; and it uses the transport that it is told."""
        return self.contender.transport

    def counters(self) -> dict[str, int]:
        return {}

    def measure(self, seconds: float) -> Sample:
        messages = max(int(self.rate * seconds), FEWEST)
        line, cpu = self._run(*self.bandwidth, "-n", str(messages), "-w", "16")
        speed = line["overall_mb"] * MIB
        moved = messages * self.laid.cell.size / (1 << 30)
        size = self.laid.cell.size
        return Sample(speed / 1e9, speed / size, max(cpu - self.startup, 0.0) / moved)

    def latency(self, seconds: float) -> Latency:
        """It tells one percentile a run."""
        test = ("-t", "ucp_put_lat", "-s", str(self.laid.cell.size), "-w", "100")
        guess, _ = self._run(*test, "-n", "1000")
        calls = max(int(seconds / 2 / (guess["average_us"] * 1e-6) / 2), 100)
        found = [
            self._run(*test, "-n", str(calls), "-R", rank)[0]["percentile_us"]
            for rank in ("50", "99")
        ]
        return Latency(found[0], found[1], calls)

    def _run(self, *arguments: str) -> tuple[dict[str, float], float]:
        """The last line of the report, and the CPU seconds of both processes."""
        port = free_port()
        tool = [self.contender.command[0], "-p", str(port), "-f", "-v"]
        with self.out.open("w") as out:
            try:
                server = self._start(tool, subprocess.DEVNULL)
                wait_for_listener(port, server)
                self._start([tool[0], "127.0.0.1", *tool[1:], *arguments], out)
                cpu = sum(self._finish(process) for process in reversed(self.running))
            finally:
                self.close()
        text = self.out.read_text().strip().splitlines()
        try:
            numbers = [float(word) for word in text[-1].split(",")]
            return dict(zip(COLUMNS, numbers, strict=False)), cpu
        except (IndexError, ValueError):
            last = text[-1] if text else "nothing"
            raise BenchError(f"{self.contender.name}: it answered {last!r}") from None

    def _start(self, command: list[str], out: object) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command, env=self.env, stdin=subprocess.DEVNULL, stdout=out,  # type: ignore[call-overload]
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self.running.append(process)
        return process  # type: ignore[no-any-return]

    def _finish(self, process: subprocess.Popen[bytes]) -> float:
        """Wait, and tell the CPU seconds."""
        end = time.monotonic() + RUN_SECONDS
        while time.monotonic() < end:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                process.returncode = os.waitstatus_to_exitcode(status)
                return usage.ru_utime + usage.ru_stime
            time.sleep(0.002)
        raise BenchError(f"{self.contender.name}: not done within {RUN_SECONDS:.0f} s")

    def freeze(self) -> None:
        """Nothing runs between measurements."""

    def close(self) -> None:
        for process in self.running:
            if process.returncode is None:
                process.kill()
                process.wait(10)
        self.running = []


def version(tool: str, env: dict[str, str]) -> str:
    info = Path(tool).with_name("ucx_info")
    try:
        done = subprocess.run(
            [str(info), "-v"], env=env, check=False, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return "UCX, version unknown"
    words = [line for line in done.stdout.splitlines() if "ersion" in line]
    return "UCX " + words[0].split("ersion")[-1].strip(" =:") if words else "UCX, version unknown"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_listener(port: int, server: subprocess.Popen[bytes]) -> None:
    """A connection that only asks would be taken for the client: look in the table."""
    end = time.monotonic() + LISTEN_SECONDS
    while time.monotonic() < end:
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            path = Path(table)
            lines = path.read_text().splitlines()[1:] if path.exists() else []
            for line in lines:
                words = line.split()
                if int(words[1].rsplit(":", 1)[1], 16) == port and words[3] == LISTENING:
                    return
        if server.poll() is not None:
            raise BenchError(f"ucx_perftest: the server ended with {server.returncode}")
        time.sleep(0.005)
    raise BenchError(f"ucx_perftest: the server did not listen within {LISTEN_SECONDS:.0f} s")
