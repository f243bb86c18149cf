"""Which bytes a batch moves. All contenders read the same plan, from a file.

Each end has a region. Scattered: both regions are cut into slots of a block and a gap, so
that no two blocks touch, and the batches walk over all slots in an order that differs on the
two sides, as the pages of a KV cache do. Contiguous: block follows block on both sides. The
regions are larger than a cache, as a KV cache is.
"""

from __future__ import annotations

import random
from array import array
from dataclasses import dataclass
from pathlib import Path

PATTERNS = ("contiguous", "scattered")
OPS = ("write", "read")


@dataclass(frozen=True)
class Cell:
    """One row of the table: every contender is measured in it. size is bytes of a block."""

    size: int
    pattern: str
    op: str

    def __str__(self) -> str:
        return f"{named(self.size)} {self.pattern} {self.op}"


@dataclass(frozen=True)
class Laid:
    """A cell's files: the plan, and what the destination holds after every batch."""

    cell: Cell
    plan: Path
    expected: Path
    payload: int  # bytes of all blocks
    batch: int  # blocks in a call


class Workspace:
    """The files of a run, in a folder. memory is bytes of each region."""

    def __init__(self, folder: Path, memory: int) -> None:
        self.folder, self.memory = folder, memory
        self.contents: dict[str, bytes] = {}
        for role, seed in (("local", 1), ("remote", 2)):
            self.contents[role] = random.Random(seed).randbytes(memory)
            self.content(role).write_bytes(self.contents[role])

    def content(self, role: str) -> Path:
        """What a region holds before anything moves."""
        return self.folder / f"{role}.bin"

    def lay(self, cell: Cell, batch: int) -> Laid:
        """Write the files of a cell, over those of the last one."""
        local, remote, batch = offsets(cell, batch, self.memory)
        plan = array("Q", [cell.size, batch, len(local), *local, *remote])
        laid = Laid(cell, self.folder / "plan", self.folder / "expected.bin",
                    len(local) * cell.size, batch)  # fmt: skip
        laid.plan.write_bytes(plan.tobytes())
        laid.expected.write_bytes(self.arrived(cell, local, remote))
        return laid

    def arrived(self, cell: Cell, local: list[int], remote: list[int]) -> bytearray:
        """The destination after every block arrived, and nothing else."""
        ends = ("local", "remote") if cell.op == "write" else ("remote", "local")
        source, target = (self.contents[role] for role in ends)
        froms, tos = (local, remote) if cell.op == "write" else (remote, local)
        expected = bytearray(target)
        for at, to in zip(froms, tos, strict=True):
            expected[to : to + cell.size] = source[at : at + cell.size]
        return expected


CALL = 16 << 20  # bytes in a call at most: the pages of a short prompt


def offsets(cell: Cell, batch: int, memory: int) -> tuple[list[int], list[int], int]:
    """Local and remote offsets of all blocks, and how many go in a call: a function of the
    arguments. The blocks cover at most half of the memory."""
    size = cell.size
    slot = size if cell.pattern == "contiguous" else size + min(size, 4096)
    count = min(memory // 2 // size, memory // slot)
    batch = min(batch, count, max(1, CALL // size))
    count -= count % batch

    def order(seed: int) -> list[int]:
        places = [index * slot for index in range(count)]
        if cell.pattern == "scattered":
            random.Random(seed).shuffle(places)
        return places

    return order(size), order(size + 1), batch


def named(size: int) -> str:
    for unit, word in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if size % unit == 0:
            return f"{size // unit} {word}"
    return f"{size} B"
