"""The blocks of the benchmark: which bytes a batch moves. Standard library only.

Sender and receiver each have one region. It is cut into slots of a block and a gap,
so that no two blocks touch; batches walk over all slots, in an order that differs on the two
sides. The region is larger than a cache, as a KV cache is.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

REGION = 128 << 20
PAYLOAD = 64 << 20  # bytes of all blocks of a plan


@dataclass(frozen=True)
class Plan:
    """Batch b moves size bytes from each source[b][i] to target[b][i], offsets in the regions."""

    size: int
    source: list[list[int]]
    target: list[list[int]]

    @property
    def batch(self) -> int:
        return len(self.source[0])


def plan(size: int, batch: int) -> Plan:
    """Blocks of size bytes, at most batch of them in a batch; a function of the arguments."""
    slot = size + min(size, 4096)
    count = min(PAYLOAD // size, REGION // slot)
    batch = min(batch, count)
    count -= count % batch

    def order(seed: int) -> list[list[int]]:
        offsets = [index * slot for index in range(count)]
        random.Random(seed).shuffle(offsets)
        return [offsets[at : at + batch] for at in range(0, count, batch)]

    return Plan(size, order(size), order(size + 1))


def content(seed: int) -> bytes:
    """What a region holds before anything moves."""
    return random.Random(seed).randbytes(REGION)


def arrived(what: Plan, source: bytes, target: bytes) -> bytearray:
    """The receiver's region after every batch of the plan."""
    expected = bytearray(target)
    for froms, tos in zip(what.source, what.target):
        for at, to in zip(froms, tos):
            expected[to : to + what.size] = source[at : at + what.size]
    return expected
