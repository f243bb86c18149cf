"""The wire, byte by byte: what a client of the handshake port and of the data port can send, and a
handshake listener that answers what it is told to."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

CONNECTION, METADATA, NOTIFY, PROBE = range(4)
READ, WRITE, HELLO, V2 = 0x00, 0x01, 0x7E, 0x80
READ_MANY, WRITE_MANY = 0x7C, 0x7D  # agreed on in a hello of version 2


def frame(kind: int, body: bytes) -> bytes:
    return struct.pack("<QB", len(body) + 1, kind) + body


def header(size: int, address: int, opcode: int) -> bytes:
    """A request on the data port."""
    return struct.pack("<QQB7x", size, address, opcode)


def message(opcode: int, ranges: list[tuple[int, int]], payload: bytes = b"", **lies: int) -> bytes:
    """A message of many ranges, (address, length) each. lies: another count or size."""
    size = sum(length for _, length in ranges)
    table = b"".join(struct.pack("<QQ", *each) for each in ranges)
    return header(lies.get("size", size), lies.get("count", len(ranges)), opcode) + table + payload


def hello(target: bytes, name: bytes, claim: int | None = None, version: int = 1) -> bytes:
    """An introduction to the process that target names."""
    body = target + b"\7" * 16 + struct.pack("<H", len(name) if claim is None else claim) + name
    return header(len(body), version, HELLO | V2) + body


def connect(port: int, timeout: float = 5.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout)


def send_all(client: socket.socket, data: bytes) -> None:
    """Send, also when the other end has had enough in the middle."""
    with contextlib.suppress(OSError):
        client.sendall(data)


def read_all(client: socket.socket) -> bytes:
    """What comes until the other end closes, or resets, or the timeout of the socket ends."""
    parts = []
    with contextlib.suppress(OSError):
        while part := client.recv(65536):
            parts.append(part)
    return b"".join(parts)


def receive(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (part := client.recv(count - len(data))):
        data += part
    return data


def ask(port: int, kind: int, body: bytes = b"{}") -> bytes:
    """One request and the body of its reply."""
    with connect(port) as client:
        client.sendall(frame(kind, body))
        (length,) = struct.unpack("<Q", receive(client, 8))
        return receive(client, length)[1:]


def port_of(session: str) -> int:
    return int(session.rsplit(":", 1)[1])


def descriptor(session: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(ask(port_of(session), METADATA))
    return loaded


class FakePeer:
    """A handshake listener that hands every connection to a function, in a thread each."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.session = f"127.0.0.1:{self.port}"
        self.clients: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                client.settimeout(10)
                self.clients.append(client)
                threading.Thread(target=self._one, args=(client,), daemon=True).start()

    def _one(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, struct.error):
            self._serve(client)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        for client in self.clients:
            client.close()


@contextlib.contextmanager
def fake_peer(answer: bytes | Callable[[socket.socket], None]) -> Iterator[FakePeer]:
    """A peer that answers every metadata request with a body, or does what a function does."""

    def reply(client: socket.socket) -> None:
        (length,) = struct.unpack("<Q", receive(client, 8))
        kind = receive(client, length)[:1]
        assert isinstance(answer, bytes)
        client.sendall(frame(kind[0], answer))
        read_all(client)

    peer = FakePeer(reply if isinstance(answer, bytes) else answer)
    try:
        yield peer
    finally:
        peer.close()
