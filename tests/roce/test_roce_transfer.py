"""Every kind of transfer between the hosts: what arrives, where, and nothing beside it."""

from __future__ import annotations

import asyncio
import select
import threading
from typing import Any

import numpy as np
import pytest
from hosts import DEVICE, HERE, IN_LAB, LONG, PROTOCOL, LabPeer, sent, variables
from kit import Pages, Running, environment, within
from link import Link, Side
from mooncake import BatchState, Layer, Op, PageGroup

KIB, MIB = 1 << 10, 1 << 20
SIZES = [1, 2, 7, 63, 64, 65, 4095, 4096, 4097, 64 * KIB - 1, 64 * KIB, MIB + 3]


@pytest.mark.parametrize("op", Op)
def test_sizes_and_alignments(link: Link, op: Op) -> None:
    """One batch of blocks of many sizes, each at every alignment, with bytes between them."""
    lengths = [size for size in SIZES for _ in range(1 if size > MIB else 4)]
    local = np.cumsum([0, *(n + 129 for n in lengths[:-1])]) + np.arange(len(lengths)) % 5
    remote = np.cumsum([0, *(n + 131 for n in lengths[:-1])]) + np.arange(len(lengths)) % 7
    side = link.side(2 * MIB)
    side.move(op, local.tolist(), remote.tolist(), lengths)


@pytest.mark.parametrize("op", Op)
def test_one_block_at_a_time(link: Link, op: Op) -> None:
    side = link.side(256 * KIB)
    for size in SIZES[:-1]:
        side.move(op, [size % 13], [size % 11 + 5], [size])


@pytest.mark.parametrize("op", Op)
def test_100000_scattered_blocks(link: Link, op: Op) -> None:
    """Blocks of which no two are neighbours on both sides. Reads cost the emulation twice as much as
    writes, so there are fewer of them unless there is time."""
    block = 64
    count = 100_000 if op is Op.WRITE or LONG or not IN_LAB else 20_000
    random = np.random.default_rng(int(op))
    side = link.side(count * block * 5 // 4)
    slots = side.size // block
    local, remote = (random.permutation(slots)[:count] * block for _ in range(2))
    status = side.move(op, local.tolist(), remote.tolist(), [block] * count, deadline=150)
    assert status.blocks == count


@pytest.mark.parametrize("op", Op)
@pytest.mark.parametrize("scattered", ["here", "there"])
def test_blocks_scattered_on_one_side_only(link: Link, op: Op, scattered: str) -> None:
    """What a write can gather and a read can scatter, and the other way round."""
    block, count = 512, 2_000
    side = link.side(count * block * 2)
    there = np.arange(count) * block + 4096
    here = np.random.default_rng(4).permutation(2 * count)[:count] * block
    local, remote = (here, there) if scattered == "here" else (there, here)
    side.move(op, local.tolist(), remote.tolist(), [block] * count)


@pytest.mark.parametrize("op", Op)
def test_random_lengths_and_their_neighbours(link: Link, op: Op) -> None:
    random = np.random.default_rng(5)
    lengths, gaps = random.integers(0, 9000, 200), random.integers(0, 2, 200) * 77
    local = np.cumsum(lengths + gaps) - lengths
    remote = (np.cumsum((lengths + gaps)[::-1]) - lengths[::-1])[::-1]
    side = link.side(2 * MIB)
    side.move(op, local.tolist(), remote.tolist(), lengths.tolist())


def test_contiguous_blocks_are_one_run(link: Link) -> None:
    side = link.side(MIB)
    offsets = list(range(0, MIB, 4096))
    status = side.move(Op.WRITE, offsets, offsets, [4096] * len(offsets))
    assert (status.blocks, status.runs) == (256, 1)


def test_nothing_to_move(link: Link) -> None:
    side = link.side(4096)
    for op in Op:
        side.move(op, [], [], [])
        side.move(op, [0, 5], [9, 7], [0, 0])


@pytest.mark.parametrize("op", Op)
def test_page_groups(link: Link, op: Op) -> None:
    """Layers of two strides, pages in runs and alone, in two groups."""
    side = link.side(MIB)
    random = np.random.default_rng(6)
    groups, blocks = [], []
    for base in (0, MIB // 2):
        here, there = (random.permutation(100)[:60].astype(np.int64) for _ in range(2))
        here[:20], there[:20] = np.arange(100, 120), np.arange(100, 120)
        layers = []
        for at, stride, length in ((0, 1024, 1024), (200 * KIB, 768, 256)):
            layers.append(
                Layer(side.here.address + base + at, side.remote + base + at, stride, stride, length)
            )
            blocks += [
                (base + at + i * stride, base + at + j * stride, length)
                for i, j in zip(here.tolist(), there.tolist(), strict=True)
            ]
        groups.append(PageGroup(here, there, layers))
    side.expect(op, *zip(*blocks, strict=True))
    call = link.segment.write_pages if op is Op.WRITE else link.segment.read_pages
    status = within(60, call, groups, deadline=60)
    assert status.blocks == len(blocks)
    side.check()


def test_blocks_across_registrations_that_adjoin(link: Link) -> None:
    side = link.side(64 * KIB, register=False)
    step = 16 * KIB
    link.engine.register_many([(side.here.address + o, step) for o in range(0, side.size, step)])
    offsets = list(range(0, side.size, step))
    link.peer.call("register_parts", name=side.name, offsets=offsets, length=step)
    side.move(Op.WRITE, [5], [9], [60 * KIB])
    side.move(Op.READ, [7], [3], [60 * KIB])


def test_waiting_in_every_way(link: Link) -> None:
    side = link.side(256 * KIB)
    whole = (side.here.address, side.remote, side.size)
    side.expect(Op.WRITE, [0], [0], [side.size])

    with link.segment.submit(Op.WRITE, *whole, deadline=30) as batch:
        assert within(30, batch.wait).state is BatchState.DONE

    async def awaited() -> Any:
        with link.segment.submit(Op.WRITE, *whole, deadline=30) as batch:
            return await batch

    assert within(30, asyncio.run, awaited()).bytes_done == side.size

    with link.segment.submit(Op.WRITE, *whole, deadline=30) as batch:
        assert select.select([batch], [], [], 30)[0] == [batch]
        assert batch.poll().state is BatchState.DONE
    side.check()


def test_many_batches_at_once(link: Link) -> None:
    """Forty batches of both kinds, started before any is waited for."""
    part = 32 * KIB
    side = link.side(40 * part)
    batches = []
    for i in range(40):
        op = Op.WRITE if i % 2 else Op.READ
        side.expect(op, [i * part], [i * part], [part])
        at = i * part
        batches.append(
            link.segment.submit(op, side.here.address + at, side.remote + at, part, deadline=60)
        )
    for batch in batches:
        with batch:
            assert within(60, batch.wait).bytes_done == part
    side.check()


def test_threads_share_an_engine(link: Link) -> None:
    """Small calls beside a large one, each on memory of its own."""
    large = link.side(4 * MIB)
    small = [link.side(16 * KIB) for _ in range(3)]
    failures: list[BaseException] = []

    def calls(side: Side) -> None:
        try:
            for i in range(8):
                op = Op.WRITE if i % 2 == 0 else Op.READ
                move = link.segment.write if op is Op.WRITE else link.segment.read
                side.expect(op, [i], [i * 3], [8_000])
                move(side.here.address + i, side.remote + i * 3, 8_000, deadline=60)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=calls, args=(side,)) for side in small]
    batch = link.begin(large)
    large.expect(Op.WRITE, [0], [0], [large.size])
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    with batch:
        within(60, batch.wait)
    assert not failures, failures
    for side in (large, *small):
        side.check()


def test_both_hosts_write_at_once(link: Link) -> None:
    out, back = link.side(2 * MIB), link.side(2 * MIB)
    link.peer.call("open", session=link.engine.session)
    number = link.peer.call(
        "submit", session=link.engine.session, kind="write", local=back.remote,
        remote=back.here.address, lengths=back.size, deadline=60,
    )["batch"]  # fmt: skip
    out.expect(Op.WRITE, [0], [0], [out.size])
    here, there = out.here.address, out.remote
    within(60, link.segment.write, here, there, out.size, deadline=60)
    assert link.peer.call("wait", batch=number, timeout=60)["bytes"] == back.size
    back.expect(Op.READ, [0], [0], [back.size])
    back.check()
    out.check()


def test_bytes_cross_the_rail(lab: None, link: Link) -> None:
    """They are on the device's own link, and not in the handshake's."""
    side = link.side(MIB)
    before = sent(0), sent(1)
    side.move(Op.WRITE, [0], [0], [MIB])
    assert sent(0) - before[0] >= MIB
    assert sent(1) - before[1] < MIB // 2


def test_the_other_device(lab: None, open_more: Any, peer: LabPeer) -> None:
    peer.call("reopen", devices="rxe1")
    try:
        link = Link(open_more("rxe1"), peer)
        side = link.side(MIB)
        before = sent(0), sent(1)
        side.move(Op.WRITE, [0], [0], [MIB])
        side.move(Op.READ, [1], [2], [MIB - 2])
        assert sent(1) - before[1] >= MIB
        assert sent(0) - before[0] < MIB // 2
        link.free()
    finally:
        peer.call("reopen", devices=DEVICE)


def test_the_drop_in(peer: LabPeer) -> None:
    """Upstream's calls: one block, a batch, asynchronous, page groups."""
    from mooncake.engine import TransferEngine

    engine = TransferEngine()
    with environment(**variables()):
        assert within(30, engine.initialize, HERE, "P2PHANDSHAKE", PROTOCOL, DEVICE) == 0
    here = Pages(64 * KIB, 1)
    remote = peer.memory("drop-in", here.size, seed=2)
    assert engine.register_memory(here.address, here.size) == 0
    target = peer.session
    try:
        assert within(60, engine.transfer_sync_write, target, here.address, remote, 30_000) == 0
        lists = ([here.address + 30_000], [remote + 30_000], [here.size - 30_000])
        assert within(60, engine.batch_transfer_sync_write, target, *lists) == 0
        assert peer.sha("drop-in") == here.sha()
        here.fill(0)
        batch = engine.batch_transfer_async_read(
            target, [here.address], [remote], [here.size]
        )
        assert batch != 0
        assert within(60, engine.get_batch_transfer_status, [batch]) == 0
        assert peer.sha("drop-in") == here.sha()
        here.fill(7)
        group = PageGroup([0, 3], [3, 0], [Layer(here.address, remote, 256, 256, 256)])
        assert within(60, engine.transfer_pages_sync_write, target, group) == 0
        assert peer.count("drop-in", 7) >= 512
    finally:
        assert Running(engine.unregister_memory, here.address).result(60) == 0
        within(30, engine.get_engine().close)
        peer.call("free", name="drop-in")
