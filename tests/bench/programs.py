"""The C programs: the limits, and our engine called from C. Compiled when they are older than
their sources."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from machine import REPOSITORY

HERE = Path(__file__).resolve().parent
DRIVERS = HERE / "drivers"
SOURCES = HERE / "programs"
NAMES = ("stream", "cma", "copy", "packed", "engine")
RDMA_NAMES = ("engine", "verbs_loop")
LIBRARIES = {"verbs_loop": ["-libverbs"]}
FLAGS = ("-O2", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-pthread")


class Programs:
    """library is the libmooncake.so that the engine's program uses."""

    def __init__(self, folder: Path, library: Path) -> None:
        self.folder, self.library = folder, library
        self.errors: dict[str, str] = {}
        self.engine_environment = {"LD_LIBRARY_PATH": str(library.parent)}

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def missing(self, name: str) -> str:
        """Why a program cannot be run; "" if it can."""
        return self.errors.get(name, "")

    def build(self, names: Sequence[str] = NAMES) -> None:
        compiler = os.environ.get("CC") or "gcc"
        if shutil.which(compiler) is None:
            self.errors = dict.fromkeys(names, f"there is no C compiler {compiler}: set CC")
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            error = self._compile(compiler, name)
            if error:
                self.errors[name] = error

    def _compile(self, compiler: str, name: str) -> str:
        sources = [SOURCES / "frame.c", SOURCES / f"{name}.c"]
        link = LIBRARIES.get(name, [])
        needs = [*sources, SOURCES / "frame.h"]
        if name == "engine":
            header = REPOSITORY / "capi"
            link = [f"-I{header}", f"-L{self.library.parent}", f"-l:{self.library.name}"]
            needs.append(header / "mooncake.h")
        out = self.folder / name
        if out.exists() and all(out.stat().st_mtime > each.stat().st_mtime for each in needs):
            return ""
        # Not in place: another run may be executing it.
        fresh = self.folder / f"{name}.{os.getpid()}"
        done = subprocess.run(
            [compiler, *FLAGS, *map(str, sources), *link, "-o", str(fresh)],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            fresh.unlink(missing_ok=True)
            return f"{compiler} could not build {name}.c: {reason(done.stderr)}"
        fresh.replace(out)
        return ""


def reason(printed: str) -> str:
    """The first line of a compiler that says what is wrong, or its last one."""
    lines = printed.strip().splitlines() or ["no message"]
    return next((line for line in lines if "error:" in line), lines[-1])
