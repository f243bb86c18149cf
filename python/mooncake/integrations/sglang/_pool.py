"""The pages of a KV pool, and where each request in sglang's table grows.

sglang frees pages by number, long after the request that got them has ended (its cache
keeps them) and some of them before. So whose a page is does not matter here, only which
pages are free, and which request grows no more.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ..._errors import MooncakeError, NotFound
from ...pages import PagePool
from ._arrays import Numbers

# The most that is kept free behind a request for its answer: max_new_tokens is often as
# long as the context, and few answers are.
MOST_ROOM = 4096


class Asking(NamedTuple):
    """The requests that an allocation is for, in its order."""

    rows: Sequence[int]  # of sglang's request table
    tokens: Sequence[int] | None = None  # for each, where the call itself does not tell
    rooms: Sequence[int] | None = None  # tokens that each is expected to ask for later


class Pages:
    """Pages 1 to count; page 0 is where sglang lets padding write. One thread at a time."""

    def __init__(self, count: int) -> None:
        self._pool = PagePool(count, first=1, numpy=True)
        weakref.finalize(self, self._pool.close).atexit = False
        self._requests: dict[int, int] = {}  # of rows that have asked: the pool's name for them
        self._names = itertools.count(1)  # a row's next request is another one
        self._is_free = np.ones(count + 1, dtype=bool)
        self._is_free[0] = False
        self.free = count

    def take(
        self, counts: Numbers, rows: Sequence[int] | None, rooms: Numbers | None = None
    ) -> Numbers | None:
        """counts[i] pages for the request in rows[i], for all of them: their numbers, one
        request after the other. Without rows the pages are nobody's. None, and nothing is
        taken, if there are not enough."""
        total = int(counts.sum())
        if total > self.free:
            return None
        if total == 0:
            return np.empty(0, dtype=np.int64)
        if rows is None:
            taken: Numbers = self._pool.alloc(next(self._names), total)
        else:
            taken = self._grow(counts, rows, rooms)
        self._is_free[taken] = False
        self.free -= total
        return taken

    def _grow(self, counts: Numbers, rows: Sequence[int], rooms: Numbers | None) -> Numbers:
        some = np.flatnonzero(counts).tolist()
        known = [self._requests.get(rows[i]) for i in some]
        if None not in known:  # a step of decoding
            try:
                grown: Numbers = self._pool.grow_batch(known, counts[some])
                return grown
            except NotFound:
                pass  # all that one of them had was freed: it begins anew
        return np.concatenate(
            [
                self._grow_one(rows[i], int(counts[i]), 0 if rooms is None else int(rooms[i]))
                for i in some
            ]
        )

    def _grow_one(self, row: int, count: int, room: int) -> Numbers:
        request = self._requests.get(row)
        if request is not None:
            try:
                grown: Numbers = self._pool.grow(request, count)
                return grown
            except NotFound:
                pass
        self._requests[row] = request = next(self._names)
        placed: Numbers = self._pool.alloc(request, count, room=room)
        return placed

    def give_back(self, freed: Iterable[Numbers]) -> None:
        """Free pages, whoever has them. What PagePool.free() refuses, pages that are free
        already above all, is raised when all others are back."""
        refused: MooncakeError | None = None
        for pages in freed:
            try:
                self._pool.free(None, pages)
            except MooncakeError as error:
                refused = refused or error
            else:
                self._is_free[pages] = True
                self.free += len(pages)
        if refused is not None:
            raise refused

    def end(self, row: int) -> None:
        """The row's request grows no more: the room behind it is anybody's. Its pages stay
        taken."""
        request = self._requests.pop(row, None)
        if request is not None:
            try:
                self._pool.reserve(request, 0)
            except NotFound:
                pass  # it has no pages any more

    def free_pages(self) -> Numbers:
        """The numbers of all free pages, in order."""
        return np.flatnonzero(self._is_free).astype(np.int64)
