"""Transfers of the drop-in engine: to a peer by its name, answered with numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ._batch import Batch, Op
from ._blocks import Blocks
from ._compat_batches import DONE, FAILED, RUNNING, TIMED_OUT, BatchTable, state_of
from ._compat_log import FailureLog
from ._errors import MooncakeError, PeerRestarted, PeerUnreachable, StaleHandle
from ._pages import Groups
from ._segment import Segment
from ._sessions import Sessions
from .native import Engine

Result = TypeVar("Result")


class Transfers:
    """Moves blocks between an engine and its peers.

    Failures go to the log. Safe for concurrent use.
    """

    def __init__(self, engine: Engine, sessions: Sessions, log: FailureLog) -> None:
        self._engine = engine
        self._sessions = sessions
        self._log = log
        self._batches = BatchTable()

    def sync(
        self, method: str, peer: str, op: Op, blocks: Blocks, notify: tuple[str, str] | None
    ) -> int:
        """Move blocks and wait for them: 0 when every byte is there, else -1.

        notify is left with the peer when they are; that it cannot be is only logged. When
        the wait is interrupted, by Ctrl-C say, the batch is cancelled and quiet in this
        process before the exception goes on.
        """
        if blocks.local.size and not self._move(method, peer, op, blocks):
            return -1
        if notify is not None:
            try:
                self._engine.notify(peer, *notify)
            except MooncakeError as error:
                self._log.failure(f"{method}: notify", error, peer)
        return 0

    def pages(self, method: str, peer: str, op: Op, groups: Groups) -> int:
        """sync() for page groups."""
        return 0 if not len(groups.array) or self._move(method, peer, op, groups) else -1

    def _move(self, method: str, peer: str, op: Op, blocks: Blocks | Groups) -> bool:
        def move(segment: Segment) -> bool:
            segment._transfer(op, blocks, deadline_ms=0)
            return True

        try:
            return self._with_segment(peer, move)
        except MooncakeError as error:
            self._failed(method, peer, error)
            return False

    def start(self, method: str, peer: str, op: Op, blocks: Blocks) -> int:
        """Submit blocks: an id for the functions below, or 0 on failure."""
        try:
            batch = self._with_segment(
                peer, lambda segment: segment._submit(op, blocks, deadline_ms=0)
            )
            return self._batches.add(batch)
        except MooncakeError as error:
            self._failed(method, peer, error)
            return 0

    def wait_all(self, method: str, numbers: list[int]) -> int:
        """Wait for batches and free them: 0 if all are done, else -1, and then those that
        still ran are cancelled and quiet in this process."""
        batches = self._batches.take(numbers)
        result = 0
        try:
            for batch in batches:
                if batch is None:
                    self._log.failure(method, "an id was freed already, or never given out")
                    result = -1
                    break
                try:
                    batch.wait()
                except MooncakeError as error:
                    self._failed(method, batch.segment.name, error, batch)
                    result = -1
                    break
        finally:
            for batch in batches:
                if batch is not None:
                    batch.close()
        return result

    def check(self, method: str, number: int) -> int:
        """DONE, RUNNING, FAILED or TIMED_OUT. All but RUNNING free the batch."""
        state = self._state(method, number)
        if state != RUNNING:
            self.free([number])
        return state

    def poll(self, method: str, numbers: list[int]) -> list[int]:
        """For each id 0 (done), 1 (running) or -1 (failed, or no such id). Frees nothing."""
        answers = {DONE: 0, RUNNING: 1, FAILED: -1, TIMED_OUT: -1}
        return [answers[self._state(method, number)] for number in numbers]

    def free(self, numbers: list[int]) -> None:
        """Free batches; ids that there are not are ignored. One that still runs is
        cancelled, and waited for until it is quiet in this process."""
        for batch in self._batches.take(numbers):
            if batch is not None:
                batch.close()

    def _state(self, method: str, number: int) -> int:
        batch = self._batches.get(number)
        state, error = state_of(batch)
        if error is not None and batch is not None:
            self._failed(method, batch.segment.name, error, batch)
        elif batch is None:
            self._log.failure(method, "an id was freed already, or never given out")
        return state

    def _with_segment(self, peer: str, begin: Callable[[Segment], Result]) -> Result:
        """Begin a batch on the peer's segment. If the peer turns out to be another process
        before a batch has begun, the segment is opened anew, once."""
        for again in (True, False):
            # Whether the peer is known to be gone is not asked here: beginning tells.
            segment = (again and self._sessions.known(peer)) or self._sessions.get(peer)
            try:
                return begin(segment)
            except (PeerRestarted, StaleHandle) as error:
                self._sessions.drop(peer, segment)
                if error.batch_status is not None or not again:
                    raise
            except PeerUnreachable:
                self._sessions.drop(peer, segment)
                raise
        raise AssertionError("unreachable: the second round returns or raises")

    def _failed(
        self, method: str, peer: str, error: MooncakeError, batch: Batch | None = None
    ) -> None:
        if batch is not None and isinstance(error, (PeerRestarted, PeerUnreachable)):
            self._sessions.drop(peer, batch.segment)
        self._log.failure(method, error, peer)
