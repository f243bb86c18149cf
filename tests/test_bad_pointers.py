"""Pointers that are none, given to every C function that takes one: an error that names the
argument, nothing leaked, and a process that lives on."""

from __future__ import annotations

import ctypes
import os

import pytest

import mooncake
from kit import Pages
from mooncake import _ffi

EINVAL = -1
u64 = ctypes.c_uint64
# A small number gone astray, the last of the first page, an address that is not mapped, one
# that no address is, and one whose array would wrap around.
BAD = [8, 4088, 4096, 1 << 47, (1 << 64) - 8]


@pytest.fixture(scope="module")
def raw() -> ctypes.CDLL:
    """The library without the package's prototypes, so that anything can be passed."""
    _ffi.lib()
    library = ctypes.CDLL(mooncake._ffi.lib()._name)
    library.mc_last_error.restype = ctypes.c_char_p
    return library


@pytest.fixture(scope="module")
def handle(raw: ctypes.CDLL) -> u64:
    out = u64()
    assert raw.mc_engine_open(b"127.0.0.1", None, ctypes.byref(out)) == 0
    yield out
    assert raw.mc_engine_close(out) == 0


def calls(raw: ctypes.CDLL, engine: u64, bad: int) -> list[tuple[str, str, int]]:
    """(function, argument, status) of every call with one bad pointer."""
    p, out, block = ctypes.c_void_p(bad), u64(), ctypes.create_string_buffer(64)
    ok, at, ms = ctypes.byref(out), u64(ctypes.addressof(block)), ctypes.c_int64(100)
    return [
        ("mc_local_topology", "devices", raw.mc_local_topology(p, block, u64(64), ok)),
        ("mc_local_topology", "out", raw.mc_local_topology(None, p, u64(64), ok)),
        ("mc_local_topology", "out_length", raw.mc_local_topology(None, block, u64(64), p)),
        ("mc_rdma_ports", "devices", raw.mc_rdma_ports(p, block, u64(64), ok)),
        ("mc_rdma_ports", "out", raw.mc_rdma_ports(None, p, u64(64), ok)),
        ("mc_rdma_ports", "out_length", raw.mc_rdma_ports(None, block, u64(64), p)),
        ("mc_engine_open", "name", raw.mc_engine_open(p, None, ok)),
        ("mc_engine_open", "options", raw.mc_engine_open(b"127.0.0.1", p, ok)),
        ("mc_engine_open", "out", raw.mc_engine_open(b"127.0.0.1", None, p)),
        ("mc_engine_rpc_port", "out", raw.mc_engine_rpc_port(engine, p)),
        ("mc_engine_session", "out", raw.mc_engine_session(engine, p, u64(64), ok)),
        ("mc_engine_stats", "out", raw.mc_engine_stats(engine, p)),
        ("mc_register", "location", raw.mc_register(engine, at, u64(64), p, ok)),
        ("mc_register", "out", raw.mc_register(engine, at, u64(64), None, p)),
        ("mc_register_batch", "addresses", raw.mc_register_batch(engine, p, ok, u64(2), None, ok)),
        ("mc_register_batch", "lengths", raw.mc_register_batch(engine, ok, p, u64(1), None, ok)),
        ("mc_register_batch", "out", raw.mc_register_batch(engine, ok, ok, u64(1), None, p)),
        ("mc_deregister_batch", "memories", raw.mc_deregister_batch(p, u64(2))),
        ("mc_segment_open", "name", raw.mc_segment_open(engine, p, ok)),
        ("mc_segment_open", "out", raw.mc_segment_open(engine, b"127.0.0.1:1", p)),
        ("mc_probe", "peer", raw.mc_probe(engine, p, ms)),
        ("mc_fence", "peer", raw.mc_fence(engine, p, ms)),
        ("mc_notify_send", "peer", raw.mc_notify_send(engine, p, b"", b"")),
        ("mc_notify_take", "name", raw.mc_notify_take(engine, p, u64(9), ok, block, u64(9), ok)),
        ("mc_notify_take", "message", raw.mc_notify_take(engine, block, u64(9), ok, p, u64(9), ok)),
    ]


@pytest.mark.parametrize("bad", BAD)
def test_every_pointer_is_checked(raw: ctypes.CDLL, handle: u64, bad: int) -> None:
    files = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        for function, argument, status in calls(raw, handle, bad):
            assert status == EINVAL, (function, argument)
    assert len(os.listdir("/proc/self/fd")) == files
    stats = _ffi.EngineStats()
    assert raw.mc_engine_stats(handle, ctypes.byref(stats)) == 0
    assert stats.memories == 0


@pytest.mark.parametrize("bad", BAD)
def test_the_message_names_the_argument(raw: ctypes.CDLL, handle: u64, bad: int) -> None:
    p, out = ctypes.c_void_p(bad), u64()
    raw.mc_engine_open(p, None, ctypes.byref(out))
    assert b"name " in raw.mc_last_error()
    raw.mc_register_batch(handle, p, p, u64(2), None, ctypes.byref(out))
    assert b"addresses " in raw.mc_last_error() and b"count is 2" in raw.mc_last_error()
    raw.mc_register(handle, u64(1), u64(1), None, p)
    assert b"out " in raw.mc_last_error()


@pytest.mark.parametrize("bad", BAD)
def test_arrays_of_a_batch(raw: ctypes.CDLL, handle: u64, bad: int) -> None:
    with mooncake.Engine("127.0.0.1") as one, mooncake.Engine("127.0.0.1") as other:
        pages = bytearray(4096)
        here, there = one.register(pages), other.register(bytearray(4096))
        with one.open_segment(other.session) as segment:
            segment_handle, batch, p = u64(segment.handle), u64(77), ctypes.c_void_p(bad)
            good = [(u64 * 1)(value) for value in (here.address, there.address, 64)]
            for at, name in enumerate((b"local", b"remote", b"length")):
                arrays = [*good[:at], p, *good[at + 1 :]]
                status = raw.mc_submit(
                    segment_handle, 1, *arrays, u64(1), ctypes.c_int64(0), ctypes.byref(batch)
                )
                assert (status, batch.value) == (EINVAL, 0)
                assert name in raw.mc_last_error()
            status = raw.mc_submit(segment_handle, 1, *good, u64(1), ctypes.c_int64(0), p)
            assert status == EINVAL
            assert one.stats().batches_open == 0


@pytest.mark.parametrize("bad", BAD)
def test_arrays_of_page_groups(raw: ctypes.CDLL, handle: u64, bad: int) -> None:
    with mooncake.Engine("127.0.0.1") as one, mooncake.Engine("127.0.0.1") as other:
        here, there = one.register(bytearray(4096)), other.register(bytearray(4096))
        with one.open_segment(other.session) as segment:
            pages = (ctypes.c_int32 * 2)(0, 1)
            layer = _ffi.Layer(here.address, there.address, 64, 64, 64)
            at, layer_at = ctypes.addressof(pages), ctypes.addressof(layer)
            segment_handle, batch, ms = u64(segment.handle), u64(77), ctypes.c_int64(0)
            for name in ("local_pages", "remote_pages", "layers"):
                group = _ffi.PageGroup(at, at, 2, 4, 4, layer_at, 1)
                setattr(group, name, bad)
                status = raw.mc_submit_pages(
                    segment_handle, 1, ctypes.byref(group), u64(1), ms, ctypes.byref(batch)
                )
                assert (status, batch.value) == (EINVAL, 0)
                assert b"group 0: " in raw.mc_last_error()
                assert name.encode() + b" " in raw.mc_last_error()
            status = raw.mc_submit_pages(
                segment_handle, 1, ctypes.c_void_p(bad), u64(1), ms, ctypes.byref(batch)
            )
            assert (status, batch.value) == (EINVAL, 0)
            assert b"groups " in raw.mc_last_error()
            assert one.stats().batches_open == 0


def test_a_page_list_with_a_hole(raw: ctypes.CDLL) -> None:
    """Both ends of the list can be read; the batch ends and nothing stays behind."""
    libc = ctypes.CDLL(None)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    hole = Pages(3 * 4096)
    with mooncake.Engine("127.0.0.1") as one, mooncake.Engine("127.0.0.1") as other:
        here, there = one.register(bytearray(4096)), other.register(bytearray(4096))
        with one.open_segment(other.session) as segment:
            layer = _ffi.Layer(here.address, there.address, 64, 64, 64)
            group = _ffi.PageGroup(
                hole.address, hole.address, 3072, 4, 4, ctypes.addressof(layer), 1
            )
            batch = u64(77)
            arguments = (u64(segment.handle), 1, ctypes.byref(group), u64(1), ctypes.c_int64(0))
            assert libc.mprotect(hole.address + 4096, 4096, 0) == 0
            status = raw.mc_submit_pages(*arguments, ctypes.byref(batch))
            assert libc.mprotect(hole.address + 4096, 4096, 3) == 0
            assert (status, batch.value) == (EINVAL, 0)
            assert b"not accessible" in raw.mc_last_error()
            assert one.stats().batches_open == 0
            here.close()
            there.close()
