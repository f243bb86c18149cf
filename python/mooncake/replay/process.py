"""What the kernel knows of a process: its CPU time, memory, and the traffic it sees."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far; 0 if it is gone."""
    try:
        # The clock of another process: see clock_getcpuclockid(3).
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Usage:
    """Of one process at one moment."""

    at: float  # seconds, monotonic
    cpu: float  # seconds
    resident: int  # bytes
    sent: int  # bytes that left any interface of its network namespace, loopback included


def usage(pid: int) -> Usage:
    return Usage(time.monotonic(), cpu_seconds(pid), _resident(pid), _sent(pid))


def _resident(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def _sent(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    except OSError:
        return 0
    return sum(int(line.split(":", 1)[1].split()[8]) for line in lines)


@dataclass(frozen=True)
class Machine:
    """CPU time of all cores since the boot, in ticks."""

    busy: int
    total: int

    def share_since(self, before: Machine) -> float:
        """How much of all cores was used between the two, by whomever."""
        return (self.busy - before.busy) / max(1, self.total - before.total)


def machine() -> Machine:
    try:
        first = Path("/proc/stat").read_text().split("\n", 1)[0]
    except OSError:
        return Machine(0, 0)
    user, nice, system, idle, iowait, *others = map(int, first.split()[1:9])
    busy = user + nice + system + sum(others)
    return Machine(busy, busy + idle + iowait)
