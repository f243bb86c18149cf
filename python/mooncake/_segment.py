"""The address space that a peer's engine publishes."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from . import _ffi
from ._arguments import Integers, milliseconds
from ._batch import QUANTUM_MS, Batch, BatchStatus, Op, add_outcome, status_of, wait_for_end
from ._blocks import TOGETHER, Blocks, blocks_of
from ._errors import MooncakeError, NotFound, StaleHandle
from ._handles import Handle
from ._pages import Groups, PageGroup, groups_of

if TYPE_CHECKING:
    from .native import Engine


_TIMED_OUT = _ffi.STATUS["MC_ETIMEDOUT"]


class RemoteBuffer(NamedTuple):
    """One range of memory that a peer has registered."""

    address: int
    length: int


class Segment(Handle):
    """A peer's memory, from Engine.open_segment().

    It stands for the process that answered when it was opened: when another one answers at
    the same address later, batches fail with PeerRestarted, and the segment must be
    opened again. Closing it lets batches in flight go on. Safe for concurrent use.
    """

    _kind = "segment"

    def __init__(self, engine: Engine, handle: int, name: str) -> None:
        super().__init__(handle)
        self.engine = engine
        self.name = name

    def buffers(self) -> list[RemoteBuffer]:
        """What the peer had registered when it was last asked, in its order. Does not
        block. Raises StaleHandle."""
        address, length = ctypes.c_uint64(), ctypes.c_uint64()
        found: list[RemoteBuffer] = []
        while True:
            try:
                _ffi.lib().mc_segment_buffer(
                    self.handle, len(found), ctypes.byref(address), ctypes.byref(length)
                )
            except NotFound:
                return found
            found.append(RemoteBuffer(address.value, length.value))

    @property
    def stale(self) -> bool:
        """Whether the peer process is known to be gone. Does not block. Raises StaleHandle."""
        out = ctypes.c_int32()
        _ffi.lib().mc_segment_stale(self.handle, ctypes.byref(out))
        return out.value != 0

    def connect(self, timeout: float | None = None) -> None:
        """Make the connection that the first batch would otherwise wait for: over rdma one
        message to the peer, or two; over tcp and in memory there is nothing to wait for.

        Blocks until it is there, or timeout seconds at most: then WaitTimeout, and the
        connection is made all the same. Without one MC_HANDSHAKE_CONNECT_TIMEOUT is the
        limit. Several may be made at once, in threads. Raises PeerUnreachable,
        PeerRestarted, DeviceError (the port is down), QueueFull (the device has no room for
        one more), StaleHandle.
        """
        limit = -1 if timeout is None else milliseconds(timeout, "timeout")
        _ffi.lib().mc_segment_connect(self.handle, limit)

    def write(
        self, local: Integers, remote: Integers, lengths: Integers, *, deadline: float | None = None
    ) -> BatchStatus:
        """Move blocks from local memory into the peer's, and wait until every byte is there.

        Arguments and exceptions as for submit(), and those of Batch.wait() but WaitTimeout.
        Blocks. When it is interrupted, by Ctrl-C say, the batch is cancelled and quiet in this
        process before the exception goes on.
        """
        return self._move(Op.WRITE, local, remote, lengths, deadline)

    def read(
        self, local: Integers, remote: Integers, lengths: Integers, *, deadline: float | None = None
    ) -> BatchStatus:
        """Move blocks from the peer's memory into local memory; else as write()."""
        return self._move(Op.READ, local, remote, lengths, deadline)

    def _move(
        self, op: Op, local: Integers, remote: Integers, lengths: Integers, deadline: float | None
    ) -> BatchStatus:
        return status_of(self._transfer(op, blocks_of(local, remote, lengths), _deadline(deadline)))

    def submit(
        self,
        op: Op,
        local: Integers,
        remote: Integers,
        lengths: Integers,
        *,
        deadline: float | None = None,
    ) -> Batch:
        """Start to move blocks, without waiting for them.

        Block i is lengths[i] bytes between the absolute addresses local[i] here and
        remote[i] in the peer. Each of the three is a sequence of integers, or one
        integer; one integer as lengths is the length of every block. Arrays of 64-bit
        integers (numpy, array, ctypes) are read where they are; lists are converted, 20 ns
        an element, in a long call while its first blocks are on their way. Every block must
        lie within registered memory on both sides. Blocks have no order; neighbours that
        are contiguous on both sides are moved as one run.
        deadline ends the batch, in seconds from now: None for the default
        (MC_TRANSFER_TIMEOUT, 30 s, plus 1 ns a byte), math.inf for none.
        Blocks while a window of data is handed to the kernel, and for one message to
        the peer when a remote range is not known yet. The arguments may be changed on return.
        Raises TypeError, InvalidArgument, NotRegistered (the text names the block and the side),
        PeerUnreachable, PeerRestarted, StaleHandle. Then nothing was moved; or, of more
        than 16,384 blocks, some may have been, and nothing in this process touches their
        pages any more: quiet and batch_status are set if the library found the fault.
        """
        op = _checked(op)
        return self._submit(op, blocks_of(local, remote, lengths), _deadline(deadline))

    def write_pages(
        self, groups: PageGroup | Sequence[PageGroup], *, deadline: float | None = None
    ) -> BatchStatus:
        """Move the pages of groups from local memory into the peer's, and wait until every
        byte is there.

        Arguments and exceptions as for submit_pages(), and those of Batch.wait() but
        WaitTimeout. Blocks, and is interrupted, as write().
        """
        return status_of(self._transfer(Op.WRITE, groups_of(groups), _deadline(deadline)))

    def read_pages(
        self, groups: PageGroup | Sequence[PageGroup], *, deadline: float | None = None
    ) -> BatchStatus:
        """Move the pages of groups from the peer's memory into local memory; else as
        write_pages()."""
        return status_of(self._transfer(Op.READ, groups_of(groups), _deadline(deadline)))

    def submit_pages(
        self,
        op: Op,
        groups: PageGroup | Sequence[PageGroup],
        *,
        deadline: float | None = None,
    ) -> Batch:
        """Start to move the pages of one group or several, without waiting for them.

        It is submit() of the block list that has, for each group, for each of its layers, a
        block for each of its pages, at the cost of the page lists and the layers only.
        Every page must lie within registered memory on both sides, in every layer. In the
        source pages may overlap; in the destination a layer's length may not exceed its
        stride, unless the group has one page. Groups leave one after the other, each layer by
        layer. Pages that are neighbours on both sides are moved as one run where both
        strides are the length. blocks of the status is the number of pages times layers.
        deadline and blocking as for submit(). The arguments may be changed on return.
        Raises TypeError, InvalidArgument and NotRegistered (the text names the group, and the
        layer and the page by their index), PeerUnreachable, PeerRestarted, StaleHandle. Then
        nothing was moved; or, of more than 16,384 pages in all groups together, some may have
        been, and nothing in this process touches their memory any more.
        """
        op = _checked(op)
        return self._submit(op, groups_of(groups), _deadline(deadline))

    def _submit(self, op: Op, blocks: Blocks | Groups, deadline_ms: int) -> Batch:
        """submit() of columns of one length, or submit_pages()."""
        out = ctypes.c_uint64()
        library = _ffi.lib()
        try:
            if isinstance(blocks, Groups):
                groups = blocks.array
                library.mc_submit_pages(
                    self.handle, op, groups, len(groups), deadline_ms, ctypes.byref(out)
                )
            elif blocks.local.size > TOGETHER:
                self._submit_pieces(op, blocks, deadline_ms, out)
            else:
                local, remote, lengths = blocks.whole()
                library.mc_submit(
                    self.handle,
                    op,
                    local.address,
                    remote.address,
                    lengths.address,
                    local.size,
                    deadline_ms,
                    ctypes.byref(out),
                )
            return Batch(self, out.value, op)
        except BaseException:
            # Ctrl-C during a submit that blocked is raised once the batch exists.
            _close(out.value)
            raise

    def _submit_pieces(
        self, op: Op, blocks: Blocks, deadline_ms: int, out: ctypes.c_uint64
    ) -> None:
        """Start a batch, whose handle out gets, and convert its later blocks while it moves
        the first ones. When it fails the batch must be closed by the caller."""
        library = _ffi.lib()
        library.mc_batch_open(self.handle, op, deadline_ms, ctypes.byref(out))
        try:
            for local, remote, lengths in blocks.pieces():
                library.mc_batch_add(
                    out.value, local.address, remote.address, lengths.address, local.size
                )
            library.mc_batch_seal(out.value)
        except StaleHandle:
            raise
        except MooncakeError as error:
            # Of a batch that has begun it also matters how far it came.
            library.mc_cancel(out.value)
            add_outcome(error, wait_for_end(out.value))
            raise

    def _transfer(self, op: Op, blocks: Blocks | Groups, deadline_ms: int) -> _ffi.BatchStatus:
        """_submit(), wait and close: the outcome of a batch that is done."""
        raw, out = _ffi.BatchStatus(), ctypes.c_uint64()
        library = _ffi.lib()
        try:
            if isinstance(blocks, Groups):
                result = library.mc_transfer_pages(
                    self.handle,
                    op,
                    blocks.array,
                    len(blocks.array),
                    deadline_ms,
                    QUANTUM_MS,
                    ctypes.byref(raw),
                    ctypes.byref(out),
                )
            elif blocks.local.size > TOGETHER:
                self._submit_pieces(op, blocks, deadline_ms, out)
                result = _TIMED_OUT
            else:
                local, remote, lengths = blocks.whole()
                result = library.mc_transfer(
                    self.handle,
                    op,
                    local.address,
                    remote.address,
                    lengths.address,
                    local.size,
                    deadline_ms,
                    QUANTUM_MS,
                    ctypes.byref(raw),
                    ctypes.byref(out),
                )
            while result == _TIMED_OUT:
                result = library.mc_wait(out.value, QUANTUM_MS, ctypes.byref(raw))
            return raw
        except MooncakeError as error:
            if raw.state == _ffi.MC_BATCH_FAILED:
                add_outcome(error, raw)
            raise
        finally:
            _close(out.value)

    def _release(self, handle: int) -> None:
        try:
            _ffi.lib().mc_segment_close(handle)
        except StaleHandle:
            pass  # closing the engine closed it

    def _ended(self) -> bool:
        return self.engine.closed

    def __repr__(self) -> str:
        return f"<mooncake.Segment {self.name}, {self._handle:#x}>"


def _checked(op: Op) -> Op:
    if op not in (Op.READ, Op.WRITE):
        raise _ffi.error("MC_EINVAL", f"op must be Op.READ or Op.WRITE, not {op!r}")
    return Op(op)


def _close(batch: int) -> None:
    """Close a batch that may not exist, 0."""
    if batch:
        try:
            _ffi.lib().mc_batch_close(batch)
        except StaleHandle:
            pass  # closing the engine closed it


def _deadline(seconds: float | None) -> int:
    """A deadline as mc_submit takes it."""
    if seconds is None:
        return 0
    return -1 if seconds == math.inf else milliseconds(seconds, "deadline")
