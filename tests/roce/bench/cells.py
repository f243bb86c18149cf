"""What is measured: blocks of a size, side by side or scattered; and what one measurement gives."""

from __future__ import annotations

import random
from dataclasses import dataclass

MEMORY = 8 << 20  # of an engine
CALL = 4 << 20  # bytes of a call, at most
CONTIGUOUS, SCATTERED = "contiguous", "scattered"


class BenchError(Exception):
    """A contender cannot be measured, for the reason in the text."""


@dataclass(frozen=True)
class Cell:
    """Blocks of one size, of which a call has enough to be worth it."""

    size: int
    layout: str

    @property
    def blocks(self) -> int:
        """Contiguous ones are as many bytes whatever their size, since sizes are compared with
        each other. Small scattered ones are fewer: each is a packet, and takes long here."""
        whole = CALL // self.size
        return whole if self.layout == CONTIGUOUS else min(2048, whole)


CELLS = [
    Cell(size, layout)
    for layout in (CONTIGUOUS, SCATTERED)
    for size in (512, 4 << 10, 64 << 10, 1 << 20)
]


@dataclass(frozen=True)
class Sample:
    speed: float  # MB/s, of a million bytes
    wire: float  # bytes that the rail carried for each that was to be moved
    retries: int  # times that the NIC began again because an acknowledgement was late


def sample(speed: float, moved: int, sent: int, retries: int) -> Sample:
    """Raises BenchError if the bytes did not go over the rail: then it was not rdma. What an
    interface has sent it counts somewhat later, so this does not ask for all of them."""
    if sent < moved / 2:
        raise BenchError(f"{moved} bytes moved, {sent} of them over the rail: that is not rdma")
    return Sample(speed, sent / moved, retries)


def offsets(cell: Cell) -> tuple[list[int], list[int]]:
    """Where the blocks of a cell are, here and there. Of scattered ones no two are neighbours in
    the list and in both memories."""
    if cell.layout == CONTIGUOUS:
        same = [i * cell.size for i in range(cell.blocks)]
        return same, same
    slots, pick = range(MEMORY // cell.size), random.Random(cell.size)
    while True:
        here, there = (pick.sample(slots, cell.blocks) for _ in range(2))
        steps = zip(here, here[1:], there, there[1:], strict=False)
        if not any(b - a == 1 and d - c == 1 for a, b, c, d in steps):
            return [i * cell.size for i in here], [i * cell.size for i in there]
