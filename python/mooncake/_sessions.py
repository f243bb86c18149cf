"""Segments by session name, opened on first use and kept."""

from __future__ import annotations

import threading

from ._errors import StaleHandle
from ._segment import Segment
from .native import Engine


class _Opening:
    """An open that one thread does and others wait for."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.error: Exception | None = None


class Sessions:
    """The segments that an engine has open, by name.

    Threads that want one name share one open and its outcome; a slow open of one name
    delays no other. Safe for concurrent use.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()  # guards both dicts; not held while a segment is opened
        self._segments: dict[str, Segment] = {}
        self._openings: dict[str, _Opening] = {}

    def known(self, name: str) -> Segment | None:
        """The open segment of a name, if there is one. Its peer may be gone, which the first
        use then tells. Does not block."""
        return self._segments.get(name)

    def get(self, name: str) -> Segment:
        """The open segment of a name. One whose peer is known to be gone is opened anew.
        Blocks as Engine.open_segment, and raises as it does."""
        while True:
            segment = self._segments.get(name)
            if segment is not None:
                if not _is_stale(segment):
                    return segment
                self.drop(name, segment)
            with self._lock:
                if name in self._segments:
                    continue  # opened since
                opening = self._openings.get(name)
                if opening is None:
                    mine = self._openings[name] = _Opening()
            if opening is None:
                return self._open(name, mine)
            opening.ended.wait()
            if opening.error is not None:
                raise opening.error
            # Opened, or given up by an interrupted thread: look again.

    def _open(self, name: str, opening: _Opening) -> Segment:
        try:
            segment = self._engine.open_segment(name)
            with self._lock:
                self._segments[name] = segment
            return segment
        except Exception as error:
            opening.error = error
            raise
        finally:
            with self._lock:
                del self._openings[name]
            opening.ended.set()

    def drop(self, name: str, segment: Segment) -> None:
        """Forget a segment, so that the next get() opens the name anew. Does nothing when
        another thread did it. Batches in flight go on."""
        with self._lock:
            if self._segments.get(name) is segment:
                del self._segments[name]
        segment.close()


def _is_stale(segment: Segment) -> bool:
    try:
        return segment.stale
    except StaleHandle:  # another thread dropped it
        return True
