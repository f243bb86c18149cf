"""Registered memory by its address, as the drop-in engine's callers name it."""

from __future__ import annotations

import threading
from bisect import bisect_right, insort
from collections.abc import Callable, Iterable

from ._memory import Memory
from .native import Engine


class MemoryTable:
    """The memories that were registered through one TransferEngine, by start address.

    Safe for concurrent use.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()  # guards the two below, and a use() while it runs
        self._by_start: dict[int, Memory] = {}
        self._starts: list[int] = []  # sorted

    def register(self, address: int, length: int, location: str) -> None:
        """Register a range. Raises as Engine.register."""
        self.add(self._engine.register(address, length, location=location))

    def register_many(self, ranges: Iterable[tuple[int, int]], location: str) -> None:
        """Register ranges, all or none. Raises as Engine.register_many."""
        for memory in self._engine.register_many(ranges, location=location):
            self.add(memory)

    def add(self, memory: Memory) -> None:
        """Enter a memory that was registered already."""
        with self._lock:
            self._by_start[memory.address] = memory
            insort(self._starts, memory.address)

    def unregister(self, addresses: Iterable[int]) -> bool:
        """End the registrations that start at these addresses: every known one, also when
        others are not. Blocks as Memory.close(). Returns whether all were known."""
        known: list[Memory] = []
        unknown = 0
        with self._lock:
            for address in addresses:
                memory = self._by_start.pop(address, None)
                if memory is None:
                    unknown += 1
                else:
                    known.append(memory)
                    self._starts.remove(address)
        self._engine.deregister_many(known)
        return not unknown

    def use(self, address: int, length: int, action: Callable[[], object]) -> bool:
        """Run action while [address, address+length) stays registered here. Returns False,
        and runs nothing, if it does not lie within one memory."""
        with self._lock:
            place = bisect_right(self._starts, address)
            if not place:
                return False
            memory = self._by_start[self._starts[place - 1]]
            if address + length > memory.address + memory.length:
                return False
            action()
            return True
