"""Two engines with memory in parts, and page groups between them."""

from __future__ import annotations

import array
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from kit import Pages, within

from mooncake import Layer, Op, PageGroup

SIZE = 256 << 10
# What of the memory on each side is registered: two ranges that adjoin, then a gap.
PARTS = ((0, 70_001), (70_001, 150_000), (160_000, SIZE))


class Board:
    """Two engines in this process with memory in parts, and a segment to the second."""

    def __init__(self, open_engine: Callable[..., Any]) -> None:
        self.engine, self.peer = open_engine("127.0.0.1"), open_engine("127.0.0.1")
        self.here, self.there = Pages(SIZE, 3), Pages(SIZE, 4)
        for engine, pages in ((self.engine, self.here), (self.peer, self.there)):
            for start, stop in PARTS:
                engine.register(pages.address + start, stop - start)
        self.segment = self.engine.open_segment(self.peer.session)

    def sides(self, op: Op) -> tuple[Pages, Pages]:
        """Source and destination."""
        return (self.here, self.there) if op is Op.WRITE else (self.there, self.here)

    def move(self, op: Op, *groups: PageGroup) -> Any:
        call = self.segment.write_pages if op is Op.WRITE else self.segment.read_pages
        return within(20, call, groups)


def registered(offset: int, length: int) -> bool:
    """Whether a block lies in registered memory."""
    return length == 0 or (
        0 <= offset
        and any(
            start <= offset and offset + length <= stop for start, stop in ((0, 150_000), PARTS[2])
        )
    )


@dataclasses.dataclass
class Plan:
    """A group in offsets: pages[i] is (source, destination), layers are (source base,
    destination base, source stride, destination stride, length)."""

    pages: list[tuple[int, int]]
    layers: list[tuple[int, int, int, int, int]]

    def blocks(self) -> list[tuple[int, int, int]]:
        """(source, destination, length), layer by layer."""
        return [(a + i * s, b + j * d, n) for a, b, s, d, n in self.layers for i, j in self.pages]

    def group(self, op: Op, board: Board, form: Callable[[list[int]], Any]) -> PageGroup:
        sides = [form([pair[k] for pair in self.pages]) for k in (0, 1)]
        source, destination = (each.address for each in board.sides(op))
        layers = [Layer(source + a, destination + b, s, d, n) for a, b, s, d, n in self.layers]
        if op is Op.READ:
            sides.reverse()
            layers = [Layer(b, a, d, s, n) for a, b, s, d, n in layers]
        return PageGroup(sides[0], sides[1], layers)


def random_plan(order: np.random.Generator, start: int, stop: int) -> Plan:
    """A group whose destination is in [start, stop): layers side by side, or page by page,
    dense or slices of heads; the source anywhere, also overlapping."""
    layers, length = int(order.integers(1, 5)), int(order.integers(1, 400))
    size = length + int(order.integers(0, 2)) * int(order.integers(0, 300))
    limit = (stop - start) // layers // size
    pagewise, alike = order.integers(0, 2, 2)
    found = []
    for k in range(layers):
        base, stride = (
            (start + k * size, layers * size) if pagewise else (start + k * limit * size, size)
        )
        source, step = int(order.integers(0, SIZE // 2)), int(order.integers(0, 2 * length))
        found.append(
            (base, base, stride, stride, length) if alike else (source, base, step, stride, length)
        )
    plan = Plan([], found)
    at, there = 0, list(range(limit))
    if order.integers(0, 2):
        order.shuffle(there)
    elif order.integers(0, 2):
        there.reverse()
    for page in there[: int(order.integers(0, limit + 1))]:
        at = (
            int(order.integers(0, limit))
            if order.integers(0, 6) == 0
            else max(0, page if alike else at + 1)
        )
        blocks = Plan([(at, page)], plan.layers).blocks()
        if all(registered(a, n) and registered(b, n) for a, b, n in blocks):
            plan.pages.append((at, page))
    return plan


FORMS: dict[str, Callable[[list[int]], Any]] = {
    "list": list,
    "tuple": tuple,
    "array i": lambda v: array.array("i", v),
    "array q": lambda v: array.array("q", v),
    "int32": lambda v: np.array(v, dtype=np.int32),
    "int64": lambda v: np.array(v, dtype=np.int64),
    "uint64": lambda v: np.array(v, dtype=np.uint64),
    "uint32": lambda v: np.array(v, dtype=np.uint32),
    "every second": lambda v: np.repeat(np.array(v, dtype=np.int32), 2)[::2],
}


def dense(board: Board, pages: Any = (0, 1, 2), layers: int = 2, size: int = 512) -> PageGroup:
    """Pages that are the same on both sides, in layers one after the other."""
    here, there = board.here.address, board.there.address
    step = 100 * size
    return PageGroup(
        pages,
        pages,
        [Layer(here + k * step, there + k * step, size, size, size) for k in range(layers)],
    )
