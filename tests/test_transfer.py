"""Transfers through the native API: what arrives, where, and nothing beside it."""

from __future__ import annotations

import array
import ctypes
import mmap
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit import Pages, pattern, within
from mooncake import BatchState, InvalidArgument, NotRegistered, Op, Quiet, Rejected
from peers import Peer

KIB, MIB = 1 << 10, 1 << 20


class Pair:
    """Two engines in this process, and a segment from the first to the second."""

    def __init__(self, open_engine: Callable[..., Any], host: str = "127.0.0.1") -> None:
        self.here, self.there = open_engine(host), open_engine(host)
        self.segment = self.here.open_segment(self.there.session)


@pytest.fixture
def pair(open_engine: Callable[..., Any]) -> Pair:
    return Pair(open_engine)


class FakeTensor:
    """As much of torch.Tensor as registering one takes."""

    class Device:
        type = "cpu"

    device = Device()

    def __init__(self, data: np.ndarray) -> None:
        self.data = data

    def data_ptr(self) -> int:
        return int(self.data.ctypes.data)

    def numel(self) -> int:
        return self.data.size

    def element_size(self) -> int:
        return self.data.itemsize

    def is_contiguous(self) -> bool:
        return True


SIZE = 64 * KIB


def _bytearray() -> tuple[Any, Callable[[], bytes]]:
    data = bytearray(SIZE)
    return data, lambda: bytes(data)


def _memoryview() -> tuple[Any, Callable[[], bytes]]:
    data = bytearray(2 * SIZE)
    return memoryview(data)[SIZE:], lambda: bytes(data[SIZE:])


def _mmap() -> tuple[Any, Callable[[], bytes]]:
    data = mmap.mmap(-1, SIZE)
    return data, lambda: data[:]


def _array() -> tuple[Any, Callable[[], bytes]]:
    data = array.array("d", bytes(SIZE))
    return data, data.tobytes


def _numpy() -> tuple[Any, Callable[[], bytes]]:
    data = np.zeros((32, SIZE // 64), dtype=np.float16)
    return data, data.tobytes


def _ctypes() -> tuple[Any, Callable[[], bytes]]:
    data = (ctypes.c_uint32 * (SIZE // 4))()
    return data, lambda: bytes(data)


def _tensor() -> tuple[Any, Callable[[], bytes]]:
    data = FakeTensor(np.zeros(SIZE // 2, dtype=np.int16))
    return data, data.data.tobytes


KINDS = [_bytearray, _memoryview, _mmap, _array, _numpy, _ctypes, _tensor]


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__.strip("_"))
def test_every_kind_of_memory_is_source_and_destination(pair: Pair, kind: Any) -> None:
    data = pattern(SIZE, 1).tobytes()
    middle, middle_bytes = kind()
    back, back_bytes = kind()
    source = pair.here.register(bytearray(data))
    remote = pair.there.register(middle)
    assert remote.length == SIZE
    pair.segment.write(source.address, remote.address, SIZE)
    assert middle_bytes() == data
    destination = pair.here.register(back)
    pair.segment.read(destination.address, remote.address, SIZE)
    assert back_bytes() == data


def test_a_raw_address_keeps_its_owner(pair: Pair) -> None:
    class Owner(bytearray):
        pass

    owner = Owner(pattern(SIZE, 2).tobytes())
    gone = weakref.ref(owner)
    address = ctypes.addressof(ctypes.c_char.from_buffer(owner))
    memory = pair.there.register(address, SIZE, owner=owner)
    del owner
    here = pair.here.register(bytearray(SIZE))
    pair.segment.read(here.address, address, SIZE)
    assert ctypes.string_at(here.address, SIZE) == pattern(SIZE, 2).tobytes()
    assert gone() is not None
    memory.close()
    assert gone() is None


def test_registered_objects_stay_where_they_are(engine: Any) -> None:
    data = bytearray(4096)
    memory = engine.register(data)
    with pytest.raises(BufferError):
        data.extend(b"x" * 100000)
    memory.close()
    data.extend(b"x")


def test_read_only_memory_is_a_source_and_no_destination(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(pattern(SIZE, 12).tobytes())
    with (tmp_path / "weights").open("rb") as file:
        mapped = mmap.mmap(file.fileno(), SIZE, access=mmap.ACCESS_READ)
    data = mapped[:]
    here, there = pair.here.register(mapped), pair.there.register(bytearray(SIZE))
    pair.segment.write(here.address, there.address, SIZE)
    assert ctypes.string_at(there.address, SIZE) == data
    with pytest.raises(InvalidArgument, match="read-only"):
        pair.segment.read(here.address, there.address, SIZE)
    back = pair.there.open_segment(pair.here.session)
    back.read(there.address, here.address, SIZE)
    with pytest.raises(Rejected) as rejected:
        back.write(there.address, here.address, SIZE)
    assert rejected.value.quiet is Quiet.BOTH
    assert mapped[:] == data


SIZES = [1, 2, 7, 63, 4095, 4096, 4097, 64 * KIB - 1, MIB, MIB + 1, 8 * MIB + 3, 64 * MIB]


@pytest.mark.parametrize("op", ["write", "read"])
def test_sizes_from_one_byte_to_64_mib(pair: Pair, pages: Callable[..., Pages], op: str) -> None:
    margin = 4096
    here, there = pages(max(SIZES) + 2 * margin), pages(max(SIZES) + 2 * margin)
    source, destination = (here, there) if op == "write" else (there, here)
    source.array[:] = pattern(source.size, 3)
    pair.here.register(here.map), pair.there.register(there.map)
    for size in SIZES:
        for skew in (0, 1) if size < MIB else (5,):
            destination.array[: size + 2 * margin] = 0xEE
            move = getattr(pair.segment, op)
            start = margin + skew
            status = move(here.address + start, there.address + start, size, deadline=20)
            assert status.bytes_done == status.bytes == size
            moved = destination.array[start : start + size]
            assert np.array_equal(moved, source.array[start : start + size]), size
            assert (destination.array[:start] == 0xEE).all(), size
            assert (destination.array[start + size : size + 2 * margin] == 0xEE).all(), size


def scattered(count: int, block: int, slots: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Offsets of blocks on either side, in different orders, with slots left out."""
    random = np.random.default_rng(seed)
    here = random.permutation(slots)[:count].astype(np.uint64) * block
    there = random.permutation(slots)[:count].astype(np.uint64) * block
    return here, there


def move_scattered(
    segment: Any, op: str, here: Pages, there: Pages, count: int, block: int, seed: int, at: int = 0
) -> np.ndarray:
    """Move blocks and return what the destination must hold, from what it held. there is a
    copy of the peer's memory if that is in another process, at this address."""
    ours, theirs = scattered(count, block, here.size // block, seed)
    source, destination = (here, there) if op == "write" else (there, here)
    before, after = (ours, theirs) if op == "write" else (theirs, ours)
    expected = destination.array.copy().reshape(-1, block)
    expected[(after // block).astype(int)] = source.array.reshape(-1, block)[
        (before // block).astype(int)
    ]
    lengths = np.full(count, block, dtype=np.uint64)
    move = getattr(segment, op)
    status = move(ours + here.address, theirs + (at or there.address), lengths, deadline=30)
    assert status.blocks == count
    assert 0 < status.runs <= count
    flat: np.ndarray = expected.reshape(-1)
    return flat


@pytest.mark.parametrize("op", ["write", "read"])
def test_100000_scattered_blocks_in_one_call(
    pair: Pair, pages: Callable[..., Pages], op: str
) -> None:
    block = 256
    here, there = pages(120_000 * block, 4), pages(120_000 * block, 5)
    pair.here.register(here.map), pair.there.register(there.map)
    expected = move_scattered(pair.segment, op, here, there, 100_000, block, 6)
    assert np.array_equal((there if op == "write" else here).array, expected)


@pytest.mark.long
def test_2000000_scattered_blocks_in_one_call(pair: Pair, pages: Callable[..., Pages]) -> None:
    block = 128
    here, there = pages(2_100_000 * block, 4), pages(2_100_000 * block, 5)
    pair.here.register(here.map), pair.there.register(there.map)
    for op in ("write", "read"):
        expected = move_scattered(pair.segment, op, here, there, 2_000_000, block, 6)
        assert np.array_equal((there if op == "write" else here).array, expected)


@pytest.mark.parametrize("seed", range(6))
def test_blocks_of_random_lengths_and_their_neighbours(
    pair: Pair, pages: Callable[..., Pages], seed: int
) -> None:
    random = np.random.default_rng(seed)
    here, there = pages(4 * MIB, 7), pages(4 * MIB, 8)
    pair.here.register(here.map), pair.there.register(there.map)
    lengths, gaps = random.integers(0, 9000, 400), random.integers(0, 2, 400) * 77
    ours = np.cumsum(lengths + gaps) - lengths
    theirs = (np.cumsum((lengths + gaps)[::-1]) - lengths[::-1])[::-1]
    op, (source, destination) = ("write", (here, there)) if seed % 2 else ("read", (there, here))
    expected = destination.array.copy()
    for a, b, n in zip(ours, theirs, lengths, strict=True):
        to, of = (b, a) if op == "write" else (a, b)
        expected[to : to + n] = source.array[of : of + n]
    move = getattr(pair.segment, op)
    status = move(ours + here.address, theirs + there.address, lengths)
    assert status.bytes == lengths.sum()
    assert np.array_equal(destination.array, expected)


def test_contiguous_blocks_move_as_one_run(pair: Pair, pages: Callable[..., Pages]) -> None:
    here, there = pages(MIB, 9), pages(MIB)
    pair.here.register(here.map), pair.there.register(there.map)
    offsets = range(0, MIB, 4096)
    status = pair.segment.write(
        [here.address + o for o in offsets], [there.address + o for o in offsets], 4096
    )
    assert (status.blocks, status.runs, status.bytes) == (256, 1, MIB)
    assert there.sha() == here.sha()


def test_blocks_across_adjacent_registrations(pair: Pair, pages: Callable[..., Pages]) -> None:
    here, there = pages(64 * KIB, 10), pages(64 * KIB)
    for pg, engine in ((here, pair.here), (there, pair.there)):
        engine.register_many([(pg.address + o, 16 * KIB) for o in range(0, 64 * KIB, 16 * KIB)])
    status = pair.segment.write(here.address + 5, there.address + 5, 60 * KIB)
    assert status.bytes_done == 60 * KIB
    assert there.bytes(5, 60 * KIB) == here.bytes(5, 60 * KIB)
    assert there.bytes(0, 5) == bytes(5)


def test_empty_batches_and_blocks_are_done_at_once(pair: Pair) -> None:
    memory = pair.here.register(bytearray(64))
    for blocks in (([], [], []), ([memory.address], [1], [0])):
        with pair.segment.submit(Op.WRITE, *blocks) as batch:
            status = batch.poll()
            assert (status.state, status.bytes, status.quiet) == (BatchState.DONE, 0, Quiet.NONE)
            assert batch.wait(0).done


INTEGERS: dict[str, Callable[[list[int]], Any]] = {
    "list": list,
    "tuple": tuple,
    "array": lambda values: array.array("Q", values),
    "int64": lambda values: np.array(values, dtype=np.int64),
    "uint64": lambda values: np.array(values, dtype=np.uint64),
    "strided": lambda values: np.repeat(np.array(values, dtype=np.uint64), 2)[::2],
    "objects": lambda values: [np.uint64(value) for value in values],
    "ctypes": lambda values: (ctypes.c_uint64 * len(values))(*values),
}


@pytest.mark.parametrize("kind", INTEGERS)
def test_block_lists_may_be_any_sequence_of_integers(pair: Pair, kind: str) -> None:
    here, there = pair.here.register(bytearray(b"abcdef")), pair.there.register(bytearray(6))
    make = INTEGERS[kind]
    local = make([here[0], here[4]])
    remote = make([there[4], there[0]])
    pair.segment.write(local, remote, make([2, 2]))
    assert ctypes.string_at(there.address, 6) == b"ef\0\0ab"


def test_memory_registered_later_is_seen_by_an_open_segment(pair: Pair) -> None:
    here = pair.here.register(bytearray(b"x" * 100))
    first = pair.there.register(bytearray(100))
    pair.segment.write(here.address, first.address, 100)
    second = pair.there.register(bytearray(100))
    pair.segment.write(here.address, second.address, 100)
    assert ctypes.string_at(second.address, 100) == b"x" * 100
    with pytest.raises(NotRegistered, match="block 1: remote"):
        pair.segment.write([here[0]] * 2, [second[0], second[90]], 20)


def test_a_deregistered_destination_is_refused(pair: Pair) -> None:
    here = pair.here.register(bytearray(b"x" * 100))
    data = bytearray(100)
    there = pair.there.register(data)
    pair.segment.write(here.address, there.address, 100)
    data_before = bytes(data)
    address = there.address
    there.close()
    with pytest.raises((NotRegistered, Rejected)):
        pair.segment.write(here.address, address, 100)
    again = pair.there.register(data)
    pair.segment.write(here.address, again.address, 100)
    assert bytes(data) == data_before


def test_an_engine_is_its_own_peer(engine: Any) -> None:
    segment = engine.open_segment(engine.session)
    memory = engine.register(bytearray(b"0123456789abcdef"))
    segment.write(memory[0], memory[8], 8)
    segment.read(memory[2], memory[8], 2)
    assert ctypes.string_at(memory.address, 16) == b"0101456701234567"


def test_the_segment_lists_the_peers_memory(pair: Pair) -> None:
    there = pair.there.register_many([bytearray(100), bytearray(50)])
    pair.segment = pair.here.open_segment(pair.there.session)
    found = {(b.address, b.length) for b in pair.segment.buffers()}
    assert found == {(m.address, m.length) for m in there}
    assert not pair.segment.stale


@pytest.mark.parametrize("host", ["localhost", "::1", "[::1]", "127.0.0.1:9999"])
def test_hosts(open_engine: Callable[..., Any], host: str, request: pytest.FixtureRequest) -> None:
    if "::1" in host:
        request.getfixturevalue("ipv6")
    pair = Pair(open_engine, host)
    port = pair.there.rpc_port
    bare = {"::1": "[::1]", "127.0.0.1:9999": "127.0.0.1"}.get(host, host)
    assert pair.there.session == f"{bare}:{port}"
    here, there = pair.here.register(bytearray(b"x" * 9)), pair.there.register(bytearray(9))
    pair.segment.write(here.address, there.address, 9)
    assert ctypes.string_at(there.address, 9) == b"x" * 9


@pytest.mark.parametrize("op", ["write", "read"])
def test_two_processes(engine: Any, peer: Peer, pages: Callable[..., Pages], op: str) -> None:
    block, slots = 4096, 4000
    here, copy = pages(block * slots, 20), pages(block * slots, 21)
    address = peer.memory("kv", copy.size, seed=21)
    engine.register(here.map)
    segment = engine.open_segment(peer.session)
    expected = move_scattered(segment, op, here, copy, 3000, block, 22, at=address)
    if op == "write":
        copy.array[:] = expected
    else:
        assert np.array_equal(here.array, expected)
    assert peer.sha("kv") == copy.sha()
    stats = engine.stats()
    moved = stats.bytes_written if op == "write" else stats.bytes_read
    assert moved == 3000 * block
    served = peer.call("stats")
    assert served["served_written" if op == "write" else "served_read"] == 3000 * block


def test_two_processes_write_each_other_at_once(
    engine: Any, peer: Peer, pages: Callable[..., Pages]
) -> None:
    size = 16 * MIB
    ours_out, ours_in = pages(size, 30), pages(size)
    engine.register_many([ours_out.map, ours_in.map])
    out, into = peer.memory("out", size, seed=31), peer.memory("in", size)
    peer.call("open", session=engine.session)
    segment = engine.open_segment(peer.session)
    order = np.random.default_rng(32).permutation(size // 4096) * 4096
    peer.send(
        "submit", session=engine.session, kind="write", local=(out + order).tolist(),
        remote=(ours_in.address + order).tolist(), lengths=4096, deadline=20,
    )  # fmt: skip
    with segment.submit(Op.WRITE, ours_out.address + order, into + order, 4096) as batch:
        within(30, batch.wait)
    peer.receive()
    assert peer.call("wait", batch=0)["bytes"] == size
    assert peer.sha("in") == ours_out.sha()
    assert ours_in.sha() == peer.sha("out")
