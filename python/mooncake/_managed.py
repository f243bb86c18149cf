"""Buffers that the drop-in engine allocates and registers itself."""

from __future__ import annotations

import mmap
import threading
from bisect import bisect_left

from . import _ffi
from ._compat_memory import MemoryTable
from ._memory import Memory
from .native import Engine

# Sizes that are kept for reuse: 8 KiB to 256 MiB. Larger ones are mapped and unmapped.
_SIZES = [8192 << k for k in range(16)]
# Smaller ones are cut from a mapping of this class. 64 MiB: big enough that peers
# see few registrations, small enough to pin on a NIC.
_SLAB_CLASS = 13


class ManagedBuffers:
    """Registered buffers by size class, cut in halves from mappings and never joined again.

    The mappings last until the engine is closed, but for those of buffers larger than any
    class. Safe for concurrent use.
    """

    def __init__(self, engine: Engine, memories: MemoryTable) -> None:
        self._engine = engine
        self._memories = memories  # the mappings, so that their bytes may be used
        self._lock = threading.Lock()  # guards the rest
        self._free: list[list[int]] = [[] for _ in _SIZES]
        self._allocated: dict[int, int] = {}  # size class by address; len(_SIZES) for large

    def allocate(self, length: int) -> int:
        """The address of at least length bytes, zeros when it is new. Raises as
        Engine.register, and OSError, OverflowError when there is no memory."""
        size_class = bisect_left(_SIZES, length)
        with self._lock:
            if size_class < len(_SIZES):
                address = self._take(size_class)
            else:
                address = self._map(length).address
            self._allocated[address] = size_class
        return address

    def free(self, address: int, length: int) -> None:
        """Give back a buffer; length must be in the size class of its allocation. Raises
        InvalidArgument if it is not, or no buffer is allocated at address."""
        size_class = bisect_left(_SIZES, length)
        with self._lock:
            allocated = self._allocated.get(address)
            if allocated is None:
                raise _ffi.error("MC_EINVAL", f"address {address:#x} is not an allocated buffer")
            if allocated != size_class:
                raise _ffi.error(
                    "MC_EINVAL", f"length {length} is of another size class than {address:#x} has"
                )
            del self._allocated[address]
            if size_class < len(_SIZES):
                self._free[size_class].append(address)
                return
        self._memories.unregister([address])

    def _take(self, size_class: int) -> int:
        if self._free[size_class]:
            return self._free[size_class].pop()
        if size_class >= _SLAB_CLASS:
            return self._map(_SIZES[size_class]).address
        address = self._take(size_class + 1)
        self._free[size_class].append(address + _SIZES[size_class])
        return address

    def _map(self, length: int) -> Memory:
        memory = self._engine.register(mmap.mmap(-1, length))
        self._memories.add(memory)
        return memory
