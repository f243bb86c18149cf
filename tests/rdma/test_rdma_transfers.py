"""What moves over rdma between two processes, what it counts, and how it is connected."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from kit import POISON, Pages, pattern, wait_until, within
from mooncake import DeviceError, Layer, Op, PageGroup, PeerUnreachable, WaitTimeout, rdma_ports
from nic import DEVICE, MIB, Link, Nic
from peers import Peer


@pytest.mark.parametrize("size", [1, 64, 512, 1152, 4096, 65536])
@pytest.mark.parametrize("op", list(Op))
def test_what_is_between_the_blocks_stays(link: Link, op: Op, size: int) -> None:
    at = link.blocks(size)[:20_000]
    inside = (at[:, None].astype(np.int64) + np.arange(size)).ravel()
    if op is Op.WRITE:
        link.segment.write(link.pages.address + at, link.remote + at, size, deadline=20)
        assert link.peer.count("kv", POISON) == link.SIZE - len(inside)
        back = Pages(link.SIZE)
        with link.engine.register(back.map):
            link.segment.read(back.address, link.remote, link.SIZE, deadline=20)
    else:
        back = link.pages
        source = Pages(link.SIZE, 1)
        link.peer.memory("source", link.SIZE, seed=1)
        back.fill(POISON)
        link.engine.register(source.map)
        link.segment.write(source.address, link.remote, link.SIZE, deadline=20)
        link.segment.read(back.address + at, link.remote + at, size, deadline=20)
    expected = np.full(link.SIZE, POISON, dtype=np.uint8)
    expected[inside] = Pages(link.SIZE, 1).array[inside]
    assert np.array_equal(back.array, expected)


@pytest.mark.parametrize("op", list(Op))
def test_100000_scattered_blocks(engine: Any, peer: Peer, pages: Any, op: Op) -> None:
    count, block = 100_000, 256
    size = 2 * count * block
    here, there = pages(size, 1), peer.memory("kv", size, seed=2)
    engine.register(here.map)
    segment = engine.open_segment(peer.session)
    random = np.random.default_rng(7)
    ours, theirs = (random.permutation(2 * count)[:count].astype(np.uint64) for _ in range(2))
    move = segment.write if op is Op.WRITE else segment.read
    status = within(
        30, move, here.address + ours * block, there + theirs * block, block, deadline=30
    )
    assert status.blocks == count and status.bytes_done == count * block
    expected = Pages(size, 2 if op is Op.WRITE else 1)
    source = Pages(size, 1 if op is Op.WRITE else 2)
    to, of = (theirs, ours) if op is Op.WRITE else (ours, theirs)
    expected.array.reshape(-1, block)[to] = source.array.reshape(-1, block)[of]
    assert (peer.sha("kv") if op is Op.WRITE else here.sha()) == expected.sha()


def test_page_groups(engine: Any, peer: Peer, pages: Any) -> None:
    shape = layers, count, size = 6, 512, 1152
    here, there = pages(layers * count * size, 1), peer.memory("kv", layers * count * size, seed=2)
    engine.register(here.map)
    step = count * size
    ours, theirs = (np.random.default_rng(seed).permutation(count)[:300] for seed in (1, 2))
    group = PageGroup(
        ours.astype(np.int32),
        theirs.astype(np.int64),
        [Layer(here.address + k * step, there + k * step, size, size, size) for k in range(layers)],
    )
    segment = engine.open_segment(peer.session)
    expected = Pages(here.size, 2)
    expected.array.reshape(shape)[:, theirs] = here.array.reshape(shape)[:, ours]
    assert within(20, segment.write_pages, group).blocks == layers * 300
    assert peer.sha("kv") == expected.sha()
    here.fill(0)
    within(20, segment.read_pages, group)
    mine = np.zeros(shape, dtype=np.uint8)
    mine[:, ours] = Pages(here.size, 1).array.reshape(shape)[:, ours]
    assert np.array_equal(here.array, mine.ravel())


def test_many_batches_at_once(link: Link) -> None:
    """Threads submit and wait for batches over one connection."""
    part = link.SIZE // 16

    def move(k: int) -> None:
        at = link.blocks(256)[link.blocks(256) < part] + k * part
        for op in (Op.WRITE, Op.READ, Op.WRITE):
            with link.segment.submit(
                op, link.pages.address + at, link.remote + at, 256, deadline=20
            ) as batch:
                batch.wait(20)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(move, range(16)))
    assert link.engine.stats().connections_opened == 1
    # Half of all blocks were written, and nothing else.
    assert link.peer.count("kv", POISON) == link.SIZE // 2


def test_what_is_counted(link: Link) -> None:
    link.move(Op.WRITE, 4096)
    link.move(Op.READ, 4096)
    stats = link.engine.stats()
    half = link.SIZE // 2
    assert (stats.batches_rdma, stats.bytes_rdma) == (2, 2 * half)
    assert (stats.bytes_written, stats.bytes_read) == (half, half)
    assert stats.bytes_local == stats.bytes_self == 0
    assert stats.connections_opened == 1
    # Every second block has no neighbour: a work request each, and a few that only signal.
    blocks = half // 4096
    assert 2 * blocks <= stats.messages < 2 * blocks + 100


def test_neighbours_on_one_side_share_a_work_request(link: Link) -> None:
    """Blocks that are apart here and together there are gathered: so a page of many heads
    is not a message for each."""
    count, size = 4000, 512
    local = link.pages.address + link.blocks(size)[:count]
    remote = link.remote + np.arange(count, dtype=np.uint64) * size
    before = link.engine.stats().messages
    link.segment.write(local, remote, size, deadline=20)
    assert link.engine.stats().messages - before < count / 4


class TestConnect:
    """Segment.connect()"""

    def test_before_the_first_batch(self, link: Link) -> None:
        link.segment.connect()
        assert link.engine.stats().connections_opened == 1
        link.segment.connect(timeout=5)
        link.works()
        assert link.engine.stats().connections_opened == 1

    def test_of_many_at_once(self, engine: Any, open_engine: Any) -> None:
        peers = [open_engine() for _ in range(16)]
        segments = [engine.open_segment(one.session) for one in peers]
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda segment: segment.connect(timeout=10), segments))
        assert engine.stats().connections_opened == 16

    def test_to_a_peer_that_stands_still(self, link: Link) -> None:
        link.peer.freeze()
        with pytest.raises(WaitTimeout, match="connect to"):
            within(2, link.segment.connect, 0.2)
        link.peer.thaw()
        link.segment.connect(timeout=10)

    def test_to_a_peer_that_is_gone(self, link: Link) -> None:
        link.peer.kill()
        with pytest.raises(PeerUnreachable):
            within(5, link.segment.connect)

    def test_over_a_port_that_is_down(self, link: Link, nic: Nic) -> None:
        nic.set(port="down")
        with pytest.raises(DeviceError, match=DEVICE):
            wait_until(lambda: link.segment.connect(timeout=5), "the port is seen to be down")


def test_a_port_goes_down_and_up_again(link: Link, nic: Nic) -> None:
    """What runs fails with an error that names the device, soon and quiet at both ends."""
    nic.set(rate=2000)
    with link.submit(Op.WRITE) as batch:
        wait_until(lambda: batch.poll().bytes_done > 0, "the first bytes")
        nic.set(port="down")
        with pytest.raises((DeviceError, PeerUnreachable)) as raised:
            batch.wait(10)
    assert DEVICE in str(raised.value)
    nic.set(port="up", rate=0)
    wait_until(lambda: _works(link), "transfers to work again")
    assert link.engine.stats().batches_open == 0


def _works(link: Link) -> bool:
    try:
        link.works()
    except (DeviceError, PeerUnreachable):
        return False
    return True


def test_two_engines_of_one_process(
    open_engine: Callable[..., Any], peer: Peer, pages: Callable[..., Pages]
) -> None:
    """On a port each, to one peer and to each other."""
    one, two = open_engine(devices="mlx5_0"), open_engine(devices="mlx5_1")
    size = 4 * MIB
    first, second = pages(size, 1), pages(size, 2)
    there = peer.memory("kv", 2 * size)
    for engine, own, at in ((one, first, there), (two, second, there + size)):
        engine.register(own.map)
        engine.open_segment(peer.session).write(own.address, at, size, deadline=20)
        assert engine.stats().bytes_rdma == size
    one.open_segment(two.session).write(first.address, second.address, size, deadline=20)
    assert second.sha() == first.sha()
    whole = Pages(2 * size)
    whole.array[:size], whole.array[size:] = Pages(size, 1).array, Pages(size, 2).array
    assert peer.sha("kv") == whole.sha()


def test_the_drop_in(drop_in: Callable[..., Any], peer: Peer, pages: Callable[..., Pages]) -> None:
    """The calls that servers make, with protocol "rdma", synchronous and not."""
    count, size = 2000, 1152
    engine = drop_in()
    mine, there = pages(2 * count * size, 3), peer.memory("kv", 2 * count * size)
    assert engine.batch_register_memory([mine.address], [mine.size]) == 0
    ours = [mine.address + 2 * k * size for k in np.random.default_rng(1).permutation(count)]
    theirs = [there + 2 * k * size for k in np.random.default_rng(2).permutation(count)]
    assert engine.batch_transfer_sync_write(peer.session, ours, theirs, [size] * count) == 0
    expected = Pages(mine.size)
    for a, b in zip(ours, theirs, strict=True):
        at, to = a - mine.address, b - there
        expected.array[to : to + size] = mine.array[at : at + size]
    assert peer.sha("kv") == expected.sha()
    mine.fill(0)
    batch = engine.batch_transfer_async_read(peer.session, ours, theirs, [size] * count)
    assert engine.get_batch_transfer_status([batch]) == 0
    for at in (a - mine.address for a in ours):
        assert np.array_equal(mine.array[at : at + size], pattern(mine.size, 3)[at : at + size])
    assert engine.transfer_sync_write(peer.session, mine.address, there, size) == 0
    stats = engine.get_engine().stats()
    assert stats.bytes_rdma == (2 * count + 1) * size


def test_the_ports_are_told(engine: Any) -> None:
    found = rdma_ports()
    assert found["why"] == ""
    assert [port["device"] for port in found["ports"]] == ["mlx5_0", "mlx5_1"]
    assert [port["used"] for port in found["ports"]] == [True, False]
    assert {port["chosen"] for port in found["ports"]} == {3}
    assert found["ports"][0]["gids"][0]["address"] == "198.51.100.1"
    assert [port["device"] for port in rdma_ports("mlx5_1")["ports"]] == ["mlx5_1"]
