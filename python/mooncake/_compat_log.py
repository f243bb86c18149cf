"""The log of the drop-in engine: its callers get numbers, so the reasons go here."""

from __future__ import annotations

import logging
import threading
import time

logger = logging.getLogger("mooncake")


class FailureLog:
    """Writes why calls failed, at warning level, once per interval for each kind of failure.

    A kind is a method, a class of error and a peer: a dead peer under load fails hundreds
    of calls a second for one reason. The next line of a kind tells how many were left
    out. Safe for concurrent use.
    """

    _KINDS = 1024  # forgotten all at once beyond that; it bounds memory only

    def __init__(self, interval: float = 10.0) -> None:
        self._interval = interval
        self._lock = threading.Lock()
        self._kinds: dict[tuple[str, str, str], tuple[float, int]] = {}  # last line, left out since

    def failure(self, method: str, reason: BaseException | str, peer: str = "") -> None:
        """Say that a call of method failed. peer is "" where none was concerned."""
        error = "" if isinstance(reason, str) else type(reason).__name__
        kind = (method, error or str(reason), peer)
        now = time.monotonic()
        with self._lock:
            last, left_out = self._kinds.get(kind, (now - self._interval, 0))
            due = now - last >= self._interval
            if len(self._kinds) >= self._KINDS:
                self._kinds.clear()
            self._kinds[kind] = (now, 0) if due else (last, left_out + 1)
        if due:
            parts = [part for part in (method, peer, error, str(reason)) if part]
            more = f" ({left_out} more such failures since the last line)" if left_out else ""
            logger.warning("%s%s", ": ".join(parts), more)
