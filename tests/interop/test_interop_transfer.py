"""Bytes between our engine and upstream's: every block arrives, no other byte changes."""

from __future__ import annotations

import hashlib

import pytest

from blocks import Blocks, adjacent, content, mixed, scattered
from kinds import KINDS, Launch
from ours import OurEngine, wait_until, within
from upstream import UpstreamPeer

MIB = 1 << 20



def shape(name: str, pooled: bool) -> Blocks:
    """The blocks of a case. Where each block takes a connection of its own, of 1 to
    2 ms, there are fewer of them."""
    if name == "small":
        return scattered([512] * (20_000 if pooled else 500), seed=1)
    if name == "large":
        return scattered([MIB] * (64 if pooled else 16), seed=2, gap=4096)
    if name == "mixed":
        return mixed(400, seed=3)
    return adjacent(1_000 if pooled else 200, 4096)


def exchange(
    ours: OurEngine,
    peer: UpstreamPeer,
    blocks: Blocks,
    initiator: str,
    opcode: str,
    name: str,
    confirmed: bool = True,
) -> None:
    """Move the blocks once and compare both whole regions with what they must be.

    confirmed is False for writes of which the initiator only knows that they were
    sent: their bytes may take a moment to arrive.
    """
    ours_data, peer_data = content(11, blocks.size), content(22, blocks.size)
    peer_base = peer.alloc(name, blocks.size, seed=22)
    try:
        with ours.memory(ours_data) as memory:
            if initiator == "ours":
                here, there, move, target = memory.address, peer_base, ours.transfer, peer.session
            else:
                here, there, move, target = peer_base, memory.address, peer.transfer, ours.session
            if opcode == "write":
                local, remote, length = blocks.at(here, there)
            else:
                remote, local, length = blocks.at(there, here)
            assert move(opcode, target, local, remote, length) == 0
            ours_want, peer_want = ours_data, peer_data
            if (initiator == "ours") == (opcode == "write"):
                peer_want = blocks.applied(ours_data, peer_data)
            else:
                ours_want = blocks.applied(peer_data, ours_data)
            if not confirmed:
                wait_until(lambda: memory.bytes() == ours_want, "all bytes have arrived")
            assert memory.bytes() == ours_want
            assert peer.sha256(name) == hashlib.sha256(peer_want).hexdigest()
    finally:
        peer.free(name)


@pytest.mark.parametrize("case", ["small", "large", "mixed", "adjacent"])
@pytest.mark.parametrize("opcode", ["write", "read"])
@pytest.mark.parametrize("target", ["v2", "v1", "v1-keep"])
def test_ours_initiates(
    ours: OurEngine, lasting: Launch, target: str, opcode: str, case: str, memory_name: str
) -> None:
    # v0.3.9 closes after each request: a connection for each block.
    exchange(ours, lasting(target), shape(case, target != "v1"), "ours", opcode, memory_name)


@pytest.mark.parametrize("case", ["small", "large", "mixed", "adjacent"])
@pytest.mark.parametrize("opcode", ["write", "read"])
def test_upstream_initiates(
    ours: OurEngine, peer: UpstreamPeer, kind: str, opcode: str, case: str, memory_name: str
) -> None:
    confirmed = opcode == "read" or KINDS[kind].confirms
    blocks = shape(case, KINDS[kind].pooled)
    exchange(ours, peer, blocks, "upstream", opcode, memory_name, confirmed)


@pytest.mark.parametrize("case", ["small", "mixed"])
@pytest.mark.parametrize("opcode", ["write", "read"])
def test_ours_speaks_version_1_when_told(
    ours_v1: OurEngine, peer_v2: UpstreamPeer, opcode: str, case: str, memory_name: str
) -> None:
    blocks = scattered([512] * 5_000, seed=4) if case == "small" else mixed(300, seed=5)
    exchange(ours_v1, peer_v2, blocks, "ours", opcode, memory_name)


@pytest.mark.parametrize("initiator", ["ours", "upstream"])
@pytest.mark.parametrize("opcode", ["write", "read"])
def test_ipv6(
    launch: Launch, ipv6_loopback: None, initiator: str, opcode: str, memory_name: str
) -> None:
    ours = OurEngine("[::1]", MC_USE_IPV6="1")
    try:
        peer = launch("v2", "[::1]", MC_USE_IPV6="1")
        exchange(ours, peer, mixed(200, seed=6), initiator, opcode, memory_name)
    finally:
        ours.close()


@pytest.mark.parametrize("opcode", ["write", "read"])
def test_single_block_calls(
    ours: OurEngine, peer: UpstreamPeer, opcode: str, memory_name: str
) -> None:
    data, other = content(7, 70_000), content(8, 70_000)
    address = peer.alloc(memory_name, 70_000, seed=8)
    try:
        with ours.memory(data) as memory:
            call = getattr(ours.engine, f"transfer_sync_{opcode}")
            rc = within(30, call, peer.session, memory.address + 5, address + 9, 65_000)
            assert rc == 0
            if opcode == "write":
                want = other[:9] + data[5:65_005] + other[65_009:]
                assert peer.sha256(memory_name) == hashlib.sha256(want).hexdigest()
            else:
                assert memory.bytes() == data[:5] + other[9:65_009] + data[65_005:]
    finally:
        peer.free(memory_name)


def test_nothing_to_move(ours: OurEngine, peer: UpstreamPeer, memory_name: str) -> None:
    """Empty batches and zero-length blocks end well, at once, in both directions."""
    data = content(9, 4096)
    address = peer.alloc(memory_name, 4096, seed=9)
    try:
        with ours.memory(data) as memory:
            for opcode in ("write", "read"):
                assert ours.transfer(opcode, peer.session, [], [], []) == 0
                assert ours.transfer(opcode, peer.session, [memory.address], [address], [0]) == 0
                assert peer.transfer(opcode, ours.session, [address], [memory.address], [0]) == 0
            assert ours.transfer("write", peer.session, [memory.address], [address], [4096]) == 0
            assert memory.bytes() == data
        assert peer.sha256(memory_name) == hashlib.sha256(data).hexdigest()
    finally:
        peer.free(memory_name)


def test_both_directions_at_once(
    ours: OurEngine, peer_v2: UpstreamPeer, memory_name: str
) -> None:
    """Three threads of ours write while upstream writes and is written to."""
    blocks = scattered([4096] * 2_000, seed=10)
    lanes = [f"{memory_name}-{i}" for i in range(4)]
    bases = [peer_v2.alloc(name, blocks.size, seed=22) for name in lanes]
    data, other = content(11, blocks.size), content(22, blocks.size)
    try:
        with ours.memory(data) as source, ours.memory(data) as sink:
            calls = [
                ours.start_transfer(
                    "write", peer_v2.session, *blocks.at(source.address, bases[i])
                )
                for i in range(3)
            ]
            rc = peer_v2.transfer("write", ours.session, *blocks.at(bases[3], sink.address))
            assert rc == 0
            assert [call.result(60) for call in calls] == [0, 0, 0]
            assert sink.bytes() == blocks.applied(other, data)
            assert source.bytes() == data
        want = hashlib.sha256(blocks.applied(data, other)).hexdigest()
        assert [peer_v2.sha256(name) for name in lanes[:3]] == [want] * 3
    finally:
        for name in lanes:
            peer_v2.free(name)
