"""What everything with a handle of the library has in common."""

from __future__ import annotations

import sys
import threading
import warnings
from types import TracebackType
from typing import TypeVar

from . import _ffi

AnyHandle = TypeVar("AnyHandle", bound="Handle")


class Handle:
    """An object of the library, named by an integer, that close() gives back.

    close() may be called again, from any thread, and after the engine was closed. An
    object that is collected without close() is reported as a ResourceWarning and
    left as it is. Safe for concurrent use.
    """

    _kind = "object"

    def __init__(self, handle: int) -> None:
        self._handle = handle  # 0 once closed
        self._closing = threading.Lock()  # guards the step from a handle to 0

    @property
    def handle(self) -> int:
        """The library's handle, for C code. Raises StaleHandle when closed."""
        if not self._handle:
            raise _ffi.error("MC_EHANDLE", f"the {self._kind} is closed")
        return self._handle

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return not self._handle

    def close(self) -> None:
        """Give the handle back. Closing twice does nothing."""
        handle = self._take()
        if handle:
            self._release(handle)

    def _take(self) -> int:
        """The handle, for the one caller that has to give it back; 0 for the others."""
        if _ffi.is_forked():
            # A child owns nothing of its parent's library, and another thread of the
            # parent may have held the lock when it forked.
            self._handle = 0
            return 0
        with self._closing:
            handle, self._handle = self._handle, 0
            return handle

    def _release(self, handle: int) -> None:
        raise NotImplementedError

    def _ended(self) -> bool:
        """Whether the library has invalidated the handle by itself: with its engine."""
        return False

    def __enter__(self: AnyHandle) -> AnyHandle:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # The attributes may be missing when __init__ failed, the modules at exit.
        if not getattr(self, "_handle", 0) or sys.is_finalizing() or _ffi.is_forked():
            return
        if not self._ended():
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
