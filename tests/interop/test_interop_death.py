"""Upstream dies, freezes and comes back while bytes move."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from blocks import content
from kinds import Launch
from ours import Memory, OurEngine, Running, wait_until, within
from upstream import PeerError, UpstreamPeer

MIB = 1 << 20
SIZE = 16 * MIB
# Each block many times over: some gigabytes, so that the peer is met in mid-transfer.
ROUNDS = 400


def long_batch(
    here: int, there: int, rounds: int = ROUNDS
) -> tuple[list[int], list[int], list[int]]:
    offsets = list(range(0, SIZE, MIB)) * rounds
    return [here + at for at in offsets], [there + at for at in offsets], [MIB] * len(offsets)


def start_and_see_bytes(
    ours: OurEngine,
    peer: UpstreamPeer,
    opcode: str,
    memory: Memory,
    name: str,
    rounds: int = ROUNDS,
) -> Running:
    """Start a long batch by ours, and return once some of it has arrived."""
    base = peer.alloc(name, SIZE, byte=1)
    call = ours.start_transfer(opcode, peer.session, *long_batch(memory.address, base, rounds))
    if opcode == "write":
        wait_until(lambda: peer.bytes(name, 0, 1) != b"\x01", "the first byte is there")
    else:
        wait_until(lambda: memory.bytes(0, 1) == b"\x01", "the first byte is here")
    assert call.alive, "the batch ended before the peer could be disturbed: raise ROUNDS"
    return call


def assert_usable(ours: OurEngine, peer: UpstreamPeer, name: str) -> None:
    """Ours moves bytes to another peer, and back."""
    data = content(5, 100_000)
    base = peer.alloc(name, len(data), seed=6)
    try:
        with ours.memory(data) as memory:
            lists = ([memory.address], [base], [len(data)])
            assert ours.transfer("write", peer.session, *lists) == 0
            assert peer.sha256(name) == hashlib.sha256(data).hexdigest()
            memory.pages[:] = bytes(len(data))
            assert ours.transfer("read", peer.session, *lists) == 0
            assert memory.bytes() == data
    finally:
        peer.free(name)


@pytest.mark.alone
@pytest.mark.parametrize("opcode", ["write", "read"])
@pytest.mark.parametrize("kind", ["v2", "v1", "v1-keep"])
def test_upstream_is_killed_as_target(
    ours: OurEngine, launch: Launch, peer_v2: UpstreamPeer, kind: str, opcode: str, memory_name: str
) -> None:
    """The call fails within two seconds, not at its deadline of thirty."""
    victim = launch(kind)
    with ours.memory(bytes([2]) * SIZE) as memory:
        call = start_and_see_bytes(ours, victim, opcode, memory, memory_name)
        killed = time.monotonic()
        victim.kill()
        assert call.result(10) < 0
        assert time.monotonic() - killed < 2.0
        if opcode == "write":
            assert memory.bytes() == bytes([2]) * SIZE
        began = time.monotonic()
        again = ours.transfer(opcode, victim.session, [memory.address], [memory.address], [64])
        assert again < 0
        assert time.monotonic() - began < 2.0
    assert_usable(ours, peer_v2, memory_name)


@pytest.mark.alone
@pytest.mark.parametrize("kind", ["v2", "v1", "v1-keep"])
def test_upstream_is_killed_as_initiator(
    ours: OurEngine, launch: Launch, peer_v2: UpstreamPeer, kind: str, memory_name: str
) -> None:
    """The registration can be ended at once, and then nothing is written any more."""
    victim = launch(kind)
    base = victim.alloc(memory_name, SIZE, byte=1)
    memory = Memory(bytes(SIZE))
    assert ours.engine.register_memory(memory.address, SIZE) == 0
    local, remote, length = long_batch(base, memory.address)
    target = ours.session
    victim.send(
        "transfer", opcode="write", target=target, local=local, remote=remote, length=length
    )
    wait_until(lambda: memory.bytes(0, 1) == b"\x01", "the first byte is here")
    victim.kill()
    assert within(2, ours.engine.unregister_memory, memory.address) == 0
    memory.pages[:] = bytes([9]) * SIZE
    assert_usable(ours, peer_v2, memory_name)
    assert memory.bytes() == bytes([9]) * SIZE
    memory.close()


@pytest.fixture
def impatient() -> Iterator[OurEngine]:
    """Our engine with the shortest default deadline that its variable allows."""
    engine = OurEngine(MC_TRANSFER_TIMEOUT="5")
    yield engine
    engine.close()


@pytest.mark.alone
@pytest.mark.parametrize("opcode", ["write", "read"])
def test_upstream_freezes_as_target(
    impatient: OurEngine, launch: Launch, opcode: str, memory_name: str
) -> None:
    """The call ends at its deadline, other peers are served meanwhile, and once the
    peer goes on so do transfers to it."""
    peer, other = launch("v2"), launch("v2")
    rounds = 100  # the deadline grows with the bytes
    with impatient.memory(bytes([2]) * SIZE) as memory:
        began = time.monotonic()
        call = start_and_see_bytes(impatient, peer, opcode, memory, memory_name, rounds)
        peer.stop()
        assert_usable(impatient, other, memory_name + "other")
        assert call.result(15) < 0
        # 5 s and a nanosecond for each of the batch's bytes.
        limit = 5.0 + SIZE * rounds * 1e-9
        assert limit - 0.5 < time.monotonic() - began < limit + 3.0
        peer.resume()
        base = peer.alloc(memory_name + "late", SIZE, byte=3)

        def moved() -> bool:
            lists = ([memory.address], [base], [SIZE])
            return impatient.transfer("write", peer.session, *lists) == 0

        wait_until(moved, "a transfer to the resumed peer succeeds", timeout=10)
        want = hashlib.sha256(memory.bytes()).hexdigest()
        assert peer.sha256(memory_name + "late") == want


def test_upstream_freezes_as_initiator(
    ours: OurEngine, launch: Launch, peer_v2: UpstreamPeer, memory_name: str
) -> None:
    """Memory that a frozen peer is in the middle of writing can be given up: no byte of
    the rest of that request lands in it when the peer goes on."""
    frozen = launch("v2")
    base = frozen.alloc(memory_name, SIZE, byte=1)
    memory = Memory(bytes(SIZE))
    assert ours.engine.register_memory(memory.address, SIZE) == 0
    # One request of 16 MiB at a time, so that it freezes in the middle of one.
    count = 300
    frozen.send(
        "transfer",
        opcode="write",
        target=ours.session,
        local=[base] * count,
        remote=[memory.address] * count,
        length=[SIZE] * count,
    )
    wait_until(lambda: memory.bytes(0, 1) == b"\x01", "the first byte is here")
    frozen.stop()
    assert within(5, ours.engine.unregister_memory, memory.address) == 0
    memory.pages[:] = bytes([9]) * SIZE
    frozen.resume()
    assert frozen.receive(40)["rc"] < 0
    assert_usable(ours, peer_v2, memory_name)
    assert memory.bytes() == bytes([9]) * SIZE
    memory.close()


# -- restart

WIDTH = 4  # ports that upstream may draw from: it needs two


def can_bind(port: int) -> bool:
    """Whether upstream could listen there: no other socket and no lingering connection."""
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True


def free_ranges() -> Iterator[int]:
    """First ports of free ranges, outside those that upstream and the kernel draw from."""
    for first in range(12_200, 14_900, WIDTH):
        if all(can_bind(first + i) for i in range(WIDTH)):
            yield first


@contextmanager
def yielding(peer: UpstreamPeer) -> Iterator[None]:
    """Let ours run first wherever it and upstream could both run.

    After a handshake both sides close, and the port of the one that does so first lingers
    for a minute. Upstream is at it already when ours gets its answer; on one CPU, with
    upstream at idle priority, ours comes first nearly always.
    """
    before = os.sched_getaffinity(0)
    for pid in (os.getpid(), peer.process.pid):
        for thread in threads(pid):
            os.sched_setaffinity(thread, {max(before)})
    for thread in threads(peer.process.pid):
        os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
    try:
        yield
    finally:
        for thread in threads(os.getpid()):
            os.sched_setaffinity(thread, before)


def threads(pid: int) -> list[int]:
    return [int(name) for name in os.listdir(f"/proc/{pid}/task")]


def restarted(launch: Launch, session: str, env: dict[str, str]) -> UpstreamPeer | None:
    """Start upstream, whose port is random in its range, until it has that session. None if
    that port lingers."""
    if not can_bind(int(session.rsplit(":", 1)[1])):
        return None
    for _ in range(80):
        try:
            peer = launch("v2", **env)
        except PeerError:
            continue  # it drew a port on which a connection of its predecessor lingers
        if peer.session == session:
            return peer
        peer.close()
    return None


def test_upstream_restarts_at_the_same_port(
    ours: OurEngine, launch: Launch, memory_name: str
) -> None:
    """The new process is not taken for the old one: what is sent to the old one's
    addresses fails, and what is sent to the new one's arrives there."""
    with ours.memory(content(3, SIZE)) as memory:
        for first, _ in zip(free_ranges(), range(20)):
            env = {"MC_MIN_RPC_PORT": str(first), "MC_MAX_RPC_PORT": str(first + WIDTH - 1)}
            old = launch("v2", **env)
            old_base = old.alloc(memory_name, SIZE, byte=1)
            # One small block: each connection that ours opens is another race for the port.
            to_old = ([memory.address], [old_base], [512])
            with yielding(old):
                assert ours.transfer("write", old.session, *to_old) == 0
            old.kill()
            new = restarted(launch, old.session, env)
            if new is not None:
                break
        else:
            raise AssertionError("upstream could not be started again at its port, twenty times")
        new_base = new.alloc(memory_name, SIZE // 2, byte=4)
        assert ours.transfer("write", new.session, *to_old) < 0
        assert new.sha256(memory_name) == hashlib.sha256(b"\x04" * (SIZE // 2)).hexdigest()

        def moved() -> bool:
            lists = ([memory.address], [new_base], [SIZE // 2])
            return ours.transfer("write", new.session, *lists) == 0

        wait_until(moved, "a transfer to the new process succeeds", timeout=5)
        want = hashlib.sha256(content(3, SIZE)[: SIZE // 2]).hexdigest()
        assert new.sha256(memory_name) == want
