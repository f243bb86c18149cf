"""mooncake.engine.TransferEngine: every call of upstream's, as its callers use it."""

from __future__ import annotations

import array
import ctypes
import importlib.util
import inspect
import json
from collections.abc import Callable
from typing import Any

import mooncake.engine as module
import numpy as np
import pytest
from kit import Pages, pattern, wait_until, within
from mooncake.engine import TransferEngine, TransferNotify, TransferOpcode

SIZE = 1 << 16

# Positional order and keyword names of upstream's binding.
BLOCK = ["target_hostname", "buffer", "peer_buffer_address", "length"]
BLOCKS = ["target_hostname", "buffers", "peer_buffer_addresses", "lengths"]
SIGNATURES = {
    "initialize": ["local_hostname", "metadata_server", "protocol", "device_name"],
    "initialize_ext": [
        "local_hostname", "metadata_server", "protocol", "device_name", "metadata_type",
    ],
    "get_rpc_port": [],
    "get_engine": [],
    "allocate_managed_buffer": ["length"],
    "free_managed_buffer": ["buffer_addr", "length"],
    "transfer_sync_write": [*BLOCK, "transport_hint"],
    "transfer_sync_read": [*BLOCK, "transport_hint"],
    "batch_transfer_sync_write": [*BLOCKS, "transport_hint"],
    "batch_transfer_sync_read": [*BLOCKS, "transport_hint"],
    "batch_transfer_async_write": [*BLOCKS, "transport_hint"],
    "batch_transfer_async_read": [*BLOCKS, "transport_hint"],
    "transfer_sync": [*BLOCK, "opcode", "notify", "transport_hint"],
    "batch_transfer_sync": [*BLOCKS, "opcode", "notify", "transport_hint"],
    "batch_transfer_async": [*BLOCKS, "opcode", "transport_hint"],
    "get_batch_transfer_status": ["batch_ids"],
    "transfer_submit_write": [*BLOCK, "transport_hint"],
    "transfer_check_status": ["batch_id"],
    "write_bytes_to_buffer": ["dest_address", "src", "length"],
    "read_bytes_from_buffer": ["source_address", "length"],
    "register_memory": ["buffer_addr", "capacity", "location"],
    "unregister_memory": ["buffer_addr"],
    "batch_register_memory": ["buffer_addresses", "capacities", "location"],
    "batch_unregister_memory": ["buffer_addresses"],
    "get_local_topology": ["device_name"],
    "get_first_buffer_address": ["segment_name"],
    "get_notifies": [],
    "send_probe": ["peer_server_name"],
}  # fmt: skip


@pytest.fixture
def one(drop_in: Callable[..., Any]) -> Any:
    return drop_in()


@pytest.fixture
def other(drop_in: Callable[..., Any]) -> Any:
    return drop_in()


def session(engine: Any, host: str = "127.0.0.1") -> str:
    return f"{host}:{engine.get_rpc_port()}"


class Ends:
    """Registered memory of two engines: a pattern here, zeros there."""

    def __init__(self, one: Any, other: Any, pages: Callable[..., Pages], size: int) -> None:
        self.one, self.to = one, session(other)
        self.here, self.there = pages(size, 1), pages(size)
        self.a, self.b = self.here.address, self.there.address
        assert one.register_memory(self.a, size) == 0
        assert other.register_memory(self.b, size) == 0


@pytest.fixture
def ends(one: Any, other: Any, pages: Callable[..., Pages]) -> Ends:
    return Ends(one, other, pages, SIZE)


def test_it_is_found_where_clients_look() -> None:
    assert importlib.util.find_spec("mooncake.engine") is not None
    for name in ("store", "pg", "ep", "allocator"):
        assert importlib.util.find_spec(f"mooncake.{name}") is None
    flags = [name for name in dir(module) if name.startswith("SUPPORT_")]
    assert {"SUPPORT_CUDA", "SUPPORT_EFA", "SUPPORT_HIP", "SUPPORT_MNNVL", "SUPPORT_MUSA",
            "SUPPORT_INTRA_NVLINK"} <= set(flags)  # fmt: skip
    assert all(getattr(module, name) is False for name in flags)
    assert (module.Read, module.Write) == (TransferOpcode.Read, TransferOpcode.Write)
    assert TransferEngine.TransferOpcode is TransferOpcode
    note = TransferNotify("name", "text")
    assert (note.name, note.msg) == ("name", "text")


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name: str) -> None:
    parameters = list(inspect.signature(getattr(TransferEngine, name)).parameters.values())[1:]
    assert [p.name for p in parameters] == SIGNATURES[name]
    optional = {"transport_hint": "", "notify": None, "location": "*", "device_name": None}
    for parameter in parameters:
        if parameter.name in optional and name not in ("initialize", "initialize_ext"):
            assert parameter.default == optional[parameter.name], parameter


def test_sync_transfers(ends: Ends) -> None:
    e = ends.one
    assert e.transfer_sync_write(ends.to, ends.a, ends.b, SIZE) == 0
    assert ends.there.sha() == ends.here.sha()
    ends.here.fill(0)
    assert e.transfer_sync_read(ends.to, ends.a + 4096, ends.b + 8192, 4096) == 0
    assert ends.here.bytes(4096, 4096) == ends.there.bytes(8192, 4096)
    offsets = [0, 12288, 512]
    lengths = [100, 4096, 1]
    assert e.batch_transfer_sync_read(
        ends.to, [ends.a + o for o in offsets], [ends.b + o for o in offsets], lengths
    ) == 0  # fmt: skip
    for offset, length in zip(offsets, lengths, strict=True):
        assert ends.here.bytes(offset, length) == ends.there.bytes(offset, length)
    assert ends.here.bytes(513, 3000) == bytes(3000)
    ends.here.array[:] = pattern(SIZE, 2)
    assert e.batch_transfer_sync_write(ends.to, [ends.a], [ends.b], [SIZE]) == 0
    assert ends.there.sha() == ends.here.sha()


def test_transfers_by_keyword(ends: Ends) -> None:
    e = ends.one
    block = {"target_hostname": ends.to, "buffer": ends.a, "peer_buffer_address": ends.b}
    blocks = {
        "target_hostname": ends.to, "buffers": [ends.a], "peer_buffer_addresses": [ends.b],
        "lengths": [8], "transport_hint": "tcp",
    }  # fmt: skip
    for opcode in (TransferOpcode.Write, TransferOpcode.Read):
        assert e.transfer_sync(length=8, opcode=opcode, **block) == 0
        assert e.batch_transfer_sync(opcode=opcode, notify=None, **blocks) == 0
        number = e.batch_transfer_async(opcode=opcode, **blocks)
        assert number > 0 and e.get_batch_transfer_status(batch_ids=[number]) == 0
    assert e.transfer_sync_write(length=8, transport_hint="x", **block) == 0
    assert e.transfer_sync_read(length=8, **block) == 0
    assert e.batch_transfer_sync_write(**blocks) == e.batch_transfer_sync_read(**blocks) == 0
    assert e.get_batch_transfer_status([e.batch_transfer_async_write(**blocks)]) == 0
    assert e.get_batch_transfer_status([e.batch_transfer_async_read(**blocks)]) == 0
    number = e.transfer_submit_write(length=8, **block)
    wait_until(lambda: e.transfer_check_status(batch_id=number) == 1, "the transfer is done")


class Index:
    """An integer that is no int."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


LENIENT: dict[str, Callable[[list[int]], Any]] = {
    "tuple": tuple,
    "int64 array": lambda v: np.array(v, dtype=np.int64),
    "uint64 array": lambda v: np.array(v, dtype=np.uint64),
    "numpy scalars": lambda v: [np.int64(x) for x in v],
    "indices": lambda v: [Index(x) for x in v],
    "array": lambda v: array.array("Q", v),
    "ctypes": lambda v: (ctypes.c_uint64 * len(v))(*v),
}


@pytest.mark.parametrize("kind", LENIENT)
def test_sequences_and_integers_are_taken_as_pybind11_does(ends: Ends, kind: str) -> None:
    make = LENIENT[kind]
    e = ends.one
    ours, theirs = [ends.a, ends.a + 100], [ends.b + 100, ends.b]
    assert e.batch_transfer_sync_write(ends.to, make(ours), make(theirs), make([100, 100])) == 0
    assert ends.there.bytes(0, 200) == ends.here.bytes(100, 100) + ends.here.bytes(0, 100)
    first, size = make([ends.a + 7])[0], make([50])[0]
    assert e.transfer_sync_write(ends.to, first, make([ends.b])[0], size) == 0
    assert ends.there.bytes(0, 50) == ends.here.bytes(7, 50)
    more = Pages(3 * 4096)
    where = [more.address, more.address + 8192]
    assert e.batch_register_memory(make(where), make([4096, 4096])) == 0
    assert e.batch_unregister_memory(make(where)) == 0
    number = e.batch_transfer_async_write(ends.to, make(ours), make(theirs), make([1, 2]))
    assert e.get_batch_transfer_status(make([number])) == 0


WRONG = [
    ("transfer_sync_write", (None, -1, 1, 1)),
    ("transfer_sync_write", ("h:1", 1.0, 1, 1)),
    ("transfer_sync_write", ("h:1", 1, "1", 1)),
    ("transfer_sync_write", ("h:1", 1, 1, -1)),
    ("transfer_sync_write", ("h:1", 1, 1, 2**64)),
    ("transfer_sync_write", (5, 1, 1, 1)),
    ("transfer_sync_write", ("h:1", 1, 1)),
    ("batch_transfer_sync_write", ("h:1", 5, [1], [1])),
    ("batch_transfer_sync_write", ("h:1", [1], [1.5], [1])),
    ("batch_transfer_sync_write", ("h:1", [1], [1], [-1])),
    ("batch_transfer_sync_write", ("h:1", [1], [1], None)),
    ("batch_transfer_sync_write", ("h:1", "ab", [1], [1])),
    ("batch_transfer_sync_write", ("h:1", {1: 2}, [1], [1])),
    ("batch_transfer_sync_write", ("h:1", [1], [1], np.array([1.0]))),
    ("batch_transfer_sync_write", ("h:1", [1], [1], np.array([-1]))),
    ("batch_transfer_sync_write", ("h:1", [1], [None], [1])),
    ("transfer_sync", ("h:1", 1, 1, 1, 7)),
    ("transfer_sync", ("h:1", 1, 1, 1, "Write")),
    ("transfer_sync", ("h:1", 1, 1, 1, TransferOpcode.Write, "note")),
    ("register_memory", (-1, 10)),
    ("register_memory", ("0", 10)),
    ("register_memory", (b"0123", 10)),
    ("register_memory", (4096,)),
    ("unregister_memory", (1.5,)),
    ("batch_register_memory", (4096, [1])),
    ("batch_register_memory", ([4096], [-1])),
    ("batch_unregister_memory", ([object()],)),
    ("allocate_managed_buffer", (-1,)),
    ("free_managed_buffer", (None, 1)),
    ("write_bytes_to_buffer", (4096, 5, 1)),
    ("read_bytes_from_buffer", ("x", 1)),
    ("get_batch_transfer_status", (5,)),
    ("transfer_check_status", ("5",)),
    ("initialize", (5, "P2PHANDSHAKE", "tcp", "")),
    ("initialize", ("127.0.0.1", "P2PHANDSHAKE", "tcp", 7)),
    ("initialize", ("127.0.0.1",)),
    ("send_probe", (5,)),
    ("get_first_buffer_address", (5,)),
]


@pytest.mark.parametrize("state", ["initialized", "not initialized"])
def test_wrong_types_are_type_errors(drop_in: Callable[..., Any], state: str) -> None:
    e = drop_in() if state == "initialized" else TransferEngine()
    for name, arguments in WRONG:
        with pytest.raises(TypeError):
            getattr(e, name)(*arguments)
            pytest.fail(f"{name}{arguments} raised nothing")


def test_mismatched_lengths_and_empty_lists(ends: Ends) -> None:
    e, note = ends.one, TransferNotify("n", "m")
    for call in (e.batch_transfer_sync_write, e.batch_transfer_sync_read):
        assert call(ends.to, [ends.a], [ends.b, ends.b], [1]) == -1
        assert call(ends.to, [ends.a, ends.a], [ends.b, ends.b], [1]) == -1
        assert call(ends.to, [], [ends.b], [1]) == -1
        assert call(ends.to, [], [], []) == 0
        assert call(ends.to, (), np.array([], dtype=np.int64), []) == 0
    assert e.batch_transfer_sync(ends.to, [1], [], [1], TransferOpcode.Write, note) == -1
    assert e.batch_transfer_async_write(ends.to, [ends.a], [], [1]) == 0
    assert e.batch_register_memory([1, 2], [1]) == -1
    assert e.batch_register_memory([], []) == 0
    assert e.batch_unregister_memory([]) == 0
    assert e.get_batch_transfer_status([]) == 0
    assert e.transfer_sync_write(ends.to, ends.a, ends.b, 0) == 0


@pytest.mark.parametrize("call", ["transfer_sync_write", "transfer_sync_read"])
def test_addresses_outside_registered_memory(ends: Ends, call: str) -> None:
    move = getattr(ends.one, call)
    before = ends.there.sha(), ends.here.sha()
    for a, b, length in (
        (ends.a, 4096, 8), (4096, ends.b, 8), (0, ends.b, 8), (ends.a, 0, 8),
        (ends.a + SIZE - 4, ends.b, 8), (ends.a, ends.b + SIZE - 4, 8),
        (ends.a, ends.b, SIZE + 1), (ends.a, ends.b, 2**63), (2**64 - 8, ends.b, 16),
    ):  # fmt: skip
        assert move(ends.to, a, b, length) < 0, (a, b, length)
    assert (ends.there.sha(), ends.here.sha()) == before
    assert move(ends.to, ends.a, ends.b, 8) == 0


def test_targets_that_cannot_be(ends: Ends) -> None:
    for target in (None, "", "nonsense", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:99999",
                   "127.0.0.1:x", "no.such.host.invalid:15000", "a" * 5000, "nul\0:1"):  # fmt: skip
        assert within(8, ends.one.transfer_sync_write, target, ends.a, ends.b, 8) < 0, target
        assert ends.one.transfer_submit_write(target, ends.a, ends.b, 8) == 0
        assert within(8, ends.one.send_probe, target) != 0
        assert within(8, ends.one.get_first_buffer_address, target) == 0


def test_async_pairs_and_their_freed_ids(ends: Ends) -> None:
    e = ends.one
    blocks = ([ends.a, ends.a + 100], [ends.b, ends.b + 100], [100, 100])
    one = e.batch_transfer_async_write(ends.to, *blocks)
    two = e.batch_transfer_async_read(ends.to, *blocks)
    assert one > 0 and two > 0 and one != two
    assert e.get_batch_transfer_status([one, two]) == 0
    assert ends.there.bytes(0, 200) == ends.here.bytes(0, 200)
    assert e.get_batch_transfer_status([one]) == -1, "the id was freed"
    assert e.transfer_check_status(two) == -1
    assert e.batch_transfer_async_write(ends.to, [ends.a], [4096], [8]) == 0
    number = e.transfer_submit_write(ends.to, ends.a, ends.b, 8)
    wait_until(lambda: e.transfer_check_status(number) in (1, -1), "the transfer ends")
    assert e.transfer_check_status(number) == -1, "the id was freed when it was done"
    for unknown in (0, 12345678, 2**63):
        assert e.transfer_check_status(unknown) == -1
        assert e.get_batch_transfer_status([unknown]) == -1
    third = e.batch_transfer_async_write(ends.to, *blocks)
    assert e.get_batch_transfer_status([third, 999999]) == -1
    assert e.get_engine().stats().batches_open == 0, "nothing is left behind"


def test_batch_transfer_poll_and_free(ends: Ends) -> None:
    e = ends.one
    numbers = [e.batch_transfer_async_write(ends.to, [ends.a], [ends.b], [8]) for _ in range(3)]
    wait_until(lambda: e.batch_transfer_poll(numbers) == [0, 0, 0], "all are done")
    assert e.batch_transfer_poll([numbers[0], 424242]) == [0, -1]
    e.batch_transfer_free([*numbers, 424242])
    assert e.batch_transfer_poll(numbers) == [-1, -1, -1]
    assert e.get_engine().stats().batches_open == 0


def test_notifications(ends: Ends, other: Any) -> None:
    assert other.get_notifies() == []
    note = TransferNotify("room 1", "äöü ✓ done")
    assert ends.one.transfer_sync(ends.to, ends.a, ends.b, 8, TransferOpcode.Write, note) == 0
    assert ends.one.batch_transfer_sync(
        ends.to, [ends.a], [ends.b], [8], TransferOpcode.Read, TransferNotify("2", "")
    ) == 0  # fmt: skip
    assert ends.one.transfer_sync(ends.to, ends.a, 4096, 8, TransferOpcode.Write, note) < 0
    got = [(n.name, n.msg) for n in other.get_notifies()]
    assert got[0] == ("room 1", "äöü ✓ done")
    assert all(name != "room 1" for name, _ in got[1:]), "a failed transfer tells nothing"
    assert other.get_notifies() == []


def test_long_notifications_arrive_whole(ends: Ends, other: Any) -> None:
    name, text = "n" * 3000, "m" * 100_000
    assert ends.one.transfer_sync(
        ends.to, ends.a, ends.b, 8, TransferOpcode.Write, TransferNotify(name, text)
    ) == 0  # fmt: skip
    (note,) = other.get_notifies()
    assert (note.name, note.msg) == (name, text)


def test_probe_and_topology(ends: Ends, one: Any) -> None:
    assert within(2, one.send_probe, ends.to) == 0
    assert within(2, one.send_probe, session(one)) == 0
    with pytest.raises(TypeError):
        one.send_probe()
    with pytest.raises(ValueError, match="no_such_device"):
        one.get_local_topology("no_such_device")
    for device in ({}, {"device_name": None}, {"device_name": ""}):
        topology = json.loads(one.get_local_topology(**device))
        assert topology and all(
            len(groups) == 2 and all(isinstance(g, list) for g in groups)
            for groups in topology.values()
        )
