"""Page pools: what they answer, against a model; errors; life cycle; threads."""

from __future__ import annotations

import ctypes
import gc
import random
import sys
import threading
import warnings
from array import array
from typing import Any

import mooncake as m
import numpy as np
import pytest
from kit import Running, clean, python
from mooncake import _ffi
from raw import array as u64s
from raw import c
from world import refused

FIRST, COUNT = 1000, 300
KINDS = list(m.PoolKind)


def make(kind: m.PoolKind = m.PoolKind.RUNS, **options: Any) -> m.PagePool:
    return m.PagePool(COUNT, first=FIRST, kind=kind, **options)


def runs_of(pages: list[int]) -> list[tuple[int, int]]:
    """Pages in their order as runs."""
    found: list[tuple[int, int]] = []
    for page in pages:
        if found and sum(found[-1]) == page:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((page, 1))
    return found


class Model:
    """Who has which pages, and what the three kinds have in common: a page has one holder, free
    pages are handed out, pages keep their order, and lists hand them out in theirs."""

    def __init__(self, kind: m.PoolKind) -> None:
        self.kind = kind
        self.pool = make(kind)
        self.held: dict[int, list[int]] = {}
        self.list = list(range(FIRST, FIRST + COUNT))
        self.freed: list[int] = []

    def free(self) -> int:
        return COUNT - sum(map(len, self.held.values()))

    def give(self, request: int, pages: Any) -> None:
        """The pool has given request these pages."""
        got = list(pages)
        taken = {page for held in self.held.values() for page in held}
        assert not taken & set(got), "pages of another request"
        assert all(FIRST <= page < FIRST + COUNT for page in got)
        assert len(set(got)) == len(got)
        if self.kind is not m.PoolKind.RUNS:
            assert got == self.next(len(got))
        self.held.setdefault(request, []).extend(got)

    def next(self, count: int) -> list[int]:
        if self.kind is m.PoolKind.SORTED and count > len(self.list):
            self.list, self.freed = sorted(self.list + self.freed), []
        pages, self.list = self.list[:count], self.list[count:]
        return pages

    def take_back(self, pages: list[int]) -> None:
        (self.freed if self.kind is m.PoolKind.SORTED else self.list).extend(pages)
        for request, held in list(self.held.items()):
            self.held[request] = [page for page in held if page not in set(pages)]
            if not self.held[request]:
                del self.held[request]

    def check(self) -> None:
        stats = self.pool.stats()
        assert stats.pages_free == self.free()
        assert stats.pages_allocated == COUNT - self.free()
        assert stats.requests == len(self.held)
        assert stats.runs_allocated == sum(len(runs_of(held)) for held in self.held.values())
        assert stats.longest_free <= stats.pages_free
        assert sum(stats.histogram) == stats.runs_free
        if stats.pages_free:
            assert stats.fragmentation == 1 - stats.longest_free / stats.pages_free
        if self.kind is m.PoolKind.RUNS:
            taken = {page for held in self.held.values() for page in held}
            gaps = runs_of([p for p in range(FIRST, FIRST + COUNT) if p not in taken])
            assert stats.runs_free == len(gaps)
            assert stats.longest_free == max((n for _, n in gaps), default=0)
        for request, held in self.held.items():
            assert self.pool.runs(request) == runs_of(held)

    def step(self, rng: random.Random) -> None:
        pool, request = self.pool, rng.randrange(8)
        held = self.held.get(request)
        what = rng.randrange(6)
        if what == 0 and not held:
            count = rng.randint(1, 60)
            if count > self.free():
                with pytest.raises(m.PoolExhausted, match=f"{count} pages for request {request}"):
                    pool.alloc(request, count)
            else:
                self.give(request, pool.alloc(request, count, room=rng.randrange(20)))
        elif what == 1 and held:
            count = rng.randint(0, min(5, self.free()))
            self.give(request, pool.grow(request, count))
        elif what == 2:
            who = [r for r in self.held if rng.random() < 0.7]
            counts = [rng.randrange(3) for _ in who] if rng.random() < 0.5 else None
            wanted = len(who) if counts is None else sum(counts)
            if wanted <= self.free():
                pages = list(pool.grow_batch(who, counts))
                for r, n in zip(who, counts or [1] * len(who), strict=True):
                    self.give(r, pages[:n])
                    del pages[:n]
                assert not pages
        elif what == 3 and held:
            some = rng.sample(held, rng.randint(1, min(4, len(held))))
            pool.free(rng.choice([request, None]), some)
            self.take_back(some)
        elif what == 4 and held:
            assert pool.release(request) == len(held)
            self.take_back(held)
        elif what == 5 and held:
            assert 0 <= pool.reserve(request, rng.randrange(30)) < 30


@pytest.mark.parametrize("kind", KINDS)
def test_a_pool_equals_the_model(kind: m.PoolKind) -> None:
    for seed in range(6):
        rng, model = random.Random(seed), Model(kind)
        for _ in range(250):
            model.step(rng)
            model.check()
        model.pool.close()


def test_growth_is_in_place_and_room_is_kept_free() -> None:
    with make() as pool:
        assert list(pool.alloc(1, 10, room=20)) == list(range(1000, 1010))
        assert list(pool.alloc(2, 10)) == list(range(1030, 1040))
        assert pool.stats().pages_reserved == 20
        for page in range(1010, 1030):
            assert list(pool.grow(1)) == [page]
        assert pool.runs(1) == [(1000, 30)]
        assert pool.reserve(2, 5) == 5
        assert pool.reserve(2, 1000) == COUNT - 40
        assert pool.reserve(2, 0) == 0
        assert pool.stats().pages_reserved == 0


def test_the_incident_in_small() -> None:
    """Decoded together, the requests of a list fall apart, and those of a pool of runs do not."""
    longest = {}
    for kind in KINDS:
        with make(kind) as pool:
            for request in range(10):
                pool.alloc(request, 10)
            for _ in range(15):
                pool.grow_batch(range(10))
            for request in range(10):
                pool.release(request)
            pages = list(pool.alloc(77, COUNT))
            assert sorted(pages) == list(range(FIRST, FIRST + COUNT))
            longest[kind] = len(runs_of(pages))
    assert longest[m.PoolKind.RUNS] == 1
    assert longest[m.PoolKind.FIFO] > 150


def test_what_is_returned() -> None:
    with make() as plain, make(numpy=True) as with_numpy:
        for pool, kind in ((plain, array), (with_numpy, np.ndarray)):
            for pages in (pool.alloc(1, 4), pool.grow(1, 2), pool.grow_batch([1, 1], [2, 0])):
                assert isinstance(pages, kind)
                assert memoryview(pages).format in ("q", "l")
                assert memoryview(pages).itemsize == 8
            assert isinstance(pool.grow(1, 0), kind)
            assert len(pool.grow_batch([])) == 0
        assert with_numpy.grow(1).dtype == np.int64
        assert list(plain.runs(1)[0]) == [FIRST, 8]
        assert plain.runs(1)[0].pages == 8


def test_numpy_must_be_there() -> None:
    clean(
        python(
            "import sys\nsys.modules['numpy'] = None\nimport mooncake\n"
            "with mooncake.PagePool(5) as pool:\n"
            "    assert list(pool.alloc(1, 2)) == [0, 1]\n"
            "    pool.free(1, [1])\n"
            "try:\n    mooncake.PagePool(5, numpy=True)\nexcept ImportError:\n    pass\n"
            "else:\n    raise SystemExit('no ImportError')\n"
        )
    )


@pytest.mark.parametrize(
    "shape",
    [
        list,
        tuple,
        set,
        iter,
        lambda pages: (page for page in pages),
        lambda pages: array("q", pages),
        lambda pages: array("Q", pages),
        lambda pages: array("i", pages),
        np.array,
        lambda pages: np.array(pages, np.uint32),
        lambda pages: np.array(pages)[::-1],
        lambda pages: (ctypes.c_int64 * len(pages))(*pages),
        lambda pages: range(pages[0], pages[-1] + 1),
        lambda pages: pages[0],
        lambda pages: np.int64(pages[0]),
    ],
)
def test_what_pages_are_taken_from(shape: Any) -> None:
    with make() as pool:
        pages = list(pool.alloc(1, 6))[2:5]
        given = shape(pages)
        pool.free(1, given)
        left = 5 if isinstance(given, (int, np.integer)) else 3
        assert pool.stats().pages_allocated == left
        requests = shape([1, 1, 1]) if shape in (list, tuple) else shape([1])
        if not isinstance(requests, range):
            assert len(pool.grow_batch(requests, 2)) in (2, 6)


def test_pages_are_read_and_written_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """No element becomes a Python object: an array of a million pages takes microseconds."""
    with m.PagePool(1_000_000, numpy=True) as pool:
        pages = pool.alloc(1, 1_000_000)
        assert pages[0] == 0 and pages[-1] == 999_999
        addresses = []
        free = _ffi.lib().mc_pages_free

        class Spy:
            def __getattr__(self, name: str) -> Any:
                if name != "mc_pages_free":
                    return getattr(library, name)
                return lambda *args: (addresses.append(args[2]), free(*args))

        library = _ffi.lib()
        monkeypatch.setattr(_ffi, "_library", Spy())
        pool.free(1, pages)
        monkeypatch.undo()
        assert addresses == [pages.ctypes.data]
        assert pool.stats().pages_free == 1_000_000


@pytest.mark.parametrize("kind", KINDS)
def test_errors_name_the_page_and_the_request(kind: m.PoolKind) -> None:
    with make(kind) as pool:
        pool.alloc(1, 10)
        pool.alloc(2, 10)
        before = pool.stats()
        for call, error, builtin, text in (
            (lambda: pool.free(1, [1000, 1010]), m.PageError, ValueError,
             "free of page 1010 of request 1: request 2 has it"),
            (lambda: pool.free(3, 1000), m.PageError, ValueError, "page 1000 of request 3"),
            (lambda: pool.free(1, 1020), m.PageError, ValueError, "page 1020 .* not allocated"),
            (lambda: pool.free(None, 1300), m.PageError, ValueError, "page 1300: .* 1000 to 1299"),
            (lambda: pool.free(1, 2**63 - 1), m.PageError, ValueError, "page 9223372036854775807"),
            (lambda: pool.free(1, 999), m.PageError, ValueError, "page 999"),
            (lambda: pool.free(1, [1001, 1001]), m.InvalidArgument, ValueError, "1001 .* twice"),
            (lambda: pool.alloc(1, 1), m.InvalidArgument, ValueError, "request 1: .* already"),
            (lambda: pool.alloc(3, 0), m.InvalidArgument, ValueError, "0 pages for request 3"),
            (lambda: pool.alloc(2**64 - 1, 1), m.InvalidArgument, ValueError, "any request"),
            (lambda: pool.alloc(3, 281), m.PoolExhausted, MemoryError, "281 .* request 3: 280"),
            (lambda: pool.alloc(3, 2**63), m.PoolExhausted, MemoryError, "request 3"),
            (lambda: pool.grow(3), m.NotFound, LookupError, "1 pages of request 3"),
            (lambda: pool.grow(1, 281), m.PoolExhausted, MemoryError, "281 pages of request 1"),
            (lambda: pool.grow(1, 2**64 - 1), m.PoolExhausted, MemoryError, "request 1"),
            (lambda: pool.grow_batch([1, 3]), m.NotFound, LookupError, "request 3"),
            (lambda: pool.grow_batch([1, 2], [200, 81]), m.PoolExhausted, MemoryError, "2: 80"),
            (lambda: pool.grow_batch([1, 2], 2**62), m.PoolExhausted, MemoryError, "has 300"),
            (lambda: pool.grow_batch([1, 2], [1]), m.InvalidArgument, ValueError, "2 requests"),
            (lambda: pool.release(3), m.NotFound, LookupError, "release of request 3"),
            (lambda: pool.runs(3), m.NotFound, LookupError, "runs of request 3"),
            (lambda: pool.reserve(3, 1), m.NotFound, LookupError, "room of request 3"),
        ):  # fmt: skip
            assert issubclass(error, builtin)
            with pytest.raises(error, match=text):
                call()
            assert pool.stats() == before


def test_arguments_of_the_wrong_type() -> None:
    with make() as pool:
        pool.alloc(1, 3)
        for call in (
            lambda: pool.alloc("1", 1),
            lambda: pool.alloc(1.0, 1),
            lambda: pool.alloc(-1, 1),
            lambda: pool.alloc(2, 1.5),
            lambda: pool.alloc(2, -1),
            lambda: pool.alloc(2, 2**64),
            lambda: pool.alloc(2, 1, room=-1),
            lambda: pool.grow(None),
            lambda: pool.grow_batch("1"),
            lambda: pool.grow_batch(1.0),
            lambda: pool.grow_batch([1], "1"),
            lambda: pool.grow_batch([1], [-1]),
            lambda: pool.grow_batch([None]),
            lambda: pool.free(1, -1),
            lambda: pool.free(1, [1000, -1]),
            lambda: pool.free(1, np.array([1000, -1])),
            lambda: pool.free(1, [[1000]]),
            lambda: pool.free(1, np.array([[1000]])),
            lambda: pool.free(1, 1000.0),
            lambda: pool.free(1, None),
            lambda: pool.free(1, {1000: 1}),
            lambda: pool.free("1", 1000),
            lambda: m.PagePool("5"),
            lambda: m.PagePool(5, first=-1),
        ):
            with pytest.raises(TypeError):
                call()
        assert pool.stats().pages_allocated == 3
    for call in (
        lambda: m.PagePool(0),
        lambda: m.PagePool(1, first=2**63),
        lambda: m.PagePool(2**63),
        lambda: m.PagePool(5, kind="runs"),  # type: ignore[arg-type]
        lambda: m.PagePool(5, kind=3),  # type: ignore[arg-type]
        lambda: m.PagePool(2**40, kind=m.PoolKind.FIFO),
    ):
        with pytest.raises(m.InvalidArgument):
            call()


def test_nothing_for_each_page() -> None:
    with m.PagePool(2**62) as pool:
        assert len(pool.alloc(1, 10)) == 10
        assert pool.reserve(1, 2**62) == 2**62 - 10
        assert pool.stats().histogram[61] == 1


def test_a_closed_pool() -> None:
    pool = make()
    pool.alloc(1, 10)
    assert not pool.closed
    pool.close()
    pool.close()
    assert pool.closed
    for call in (
        lambda: pool.alloc(1, 1),
        lambda: pool.grow(1),
        lambda: pool.grow_batch([1]),
        lambda: pool.reserve(1, 1),
        lambda: pool.free(1, 1),
        lambda: pool.release(1),
        lambda: pool.runs(1),
        lambda: pool.stats(),
    ):
        with pytest.raises(m.StaleHandle, match="page pool is closed"):
            call()
    with pytest.warns(ResourceWarning, match="PagePool"):
        forgotten = make()
        handle = forgotten.handle
        del forgotten
        gc.collect()
    assert c.mc_pages_destroy(handle) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with make():
            pass


def test_handles_of_other_kinds(engine: Any) -> None:
    out = ctypes.c_uint64()
    with make() as pool:
        refused(c.mc_engine_close(pool.handle), "MC_EHANDLE", "page pool", "engine")
        refused(c.mc_pages_release(engine.handle, 1, None), "MC_EHANDLE", "engine", "page pool")
        status = c.mc_pages_grow_batch(pool.handle, u64s(1), u64s(1), 1, None, 0, ctypes.byref(out))
        refused(status, "MC_EFULL", "capacity is 0")


def test_threads_never_share_a_page() -> None:
    users, each, rounds = 6, 40, 80
    holders = np.zeros(COUNT, np.int64)

    def use(pool: m.PagePool, me: int) -> None:
        for _ in range(rounds):
            pages = [*pool.alloc(me, each - 8, room=4)]
            for _ in range(4):
                pages += pool.grow_batch([me, me])
            mine = np.array(pages) - FIRST
            assert not holders[mine].any(), "pages of another thread"
            holders[mine] = me
            assert (holders[mine] == me).all()
            holders[mine] = 0
            pool.free(me, pages[::2])
            pool.runs(me)
            assert pool.release(me) == each // 2

    for kind in KINDS:
        with make(kind) as pool:
            threads = [Running(use, pool, 1 + me) for me in range(users)]
            for thread in threads:
                thread.result(60)
            assert pool.stats().pages_free == COUNT
            assert pool.stats().pages_reserved == 0


def test_closing_while_others_use_it() -> None:
    pool, started = make(), threading.Event()

    def use(me: int) -> None:
        while True:
            try:
                pool.alloc(me, 10)
                started.set()
                pool.release(me)
            except m.StaleHandle:
                return

    threads = [Running(use, me) for me in range(4)]
    assert started.wait(10)
    pool.close()
    for thread in threads:
        thread.result(10)


FORK = """
import os, mooncake
pool = mooncake.PagePool(10)
pool.alloc(1, 5)
pid = os.fork()
if pid == 0:
    try:
        for call in (lambda: pool.grow(1), lambda: pool.stats(), lambda: mooncake.PagePool(5)):
            try:
                call()
            except mooncake.ForkedError as error:
                assert "spawn" in str(error), error
            else:
                os._exit(3)
        pool.close()
        os._exit(0)
    except BaseException as error:
        print(repr(error), flush=True)
        os._exit(4)
assert os.waitpid(pid, 0)[1] == 0
assert list(pool.grow(1)) == [5]
pool.close()
"""


def test_fork() -> None:
    clean(python(FORK))


def test_importing_loads_nothing() -> None:
    clean(
        python(
            "import sys, mooncake.pages\n"
            "from mooncake import _ffi\n"
            "assert _ffi._library is None\n"
            "assert 'numpy' not in sys.modules\n"
        )
    )
    assert "mooncake.pages" in sys.modules
