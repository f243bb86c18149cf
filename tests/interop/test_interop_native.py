"""What our native API says of batches with upstream: outcomes, quiet, confirmation."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator

import pytest

import mooncake
from blocks import adjacent, content, scattered
from kinds import Launch
from ours import Memory, Running, environment, wait_until, within
from upstream import UpstreamPeer

pytest.importorskip("mooncake.native", reason="upstream's package is under test, not ours")

MIB = 1 << 20
SIZE = 16 * MIB
ROUNDS = 400


@pytest.fixture
def engine() -> Iterator[mooncake.Engine]:
    with environment(MC_FORCE_TCP="1"):
        engine = mooncake.Engine("127.0.0.1")
    yield engine
    within(15, engine.close)


@pytest.fixture
def memory(engine: mooncake.Engine) -> Iterator[Memory]:
    pages = Memory(content(1, SIZE))
    registration = engine.register(pages.address, SIZE, owner=pages)
    yield pages
    within(15, registration.close)
    pages.close()


def submit_long_batch(
    segment: mooncake.Segment, memory: Memory, base: int, deadline: float = 60.0
) -> mooncake.Batch:
    """Some gigabytes of writes, each block many times over."""
    offsets = list(range(0, SIZE, MIB)) * ROUNDS
    local = [memory.address + at for at in offsets]
    remote = [base + at for at in offsets]
    batch: mooncake.Batch = within(
        10, lambda: segment.submit(mooncake.Op.WRITE, local, remote, MIB, deadline=deadline)
    )
    return batch


def wait_for_progress(batch: mooncake.Batch, peer: UpstreamPeer, name: str) -> None:
    wait_until(lambda: peer.bytes(name, 0, 1) != b"\x01", "the first byte is there")
    assert not batch.done, "the batch ended before the peer could be disturbed: raise ROUNDS"


def failure(batch: mooncake.Batch, timeout: float) -> mooncake.MooncakeError:
    """The exception that the batch ends with."""
    with pytest.raises(mooncake.MooncakeError) as caught:
        within(timeout + 5, batch.wait, timeout)
    assert not isinstance(caught.value, mooncake.WaitTimeout), f"the batch runs after {timeout} s"
    return caught.value


@pytest.mark.parametrize("opcode", ["write", "read"])
@pytest.mark.parametrize("kind", ["v2", "v1", "v1-keep"])
def test_only_version_1_writes_are_unconfirmed(
    engine: mooncake.Engine,
    memory: Memory,
    lasting: Launch,
    kind: str,
    opcode: str,
    memory_name: str,
) -> None:
    peer = lasting(kind)
    blocks = scattered([700] * 300, seed=1)
    base = peer.alloc(memory_name, blocks.size, seed=2)
    try:
        with within(10, engine.open_segment, peer.session) as segment:
            local, remote, length = blocks.at(memory.address, base)
            status = within(30, getattr(segment, opcode), local, remote, length)
        assert status.unconfirmed == (opcode == "write" and kind != "v2")
        assert status.quiet == mooncake.Quiet.NONE
        assert (status.blocks, status.bytes, status.bytes_done) == (300, 210_000, 210_000)
    finally:
        peer.free(memory_name)


def test_neighbours_become_runs(
    engine: mooncake.Engine, memory: Memory, peer_v2: UpstreamPeer, memory_name: str
) -> None:
    """Contiguous on both sides is one run, scattered blocks are one each, over few connections."""
    base = peer_v2.alloc(memory_name, SIZE, seed=2)
    together, apart = adjacent(1_000, 4096), scattered([512] * 10_000, seed=3)
    try:
        with within(10, engine.open_segment, peer_v2.session) as segment:
            status = within(30, segment.write, *together.at(memory.address, base))
            assert status.runs == 1
            status = within(30, segment.write, *apart.at(memory.address, base))
            assert status.runs == 10_000
        assert engine.stats().connections_opened <= 16
    finally:
        peer_v2.free(memory_name)


@pytest.mark.alone
def test_a_killed_peer_is_quiet(
    engine: mooncake.Engine, memory: Memory, launch: Launch, memory_name: str
) -> None:
    """The kernel closed the connections of the dead process: nothing can be written any more."""
    peer = launch("v2")
    base = peer.alloc(memory_name, SIZE, byte=1)
    with within(10, engine.open_segment, peer.session) as segment:
        with submit_long_batch(segment, memory, base) as batch:
            wait_for_progress(batch, peer, memory_name)
            killed = time.monotonic()
            peer.kill()
            error = failure(batch, 10)
            assert time.monotonic() - killed < 2.0
            assert isinstance(error, (mooncake.PeerUnreachable, mooncake.PeerRestarted))
            assert error.quiet == mooncake.Quiet.BOTH


@pytest.mark.alone
def test_a_frozen_peer_is_quiet_here_only(
    engine: mooncake.Engine, memory: Memory, launch: Launch, memory_name: str
) -> None:
    peer = launch("v2")
    base = peer.alloc(memory_name, SIZE, byte=1)
    with within(10, engine.open_segment, peer.session) as segment:
        began = time.monotonic()
        with submit_long_batch(segment, memory, base, deadline=1.5) as batch:
            wait_for_progress(batch, peer, memory_name)
            peer.stop()
            error = failure(batch, 10)
            assert 1.0 < time.monotonic() - began < 4.0
            assert isinstance(error, mooncake.DeadlineExceeded)
            assert error.quiet == mooncake.Quiet.LOCAL
            assert error.batch_status is not None
            assert error.batch_status.bytes_done < error.batch_status.bytes


@pytest.mark.alone
def test_cancel_is_quiet_at_a_live_peer(
    engine: mooncake.Engine, memory: Memory, launch: Launch, memory_name: str
) -> None:
    """After a cancelled write has ended no byte of it lands in the peer."""
    peer = launch("v2")
    base = peer.alloc(memory_name, SIZE, byte=1)
    other = peer.alloc(memory_name + "other", SIZE, byte=1)
    with within(10, engine.open_segment, peer.session) as segment:
        with submit_long_batch(segment, memory, base) as batch:
            wait_for_progress(batch, peer, memory_name)
            cancelled = time.monotonic()
            batch.cancel()
            error = failure(batch, 10)
            assert time.monotonic() - cancelled < 2.0
            assert isinstance(error, mooncake.Cancelled)
            assert error.quiet == mooncake.Quiet.BOTH
        peer.call("fill", name=memory_name, byte=9)
        # What was still on its way would be there by the time that this has come through.
        within(30, segment.write, [memory.address], [other], [SIZE])
    assert peer.sha256(memory_name + "other") == hashlib.sha256(memory.bytes()).hexdigest()
    assert peer.sha256(memory_name) == hashlib.sha256(bytes([9]) * SIZE).hexdigest()


def test_the_peer_refuses(
    engine: mooncake.Engine, memory: Memory, launch: Launch, memory_name: str
) -> None:
    """A registration that ended after the segment was read: the peer says no, others go on."""
    peer = launch("v2")
    gone = peer.alloc(memory_name, MIB, byte=1)
    kept = peer.alloc(memory_name + "kept", MIB, byte=1)
    with within(10, engine.open_segment, peer.session) as segment:
        assert peer.call("unregister", address=gone)["rc"] == 0
        with pytest.raises((mooncake.Rejected, mooncake.NotRegistered)) as caught:
            within(20, segment.write, [memory.address], [gone], [MIB])
        if isinstance(caught.value, mooncake.Rejected):
            assert caught.value.quiet == mooncake.Quiet.BOTH
        within(20, segment.write, [memory.address], [kept], [MIB])
    assert peer.bytes(memory_name, 0, 64) == b"\x01" * 64


def test_an_unknown_address_is_refused_here(
    engine: mooncake.Engine, memory: Memory, peer_v2: UpstreamPeer
) -> None:
    """Nothing moves, and the text names the block."""
    with within(10, engine.open_segment, peer_v2.session) as segment:
        with pytest.raises(mooncake.NotRegistered, match="1"):
            within(20, segment.write, [memory.address] * 2, [4096, 8192], [0, 64])


def test_many_batches_at_once(
    engine: mooncake.Engine, memory: Memory, peer_v2: UpstreamPeer, memory_name: str
) -> None:
    """Two hundred open batches towards one peer; each is done, and stays readable."""
    base = peer_v2.alloc(memory_name, SIZE, seed=2)
    try:
        with within(10, engine.open_segment, peer_v2.session) as segment:

            def all_of_them() -> None:
                batches = [
                    segment.submit(
                        mooncake.Op.WRITE,
                        [memory.address + i * 65_536 + j * 1024 for j in range(64)],
                        [base + i * 65_536 + j * 1024 for j in range(64)],
                        512,
                    )
                    for i in range(200)
                ]
                for batch in reversed(batches):
                    assert batch.wait(30).bytes_done == 64 * 512
                for batch in batches:
                    batch.close()

            Running(all_of_them).result(60)
        want = bytearray(content(2, SIZE))
        for start in range(0, 200 * 65_536, 1024):
            want[start : start + 512] = memory.bytes(start, 512)
        assert peer_v2.sha256(memory_name) == hashlib.sha256(want).hexdigest()
    finally:
        peer_v2.free(memory_name)


def test_notifications_both_ways(engine: mooncake.Engine, lasting: Launch) -> None:
    peer = lasting("v1-keep")
    peer.call("get_notifies")
    within(10, engine.notify, peer.session, "größe", "页")
    assert peer.call("get_notifies")["notifies"] == [["größe", "页"]]


def test_fence_of_an_idle_peer(
    engine: mooncake.Engine, memory: Memory, launch: Launch, memory_name: str
) -> None:
    """Its connections are retired; upstream opens new ones, after a call or two that fail."""
    peer = launch("v2")
    base = peer.alloc(memory_name, 4096, byte=7)
    lists = ([base], [memory.address], [4096])
    assert peer.transfer("write", engine.session, *lists) == 0
    wait_until(lambda: engine.stats().connections > 0, "upstream keeps its connection")
    within(10, engine.fence, peer.session)
    wait_until(lambda: engine.stats().connections == 0, "its connections are gone")
    wait_until(lambda: peer.transfer("write", engine.session, *lists) == 0, "upstream is back")
