"""The C ABI with blocks, names, options and sizes that it must refuse, and its last error."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from ctypes import byref, c_uint64
from typing import Any

import pytest
from kit import free_port
from mooncake import _ffi
from raw import array, c, session, stats, text
from world import PAGE, U64, World, make_world, refused, register

pytestmark = pytest.mark.usefixtures("nothing_leaks")


def test_submit(world: World) -> None:
    w, ours, theirs = world, world.pages.address, world.theirs.address
    end, their_end = ours + 4 * PAGE, theirs + w.theirs.size
    for op, blocks, code, words in (
        (2, [(ours, theirs, 8)], "MC_EINVAL", ("op",)),
        (2**32 - 1, [(ours, theirs, 8)], "MC_EINVAL", ("op",)),
        (1, [(ours, theirs, U64)], "MC_EINVAL", ("block 0", "local", "wraps")),
        (0, [(ours, U64 - 3, 8)], "MC_EINVAL", ("block 0", "remote", "wraps")),
        (1, [(0, theirs, 8)], "MC_EADDR", ("block 0", "local")),
        (1, [(ours, theirs, 8), (ours, 0, 8)], "MC_EADDR", ("block 1", "remote")),
        (0, [(ours, theirs, 8), (end, theirs, 1)], "MC_EADDR", ("block 1", "local")),
        (1, [(end - 4, theirs, 8)], "MC_EADDR", ("block 0", "local")),
        (0, [(ours, their_end - 4, 8)], "MC_EADDR", ("block 0", "remote")),
        (1, [(ours, theirs, 8)] * 9 + [(ours, 64, 8)], "MC_EADDR", ("block 9", "remote", "0x40")),
        (1, [(ours, theirs, 5 * PAGE)], "MC_EADDR", ("local",)),
        (1, [(ours, theirs, 2**63)], "MC_EADDR", ("local",)),
    ):
        out = c_uint64(5)
        columns = [array(*column) for column in zip(*blocks, strict=True)]
        status = c.mc_submit(w.segment, op, *columns, len(blocks), 0, byref(out))
        refused(status, code, *words)
        assert out.value == 0


def test_small_buffers_for_text(world: World) -> None:
    name, length = session(world.engine), c_uint64()
    for capacity in (0, 1, len(name)):
        room = ctypes.create_string_buffer(b"\xee" * 300)
        status = c.mc_engine_session(world.engine, room, capacity, byref(length))
        refused(status, "MC_EFULL", "capacity", str(capacity))
        assert length.value == len(name)
        assert room.raw[:300] == b"\xee" * 300
        refused(c.mc_local_topology(None, room, capacity, byref(length)), "MC_EFULL", "capacity")
        refused(c.mc_rdma_ports(None, room, capacity, byref(length)), "MC_EFULL", "capacity")
    refused(c.mc_engine_session(world.engine, None, 0, byref(length)), "MC_EFULL")
    assert c.mc_engine_session(world.engine, room, len(name) + 1, byref(length)) == 0
    assert room.raw[: len(name) + 2] == name + b"\0\xee"
    refused(c.mc_local_topology(b"no_such", room, 300, byref(length)), "MC_EINVAL", "no_such")


BAD_NAMES = [
    (b"", "MC_EINVAL"),
    (b"host", "MC_EINVAL"),
    (b"127.0.0.1", "MC_EINVAL"),
    (b"127.0.0.1:", "MC_EINVAL"),
    (b"127.0.0.1:0", "MC_EINVAL"),
    (b"127.0.0.1:65536", "MC_EINVAL"),
    (b"127.0.0.1:-1", "MC_EINVAL"),
    (b"127.0.0.1:x", "MC_EINVAL"),
    (b":15000", "MC_EINVAL"),
    (b"::1:15000x", "MC_EINVAL"),
    (b"[::1:15000", "MC_EINVAL"),
    (b"a b:15000", "MC_EINVAL"),
    (b"\xff\xfe:15000", "MC_EINVAL"),
    (b"no-such-host.invalid:15000", "MC_ENOTFOUND"),
]


@pytest.mark.parametrize(("name", "code"), BAD_NAMES)
def test_peer_names(world: World, name: bytes, code: str) -> None:
    out = c_uint64(3)
    calls: list[Callable[[], int]] = [
        lambda: c.mc_segment_open(world.engine, name, byref(out)),
        lambda: c.mc_probe(world.engine, name, 2000),
        lambda: c.mc_fence(world.engine, name, 2000),
        lambda: c.mc_notify_send(world.engine, name, b"n", b"m"),
    ]
    for call in calls:
        refused(call(), code)
    assert out.value == 3


def test_nobody_at_the_port(world: World) -> None:
    name = f"127.0.0.1:{free_port()}".encode()
    refused(c.mc_segment_open(world.engine, name, byref(c_uint64())), "MC_EPEER", "refused")
    refused(c.mc_probe(world.engine, name, 1000), "MC_EPEER", "refused")
    refused(c.mc_notify_send(world.engine, name, b"n", b"m"), "MC_EPEER", "refused")


@pytest.mark.parametrize("timeout", [0, -1, -(2**63)])
def test_timeouts_that_must_be_positive(world: World, timeout: int) -> None:
    peer = session(world.peer)
    refused(c.mc_probe(world.engine, peer, timeout), "MC_EINVAL", "timeout_ms")
    refused(c.mc_fence(world.engine, peer, timeout), "MC_EINVAL", "timeout_ms")


def test_timeouts_may_be_huge(world: World) -> None:
    for timeout in (2**31, 2**62, 2**63 - 1):
        assert c.mc_probe(world.engine, session(world.peer), timeout) == 0
        assert c.mc_wait(world.batch, timeout, None) == 0
    for timeout in (-1, -(2**63)):
        assert c.mc_wait(world.batch, timeout, None) == 0
    for deadline in (2**62, 2**63 - 1, -(2**63)):
        out = c_uint64()
        blocks = array(world.pages.address), array(world.theirs.address), array(8)
        assert c.mc_submit(world.segment, 1, *blocks, 1, deadline, byref(out)) == 0
        assert c.mc_wait(out, 5000, None) == 0
        assert c.mc_batch_close(out) == 0


def options(**fields: Any) -> Any:
    size = fields.pop("struct_size", ctypes.sizeof(_ffi.EngineOptions))
    return byref(_ffi.EngineOptions(struct_size=size, **fields))


@pytest.mark.parametrize(
    ("name", "fields", "code", "word"),
    [
        (b"", {}, "MC_EINVAL", "name"),
        (b"bad name", {}, "MC_EINVAL", "name"),
        (b"\xc3\x28", {}, "MC_EINVAL", "name"),
        (b"[::1", {}, "MC_EINVAL", "name"),
        (b"127.0.0.1", {"struct_size": 0}, "MC_EINVAL", "struct_size"),
        (b"127.0.0.1", {"struct_size": 8}, "MC_EINVAL", "struct_size"),
        (b"127.0.0.1", {"struct_size": U64}, "MC_EINVAL", "struct_size"),
        (b"127.0.0.1", {"reserved": 1}, "MC_EINVAL", "reserved"),
        (b"127.0.0.1", {"rpc_port": 65536}, "MC_EINVAL", "rpc_port"),
        (b"127.0.0.1", {"metadata": b"etcd://x"}, "MC_EUNSUPPORTED", "P2PHANDSHAKE"),
        (b"127.0.0.1", {"metadata": b"\xff"}, "MC_EINVAL", "metadata"),
        (b"127.0.0.1", {"protocol": b"udp"}, "MC_EUNSUPPORTED", "protocol"),
        (b"127.0.0.1", {"protocol": b"\xff"}, "MC_EINVAL", "protocol"),
        (b"127.0.0.1", {"devices": b"\xff"}, "MC_EINVAL", "devices"),
    ],
)
def test_engine_open(name: bytes, fields: Any, code: str, word: str) -> None:
    out = c_uint64(4)
    refused(c.mc_engine_open(name, options(**fields), byref(out)), code, word)
    assert out.value == 4


def test_engine_open_on_a_taken_port(world: World) -> None:
    port = int(session(world.engine).rsplit(b":")[-1])
    status = c.mc_engine_open(b"127.0.0.1", options(rpc_port=port), byref(c_uint64()))
    refused(status, "MC_EDEVICE", str(port))


def test_deregister_batch_ends_the_valid_ones(world: World) -> None:
    start = world.pages.address + 5 * PAGE
    good = [register(world.engine, start + i * 8, 8) for i in range(3)]
    before = stats(world.engine).memories
    mixed = [good[0], world.closed_memory, good[1], 0, good[0], good[2]]
    refused(c.mc_deregister_batch(array(*mixed), len(mixed)), "MC_EHANDLE", "memory")
    assert stats(world.engine).memories == before - 3
    refused(c.mc_deregister(good[1]), "MC_EHANDLE", "closed")


def test_segment_buffer_past_the_last(world: World) -> None:
    address, length = c_uint64(1), c_uint64(2)
    for index in (1, 2**32, U64):
        status = c.mc_segment_buffer(world.segment, index, byref(address), byref(length))
        refused(status, "MC_ENOTFOUND", str(index))
    assert (address.value, length.value) == (1, 2)


def test_notifications(world: World) -> None:
    w = world
    name, message = ctypes.create_string_buffer(8), ctypes.create_string_buffer(8)
    name_length, message_length = c_uint64(), c_uint64()

    def take(names: int, messages: int) -> int:
        status: int = c.mc_notify_take(
            w.peer, name, names, byref(name_length), message, messages, byref(message_length)
        )
        return status

    refused(take(8, 8), "MC_ENOTFOUND")
    assert c.mc_notify_send(w.engine, session(w.peer), b"name", "grün".encode()) == 0
    for sizes in ((0, 0), (4, 8), (5, 5), (8, 0)):
        refused(take(*sizes), "MC_EFULL", "capacities")
        assert (name_length.value, message_length.value) == (4, 5)
    assert take(5, 6) == 0, "nothing was taken before"
    assert (name.value, message.value) == (b"name", "grün".encode())
    refused(take(8, 8), "MC_ENOTFOUND")
    refused(c.mc_notify_send(w.engine, session(w.peer), b"\xff", b"m"), "MC_EINVAL", "name")
    refused(c.mc_notify_send(w.engine, session(w.peer), b"n", b"\xff"), "MC_EINVAL", "message")
    huge = b"x" * (1 << 20)
    refused(c.mc_notify_send(w.engine, session(w.peer), b"n", huge), "MC_EINVAL",
            "MC_HANDSHAKE_MAX_LENGTH")  # fmt: skip


def test_the_last_error_is_the_threads_own() -> None:
    failures: list[str] = []
    start = threading.Barrier(8)

    def work(number: int) -> None:
        if text() != "":
            failures.append(f"a new thread has {text()!r}")
        start.wait(10)
        for turn in range(300):
            handle = number << 32 | turn
            c.mc_poll(handle, byref(_ffi.BatchStatus()))
            if f"{handle:#x}" not in text():
                failures.append(f"{handle:#x}: {text()}")

    threads = [threading.Thread(target=work, args=(n + 1,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []


def test_success_leaves_the_last_error(world: World) -> None:
    """It is the text of the last failed call; success does not clear it."""
    refused(c.mc_poll(0, byref(_ffi.BatchStatus())), "MC_EHANDLE", "batch handle is 0")
    assert c.mc_poll(world.batch, byref(_ffi.BatchStatus())) == 0
    assert "batch handle is 0" in text()


def test_closing_an_engine_invalidates_what_it_had() -> None:
    w = make_world()
    assert c.mc_engine_close(w.engine) == 0
    refused(c.mc_engine_close(w.engine), "MC_EHANDLE", "engine")
    refused(c.mc_deregister(w.memory), "MC_EHANDLE", "memory")
    refused(c.mc_segment_close(w.segment), "MC_EHANDLE", "segment")
    refused(c.mc_batch_close(w.batch), "MC_EHANDLE", "batch")
    assert c.mc_engine_close(w.peer) == 0
