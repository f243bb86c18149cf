"""A batch: the blocks submitted, and waited for, together."""

from __future__ import annotations

import ctypes
import enum
import math
import os
import struct
import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, NamedTuple

from . import _ffi
from ._errors import MooncakeError, StaleHandle
from ._handles import Handle

if TYPE_CHECKING:
    from asyncio import Future

    from ._segment import Segment

# A blocking call of the library cannot be interrupted, so it is issued in pieces: a
# Ctrl-C is seen after at most so long.
QUANTUM_MS = 100


class Op(enum.IntEnum):
    """Direction of a batch, seen from this process."""

    READ = _ffi.MC_READ
    WRITE = _ffi.MC_WRITE


class BatchState(enum.IntEnum):
    """State of a batch."""

    RUNNING = _ffi.MC_BATCH_RUNNING
    DONE = _ffi.MC_BATCH_DONE
    FAILED = _ffi.MC_BATCH_FAILED


class Quiet(str, enum.Enum):
    """What is known, after a failure, about late bytes; see MooncakeError."""

    NONE = "none"
    BOTH = "both"
    LOCAL = "local"

    def __str__(self) -> str:  # what format() gives differs between Python versions
        return self.value


# By number: MC_QUIET_...
_QUIETS = (Quiet.NONE, Quiet.BOTH, Quiet.LOCAL)


class BatchStatus(NamedTuple):
    """Progress or outcome of a batch at one moment."""

    state: BatchState
    quiet: Quiet
    error: int  # status code of the failure, 0 if there is none
    unconfirmed: bool  # sent in full to a peer whose protocol acknowledges no writes
    blocks: int  # blocks submitted
    runs: int  # contiguous runs found in them so far
    bytes: int  # bytes submitted
    bytes_done: int  # bytes whose arrival is confirmed
    duration: float  # seconds from submit to now, or to the end of the batch
    joined_local: int  # runs that begin where the one before ends, on this side only
    joined_remote: int  # the same, on the peer's side only

    @property
    def done(self) -> bool:
        """Whether the batch has ended, well or not."""
        return self.state is not BatchState.RUNNING


def _resolve(ended: Future[None]) -> None:
    if not ended.done():  # the await may have been cancelled in this turn of the loop
        ended.set_result(None)


# mc_batch_status_t; a test compares it with the ctypes structure. Reading the fields of
# that one by one takes four times as long, which a small call feels.
STATUS_LAYOUT = struct.Struct("=IIiIQQQQQQQ")
_STATES = (BatchState.RUNNING, BatchState.DONE, BatchState.FAILED)


def status_of(raw: _ffi.BatchStatus) -> BatchStatus:
    """What the library wrote, as Python has it."""
    state, quiet, error, flags, blocks, runs, size, done, ns, here, there = (
        STATUS_LAYOUT.unpack_from(raw)
    )
    unconfirmed = flags & _ffi.MC_FLAG_UNCONFIRMED != 0
    return BatchStatus(
        _STATES[state],
        _QUIETS[quiet],
        error,
        unconfirmed,
        blocks,
        runs,
        size,
        done,
        ns / 1e9,
        here,
        there,
    )


def add_outcome(error: MooncakeError, raw: _ffi.BatchStatus) -> None:
    """Say with the error of a batch that failed how far it came, and whether it is quiet."""
    error.batch_status = status_of(raw)
    error.quiet = error.batch_status.quiet


def wait_for_end(batch: int) -> _ffi.BatchStatus:
    """The outcome of a batch that is failing, once it is quiet in this process. Raises
    StaleHandle."""
    raw = _ffi.BatchStatus()
    while raw.state == _ffi.MC_BATCH_RUNNING:
        try:
            _ffi.lib().mc_wait(batch, QUANTUM_MS, ctypes.byref(raw))
        except StaleHandle:
            raise
        except MooncakeError:
            pass  # why it fails: the caller knows
    return raw


class Batch(Handle):
    """Blocks on their way between local memory and a segment, from Segment.submit().

    Until the batch has ended do not change the source of a write, and do not use the
    destination of a read. Wait with wait() or `await batch`. close(), and leaving a
    `with` block, cancel a batch that still runs and wait until nothing in this process
    touches its pages. Safe for concurrent use.
    """

    _kind = "batch"

    def __init__(self, segment: Segment, handle: int, op: Op) -> None:
        super().__init__(handle)
        self.segment = segment
        self.op = op

    def poll(self) -> BatchStatus:
        """Progress or outcome, whatever it is. Never blocks. Raises StaleHandle."""
        raw = _ffi.BatchStatus()
        _ffi.lib().mc_poll(self.handle, ctypes.byref(raw))
        return status_of(raw)

    @property
    def done(self) -> bool:
        """Whether the batch has ended, well or not. Never blocks. Raises StaleHandle."""
        return self.poll().done

    def wait(self, timeout: float | None = None) -> BatchStatus:
        """Block until the batch has ended, at most timeout seconds if given.

        Returns the status of a batch that is done: every byte is in destination memory.
        Raises WaitTimeout when the time is over, which cancels nothing; StaleHandle; else
        why the batch failed: DeadlineExceeded, Cancelled, PeerUnreachable, PeerRestarted,
        Rejected, Fenced, NotRegistered (local memory was unmapped meanwhile), each with quiet
        and batch_status. Ctrl-C interrupts the wait within 0.1 s, and the batch goes on.
        TypeError and InvalidArgument are about timeout.
        """
        if timeout is not None:
            if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
                kind = type(timeout).__name__
                raise TypeError(f"timeout must be a number of seconds, not {kind}")
            if not timeout >= 0:  # also a NaN
                raise _ffi.error("MC_EINVAL", f"timeout must be 0 seconds or more, not {timeout}")
        give_up = math.inf if timeout is None else time.monotonic() + timeout
        raw = _ffi.BatchStatus()
        handle, wait = self.handle, _ffi.lib().mc_wait
        while True:
            left = (give_up - time.monotonic()) * 1000
            try:
                result = wait(handle, math.ceil(min(QUANTUM_MS, max(0.0, left))), ctypes.byref(raw))
            except StaleHandle:
                raise
            except MooncakeError as error:
                add_outcome(error, raw)
                raise
            if result == _ffi.STATUS["MC_OK"]:
                return status_of(raw)
            if time.monotonic() >= give_up:
                raise self._wait_timeout(timeout, raw)

    def _wait_timeout(self, timeout: float | None, raw: _ffi.BatchStatus) -> MooncakeError:
        status = status_of(raw)
        error = _ffi.error(
            "MC_ETIMEDOUT",
            f"the batch is not done after {timeout} s: {status.bytes_done} of {status.bytes} bytes "
            "have arrived, and it goes on",
        )
        error.batch_status = status
        return error

    def cancel(self) -> None:
        """Ask the batch to end. Does not block: wait() tells when the pages are quiet,
        by raising Cancelled. A batch that has ended stays as it is. Raises StaleHandle."""
        _ffi.lib().mc_cancel(self.handle)

    def fileno(self) -> int:
        """A file descriptor that becomes readable when the batch ends, for select and
        poll. It belongs to the batch. Raises StaleHandle, DeviceError."""
        out = ctypes.c_int32()
        _ffi.lib().mc_batch_fd(self.handle, ctypes.byref(out))
        return out.value

    def __await__(self) -> Generator[Any, None, BatchStatus]:
        """As wait(), without blocking the running event loop. Cancelling the await stops
        the waiting only."""
        return self._wait_in_loop().__await__()

    async def _wait_in_loop(self) -> BatchStatus:
        import asyncio  # slow to import, and of use to few

        loop = asyncio.get_running_loop()
        ended: Future[None] = loop.create_future()
        # A descriptor of this waiter's own: a loop knows one callback for each, and the
        # batch's may be closed by another thread meanwhile.
        descriptor = os.dup(self.fileno())
        try:
            loop.add_reader(descriptor, _resolve, ended)
            try:
                await ended
            finally:
                loop.remove_reader(descriptor)
        finally:
            os.close(descriptor)
        return self.wait()

    def _release(self, handle: int) -> None:
        try:
            _ffi.lib().mc_batch_close(handle)
        except StaleHandle:
            pass  # closing the engine closed it

    def _ended(self) -> bool:
        return self.segment.engine.closed

    def __repr__(self) -> str:
        return (
            f"<mooncake.Batch {self.op.name.lower()} with {self.segment.name}, {self._handle:#x}>"
        )
