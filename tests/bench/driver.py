"""The frame of a benchmark process: JSON commands on stdin, answers on stdout.

Standard library only: it also runs under upstream's Python. What libraries print goes to
stderr.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import mmap
import os
import random
import sys
import time
from collections.abc import Callable
from typing import Any

from plan import REGION, Plan, plan


class Region:
    """One region of memory, filled from a seed."""

    def __init__(self, seed: int) -> None:
        self.pages = mmap.mmap(-1, REGION)
        first = ctypes.c_char.from_buffer(self.pages)
        self.address = ctypes.addressof(first)
        del first
        self.fill(seed)

    def fill(self, seed: int) -> None:
        self.pages[:] = random.Random(seed).randbytes(REGION)

    def sha256(self) -> str:
        return hashlib.sha256(self.pages).hexdigest()


class Side:
    """One end of a pair. A subclass opens its connection and moves a batch."""

    def __init__(self) -> None:
        self.region: Region | None = None
        self.move: list[Callable[[], None]] = []

    def open(self, seed: int) -> dict[str, Any]:
        """Make the region and the endpoint; the answer tells where a sender finds it."""
        self.region = Region(seed)
        return self.listen()

    def aim(self, size: int, batch: int, there: dict[str, Any]) -> dict[str, Any]:
        """Prepare the batches of a plan, so that a run measures no preparation. there is what
        open() answered on the other side."""
        what = plan(size, batch)
        self.move = self.prepare(what, there)
        return {"batches": len(self.move), "batch": what.batch}

    def run_once(self) -> dict[str, Any]:
        """Every batch of the plan once."""
        for move in self.move:
            move()
        return {}

    def run(self, seconds: float) -> dict[str, Any]:
        """Batches, round and round, for so many seconds."""
        done, count = 0, len(self.move)
        began = time.perf_counter()
        while True:
            self.move[done % count]()
            done += 1
            elapsed = time.perf_counter() - began
            if elapsed >= seconds:
                return {"batches": done, "seconds": elapsed}

    def fill(self, seed: int) -> dict[str, Any]:
        assert self.region is not None
        self.region.fill(seed)
        return {}

    def sha256(self) -> dict[str, Any]:
        assert self.region is not None
        return {"sha256": self.region.sha256()}

    def listen(self) -> dict[str, Any]:
        """Start to serve the region."""
        raise NotImplementedError

    def prepare(self, what: Plan, there: dict[str, Any]) -> list[Callable[[], None]]:
        """One call for each batch, which returns when its bytes have arrived."""
        raise NotImplementedError


COMMANDS = ("open", "aim", "run_once", "run", "fill", "sha256")


def serve(side: Side) -> None:
    """Answer commands until stdin ends."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            arguments = json.loads(line)
            op = arguments.pop("op")
            if op not in COMMANDS:
                raise ValueError(f"unknown op {op!r}")
            reply = {"ok": True, **getattr(side, op)(**arguments)}
        except Exception as error:
            reply = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        channel.write(json.dumps(reply) + "\n")
        channel.flush()
    # Some engines take seconds to shut down, which nobody measures here.
    os._exit(0)
