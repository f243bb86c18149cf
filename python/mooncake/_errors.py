"""Exceptions, and the one map from status names to them.

Each derives from MooncakeError and from the builtin that a reader would expect
for it. The numbers of the statuses are in _ffi: this module has no other of ours
below it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._batch import BatchStatus, Quiet


class MooncakeError(Exception):
    """Root of all exceptions of this package.

    status is the library's status code (a negative MC_E... number).

    quiet and batch_status are set when a batch failed, else None. quiet tells what
    is known about late bytes: Quiet.BOTH, nothing can touch the pages any more, here or
    at the peer; Quiet.LOCAL, nothing in this process does, but the peer could not
    confirm, so do not let it reuse the destination pages of a write yet.
    """

    def __init__(self, message: str = "", *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status
        self.quiet: Quiet | None = None
        self.batch_status: BatchStatus | None = None


class InvalidArgument(MooncakeError, ValueError):
    """An argument is malformed; the text names it."""


class StaleHandle(MooncakeError, RuntimeError):
    """The object, or the engine that it belongs to, is closed."""


class NotFound(MooncakeError, LookupError):
    """There is no such buffer, notification, host name, or request with pages."""


class NotRegistered(MooncakeError, ValueError):
    """An address range lies outside every registered memory."""


class Overlap(MooncakeError, ValueError):
    """The range overlaps memory that is registered already."""


class QueueFull(MooncakeError, RuntimeError):
    """A table or buffer limit was reached; the text names it."""


class WaitTimeout(MooncakeError, TimeoutError):
    """The wait ended first. The batch goes on."""


class DeadlineExceeded(MooncakeError, TimeoutError):
    """The batch ran into its deadline and was ended."""


class Cancelled(MooncakeError, RuntimeError):
    """The batch was cancelled."""


class PeerUnreachable(MooncakeError, ConnectionError):
    """The peer cannot be reached, or broke the protocol."""


class PeerRestarted(MooncakeError, ConnectionResetError):
    """Another process answers at the peer's address now. Open the segment again."""


class Rejected(MooncakeError, PermissionError):
    """The peer refused the address range: it is not registered there."""


class Fenced(MooncakeError, ConnectionAbortedError):
    """The peer fenced this engine off while the batch ran."""


class DeviceError(MooncakeError, OSError):
    """A local device or the operating system failed."""


class Unsupported(MooncakeError, NotImplementedError):
    """This build or host cannot do it."""


class ForkedError(MooncakeError, RuntimeError):
    """Called in a forked child: the library works only in the process that loaded it."""


class InternalError(MooncakeError, RuntimeError):
    """A bug of the library; the text has the stack."""


class PoolExhausted(MooncakeError, MemoryError):
    """Fewer pages are free than were asked for."""


class PageError(MooncakeError, ValueError):
    """A page is free already, belongs to another request, or to another pool; the text has
    its number."""


class LibraryError(MooncakeError, ImportError):
    """libmooncake.so cannot be loaded; the text says what to do."""


EXCEPTIONS: dict[str, type[MooncakeError]] = {
    "MC_EINVAL": InvalidArgument,
    "MC_EHANDLE": StaleHandle,
    "MC_ENOTFOUND": NotFound,
    "MC_EADDR": NotRegistered,
    "MC_EOVERLAP": Overlap,
    "MC_EFULL": QueueFull,
    "MC_ETIMEDOUT": WaitTimeout,
    "MC_EDEADLINE": DeadlineExceeded,
    "MC_ECANCELED": Cancelled,
    "MC_EPEER": PeerUnreachable,
    "MC_ERESTARTED": PeerRestarted,
    "MC_EREJECTED": Rejected,
    "MC_EFENCED": Fenced,
    "MC_EDEVICE": DeviceError,
    "MC_EUNSUPPORTED": Unsupported,
    "MC_EFORKED": ForkedError,
    "MC_EINTERNAL": InternalError,
    "MC_ENOPAGES": PoolExhausted,
    "MC_EPAGE": PageError,
}
