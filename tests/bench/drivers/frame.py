"""What the Python drivers share: the commands of programs/frame.c, over memory of their own.

Standard library only: they also run under the peers' Python. What libraries print goes to
stderr.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import sys
import time
from array import array
from collections.abc import Callable
from typing import Any, NamedTuple

CHUNK = 1 << 20
PR_SET_PDEATHSIG = 1

Move = Callable[[], None]


class Region:
    """One end's memory, with the bytes of a file."""

    def __init__(self, path: str) -> None:
        self.size = os.path.getsize(path)
        # A margin of two pages: two regions side by side would be one to a peer. Private, as
        # an allocator's memory: shared memory has no huge pages, and other costs.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self.pages = mmap.mmap(-1, self.size + 2 * mmap.PAGESIZE, flags=flags)
        first = ctypes.c_char.from_buffer(self.pages)
        self.address = ctypes.addressof(first) + mmap.PAGESIZE
        del first
        self.fill(path)

    def fill(self, path: str) -> None:
        with open(path, "rb") as file:
            view = memoryview(self.pages)[mmap.PAGESIZE : mmap.PAGESIZE + self.size]
            if file.readinto(view) != self.size:
                raise ValueError(f"{path} has not {self.size} bytes")

    def same(self, path: str) -> bool:
        with open(path, "rb") as file:
            return all(
                file.read(CHUNK) == self.pages[mmap.PAGESIZE + at : mmap.PAGESIZE + at + CHUNK]
                for at in range(0, self.size, CHUNK)
            )


class Plan(NamedTuple):
    """Offsets in the two regions; programs/frame.c describes the file."""

    size: int
    batch: int
    local: array[int]
    remote: array[int]
    read: bool

    @classmethod
    def load(cls, path: str, op: str) -> Plan:
        numbers = array("Q")
        with open(path, "rb") as file:
            numbers.frombytes(file.read())
        size, batch, count = numbers[:3]
        return cls(size, batch, numbers[3 : 3 + count], numbers[3 + count :], op == "read")

    def batches(self) -> range:
        """The first block of each."""
        return range(0, len(self.local), self.batch)


class Driver:
    """One process of a pair, or both ends of it. A subclass opens endpoints and moves."""

    def __init__(self) -> None:
        self.regions: dict[str, Region] = {}
        self.moves: list[Move] = []
        self.size = self.batch = self.next = 0

    # -- what a subclass does

    def listen(self, role: str, region: Region) -> str:
        """Make the endpoint of a region; one word that an initiator finds it by."""
        raise NotImplementedError

    def prepare(self, plan: Plan, at: str) -> list[Move]:
        """One call for each batch, which returns when its bytes are there."""
        raise NotImplementedError

    def about(self) -> str:
        """Name and version of what is measured."""
        return ""

    def counters(self) -> dict[str, Any]:
        """What the initiator counts itself."""
        return {"counters": {}}

    # -- the commands

    def open(self, role: str, path: str) -> dict[str, Any]:
        region = self.regions[role] = Region(path)
        return {"at": self.listen(role, region), "about": self.about()}

    def fill(self, role: str, path: str) -> dict[str, Any]:
        self.regions[role].fill(path)
        return {}

    def same(self, role: str, path: str) -> dict[str, Any]:
        return {"same": self.regions[role].same(path)}

    def expect(self, path: str, op: str, lanes: str) -> dict[str, Any]:
        return {}

    def aim(self, path: str, op: str, lanes: str, at: str) -> dict[str, Any]:
        plan = Plan.load(path, op)
        self.moves = self.prepare(plan, at)
        self.size, self.batch, self.next = plan.size, plan.batch, 0
        return {}

    def once(self) -> dict[str, Any]:
        for move in self.moves:
            move()
        return {}

    def run(self, seconds: str) -> dict[str, Any]:
        done, at, count, limit = 0, self.next, len(self.moves), float(seconds)
        began = time.perf_counter()
        while True:
            self.moves[at]()
            at = (at + 1) % count
            done += 1
            elapsed = time.perf_counter() - began
            if elapsed >= limit:
                self.next = at
                return {"seconds": elapsed, "bytes": done * self.batch * self.size}

    def latency(self, seconds: str) -> dict[str, Any]:
        took = array("Q")
        at, count, clock = self.next, len(self.moves), time.perf_counter_ns
        end = clock() + int(float(seconds) * 1e9)
        while True:
            began = clock()
            self.moves[at]()
            now = clock()
            took.append(now - began)
            at = (at + 1) % count
            if now >= end:
                break
        self.next = at
        ordered = sorted(took)
        calls = len(ordered)
        return {
            "calls": calls,
            "p50_us": ordered[calls // 2] / 1e3,
            "p99_us": ordered[calls * 99 // 100] / 1e3,
        }


COMMANDS = ("open", "fill", "same", "expect", "aim", "once", "run", "latency", "counters")


def serve(driver: object, commands: tuple[str, ...] = COMMANDS) -> None:
    """Answer commands, which are methods of the driver, until stdin ends."""
    # A pair that is stopped when its parent is killed must not stay for ever.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        op, *words = line.split()
        try:
            if op not in commands:
                raise ValueError(f"unknown command {op!r}")
            answer = {"ok": True, **getattr(driver, op)(*words)}
        except Exception as error:
            answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        channel.write(json.dumps(answer) + "\n")
        channel.flush()
    # Some engines take seconds to shut down, which nobody measures here.
    os._exit(0)
