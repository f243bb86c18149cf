"""Addresses: wrong ones are refused and harm nothing; new registrations count at once."""

from __future__ import annotations

import hashlib

import pytest

from blocks import content
from kinds import KINDS, Launch
from ours import OurEngine, wait_until
from upstream import UpstreamPeer

SIZE = 64 * 1024
PAGE = 4096


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("opcode", ["write", "read"])
@pytest.mark.parametrize("place", ["unmapped", "unregistered", "past the end", "before the start"])
def test_ours_names_a_wrong_address(
    ours: OurEngine, peer_v2: UpstreamPeer, opcode: str, place: str, memory_name: str
) -> None:
    """One wrong block among good ones: -1, nothing else is touched, the engine goes on."""
    ours_data, peer_data = content(1, SIZE), content(2, SIZE)
    base = peer_v2.alloc(memory_name, SIZE, seed=2)
    hidden = peer_v2.alloc(memory_name + "hidden", SIZE, register=False, byte=3)
    wrong = {
        "unmapped": 4096,
        "unregistered": hidden,
        "past the end": base + SIZE - 10,
        "before the start": base - 10,
    }[place]
    try:
        with ours.memory(ours_data) as memory:
            local = [memory.address, memory.address + 8192, memory.address + 16384]
            remote = [base, wrong, base + 50_000]
            rc = ours.transfer(opcode, peer_v2.session, local, remote, [20] * 3)
            assert rc < 0
            assert peer_v2.sha256(memory_name + "hidden") == digest(b"\x03" * SIZE)
            # The good blocks may have moved, or not; nothing else may have.
            allowed = [(0, 20), (50_000, 20)] if opcode == "write" else []
            assert equal_outside(peer_v2.bytes(memory_name, 0, SIZE), peer_data, allowed)
            allowed = [(0, 20), (16384, 20)] if opcode == "read" else []
            assert equal_outside(memory.bytes(), ours_data, allowed)

            # The engine goes on, at once.
            assert ours.transfer("write", peer_v2.session, [memory.address], [base], [SIZE]) == 0
            assert peer_v2.sha256(memory_name) == digest(memory.bytes())
    finally:
        peer_v2.free(memory_name)
        peer_v2.free(memory_name + "hidden", unregister=False)


def equal_outside(got: bytes, want: bytes, holes: list[tuple[int, int]]) -> bool:
    """Whether both are equal apart from the holes, (offset, length) each."""
    masked_got, masked_want = bytearray(got), bytearray(want)
    for offset, length in holes:
        masked_got[offset : offset + length] = bytes(length)
        masked_want[offset : offset + length] = bytes(length)
    return masked_got == masked_want


@pytest.mark.parametrize("opcode", ["write", "read"])
def test_upstream_ends_a_registration_that_ours_knows(
    ours: OurEngine, peer_v2: UpstreamPeer, opcode: str, memory_name: str
) -> None:
    """The peer itself refuses: what ours remembers of it is out of date."""
    data = content(1, SIZE)
    base = peer_v2.alloc(memory_name, SIZE, seed=2)
    other = peer_v2.alloc(memory_name + "other", SIZE, seed=4)
    try:
        with ours.memory(data) as memory:
            arguments = ([memory.address], [base], [SIZE])
            assert ours.transfer("read", peer_v2.session, *arguments) == 0
            assert peer_v2.call("unregister", address=base)["rc"] == 0
            assert ours.transfer(opcode, peer_v2.session, *arguments) < 0
            assert peer_v2.sha256(memory_name) == digest(content(2, SIZE))

            arguments = ([memory.address], [other], [SIZE])
            assert ours.transfer("write", peer_v2.session, *arguments) == 0
            assert peer_v2.sha256(memory_name + "other") == digest(memory.bytes())
    finally:
        peer_v2.free(memory_name, unregister=False)
        peer_v2.free(memory_name + "other")


def test_upstream_registers_late(
    ours: OurEngine, peer: UpstreamPeer, memory_name: str
) -> None:
    """Memory that the peer registers after ours has opened it works at once, again and again."""
    data = content(1, SIZE)
    first = peer.alloc(memory_name, SIZE, seed=2)
    try:
        with ours.memory(data) as memory:
            assert ours.transfer("write", peer.session, [memory.address], [first], [SIZE]) == 0
            for round_number in range(5):
                name = f"{memory_name}-{round_number}"
                base = peer.alloc(name, SIZE, seed=2)
                try:
                    lists = ([memory.address], [base], [SIZE])
                    assert ours.transfer("write", peer.session, *lists) == 0
                    assert peer.sha256(name) == digest(data)
                finally:
                    peer.free(name)
    finally:
        peer.free(memory_name)


def test_ours_registers_late(
    ours: OurEngine, peer: UpstreamPeer, kind: str, memory_name: str
) -> None:
    """The same for upstream, which never reads a descriptor twice; and after the end
    of a registration its requests are refused and change nothing."""
    base = peer.alloc(memory_name, SIZE, seed=2)
    want = content(2, SIZE)
    try:
        for round_number in range(5):
            with ours.memory(content(round_number, SIZE)) as memory:
                lists = ([base], [memory.address], [SIZE])
                assert peer.transfer("write", ours.session, *lists) == 0
                wait_until(lambda: memory.bytes() == want, "all bytes have arrived")
        with ours.memory(content(5, SIZE), register=False) as memory:
            lists = ([base], [memory.address], [SIZE])
            rc = peer.transfer("write", ours.session, *lists)
            assert rc == (-1 if KINDS[kind].confirms else 0)
            assert peer.transfer("read", ours.session, *lists) < 0
            assert memory.bytes() == content(5, SIZE)
        assert peer.sha256(memory_name) == digest(want)
        usable_again(ours, peer, base, want)
    finally:
        peer.free(memory_name)


def usable_again(ours: OurEngine, peer: UpstreamPeer, base: int, want: bytes) -> None:
    """Upstream reaches ours after a refusal. Its pool refuses a peer for about a second
    after its connections broke, so it may need several calls."""
    with ours.memory(bytes(len(want))) as memory:

        def moved() -> bool:
            lists = ([base], [memory.address], [len(want)])
            return peer.transfer("write", ours.session, *lists) == 0

        wait_until(moved, "upstream writes again", timeout=10)
        wait_until(lambda: memory.bytes() == want, "all bytes have arrived")


@pytest.mark.parametrize("opcode", ["write", "read"])
@pytest.mark.parametrize("place", ["unmapped", "past the end", "before the start"])
def test_upstream_names_a_wrong_address(
    ours: OurEngine, launch: Launch, opcode: str, place: str, memory_name: str
) -> None:
    peer = launch("v2")
    base = peer.alloc(memory_name, SIZE, seed=2)
    data = content(1, SIZE)
    with ours.memory(data) as memory:
        wrong = {
            "unmapped": 4096,
            "past the end": memory.address + SIZE - 10,
            "before the start": memory.address - 10,
        }[place]
        assert peer.transfer(opcode, ours.session, [base], [wrong], [20]) < 0
        assert memory.bytes() == data
        assert peer.sha256(memory_name) == digest(content(2, SIZE))
        usable_again(ours, peer, base, content(2, SIZE))


@pytest.mark.parametrize("kind", ["v2", "v1", "v1-keep"])
@pytest.mark.parametrize("opcode", ["write", "read"])
def test_neighbours_across_a_border(
    ours: OurEngine, launch: Launch, kind: str, opcode: str, memory_name: str
) -> None:
    """Two blocks that touch on both sides, where two registrations of the peer meet:
    upstream refuses a request that spans both, so ours must not merge them."""
    peer = launch(kind)
    ours_data, peer_data = content(1, SIZE), content(2, SIZE)
    half = SIZE // 2
    base = peer.alloc(memory_name, SIZE, register=False, seed=2)
    assert peer.call("register", address=base, size=half)["rc"] == 0
    assert peer.call("register", address=base + half, size=half)["rc"] == 0
    try:
        with ours.memory(ours_data) as memory:
            starts = [half - 2 * PAGE + i * PAGE for i in range(4)]
            local = [memory.address + at for at in starts]
            remote = [base + at for at in starts]
            assert ours.transfer(opcode, peer.session, local, remote, [PAGE] * 4) == 0
            moved = slice(half - 2 * PAGE, half + 2 * PAGE)
            if opcode == "write":
                want = bytearray(peer_data)
                want[moved] = ours_data[moved]
                assert peer.sha256(memory_name) == digest(bytes(want))
            else:
                want = bytearray(ours_data)
                want[moved] = peer_data[moved]
                assert memory.bytes() == bytes(want)
    finally:
        assert peer.call("unregister", address=base)["rc"] == 0
        assert peer.call("unregister", address=base + half)["rc"] == 0
        peer.free(memory_name, unregister=False)


@pytest.mark.parametrize("opcode", ["write", "read"])
def test_registered_anew_with_another_border(
    ours: OurEngine, launch: Launch, opcode: str, memory_name: str
) -> None:
    """The peer registers the same memory anew, in two halves. What ours remembers, one range,
    still covers every block, but a request over the border is refused now."""
    peer = launch("v2")
    half = SIZE // 2
    base = peer.alloc(memory_name, SIZE, seed=2)
    with ours.memory(content(1, SIZE)) as memory:
        lists = ([memory.address, memory.address + half], [base, base + half], [half, half])
        assert ours.transfer("read", peer.session, *lists) == 0
        assert memory.bytes() == content(2, SIZE)
        assert peer.call("unregister", address=base)["rc"] == 0
        assert peer.call("register", address=base, size=half)["rc"] == 0
        assert peer.call("register", address=base + half, size=half)["rc"] == 0
        memory.pages[:] = content(3, SIZE)
        assert ours.transfer(opcode, peer.session, *lists) == 0
        want = content(3, SIZE) if opcode == "write" else content(2, SIZE)
        assert memory.bytes() == want
        assert peer.sha256(memory_name) == digest(want)


def test_one_block_across_a_border(
    ours: OurEngine, peer_v2: UpstreamPeer, memory_name: str
) -> None:
    """A single block over two registrations: all of it or none."""
    data, before = content(1, SIZE), content(2, SIZE)
    half = SIZE // 2
    base = peer_v2.alloc(memory_name, SIZE, register=False, seed=2)
    assert peer_v2.call("register", address=base, size=half)["rc"] == 0
    assert peer_v2.call("register", address=base + half, size=half)["rc"] == 0
    try:
        with ours.memory(data) as memory:
            rc = ours.transfer("write", peer_v2.session, [memory.address], [base], [SIZE])
            assert peer_v2.sha256(memory_name) == digest(data if rc == 0 else before)
            # Whatever the answer was, the blocks themselves can be moved.
            lists = ([memory.address, memory.address + half], [base, base + half], [half, half])
            assert ours.transfer("write", peer_v2.session, *lists) == 0
            assert peer_v2.sha256(memory_name) == digest(data)
    finally:
        assert peer_v2.call("unregister", address=base)["rc"] == 0
        assert peer_v2.call("unregister", address=base + half)["rc"] == 0
        peer_v2.free(memory_name, unregister=False)
