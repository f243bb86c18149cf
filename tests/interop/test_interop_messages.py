"""Probe, notifications and the small questions, in both directions."""

from __future__ import annotations

import socket

import pytest

from blocks import content
from kinds import Launch
from ours import OurEngine, within
from upstream import UpstreamPeer


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.mark.parametrize("kind", ["v2", "v1-keep"])
def test_probe_both_ways(ours: OurEngine, lasting: Launch, kind: str) -> None:
    peer = lasting(kind)
    assert within(10, ours.engine.send_probe, peer.session) == 0
    assert peer.call("probe", target=ours.session)["rc"] == 0


def test_probe_of_a_release_without_probe(ours: OurEngine, lasting: Launch) -> None:
    """v0.3.9 closes on the unknown message: an answer other than 0, soon, no exception."""
    assert within(5, ours.engine.send_probe, lasting("v1").session) != 0


def test_probe_of_nobody(ours: OurEngine, launch: Launch) -> None:
    assert within(5, ours.engine.send_probe, f"127.0.0.1:{free_port()}") != 0
    peer = launch("v2")
    assert within(5, ours.engine.send_probe, peer.session) == 0
    peer.kill()
    assert within(5, ours.engine.send_probe, peer.session) != 0


MESSAGES = [
    ("room-1", "done"),
    ("", "empty name"),
    ("größe", "页 ✓ \" \\ \n\t"),
    ("long", "x" * 9000),
]


@pytest.mark.parametrize("kind", ["v2", "v1", "v1-keep"])
def test_notifications_from_ours(
    ours: OurEngine, lasting: Launch, kind: str, memory_name: str
) -> None:
    """They come with transfers, in order, after the bytes, and once."""
    peer = lasting(kind)
    base = peer.alloc(memory_name, 8192)
    try:
        peer.call("get_notifies")
        with ours.memory(content(1, 4096)) as memory:
            for name, message in MESSAGES:
                lists = ([memory.address], [base], [4096])
                rc = ours.transfer_with_notify(peer.session, *lists, name, message)
                assert rc == 0
        assert peer.call("get_notifies")["notifies"] == [list(pair) for pair in MESSAGES]
        assert peer.call("get_notifies")["notifies"] == []
        assert peer.bytes(memory_name, 0, 4096) == content(1, 4096)
    finally:
        peer.free(memory_name)


@pytest.mark.parametrize("kind", ["v2", "v1", "v1-keep"])
def test_notifications_to_ours(
    ours: OurEngine, lasting: Launch, kind: str, memory_name: str
) -> None:
    peer = lasting(kind)
    base = peer.alloc(memory_name, 4096, seed=2)
    try:
        ours.engine.get_notifies()
        with ours.memory(bytes(4096)) as memory:
            for pair in MESSAGES:
                lists = ([base], [memory.address], [4096])
                assert peer.transfer("write", ours.session, *lists, notify=list(pair)) == 0
            got = [(note.name, note.msg) for note in ours.engine.get_notifies()]
        assert got == MESSAGES
        assert ours.engine.get_notifies() == []
    finally:
        peer.free(memory_name)


def test_no_notification_of_a_failed_batch(
    ours: OurEngine, peer_v2: UpstreamPeer, memory_name: str
) -> None:
    peer_v2.call("get_notifies")
    with ours.memory(content(1, 4096)) as memory:
        lists = ([memory.address], [4096], [4096])  # nothing is mapped at 4096
        assert ours.transfer_with_notify(peer_v2.session, *lists, "never", "sent") < 0
    assert peer_v2.call("get_notifies")["notifies"] == []


def test_first_buffer_both_ways(ours: OurEngine, launch: Launch, memory_name: str) -> None:
    peer = launch("v2")
    assert within(10, ours.engine.get_first_buffer_address, peer.session) == 0
    base = peer.alloc(memory_name, 4096)
    other = OurEngine()
    try:
        with other.memory(bytes(4096)) as memory:
            assert within(10, other.engine.get_first_buffer_address, peer.session) == base
            got = peer.call("first_buffer", target=other.session)["address"]
            assert got == memory.address
    finally:
        other.close()
