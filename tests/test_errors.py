"""Every function of the C ABI with handles, pointers and ranges that it must refuse."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import byref, c_int32, c_uint16, c_uint64

import pytest
from kit import Pages
from mooncake import _ffi
from raw import array, c, session, text
from world import PAGE, U64, World, refused

pytestmark = pytest.mark.usefixtures("nothing_leaks")


def test_closed_and_foreign_handles(world: World) -> None:
    """Every function that takes a handle, with all kinds of wrong ones."""
    w = world
    out, number, port = c_uint64(77), c_int32(), c_uint16()
    room = ctypes.create_string_buffer(64)
    a, b, n = array(w.pages.address), array(w.theirs.address), array(8)
    taking: dict[str, list[Callable[[int], int]]] = {
        "engine": [
            c.mc_engine_close,
            lambda h: c.mc_engine_rpc_port(h, byref(port)),
            lambda h: c.mc_engine_session(h, room, 64, byref(out)),
            lambda h: c.mc_engine_stats(h, byref(_ffi.EngineStats())),
            lambda h: c.mc_register(h, w.pages.address + 5 * PAGE, PAGE, None, byref(out)),
            lambda h: c.mc_register_batch(h, a, n, 1, None, byref(out)),
            lambda h: c.mc_segment_open(h, session(w.peer), byref(out)),
            lambda h: c.mc_probe(h, session(w.peer), 100),
            lambda h: c.mc_fence(h, session(w.peer), 100),
            lambda h: c.mc_notify_send(h, session(w.peer), b"n", b"m"),
            lambda h: c.mc_notify_take(h, room, 64, byref(out), room, 64, byref(out)),
        ],
        "memory": [c.mc_deregister, lambda h: c.mc_deregister_batch(array(h), 1)],
        "segment": [
            lambda h: c.mc_segment_buffer(h, 0, byref(out), byref(out)),
            lambda h: c.mc_segment_stale(h, byref(number)),
            lambda h: c.mc_segment_connect(h, 100),
            c.mc_segment_close,
            lambda h: c.mc_submit(h, 1, a, b, n, 1, 0, byref(out)),
            lambda h: c.mc_transfer(h, 1, a, b, n, 1, 0, -1, None, byref(out)),
            lambda h: c.mc_batch_open(h, 1, 0, byref(out)),
        ],
        "batch": [
            lambda h: c.mc_poll(h, byref(_ffi.BatchStatus())),
            lambda h: c.mc_wait(h, 0, None),
            lambda h: c.mc_wait(h, -1, byref(_ffi.BatchStatus())),
            lambda h: c.mc_batch_add(h, a, b, n, 1),
            c.mc_batch_seal,
            c.mc_cancel,
            lambda h: c.mc_batch_fd(h, byref(number)),
            c.mc_batch_close,
        ],
    }
    for kind, calls in taking.items():
        for wrong in w.handles(kind).values():
            for call in calls:
                refused(call(wrong), "MC_EHANDLE", kind)


def test_null_out_pointers(world: World) -> None:
    w = world
    a, b, n = array(w.pages.address), array(w.theirs.address), array(8)
    out = c_uint64()
    room = ctypes.create_string_buffer(64)
    free = w.pages.address + 5 * PAGE
    calls: list[tuple[Callable[[], int], str]] = [
        (lambda: c.mc_engine_open(b"127.0.0.1", None, None), "out"),
        (lambda: c.mc_engine_rpc_port(w.engine, None), "out"),
        (lambda: c.mc_engine_session(w.engine, room, 64, None), "out_length"),
        (lambda: c.mc_engine_session(w.engine, None, 64, byref(out)), "out"),
        (lambda: c.mc_engine_stats(w.engine, None), "out"),
        (lambda: c.mc_local_topology(None, room, 64, None), "out_length"),
        (lambda: c.mc_rdma_ports(None, room, 64, None), "out_length"),
        (lambda: c.mc_register(w.engine, free, PAGE, None, None), "out"),
        (lambda: c.mc_register_batch(w.engine, array(free), array(PAGE), 1, None, None), "out"),
        (lambda: c.mc_register_batch(w.engine, None, n, 1, None, byref(out)), "addresses"),
        (lambda: c.mc_register_batch(w.engine, array(free), None, 1, None, byref(out)), "lengths"),
        (lambda: c.mc_deregister_batch(None, 1), "memories"),
        (lambda: c.mc_segment_open(w.engine, session(w.peer), None), "out"),
        (lambda: c.mc_segment_open(w.engine, None, byref(out)), "name"),
        (lambda: c.mc_segment_buffer(w.segment, 0, None, byref(out)), "out_address"),
        (lambda: c.mc_segment_buffer(w.segment, 0, byref(out), None), "out_length"),
        (lambda: c.mc_segment_stale(w.segment, None), "out"),
        (lambda: c.mc_submit(w.segment, 1, a, b, n, 1, 0, None), "out"),
        (lambda: c.mc_submit(w.segment, 1, None, b, n, 1, 0, byref(out)), "local"),
        (lambda: c.mc_submit(w.segment, 1, a, None, n, 1, 0, byref(out)), "remote"),
        (lambda: c.mc_submit(w.segment, 1, a, b, None, 1, 0, byref(out)), "length"),
        (lambda: c.mc_transfer(w.segment, 1, a, b, n, 1, 0, -1, None, None), "out"),
        (lambda: c.mc_transfer(w.segment, 1, a, b, None, 1, 0, -1, None, byref(out)), "length"),
        (lambda: c.mc_batch_open(w.segment, 1, 0, None), "out"),
        (lambda: c.mc_batch_add(w.batch, None, b, n, 1), "local"),
        (lambda: c.mc_poll(w.batch, None), "out"),
        (lambda: c.mc_batch_fd(w.batch, None), "out"),
        (lambda: c.mc_probe(w.engine, None, 100), "peer"),
        (lambda: c.mc_fence(w.engine, None, 100), "peer"),
        (lambda: c.mc_notify_send(w.engine, None, b"n", b"m"), "peer"),
        (lambda: c.mc_notify_send(w.engine, session(w.peer), None, b"m"), "name"),
        (lambda: c.mc_notify_send(w.engine, session(w.peer), b"n", None), "message"),
        (lambda: c.mc_notify_take(w.engine, room, 64, None, room, 64, byref(out)), "out_name"),
        (lambda: c.mc_notify_take(w.engine, room, 64, byref(out), room, 64, None), "out_message"),
        (lambda: c.mc_notify_take(w.engine, None, 64, byref(out), room, 64, byref(out)), "name"),
        (lambda: c.mc_engine_open(None, None, byref(out)), "name"),
    ]
    for call, word in calls:
        refused(call(), "MC_EINVAL", word, "NULL")


def test_optional_out_pointers(world: World) -> None:
    assert c.mc_wait(world.batch, 0, None) == 0
    batch = c_uint64()
    assert c.mc_submit(world.segment, 1, None, None, None, 0, 0, byref(batch)) == 0
    assert c.mc_batch_close(batch) == 0
    assert c.mc_transfer(world.segment, 1, None, None, None, 0, 0, 0, None, byref(batch)) == 0
    assert batch.value == 0
    assert c.mc_register_batch(world.engine, None, None, 0, None, None) == 0
    assert c.mc_deregister_batch(None, 0) == 0


@pytest.mark.parametrize(
    ("shift", "length", "code", "word"),
    [
        (None, PAGE, "MC_EINVAL", "address"),
        (5 * PAGE, 0, "MC_EINVAL", "length"),
        (5 * PAGE, U64, "MC_EINVAL", "wraps"),
        (0, PAGE, "MC_EOVERLAP", "[0x"),
        (PAGE + 3, 1, "MC_EOVERLAP", "[0x"),
        (4 * PAGE - 1, PAGE, "MC_EOVERLAP", "[0x"),
        (0, 8 * PAGE, "MC_EOVERLAP", "[0x"),
    ],
)
def test_register(world: World, shift: int | None, length: int, code: str, word: str) -> None:
    address = 0 if shift is None else world.pages.address + shift
    out = c_uint64(77)
    refused(c.mc_register(world.engine, address, length, None, byref(out)), code, word)
    fine = world.pages.address + 7 * PAGE
    outs = array(7, 7)
    status = c.mc_register_batch(
        world.engine, array(fine, address), array(PAGE, length), 2, b"cpu:0", outs
    )
    refused(status, code)
    if code == "MC_EINVAL":
        assert "range 1" in text()
    assert (out.value, list(outs)) == (77, [7, 7]), "out is written on success only"


@pytest.mark.parametrize("address", [8, PAGE, 2**47 - 2 * PAGE, 2**63, U64 - PAGE])
def test_register_unmapped(world: World, address: int) -> None:
    out = c_uint64()
    status = c.mc_register(world.engine, address, PAGE, None, byref(out))
    refused(status, "MC_EADDR", "not mapped", f"{address:#x}")


def test_register_partly_unmapped_and_unreadable(world: World) -> None:
    libc = ctypes.CDLL(None)
    hole = Pages(4 * PAGE)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    assert libc.mprotect(hole.address + PAGE, PAGE, 0) == 0
    out = c_uint64()
    status = c.mc_register(world.engine, hole.address, 4 * PAGE, None, byref(out))
    refused(status, "MC_EADDR", "read permission")
    assert libc.mprotect(hole.address + PAGE, PAGE, 3) == 0


def test_register_more_than_peers_could_be_told(world: World) -> None:
    count = 20_000
    many = Pages(count * 2)
    starts = (c_uint64 * count)(*range(many.address, many.address + 2 * count, 2))
    lengths, outs = (c_uint64 * count)(*[1] * count), (c_uint64 * count)()
    status = c.mc_register_batch(world.engine, starts, lengths, count, None, outs)
    refused(status, "MC_EFULL", "MC_HANDSHAKE_MAX_LENGTH")
    assert not any(outs)


@pytest.mark.parametrize("count", [2**40 + 1, 2**61, U64])
def test_counts_that_cannot_be(world: World, count: int) -> None:
    w, out = world, c_uint64(9)
    a, b, n = array(w.pages.address), array(w.theirs.address), array(8)
    refused(c.mc_submit(w.segment, 1, a, b, n, count, 0, byref(out)), "MC_EINVAL", "count")
    assert out.value == 0
    refused(c.mc_register_batch(w.engine, a, n, count, None, byref(out)), "MC_EINVAL", "count")
    refused(c.mc_deregister_batch(a, count), "MC_EINVAL", "count")


@pytest.mark.parametrize("bad", [8, 1 << 44])
def test_pointers_to_nothing(world: World, bad: int) -> None:
    """Addresses where nothing is mapped: in the first page, and far from everything."""
    w, out = world, c_uint64()
    a, b, n = array(w.pages.address), array(w.theirs.address), array(8)
    nowhere = ctypes.cast(bad, ctypes.POINTER(c_uint64))
    chars = ctypes.cast(bad, ctypes.POINTER(ctypes.c_char))
    name = ctypes.c_char_p(bad)
    free, at = w.pages.address + 5 * PAGE, f"{bad:#x}"
    calls: list[Callable[[], int]] = [
        lambda: c.mc_submit(w.segment, 1, bad, b, n, 1, 0, byref(out)),
        lambda: c.mc_submit(w.segment, 1, a, bad, n, 1, 0, byref(out)),
        lambda: c.mc_submit(w.segment, 1, a, b, bad, 1, 0, byref(out)),
        lambda: c.mc_submit(w.segment, 1, a, b, n, 1, 0, nowhere),
        lambda: c.mc_transfer(w.segment, 1, a, b, bad, 1, 0, -1, None, byref(out)),
        lambda: c.mc_transfer(w.segment, 1, a, b, n, 1, 0, -1, None, nowhere),
        lambda: c.mc_batch_open(w.segment, 1, 0, nowhere),
        lambda: c.mc_batch_add(w.batch, a, bad, n, 1),
        lambda: c.mc_register_batch(w.engine, bad, n, 1, None, byref(out)),
        lambda: c.mc_register_batch(w.engine, array(free), bad, 1, None, byref(out)),
        lambda: c.mc_register_batch(w.engine, array(free), array(PAGE), 1, None, bad),
        lambda: c.mc_register(w.engine, free, PAGE, None, nowhere),
        lambda: c.mc_register(w.engine, free, PAGE, name, byref(out)),
        lambda: c.mc_engine_open(b"127.0.0.1", None, nowhere),
        lambda: c.mc_segment_open(w.engine, session(w.peer), nowhere),
        lambda: c.mc_deregister_batch(bad, 1),
        lambda: c.mc_engine_open(name, None, byref(out)),
        lambda: c.mc_segment_open(w.engine, name, byref(out)),
        lambda: c.mc_probe(w.engine, name, 100),
        lambda: c.mc_notify_send(w.engine, session(w.peer), name, b""),
        lambda: c.mc_engine_session(w.engine, chars, 64, byref(out)),
        lambda: c.mc_engine_session(w.engine, ctypes.create_string_buffer(64), 64, nowhere),
        lambda: c.mc_segment_buffer(w.segment, 0, nowhere, byref(out)),
    ]
    for call in calls:
        refused(call(), "MC_EINVAL", at)


def test_misaligned_arrays(world: World) -> None:
    w, out = world, c_uint64()
    packed = ctypes.create_string_buffer(b"\0" + bytes(array(w.pages.address)))
    odd = ctypes.addressof(packed) + 1
    assert odd % 8
    others = array(w.theirs.address), array(8)
    assert c.mc_submit(w.segment, 1, odd, *others, 1, 0, byref(out)) == 0
    assert c.mc_wait(out, 5000, None) == 0
    assert c.mc_batch_close(out) == 0
