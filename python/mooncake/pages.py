"""Page pools: which pages of a KV cache are free, and which run of them serves a request best.

    with PagePool(400_000) as pool:
        pages = pool.alloc(request, 1100, room=256)  # numbers of pages, in few runs
        page = pool.grow_batch(running)              # one more for every request that runs
        pool.release(request)

A pool needs no engine, and knows numbers only: a page is what the caller makes of it. Failures
are exceptions of MooncakeError. Pools may be used from several threads at once.
"""

from __future__ import annotations

import ctypes
import enum
import importlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, SupportsIndex

from . import _ffi
from ._arguments import IntegerArray, Words, integer, packed, words
from ._errors import QueueFull
from ._handles import Handle

__all__ = ["PagePool", "PagePoolStats", "PageRun", "PoolKind"]

# What names pages or requests: one integer, or any number of them.
Numbers = SupportsIndex | IntegerArray | Iterable[int]


class PoolKind(enum.IntEnum):
    """How a pool keeps its free pages."""

    RUNS = _ffi.MC_PAGES_RUNS  # as runs, so that requests get few
    FIFO = _ffi.MC_PAGES_FIFO  # as a list, freed pages at its end
    SORTED = _ffi.MC_PAGES_SORTED  # as a list that is sorted when it runs short


class PageRun(NamedTuple):
    """pages consecutive pages from page first on."""

    first: int
    pages: int


@dataclass(frozen=True)
class PagePoolStats:
    """A page pool at one moment."""

    pages: int  # of the pool
    pages_free: int  # that can be had, set aside or not
    pages_reserved: int  # of the free ones, those set aside for requests to grow into
    pages_allocated: int  # that requests hold
    requests: int  # that hold pages
    runs_allocated: int  # runs that the pages of requests are in
    runs_free: int  # maximal runs of free pages; of a list, in the order in which it gives them
    longest_free: int  # pages of the longest of them
    fragmentation: float  # 1 - longest_free / pages_free; 0 when no page is free
    histogram: tuple[int, ...]  # free runs by length: element k those of 2**k to 2**(k+1)-1 pages


class PagePool(Handle):
    """count pages from page first on, all of them free.

    kind says how free pages are kept: RUNS keeps the pages of a request in few runs, so that its
    KV cache moves in few pieces; the lists are what it is compared with.

    Requests have numbers that the caller chooses, below 2**64-1. A request begins with alloc()
    and ends when its last page is given back. It grows into the free pages behind its last one;
    of those some can be set aside for it, its room, which others get only when their pages would
    else have to be split. A call that fails changes nothing, and names the page or the request.

    Pages are returned as array('q') or, with numpy=True, as numpy arrays of int64. Where pages or
    requests are taken, any integers will do: one, a list, a range, a set; arrays of 64-bit
    integers (numpy, array, ctypes, a torch tensor on the CPU) are read where they are.
    Raises InvalidArgument, LibraryError, ForkedError; with numpy=True, ImportError.
    """

    _kind = "page pool"

    def __init__(
        self, count: int, *, first: int = 0, kind: PoolKind = PoolKind.RUNS, numpy: bool = False
    ) -> None:
        if kind not in list(PoolKind):
            raise _ffi.error("MC_EINVAL", f"kind must be a PoolKind, not {kind!r}")
        self.first = integer(first, "first")
        self.count = integer(count, "count")
        self.kind = PoolKind(kind)
        self._numpy: Any = importlib.import_module("numpy") if numpy else None
        out = ctypes.c_uint64()
        _ffi.lib().mc_pages_create(self.first, self.count, self.kind, 0, ctypes.byref(out))
        super().__init__(out.value)

    def alloc(self, request: int, count: int, *, room: int = 0) -> Any:
        """Give a new request count pages, and set up to room more aside behind them.

        Returns the pages in the request's order. Raises InvalidArgument (count is 0, the request
        holds pages), PoolExhausted, StaleHandle.
        """
        number, wanted = integer(request, "request"), integer(count, "count")
        aside, handle = integer(room, "room"), self.handle
        pages, address = self._pages(wanted)
        _ffi.lib().mc_pages_alloc(handle, number, wanted, aside, address, len(pages))
        return pages

    def grow(self, request: int, count: int = 1) -> Any:
        """Give a request count pages more, and return those. Raises NotFound (it holds none),
        PoolExhausted, StaleHandle."""
        number, wanted, handle = integer(request, "request"), integer(count, "count"), self.handle
        pages, address = self._pages(wanted)
        _ffi.lib().mc_pages_grow(handle, number, wanted, address, len(pages))
        return pages

    def grow_batch(self, requests: Numbers, counts: Numbers | None = None) -> Any:
        """Grow many requests, as a step of decoding does: each by its number of counts, which
        may be 0, or by one. All grow or none.

        counts may be one integer, for all of them. Returns the pages, those of the first
        request first. Raises as grow(), and InvalidArgument when counts and requests differ in
        length.
        """
        who = numbers(requests, "requests")
        total, each = who.size, None
        if counts is not None:
            each = _counts(counts, who.size)
            total = sum((ctypes.c_uint64 * each.size).from_address(each.address))
        if total > self.count:
            raise _ffi.error(
                "MC_ENOPAGES", f"growth by {total} pages: the pool has {self.count} in all"
            )
        handle, out = self.handle, ctypes.c_uint64()
        pages, address = self._pages(total)
        _ffi.lib().mc_pages_grow_batch(
            handle,
            who.address,
            None if each is None else each.address,
            who.size,
            address,
            total,
            ctypes.byref(out),
        )
        return pages

    def reserve(self, request: int, room: int) -> int:
        """Set room pages aside for a request, or as many as are free right behind it if that is
        less; 0 gives all back. Returns how many are. Raises NotFound, StaleHandle."""
        out = ctypes.c_uint64()
        number, aside = integer(request, "request"), integer(room, "room")
        _ffi.lib().mc_pages_reserve(self.handle, number, aside, ctypes.byref(out))
        return out.value

    def free(self, request: int | None, pages: Numbers) -> None:
        """Give pages back, in any order: pages of that request or, with None, of whichever
        requests hold them. All are given back or none.

        Raises PageError (a page is not of this pool, is free already, or is another request's),
        InvalidArgument (a page is listed twice), StaleHandle.
        """
        number = _ffi.ANYONE if request is None else integer(request, "request")
        given = numbers(pages, "pages")
        _ffi.lib().mc_pages_free(self.handle, number, given.address, given.size)

    def release(self, request: int) -> int:
        """Give back all pages of a request, and return how many they were. Raises NotFound,
        StaleHandle."""
        out = ctypes.c_uint64()
        number = integer(request, "request")
        _ffi.lib().mc_pages_release(self.handle, number, ctypes.byref(out))
        return out.value

    def runs(self, request: int) -> list[PageRun]:
        """The pages of a request as runs, in the order in which it got them. Raises NotFound,
        StaleHandle."""
        number, out = integer(request, "request"), ctypes.c_uint64(16)
        while True:
            room = out.value
            flat = (ctypes.c_uint64 * (2 * room))()
            try:
                _ffi.lib().mc_pages_runs(self.handle, number, flat, room, ctypes.byref(out))
            except QueueFull:
                continue  # out says how many there are
            return [PageRun(flat[2 * i], flat[2 * i + 1]) for i in range(out.value)]

    def stats(self) -> PagePoolStats:
        """The pool as it is now. Raises StaleHandle."""
        raw = _ffi.PagesStats()
        _ffi.lib().mc_pages_stats(self.handle, ctypes.byref(raw))
        plain = {name: getattr(raw, name) for name, *_ in raw._fields_}
        return PagePoolStats(**{**plain, "histogram": tuple(raw.histogram)})

    def _pages(self, count: int) -> tuple[Any, int | None]:
        """An array for count numbers, and its address; none if the pool has not so many, which
        the library refuses in its own words."""
        if count > self.count:
            return (), None
        if self._numpy is not None:
            pages = self._numpy.empty(count, self._numpy.int64)
            return pages, pages.__array_interface__["data"][0]
        pages = array("q", bytes(8 * count))
        return pages, pages.buffer_info()[0]

    def _release(self, handle: int) -> None:
        _ffi.lib().mc_pages_destroy(handle)

    def __repr__(self) -> str:
        return f"<mooncake.PagePool {self.count} pages, {self.kind.name}, {self._handle:#x}>"


def numbers(value: object, name: str) -> Words:
    """value, one integer or any number of them, as an array of uint64. Raises TypeError."""
    if hasattr(value, "__index__") and not hasattr(value, "__len__"):
        return packed([integer(value, name)], name)
    if isinstance(value, Iterable) and not hasattr(value, "__getitem__"):
        return packed(list(value), name)
    return words(value, name)


def _counts(counts: object, size: int) -> Words:
    """How many pages each of size requests gets. Raises TypeError, InvalidArgument."""
    if hasattr(counts, "__index__") and not hasattr(counts, "__len__"):
        return packed([integer(counts, "counts")] * size, "counts")
    each = numbers(counts, "counts")
    if each.size != size:
        raise _ffi.error("MC_EINVAL", f"there are {size} requests and {each.size} counts")
    return each
