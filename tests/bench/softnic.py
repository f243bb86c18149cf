"""The software NIC: where it is, what a process needs to use it, and its settings."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from processes import BenchError

SET_SECONDS = 20.0
LIBRARY, CONTROL, PATHS = "libibverbs.so.1", "softnicctl", "libsoftnic-paths.so"
MEMORY = "/dev/shm"
# One port, as an engine of ours has one; upstream would take both.
LIMITS = "ndev=1"
COPYING = {"mode": "copy", "rate": "0", "bandwidth": "0"}
COUNTING = {"mode": "null", "rate": "0", "bandwidth": "0"}


class SoftNic:
    """The one that was built in folder. Its state is its own, and ends with close."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        memory = MEMORY if os.access(MEMORY, os.W_OK) else None
        self.state = Path(tempfile.mkdtemp(prefix="mooncake-softnic-", dir=memory))
        self.missing = "" if all((folder / name).exists() for name in (LIBRARY, CONTROL)) else (
            f"there is no software NIC in {folder}: make bench-rdma builds it")  # fmt: skip

    def environment(
        self, more: Mapping[str, str] | None = None, settings: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """What makes a process use it, and more, whose LD_LIBRARY_PATH is searched after it.
        The process changes the settings as set does, when it begins."""
        env = dict(more or {})
        folders = [str(self.folder), env.get("LD_LIBRARY_PATH", "")]
        env.update(
            LD_LIBRARY_PATH=":".join(filter(None, folders)),
            SOFTNIC_DIR=str(self.state),
            SOFTNIC=",".join([LIMITS, *words(settings or {})]),
        )  # fmt: skip
        paths = self.folder / PATHS
        if paths.exists():
            env["LD_PRELOAD"] = str(paths)
        return env

    def set(self, settings: Mapping[str, str]) -> None:
        """Of its port, at once; some process must have used it. Raises BenchError."""
        if self.missing:
            raise BenchError(self.missing)
        wanted = words(settings)
        try:
            done = subprocess.run(
                [str(self.folder / CONTROL), "set", "mlx5_0", *wanted], check=False,
                env={**os.environ, "SOFTNIC_DIR": str(self.state), "SOFTNIC": LIMITS},
                capture_output=True, text=True, timeout=SET_SECONDS,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BenchError(f"softnicctl: {error}") from error
        if done.returncode != 0:
            raise BenchError(f"softnicctl set {' '.join(wanted)}: {done.stderr.strip()}")

    def close(self) -> None:
        shutil.rmtree(self.state, ignore_errors=True)


def words(settings: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in settings.items()]
