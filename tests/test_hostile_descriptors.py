"""Peers that answer nonsense when a segment is opened: an error or success, soon, no crash."""

from __future__ import annotations

import contextlib
import copy
import json
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import pytest
from kit import Pages, environment, free_port, within
from mooncake import MooncakeError, PeerUnreachable, Unsupported
from wire import METADATA, FakePeer, fake_peer, frame, read_all, receive

PAGE = 4096
GOOD = {
    "name": "127.0.0.1:1",
    "protocol": "tcp",
    "tcp_data_port": 1,
    "tcp_proto_version": 2,
    "timestamp": "2026-01-01 00:00:00.000000",
    "buffers": [{"name": "127.0.0.1:1", "addr": PAGE, "length": PAGE}],
}
OURS = {"instance": "0123456789abcdef" * 2, "version": 1, "hello": 1, "fences": 0}


def changed(**fields: Any) -> dict[str, Any]:
    return {**copy.deepcopy(GOOD), **fields}


def buffer(**fields: Any) -> dict[str, Any]:
    return changed(buffers=[{**GOOD["buffers"][0], **fields}])  # type: ignore[index]


REFUSED: dict[str, Any] = {
    "nothing": None,
    "list": [],
    "number": 5,
    "text": "tcp",
    "empty": {},
    "name is a number": changed(name=5),
    "name is empty": changed(name=""),
    "protocol is a number": changed(protocol=5),
    "buffers is text": changed(buffers="x"),
    "buffers is an object": changed(buffers={"addr": 1}),
    "a buffer is a number": changed(buffers=[5]),
    "a buffer is null": changed(buffers=[None]),
    "addr is text": buffer(addr="0x1000"),
    "addr is negative": buffer(addr=-5),
    "addr is too large": buffer(addr=2**64),
    "addr is a fraction": buffer(addr=1.5),
    "length is text": buffer(length="x"),
    "length is negative": buffer(length=-1),
    "length wraps around": buffer(addr=2**64 - 10, length=100),
    "port is text": changed(tcp_data_port="80"),
    "port is negative": changed(tcp_data_port=-1),
    "port is too large": changed(tcp_data_port=65536),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_descriptor(open_engine: Callable[..., Any], name: str) -> None:
    with environment(MC_HANDSHAKE_CONNECT_TIMEOUT="1"):
        engine = open_engine()
    with fake_peer(json.dumps(REFUSED[name]).encode()) as peer:
        with pytest.raises((PeerUnreachable, Unsupported)) as raised:
            within(4, engine.open_segment, peer.session)
        assert len(str(raised.value)) < 1000


ODD: dict[str, Any] = {
    "no buffers": changed(buffers=[]),
    "same buffer twice": changed(buffers=GOOD["buffers"] * 2),  # type: ignore[operator]
    "overlapping buffers": changed(
        buffers=[{"name": "x", "addr": PAGE + i * 8, "length": PAGE} for i in range(100)]
    ),
    "nested buffers": changed(
        buffers=[{"name": "x", "addr": PAGE + i, "length": 2 * PAGE - 2 * i} for i in range(200)]
    ),
    "the whole address space": buffer(addr=1, length=2**64 - 2),
    "many buffers": changed(
        buffers=[{"name": "x", "addr": PAGE * (i + 1), "length": PAGE} for i in range(15_000)]
    ),
    "port 0": changed(tcp_data_port=0),
    "extension is text": changed(mooncake_go="x"),
    "instance is short": changed(mooncake_go={**OURS, "instance": "ab"}),
    "instance is a number": changed(mooncake_go={**OURS, "instance": 5}),
    "protocol is unknown": changed(protocol="carrier pigeon"),
    "unknown version": changed(tcp_proto_version=99),
    "version 0": changed(tcp_proto_version=0),
    "unknown keys": changed(future={"a": [1, 2, {"b": None}]}, protocols=["tcp", 5]),
    "name points elsewhere": changed(name="no-such-host.invalid:1"),
    "name is an unreachable host": changed(name="0.0.0.0:0"),
    "name is long": changed(name="x" * 100_000),
    "data host elsewhere": changed(tcp_data_host="no-such-host.invalid"),
    "ours, but not really": changed(mooncake_go=OURS),
    "fences without end": changed(mooncake_go={**OURS, "fences": 2**64 - 1}),
    "hello of the future": changed(mooncake_go={**OURS, "hello": 2**31 - 1}),
}


@pytest.mark.parametrize("name", ODD)
def test_descriptors_that_are_odd(
    open_engine: Callable[..., Any], pages: Callable[..., Pages], name: str
) -> None:
    """They may be accepted; then transfers fail, or go to the data port that they name, where
    nobody listens here."""
    with environment(MC_HANDSHAKE_CONNECT_TIMEOUT="1"):
        engine = open_engine()
    memory = pages(PAGE, 1)
    engine.register(memory.map)
    sha = memory.sha()
    odd = dict(ODD[name])
    if odd["tcp_data_port"] == 1:
        odd["tcp_data_port"] = free_port()
    with fake_peer(json.dumps(odd).encode()) as peer:
        began = time.monotonic()
        with pytest.raises(MooncakeError):
            segment = within(5, engine.open_segment, peer.session)
            segment.buffers()
            for move in (segment.read, segment.write):
                with pytest.raises(MooncakeError):
                    within(5, move, memory.address, PAGE, 64, deadline=3)
            raise PeerUnreachable("opened")
        assert time.monotonic() - began < 8
    assert memory.sha() == sha
    assert engine.stats().batches_open == 0


def drip(client: socket.socket) -> None:
    receive(client, 9)
    for byte in frame(METADATA, json.dumps(GOOD).encode()):
        client.sendall(bytes([byte]))
        if client.recv(1) == b"":
            return


def flood(client: socket.socket) -> None:
    receive(client, 9)
    client.sendall(struct.pack("<QB", 2**64 - 1, METADATA))
    while True:
        client.sendall(b" " * 65536)


def does(*steps: int | bytes | str) -> Callable[[socket.socket], None]:
    """What a peer does with a connection: receive so many bytes, send these, or what the word
    says."""

    def run(client: socket.socket) -> None:
        for step in steps:
            if isinstance(step, int):
                receive(client, step)
            elif isinstance(step, bytes):
                client.sendall(step)
            elif step == "listen":
                read_all(client)
            elif step == "reset":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
            else:
                client.close()

    return run


BEHAVIOURS: dict[str, Callable[[socket.socket], None]] = {
    "closes at once": does("close"),
    "closes after the request": does(9, "close"),
    "resets": does("reset"),
    "is silent": does("listen"),
    "drips": drip,
    "floods": flood,
    "answers another type": does(frame(9, b"{}")),
    "answers half": does(frame(METADATA, b'{"name": "x"}')[:15]),
    "announces too much": does(struct.pack("<QB", 1 << 40, METADATA)),
    "announces nothing": does(struct.pack("<Q", 0)),
    "answers bytes": does(frame(METADATA, b"\xff\x00\xfe" * 1000)),
    "nests": does(frame(METADATA, b"[" * 500_000)),
    "speaks HTTP": does(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
}
SILENT = ("is silent", "drips", "answers half")


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_peers_that_misbehave(open_engine: Callable[..., Any], name: str) -> None:
    with environment(MC_HANDSHAKE_CONNECT_TIMEOUT="1"):
        engine = open_engine()
    with fake_peer(BEHAVIOURS[name]) as peer:
        with pytest.raises(PeerUnreachable):
            within(8, engine.open_segment, peer.session)
        with pytest.raises(PeerUnreachable):
            within(3, engine.probe, peer.session, 0.5)
        if name not in SILENT:  # which would take 5 s
            with pytest.raises(PeerUnreachable):
                within(8, engine.notify, peer.session, "n", "m")
    other = open_engine()
    engine.probe(other.session)


def serve_data(behaviour: Callable[[socket.socket], None], **fields: Any) -> Any:
    """A fake peer with a data port that behaves so."""
    data = FakePeer(behaviour)
    stack = contextlib.ExitStack()
    stack.callback(data.close)
    text = json.dumps(changed(tcp_data_port=data.port, name=data.session, **fields)).encode()
    peer = stack.enter_context(fake_peer(text))
    return stack, peer


OK = struct.pack("<II", 0, 0x4D435456)
REQUEST = 24  # bytes of a header

DATA_PORTS: dict[str, Callable[[socket.socket], None]] = {
    "closes at once": does("close"),
    "is silent": does("listen"),
    "answers without magic": does(REQUEST, b"x" * 8),
    "answers an unknown status": does(REQUEST, struct.pack("<II", 77, 0x4D435456)),
    "answers before it is asked": does(OK * 100, "listen"),
    "answers half a status": does(REQUEST, OK[:5]),
    "sends more than was asked for": does(REQUEST, OK + b"\xa5" * 100_000, "listen"),
    "sends less than was asked for": does(REQUEST, OK + b"\xa5" * 10, "close"),
}


@pytest.mark.parametrize("name", DATA_PORTS)
@pytest.mark.parametrize("op", ["read", "write"])
def test_data_ports_that_misbehave(
    open_engine: Callable[..., Any], pages: Callable[..., Pages], name: str, op: str
) -> None:
    """Batches end within their deadline, and nothing but their own pages is written."""
    with environment(MC_HANDSHAKE_CONNECT_TIMEOUT="1"):
        engine = open_engine()
    memory = pages(3 * PAGE, 1)
    engine.register(memory.map)
    around = memory.bytes(0, PAGE), memory.bytes(PAGE + 64)
    stack, peer = serve_data(DATA_PORTS[name])
    with stack:
        segment = within(5, engine.open_segment, peer.session)
        for _ in range(2):
            with contextlib.suppress(MooncakeError):
                within(8, getattr(segment, op), memory.address + PAGE, PAGE, 64, deadline=0.5)
        segment.close()
    assert (memory.bytes(0, PAGE), memory.bytes(PAGE + 64)) == around
    assert engine.stats().batches_open == 0
    within(5, engine.close)
