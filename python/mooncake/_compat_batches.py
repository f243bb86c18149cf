"""Batches by the ids that the drop-in engine gives out."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable

from ._batch import Batch, BatchState
from ._errors import DeadlineExceeded, MooncakeError, StaleHandle

DONE, RUNNING, FAILED, TIMED_OUT = 1, 0, -1, -2

# Unique in the process: an id of another engine, or a freed one, is unknown.
_ids = itertools.count(1)


class BatchTable:
    """Batches that were submitted and not freed yet. Safe for concurrent use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the dict
        self._batches: dict[int, Batch] = {}

    def add(self, batch: Batch) -> int:
        """The id, more than 0, of a batch that the table now owns."""
        number = next(_ids)
        with self._lock:
            self._batches[number] = batch
        return number

    def get(self, number: int) -> Batch | None:
        """The batch of an id; None if there is none."""
        return self._batches.get(number)

    def take(self, numbers: Iterable[int]) -> list[Batch | None]:
        """Remove batches, each once; None for an id that there is not. The caller owns them."""
        with self._lock:
            return [self._batches.pop(number, None) for number in dict.fromkeys(numbers)]


def state_of(batch: Batch | None) -> tuple[int, MooncakeError | None]:
    """DONE, RUNNING, FAILED or TIMED_OUT, and why it failed. Does not block. A batch that
    is None, or was closed by another thread, has failed."""
    if batch is None:
        return FAILED, None
    try:
        if batch.poll().state is BatchState.RUNNING:
            return RUNNING, None
        batch.wait()
    except StaleHandle as error:
        return FAILED, error
    except DeadlineExceeded as error:
        return TIMED_OUT, error
    except MooncakeError as error:
        return FAILED, error
    return DONE, None
