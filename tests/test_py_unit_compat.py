"""Parts of the drop-in engine over stand-ins for the native one."""

from __future__ import annotations

import itertools
import logging
import pickle
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import mooncake
from mooncake import _compat_log, _errors
from mooncake._compat_arguments import opcode_of, strings_of, text_or_none
from mooncake._compat_log import FailureLog
from mooncake._compat_memory import MemoryTable
from mooncake._managed import ManagedBuffers
from mooncake._sessions import Sessions
from mooncake.engine import Read, TransferEngine, TransferNotify, TransferOpcode, Write

TIMEOUT = 10


class Segment:
    def __init__(self, name: str) -> None:
        self.name, self.stale, self.closed = name, False, False

    def close(self) -> None:
        self.closed = True


class Opener:
    """Stands in for an engine whose open_segment() takes until it is let go."""

    def __init__(self) -> None:
        self.opens: list[str] = []
        self.begun = threading.Semaphore(0)
        self.go = {"slow": threading.Event()}
        self.error: Exception | None = None

    def open_segment(self, name: str) -> Segment:
        self.opens.append(name)
        self.begun.release()
        if name in self.go:
            assert self.go[name].wait(TIMEOUT)
        if self.error is not None:
            raise self.error
        return Segment(name)


def start(target: Any, *arguments: Any) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(target(*arguments))
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


def test_a_session_is_opened_once_and_a_stale_one_again() -> None:
    opener = Opener()
    sessions = Sessions(opener)  # type: ignore[arg-type]
    first: Any = sessions.get("a")
    assert sessions.get("a") is first
    first.stale = True
    second: Any = sessions.get("a")
    assert second is not first and first.closed and not second.closed
    sessions.drop("a", first)  # late, by another thread
    assert sessions.get("a") is second
    sessions.drop("a", second)
    assert sessions.get("a") is not second
    assert opener.opens == ["a"] * 3


def test_a_slow_open_delays_no_other_and_is_shared() -> None:
    opener = Opener()
    sessions = Sessions(opener)  # type: ignore[arg-type]
    waiters = [start(sessions.get, "slow") for _ in range(4)]
    assert opener.begun.acquire(timeout=TIMEOUT)
    assert sessions.get("quick").name == "quick"
    opener.go["slow"].set()
    for thread, _ in waiters:
        thread.join(TIMEOUT)
    assert len({id(results[0]) for _, results in waiters}) == 1
    assert opener.opens == ["slow", "quick"]


def test_a_failed_open_is_shared_and_not_kept() -> None:
    opener = Opener()
    opener.error = mooncake.PeerUnreachable("refused")
    sessions = Sessions(opener)  # type: ignore[arg-type]
    opener.go["slow"].set()
    with pytest.raises(mooncake.PeerUnreachable):
        sessions.get("slow")
    opener.error = None
    assert sessions.get("slow").name == "slow"


class Memory:
    def __init__(self, address: int, length: int) -> None:
        self.address, self.length = address, length


class Registrar:
    """Stands in for an engine's registrations."""

    def __init__(self) -> None:
        self.registered: list[Memory] = []

    def register(self, memory: Any, length: int | None = None, *, location: str = "*") -> Memory:
        if length is None:  # a mapping: any place that no other has
            memory, length = (1 + len(self.registered)) << 40, len(memory)
        self.registered.append(Memory(memory, length))
        return self.registered[-1]

    def register_many(self, ranges: Iterator[tuple[int, int]], *, location: str) -> list[Memory]:
        return [self.register(*each) for each in ranges]

    def deregister_many(self, memories: list[Memory]) -> None:
        for memory in memories:
            self.registered.remove(memory)


def test_memory_table_finds_ranges_and_forgets_them() -> None:
    registrar = Registrar()
    table = MemoryTable(registrar)  # type: ignore[arg-type]
    table.register_many([(3000, 100), (1000, 100)], "*")
    table.register(2000, 100, "*")
    ran: list[int] = []
    for address, length, inside in [
        (1000, 100, True),
        (1050, 50, True),
        (1050, 51, False),
        (999, 1, False),
        (1100, 1, False),
        (2099, 1, True),
        (3100, 0, True),
        (5000, 0, False),
    ]:
        assert table.use(address, length, lambda: ran.append(1)) is inside, (address, length)
    assert len(ran) == 4
    assert table.unregister([2000, 7, 1000]) is False
    assert [memory.address for memory in registrar.registered] == [3000]
    assert table.unregister([1000]) is False
    assert table.unregister([]) is True
    assert table.unregister([3000]) is True


def test_managed_buffers_do_not_overlap_and_are_reused() -> None:
    registrar = Registrar()
    table = MemoryTable(registrar)  # type: ignore[arg-type]
    managed = ManagedBuffers(registrar, table)  # type: ignore[arg-type]
    sizes = [0, 1, 8192, 8193, 100_000, 64 << 20, (64 << 20) + 1, 20_000]
    addresses = [managed.allocate(size) for size in sizes]
    ends = sorted(
        (address, address + max(size, 8192)) for address, size in zip(addresses, sizes, strict=True)
    )
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(ends))
    for address, size in zip(addresses, sizes, strict=True):
        assert table.use(address, size, int)
    managed.free(addresses[1], 5000)  # the same class as 1
    assert managed.allocate(8000) == addresses[1]
    mappings = len(registrar.registered)
    managed.free(addresses[4], 100_000)
    assert managed.allocate(131_072) == addresses[4]
    assert len(registrar.registered) == mappings


def test_managed_buffers_refuse_what_they_did_not_give() -> None:
    registrar = Registrar()
    managed = ManagedBuffers(registrar, MemoryTable(registrar))  # type: ignore[arg-type]
    address = managed.allocate(10_000)
    for wrong, length in ((address, 8192), (address + 8192, 8192), (0, 1)):
        with pytest.raises(mooncake.InvalidArgument):
            managed.free(wrong, length)
    managed.free(address, 10_000)
    with pytest.raises(mooncake.InvalidArgument):
        managed.free(address, 10_000)


def test_a_huge_managed_buffer_is_unmapped_when_it_is_freed() -> None:
    registrar = Registrar()
    managed = ManagedBuffers(registrar, MemoryTable(registrar))  # type: ignore[arg-type]
    address = managed.allocate((256 << 20) + 1)
    assert [memory.length for memory in registrar.registered] == [(256 << 20) + 1]
    managed.free(address, (256 << 20) + 1)
    assert registrar.registered == []


def test_failures_are_logged_once_for_each_kind(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "mooncake")
    log = FailureLog(interval=3600)
    for _ in range(5):
        log.failure("write", mooncake.PeerUnreachable("refused"), "a:1")
    log.failure("write", mooncake.PeerUnreachable("refused"), "b:1")
    log.failure("write", mooncake.Rejected("no"), "a:1")
    log.failure("read", "a reason")
    assert [record.getMessage() for record in caplog.records] == [
        "write: a:1: PeerUnreachable: refused",
        "write: b:1: PeerUnreachable: refused",
        "write: a:1: Rejected: no",
        "read: a reason",
    ]


def test_the_log_tells_what_it_left_out(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 101.0, 102.0, 111.0])
    monkeypatch.setattr(_compat_log, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    log = FailureLog(interval=10)
    for _ in range(4):
        log.failure("write", "a reason")
    assert [record.getMessage() for record in caplog.records] == [
        "write: a reason",
        "write: a reason (2 more such failures since the last line)",
    ]


def test_opcodes() -> None:
    assert (Read, Write) == (TransferOpcode.Read, TransferOpcode.Write) == (0, 1)
    assert TransferEngine.TransferOpcode is TransferOpcode
    assert opcode_of(Write) is mooncake.Op.WRITE
    assert opcode_of(0) is mooncake.Op.READ
    for bad in (2, -1, "Write", None, 1.0):
        with pytest.raises(TypeError, match="opcode"):
            opcode_of(bad)


def test_strings() -> None:
    assert strings_of(None) is None
    assert strings_of(TransferNotify("n", "m")) == ("n", "m")
    for bad in ("n", TransferNotify(1, "m"), ("n", "m")):  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="notify"):
            strings_of(bad)
    assert (text_or_none("a", "x"), text_or_none(b"a", "x"), text_or_none(None, "x")) == (
        "a",
        "a",
        None,
    )
    with pytest.raises(TypeError, match=r"^x "):
        text_or_none(1, "x")


def test_exceptions_are_what_people_catch() -> None:
    for name, builtin in {
        "InvalidArgument": ValueError,
        "StaleHandle": RuntimeError,
        "NotFound": LookupError,
        "NotRegistered": ValueError,
        "Overlap": ValueError,
        "QueueFull": RuntimeError,
        "WaitTimeout": TimeoutError,
        "DeadlineExceeded": TimeoutError,
        "Cancelled": RuntimeError,
        "PeerUnreachable": ConnectionError,
        "PeerRestarted": ConnectionResetError,
        "Rejected": PermissionError,
        "Fenced": ConnectionAbortedError,
        "DeviceError": OSError,
        "Unsupported": NotImplementedError,
        "ForkedError": RuntimeError,
        "InternalError": RuntimeError,
        "LibraryError": ImportError,
    }.items():
        exception = getattr(mooncake, name)
        assert issubclass(exception, builtin) and issubclass(exception, mooncake.MooncakeError)
        error = exception("text", status=-5)
        copy = pickle.loads(pickle.dumps(error))
        assert (str(error), error.status, error.quiet) == ("text", -5, None)
        assert (type(copy), str(copy), copy.status) == (exception, "text", -5)
        assert exception in _errors.EXCEPTIONS.values() or name == "LibraryError"


def test_public_names_exist() -> None:
    for name in mooncake.__all__:
        assert getattr(mooncake, name) is not None
    assert set(mooncake.__all__) <= set(dir(mooncake))
    with pytest.raises(AttributeError, match="nonsense"):
        mooncake.nonsense  # noqa: B018
    with pytest.raises(ImportError):
        from mooncake import store  # noqa: F401
