"""An engine here and its peer, and memory of which every byte is accounted for."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from hosts import LabPeer
from kit import POISON, Pages, pattern, wait_until, within
from mooncake import Op

_numbers = itertools.count(1)


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


class Side:
    """Registered memory here and in the peer, of one size, and what it must hold.

    Here and there are the same bytes at the same offsets; both begin as patterns.
    """

    def __init__(self, link: Link, size: int, register: bool = True) -> None:
        self.link, self.size = link, size
        self.name = f"side{next(_numbers)}"
        self.here = Pages(size, 1)
        self.there = pattern(size, 2).copy()  # what the peer's memory must hold
        self.memory = link.engine.register(self.here.map) if register else None
        self.remote = link.peer.memory(self.name, size, seed=2, register=register)
        self.wanted = self.here.array.copy()

    def fill_there(self, value: int) -> None:
        self.link.peer.call("fill", name=self.name, value=value)
        self.there[:] = value

    def fill_here(self, value: int) -> None:
        self.here.fill(value)
        self.wanted[:] = value

    def expect(self, op: Op, local: Any, remote: Any, lengths: Any) -> None:
        """Blocks at these offsets are to be moved."""
        source, destination = (
            (self.wanted, self.there) if op is Op.WRITE else (self.there, self.wanted)
        )
        before, after = (local, remote) if op is Op.WRITE else (remote, local)
        for a, b, n in zip(before, after, lengths, strict=True):
            destination[b : b + n] = source[a : a + n]

    def addresses(self, local: Sequence[int], remote: Sequence[int]) -> tuple[Any, Any]:
        return (
            np.asarray(local, dtype=np.uint64) + np.uint64(self.here.address),
            np.asarray(remote, dtype=np.uint64) + np.uint64(self.remote),
        )

    def move(
        self, op: Op, local: Sequence[int], remote: Sequence[int], lengths: Sequence[int],
        deadline: float = 60.0,
    ) -> Any:  # fmt: skip
        """Move blocks at these offsets, blocking; then both sides must be as expected."""
        self.expect(op, local, remote, lengths)
        call = self.link.segment.write if op is Op.WRITE else self.link.segment.read
        here, there = self.addresses(local, remote)
        sizes = np.asarray(lengths, dtype=np.uint64)
        status = within(deadline + 10, call, here, there, sizes, deadline=deadline)
        assert status.bytes_done == status.bytes == int(sizes.sum())
        self.check()
        return status

    def check(self) -> None:
        """Every byte on both sides is what it must be, moved or not."""
        wrong = np.flatnonzero(self.here.array != self.wanted)
        assert wrong.size == 0, f"{wrong.size} wrong bytes here, the first at {wrong[0]}"
        assert self.link.peer.sha(self.name) == digest(self.there), "wrong bytes at the peer"

    def poisoned(self) -> bool:
        return bool((self.here.array == POISON).all())

    def free(self) -> None:
        if self.memory is not None:
            self.memory.close()
        if self.link.peer.process.poll() is None:
            self.link.peer.call("free", name=self.name)


class Link:
    """An engine here, a peer on the other host, and a segment to it."""

    def __init__(self, engine: Any, peer: LabPeer) -> None:
        self.engine, self.peer = engine, peer
        self.segment = within(30, engine.open_segment, peer.session)
        self.sides: list[Side] = []

    def side(self, size: int, register: bool = True) -> Side:
        self.sides.append(Side(self, size, register))
        return self.sides[-1]

    def free(self) -> None:
        for side in self.sides:
            side.free()

    def begin(self, side: Side, op: Op = Op.WRITE, deadline: float | None = 60.0) -> Any:
        """Start to move all of the memory as blocks of 64 KiB in a random order, and return
        the batch once some bytes have arrived."""
        block = 1 << 16
        order = np.random.default_rng(3).permutation(side.size // block).astype(np.uint64) * block
        batch = self.segment.submit(
            op, order + side.here.address, order + side.remote, block, deadline=deadline
        )
        wait_until(lambda: batch.poll().bytes_done > 0 or batch.done, "bytes arrive", 30)
        return batch
