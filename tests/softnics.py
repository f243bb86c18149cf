"""The software NIC of tests/softnic, built once a session: for tests that need RDMA devices."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCES = Path(__file__).with_name("softnic")


def unavailable() -> str:
    """Why the software NIC cannot be built here, "" if it can."""
    compiler = os.environ.get("CC", "gcc")
    if shutil.which(compiler) is None:
        return f"the software NIC needs a C compiler ({compiler})"
    probe = subprocess.run(
        [compiler, "-x", "c", "-fsyntax-only", "-"],
        input="#include <infiniband/verbs.h>\n",
        text=True,
        capture_output=True,
        check=False,
    )
    return "" if probe.returncode == 0 else "the software NIC needs the package libibverbs-dev"


def build(folder: Path, flags: str = "") -> Path:
    """Builds it into folder, or does nothing if it is there and up to date. One at a time: the
    workers of pytest-xdist use the same folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(
            [str(SOURCES / "build.sh"), str(folder)],
            env={**os.environ, "SOFTNIC_CFLAGS": flags},
            check=True,
            timeout=120,
        )
    return folder


class Network:
    """A folder that processes share, and with it the devices that they see.

    With `environment` a program finds them. A context manager: it removes the folder, which
    is in memory where the host has /dev/shm.
    """

    def __init__(self, built: Path) -> None:
        self.built = built
        memory = Path("/dev/shm")
        self.folder = Path(
            tempfile.mkdtemp(prefix="softnic-test-", dir=memory if memory.is_dir() else None)
        )

    def environment(self, settings: str = "", paths: bool = False) -> dict[str, str]:
        """Variables for a process; paths: also for its own looks at /sys/class/infiniband."""
        variables = {
            "LD_LIBRARY_PATH": str(self.built),
            "SOFTNIC_DIR": str(self.folder),
            "SOFTNIC": settings,
        }
        if paths:
            variables["LD_PRELOAD"] = str(self.built / "libsoftnic-paths.so")
        return variables

    def control(self, *arguments: str) -> str:
        """Runs softnicctl; what it printed."""
        done = subprocess.run(
            [str(self.built / "softnicctl"), *arguments],
            env={**os.environ, **self.environment()},
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
        return done.stdout

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
