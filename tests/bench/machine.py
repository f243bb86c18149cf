"""The facts about this machine that a reader of the figures needs."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import date
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def facts() -> dict[str, str]:
    return {
        "date": date.today().isoformat(),
        "cpu": f"{cpu_model()}, {cores()} cores",
        "memory": f"{memory_of('MemTotal') / (1 << 30):.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "commit": commit(),
        "load": f"{os.getloadavg()[0]:.1f} before the run",
    }


def usable() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


def cores() -> int:
    return len(usable())


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def memory_of(name: str) -> int:
    """Bytes of a line of /proc/meminfo; 0 if it has no such line."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    return 0


def commit() -> str:
    """The checkout's commit, with a mark if it was changed since."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=REPOSITORY,
            check=False,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"
