"""Registered memory of this process."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, SupportsIndex

from . import _ffi
from ._buffers import Region
from ._errors import StaleHandle
from ._handles import Handle

if TYPE_CHECKING:
    from .native import Engine

# What registered memory belongs to, by handle. The library goes on serving memory whose
# Memory or Engine object was collected without close(), so it must stay where it is.
_pinned: dict[int, Region] = {}


def pin(handle: int, region: Region) -> None:
    """Keep a region in place until unpin(). A dict's single steps are atomic."""
    _pinned[handle] = region


def unpin(handle: int) -> None:
    """Let a region go. Does nothing when that was done."""
    region = _pinned.pop(handle, None)
    if region is not None:
        region.release()


class Memory(Handle):
    """length bytes at address that are registered, from Engine.register().

    Usable as local memory of the engine's batches, and open to reads and writes of
    every peer. What it was made from is kept in place until close(). memory[offset] is
    the absolute address of a byte. Safe for concurrent use.
    """

    _kind = "memory"

    def __init__(self, engine: Engine, handle: int, address: int, length: int) -> None:
        super().__init__(handle)
        self.engine = engine
        self.address = address
        self.length = length

    def deregister(self) -> None:
        """As close(): end the registration. Blocks until nothing in this process reads or
        writes the memory: until batches of this engine that use it have ended, and the
        piece that a peer is moving right now has been moved."""
        self.close()

    def _release(self, handle: int) -> None:
        try:
            _ffi.lib().mc_deregister(handle)
        except StaleHandle:
            pass  # closing the engine deregistered it
        self.engine._forget([handle])

    def __getitem__(self, offset: SupportsIndex) -> int:
        """The address of the byte at offset, 0 <= offset <= length. Raises IndexError."""
        position = operator.index(offset)
        if not 0 <= position <= self.length:
            raise IndexError(f"offset must be between 0 and {self.length}, not {position}")
        return self.address + position

    def _ended(self) -> bool:
        return self.engine.closed

    def __repr__(self) -> str:
        return f"<mooncake.Memory {self.length} bytes at {self.address:#x}, {self._handle:#x}>"
