"""The address space that a peer's engine publishes."""

from __future__ import annotations

import ctypes
import math
from array import array
from typing import TYPE_CHECKING, NamedTuple

from . import _ffi
from ._arguments import Integers, Words, integer, milliseconds, words
from ._batch import Batch, BatchStatus, Op
from ._errors import NotFound, StaleHandle
from ._handles import Handle

if TYPE_CHECKING:
    from .native import Engine


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
        # try, not with: a Ctrl-C between the two calls of a with would leave the batch.
        batch = self.submit(op, local, remote, lengths, deadline=deadline)
        try:
            return batch.wait()
        finally:
            batch.close()

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
        remote[i] in the peer. Each of the three is a sequence of integers (list, tuple, array,
        numpy array), or one integer; one integer as lengths is the length of every
        block. Every block must lie within registered memory on both sides. Blocks have
        no order; neighbours that are contiguous on both sides are moved as one run.
        deadline ends the batch, in seconds from now: None for the default
        (MC_TRANSFER_TIMEOUT, 30 s, plus 1 ns a byte), math.inf for none.
        Blocks while a window of data is handed to the kernel, and for one message to
        the peer when a remote range is not known yet. The arguments may be changed on return.
        Raises TypeError, InvalidArgument, NotRegistered (the text names the block and the side),
        PeerUnreachable, PeerRestarted, StaleHandle; then nothing was moved.
        """
        if op not in (Op.READ, Op.WRITE):
            raise _ffi.error("MC_EINVAL", f"op must be Op.READ or Op.WRITE, not {op!r}")
        here, there, sizes = _blocks(local, remote, lengths)
        return self._submit(Op(op), here, there, sizes, _deadline(deadline))

    def _submit(
        self, op: Op, local: Words, remote: Words, lengths: Words, deadline_ms: int
    ) -> Batch:
        """submit() of arrays that were checked and are of one length."""
        out = ctypes.c_uint64()
        library = _ffi.lib()
        try:
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
            if out.value:
                library.mc_batch_close(out.value)
            raise

    def _release(self, handle: int) -> None:
        try:
            _ffi.lib().mc_segment_close(handle)
        except StaleHandle:
            pass  # closing the engine closed it

    def _ended(self) -> bool:
        return self.engine.closed

    def __repr__(self) -> str:
        return f"<mooncake.Segment {self.name}, {self._handle:#x}>"


def _blocks(local: Integers, remote: Integers, lengths: Integers) -> tuple[Words, Words, Words]:
    here = _some(local, "local")
    there = _some(remote, "remote")
    if hasattr(lengths, "__index__") and not hasattr(lengths, "__len__"):
        sizes = words(array("Q", [integer(lengths, "lengths")]) * here.size, "lengths")
    else:
        sizes = _some(lengths, "lengths")
    if not here.size == there.size == sizes.size:
        raise _ffi.error(
            "MC_EINVAL",
            f"local, remote and lengths must have one length, not {here.size}, {there.size} and "
            f"{sizes.size}",
        )
    return here, there, sizes


def _some(value: Integers, name: str) -> Words:
    if isinstance(value, int):
        return words([value], name)
    # numpy's scalars have an index; so have its arrays, which are no integers.
    if hasattr(value, "__index__") and not hasattr(value, "__len__"):
        return words([integer(value, name)], name)
    return words(value, name)


def _deadline(seconds: float | None) -> int:
    """A deadline as mc_submit takes it."""
    if seconds is None:
        return 0
    return -1 if seconds == math.inf else milliseconds(seconds, "deadline")
