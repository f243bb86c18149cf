"""What the tests of the C ABI's errors call it with: two engines, and handles of all kinds."""

from __future__ import annotations

from ctypes import byref, c_uint64
from dataclasses import dataclass

from kit import Pages
from raw import NAMES, array, c, opened, session, stats, text

PAGE = 4096
U64 = 2**64 - 1


@dataclass
class World:
    """Two engines with everything that a call can be about, and what was closed before."""

    engine: int
    peer: int
    pages: Pages  # the first half is registered with engine
    theirs: Pages  # all of it is registered with peer
    memory: int
    segment: int
    batch: int  # done
    closed_engine: int
    closed_memory: int
    closed_segment: int
    closed_batch: int

    def handles(self, but: str) -> dict[str, int]:
        """Handles that are not valid where one of kind `but` is expected."""
        kinds = {"engine": self.engine, "memory": self.memory, "segment": self.segment,
                 "batch": self.batch}  # fmt: skip
        valid = kinds.pop(but)
        return {
            **kinds, "zero": 0, "one": 1, "all ones": U64, "next": valid + 1000,
            "other kind byte": valid ^ (0xFF << 56), "closed": getattr(self, f"closed_{but}"),
        }  # fmt: skip


def register(engine: int, address: int, length: int) -> int:
    out = c_uint64()
    assert c.mc_register(engine, address, length, None, byref(out)) == 0, text()
    return out.value


def open_segment(engine: int, name: bytes) -> int:
    out = c_uint64()
    assert c.mc_segment_open(engine, name, byref(out)) == 0, text()
    return out.value


def submit(segment: int, a: int, b: int, length: int) -> int:
    out = c_uint64()
    one = (array(a), array(b), array(length))
    assert c.mc_submit(segment, 1, *one, 1, 0, byref(out)) == 0, text()
    return out.value


def make_world() -> World:
    pages, theirs = Pages(8 * PAGE, 1), Pages(8 * PAGE, 2)
    engine, peer, closed = opened(), opened(), opened()
    assert c.mc_engine_close(closed) == 0
    memory = register(engine, pages.address, 4 * PAGE)
    closed_memory = register(engine, pages.address + 6 * PAGE, PAGE)
    assert c.mc_deregister(closed_memory) == 0
    register(peer, theirs.address, theirs.size)
    segment, closed_segment = (open_segment(engine, session(peer)) for _ in range(2))
    assert c.mc_segment_close(closed_segment) == 0
    batch, closed_batch = (submit(segment, pages.address, theirs.address, 8) for _ in range(2))
    for handle in (batch, closed_batch):
        assert c.mc_wait(handle, 5000, None) == 0
    assert c.mc_batch_close(closed_batch) == 0
    return World(engine, peer, pages, theirs, memory, segment, batch,
                 closed, closed_memory, closed_segment, closed_batch)  # fmt: skip


def holdings(world: World) -> list[tuple[int, int]]:
    """What the engines have: memories and open batches."""
    return [(s.memories, s.batches_open) for s in map(stats, (world.engine, world.peer))]


def refused(status: int, code: str, *words: str) -> None:
    assert NAMES[status] == code, text()
    for word in words:
        assert word in text(), f"{word!r} is not in {text()!r}"
