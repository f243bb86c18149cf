"""The drop-in engine's calls that register, allocate and copy memory."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from . import _ffi
from ._arguments import Integers, integer, integers
from ._compat_arguments import invalid, text_or_none
from ._compat_base import EngineBase, Opened
from ._compat_log import logger
from ._errors import MooncakeError, Overlap

# Upstream's error numbers that callers know.
_INVALID_ARGUMENT = -1
_ADDRESS_NOT_REGISTERED = -3
_ADDRESS_OVERLAPPED = -7


class MemoryCalls(EngineBase):
    """Registration, managed buffers, and byte copies."""

    def register_memory(self, buffer_addr: int, capacity: int, location: str = "*") -> int:
        """Make [buffer_addr, buffer_addr+capacity) usable for transfers, and open to peers.
        0; -7 if it overlaps registered memory; else -1. Keep it mapped until it is
        unregistered."""
        address, length = integer(buffer_addr, "buffer_addr"), integer(capacity, "capacity")
        where = text_or_none(location, "location") or "*"
        opened = self._ready("register_memory")
        if opened is None:
            return _INVALID_ARGUMENT
        try:
            opened.memories.register(address, length, where)
            return 0
        except MooncakeError as error:
            return _not_registered("register_memory", error, f"{length} bytes at {address:#x}")

    def unregister_memory(self, buffer_addr: int) -> int:
        """End the registration that starts at buffer_addr. 0; -3 if there is none. Blocks until
        nothing in this process reads or writes the memory."""
        return self._unregister("unregister_memory", [integer(buffer_addr, "buffer_addr")])

    def batch_register_memory(
        self, buffer_addresses: Integers, capacities: Integers, location: str = "*"
    ) -> int:
        """register_memory() of several ranges, all or none."""
        addresses = integers(buffer_addresses, "buffer_addresses")
        lengths = integers(capacities, "capacities")
        where = text_or_none(location, "location") or "*"
        opened = self._ready("batch_register_memory")
        if opened is None:
            return _INVALID_ARGUMENT
        try:
            if len(addresses) != len(lengths):
                raise invalid(
                    f"{len(addresses)} buffer_addresses and {len(lengths)} capacities: give as many"
                )
            opened.memories.register_many(zip(addresses, lengths, strict=True), where)
            return 0
        except MooncakeError as error:
            what = f"{sum(lengths)} bytes in {len(addresses)} ranges"
            return _not_registered("batch_register_memory", error, what)

    def batch_unregister_memory(self, buffer_addresses: Integers) -> int:
        """unregister_memory() of several addresses: of every known one, also when -3 is
        returned because others are not."""
        addresses = integers(buffer_addresses, "buffer_addresses")
        return self._unregister("batch_unregister_memory", addresses)

    def _unregister(self, method: str, addresses: list[int]) -> int:
        opened = self._ready(method)
        if opened is None:
            return _INVALID_ARGUMENT
        if opened.memories.unregister(addresses):
            return 0
        self._log.failure(method, "no memory is registered at an address given")
        return _ADDRESS_NOT_REGISTERED

    def allocate_managed_buffer(self, length: int) -> int:
        """The address of length bytes that are registered, or 0."""
        size = integer(length, "length")
        opened = self._ready("allocate_managed_buffer")
        if opened is None:
            return 0
        try:
            return opened.managed.allocate(size)
        except (MooncakeError, OSError, OverflowError) as error:
            logger.error("allocate_managed_buffer: %d bytes: %s", size, error)
            return 0

    def free_managed_buffer(self, buffer_addr: int, length: int) -> int:
        """Give back a buffer of allocate_managed_buffer(length). 0, or -1 if it is none."""
        address, size = integer(buffer_addr, "buffer_addr"), integer(length, "length")
        opened = self._ready("free_managed_buffer")
        if opened is None:
            return -1
        try:
            opened.managed.free(address, size)
            return 0
        except MooncakeError as error:
            self._log.failure("free_managed_buffer", error)
            return -1

    def write_bytes_to_buffer(self, dest_address: int, src: bytes | str, length: int) -> int:
        """Copy the first length bytes of src to an address. 0, or -1 if src is shorter or
        the range is not registered with this engine."""
        address, size = integer(dest_address, "dest_address"), integer(length, "length")
        if not isinstance(src, (str, bytes, bytearray)):
            raise TypeError(f"src must be bytes or a string, not {type(src).__name__}")
        data = src.encode() if isinstance(src, str) else bytes(src)
        opened = self._ready("write_bytes_to_buffer")
        if opened is None:
            return -1
        if size > len(data):
            self._log.failure("write_bytes_to_buffer", "length is more than src has")
            return -1
        if not _use(opened, address, size, lambda: ctypes.memmove(address, data, size)):
            self._log.failure("write_bytes_to_buffer", "the range is not registered")
            return -1
        return 0

    def read_bytes_from_buffer(self, source_address: int, length: int) -> bytes:
        """A copy of length bytes at an address. Raises NotRegistered, a ValueError, if the range
        is not registered with this engine, and RuntimeError before initialize()."""
        address, size = integer(source_address, "source_address"), integer(length, "length")
        opened = self._need("read_bytes_from_buffer")
        data: list[bytes] = []
        if not _use(opened, address, size, lambda: data.append(ctypes.string_at(address, size))):
            raise _ffi.error("MC_EADDR", f"[{address:#x}, {address + size:#x}) is not registered")
        return data[0]


def _not_registered(method: str, error: MooncakeError, what: str) -> int:
    """Upstream's number for a failed registration. sglang drops it, and then only transfers
    fail: so each failure is an error in the log."""
    logger.error("%s: %s: %s: %s", method, what, type(error).__name__, error)
    return _ADDRESS_OVERLAPPED if isinstance(error, Overlap) else _INVALID_ARGUMENT


def _use(opened: Opened, address: int, length: int, action: Callable[[], object]) -> bool:
    """Run action while the range is registered; False if it is not."""
    return opened.memories.use(address, length, action) or opened.mappings.use(
        address, length, action
    )
