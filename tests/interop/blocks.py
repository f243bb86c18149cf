"""Which bytes a test moves: two regions, and blocks that lie scattered in both.

Blocks of one region never overlap or touch, unless asked to, and have untouched
bytes around them, so that a byte written beside its block is found.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

SLACK = 64  # untouched bytes behind the last block of a region


@dataclass(frozen=True)
class Blocks:
    """Block i is length[i] bytes, at source[i] and target[i] of two regions of size bytes."""

    source: list[int]
    target: list[int]
    length: list[int]
    size: int

    def at(self, base_source: int, base_target: int) -> tuple[list[int], list[int], list[int]]:
        """The three lists of a transfer, with absolute addresses."""
        return (
            [base_source + offset for offset in self.source],
            [base_target + offset for offset in self.target],
            self.length,
        )

    def applied(self, source: bytes, target: bytes) -> bytes:
        """The target region after all blocks, and nothing else, arrived in it."""
        expected = bytearray(target)
        for s, t, n in zip(self.source, self.target, self.length):
            expected[t : t + n] = source[s : s + n]
        return bytes(expected)


def scattered(lengths: list[int], seed: int, gap: int = 256) -> Blocks:
    """Blocks in random order on both sides, each with gap untouched bytes behind it."""
    pick = random.Random(seed)
    size = sum(lengths) + gap * len(lengths) + SLACK

    def place() -> list[int]:
        order = list(range(len(lengths)))
        pick.shuffle(order)
        offsets, at = [0] * len(lengths), 0
        for index in order:
            offsets[index] = at
            at += lengths[index] + gap
        return offsets

    return Blocks(place(), place(), lengths, size)


def adjacent(count: int, length: int) -> Blocks:
    """Blocks one behind the other on both sides: what an engine may merge."""
    offsets = [i * length for i in range(count)]
    return Blocks(offsets, offsets, [length] * count, count * length + SLACK)


def mixed(count: int, seed: int) -> Blocks:
    """Scattered blocks of sizes at and around the borders of pages, chunks and words, zero too."""
    sizes = [0, 1, 7, 8, 63, 512, 4095, 4096, 65535, 65536, 65537, 300_000]
    pick = random.Random(seed)
    return scattered([pick.choice(sizes) for _ in range(count)], seed, gap=3)


def content(seed: int, size: int) -> bytes:
    """The same bytes as upstream_peer.py makes of a seed."""
    return random.Random(seed).randbytes(size)
