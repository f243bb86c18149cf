"""Whatever is sent to an engine's ports, the engine goes on serving others."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kit import wait_until, within
from victim import SIZE, Victim, running_victim
from wire import (
    CONNECTION,
    HELLO,
    METADATA,
    NOTIFY,
    PROBE,
    READ,
    V2,
    WRITE,
    ask,
    connect,
    descriptor,
    frame,
    header,
    hello,
    read_all,
    receive,
    send_all,
)  # fmt: skip


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    """One engine for all attacks: what an attack leaves behind, the next ones meet."""
    with running_victim() as one:
        yield one


@pytest.fixture(autouse=True)
def unharmed(victim: Victim) -> Iterator[None]:
    yield
    victim.unharmed()


def deep(levels: int) -> bytes:
    return b'{"name":' + b"[" * levels + b"]" * levels + b"}"


BODIES = [
    b"", b"[]", b"null", b"5", b"-1", b'"text"', b"true", b"{", b"}", b"{}{}", b"\0", b"\xff\xfe",
    b'{"name": 5, "notify_msg": 6}', b'{"name": null}', b'{"notify_msg": {}}', b'{"name": []}',
    b'{"local_nic_path": 3, "qp_num": "x"}', b'{"qp_num": [1e400]}', b'{"name": "\xed\xa0\x80"}',
    b'{"name": "a", "name": "b", "notify_msg": "c"}', b"[" * 100_000, deep(10_000),
    deep(200_000), b'{"a":' * 50_000, b" " * 500_000, b'"' + b"\\u0000" * 1000 + b'"', b"1e999999",
]  # fmt: skip


@pytest.mark.parametrize("kind", [CONNECTION, METADATA, NOTIFY, PROBE, 4, 17, 127, 128, 255])
def test_bodies_of_all_shapes(victim: Victim, kind: int) -> None:
    for body in BODIES:
        with connect(victim.control, 0.2) as client:
            send_all(client, frame(kind, body))
            if len(body) % 2:
                with contextlib.suppress(OSError):  # it may have been closed already
                    client.shutdown(socket.SHUT_WR)
            read_all(client)
    while victim.peer.call("notifications")["notifications"]:
        pass


@pytest.mark.parametrize("length", [0, 1, (1 << 20) + 1, 1 << 31, 1 << 32, 1 << 63, 2**64 - 1])
def test_lengths_that_are_lies(victim: Victim, length: int) -> None:
    for rest in (b"", b"\1", b"\1{}", b"\1" + b"x" * 5000):
        with connect(victim.control, 0.3) as client:
            send_all(client, struct.pack("<Q", length) + rest)
            if length > 1 << 20:
                assert read_all(client) == b"", "closed without an answer"
            if rest == b"\1":
                victim.serves()


def test_a_frame_over_the_limit_is_not_kept(victim: Victim) -> None:
    """A client that sends what it announced: 64 MiB."""
    with connect(victim.control) as client:
        send_all(client, struct.pack("<QB", 64 << 20, METADATA))
        for _ in range(64):
            send_all(client, b" " * (1 << 20))
    with open(f"/proc/{victim.peer.pid}/status") as status:
        (resident,) = [int(line.split()[1]) for line in status if line.startswith("VmRSS")]
    assert resident < 512 << 10, f"{resident} KiB"


def test_truncated_frames(victim: Victim) -> None:
    whole = frame(METADATA, b"{}")
    for end in range(len(whole)):
        with connect(victim.control, 0.5) as client:
            send_all(client, whole[:end])
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == b""


def test_a_good_frame_with_more_behind_it_is_answered(victim: Victim) -> None:
    with connect(victim.control, 1) as client:
        send_all(client, frame(PROBE, b"{}") + b"more" * 1000)
        assert len(read_all(client)) >= 9


@pytest.mark.parametrize("port", ["control", "data"])
@pytest.mark.parametrize("seed", range(4))
def test_random_bytes(victim: Victim, port: str, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(60):
        data = bytearray(rng.randbytes(rng.choice([1, 7, 8, 9, 24, 25, 100, 4000])))
        if rng.random() < 0.5:  # a length that may be
            data[1:8] = bytes(len(data[1:8]))
        with connect(getattr(victim, port), 0.02) as client:
            send_all(client, bytes(data))
            read_all(client)


@pytest.mark.parametrize("port", ["control", "data"])
def test_slow_drip(victim: Victim, port: str) -> None:
    """Clients that send a byte now and then, for as long as a good one is served."""
    whole = frame(METADATA, b"{}" + b" " * 200) if port == "control" else header(8, 1, WRITE | V2)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(getattr(victim, port))) for _ in range(20)]
        for byte in whole[:12]:
            for client in clients:
                send_all(client, bytes([byte]))
            victim.serves()


@pytest.mark.parametrize("port", ["control", "data"])
def test_400_idle_clients(victim: Victim, port: str) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(400):
            client = stack.enter_context(connect(getattr(victim, port)))
            if number % 3 == 1:
                send_all(client, b"\5")
            if number % 50 == 0:
                victim.serves()
        victim.serves()
    victim.serves()


@pytest.mark.parametrize("port", ["control", "data"])
def test_half_open_clients(victim: Victim, port: str) -> None:
    """Clients that close their sending side at once, or reset."""
    with contextlib.ExitStack() as stack:
        for number in range(100):
            client = stack.enter_context(connect(getattr(victim, port), 1))
            if number % 2:
                client.shutdown(socket.SHUT_WR)
            else:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                send_all(client, b"\1" * (number % 30))
                client.close()
        victim.serves()


@pytest.mark.parametrize("port", ["control", "data"])
def test_connect_and_close_storm(victim: Victim, port: str) -> None:
    stop = threading.Event()

    def storm() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError), connect(getattr(victim, port)) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    threads = [threading.Thread(target=storm) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            victim.serves()
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)


def test_clients_that_never_read_their_answers(victim: Victim) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            client = stack.enter_context(connect(victim.control))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            send_all(client, frame(METADATA, b"{}"))
        victim.serves()
        for _ in range(20):  # reads of much more than the socket takes
            client = stack.enter_context(connect(victim.data))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            send_all(client, header(SIZE, victim.address, READ | V2) * 200)
        victim.serves()


def test_a_full_mailbox_refuses_and_is_bounded(engine: Any, start_peer: Any) -> None:
    """Whoever fills the list of notifications, the engine's memory stays bounded."""
    from mooncake import PeerUnreachable

    peer = start_peer()
    text = "x" * 900_000
    sent = 0
    with pytest.raises(PeerUnreachable, match="too many"):
        while sent < 200:
            within(5, engine.notify, peer.session, "n", text)
            sent += 1
    assert 60 < sent < 80, "64 MiB of text"
    peer.send("notifications")
    assert len(peer.receive(60)["notifications"]) == sent
    engine.notify(peer.session, "n", "again")


# Requests on the data port. The addresses are filled in: v the memory, e its end.
REQUESTS: dict[str, Callable[[int, int], tuple[int, int]]] = {
    "nothing registered": lambda v, e: (8, 4096),
    "address 0": lambda v, e: (8, 0),
    "before": lambda v, e: (16, v - 8),
    "past the end": lambda v, e: (16, e - 8),
    "much too long": lambda v, e: (1 << 40, v),
    "wraps around": lambda v, e: (2**64 - 1, v),
    "wraps to nothing": lambda v, e: (2**64 - v, v),
    "last address": lambda v, e: (1, 2**64 - 1),
    "length 0": lambda v, e: (0, v),
}


@pytest.mark.parametrize("opcode", [READ, WRITE, READ | V2, WRITE | V2])
@pytest.mark.parametrize("request_name", REQUESTS)
def test_requests_outside_the_memory(victim: Victim, opcode: int, request_name: str) -> None:
    size, address = REQUESTS[request_name](victim.address, victim.address + SIZE)
    before = victim.peer.call("stats")["served_rejected"]
    with connect(victim.data, 2) as client:
        send_all(client, header(size, address, opcode) + b"\xa5" * 64)
        answer = read_all(client)
    if opcode & V2:
        code, magic = struct.unpack("<II", answer)
        assert (code, magic) == (1, 0x4D435456), answer
    else:
        assert answer == b""
    assert victim.peer.call("stats")["served_rejected"] == before + 1


@pytest.mark.parametrize("opcode", [2, 3, 0x40, 0x7D, 0x7F, 0x82, 0xFE, 0xFF, HELLO])
def test_unknown_opcodes(victim: Victim, opcode: int) -> None:
    with connect(victim.data, 2) as client:
        send_all(client, header(8, victim.address, opcode) + b"\xa5" * 8)
        answer = read_all(client)
    assert len(answer) in (0, 8)


def test_hellos(victim: Victim) -> None:
    """Introductions that are wrong, too long, too short, or many."""
    instance = bytes.fromhex(descriptor(victim.peer.session)["mooncake_go"]["instance"])
    with connect(victim.data, 2) as client:
        send_all(client, hello(instance, b"127.0.0.1:1"))
        assert receive(client, 8)[4:] == b"VTCM"
    for data in (
        hello(b"\1" * 16, b"other"),
        hello(instance, b"x", claim=60_000),
        header(2**64 - 1, 1, HELLO | V2),
        header(4097, 1, HELLO | V2) + b"x" * 4097,
        header(0, 1, HELLO | V2),
        header(5, 1, HELLO | V2) + b"x" * 5,
        hello(instance, b"\xff" * 1000),
        hello(instance, b"a") * 500,
    ):
        with connect(victim.data, 0.3) as client:
            send_all(client, data)
            read_all(client)
        victim.serves()


def test_many_who_introduce_themselves(victim: Victim) -> None:
    instance = bytes.fromhex(descriptor(victim.peer.session)["mooncake_go"]["instance"])
    for number in range(300):
        with connect(victim.data, 2) as client:
            send_all(client, hello(instance, f"10.0.0.{number}:{number}".encode()))
            assert len(receive(client, 8)) == 8


@pytest.mark.parametrize("sent", [0, 1, 100, 40_000])
def test_truncated_writes_write_no_more_than_was_sent(victim: Victim, sent: int) -> None:
    """A writer that dies in the middle of its payload."""
    victim.peer.call("fill", name="space", value=0)
    with connect(victim.data) as client:
        send_all(client, header(SIZE, victim.space, WRITE | V2) + b"\x77" * sent)
    wait_until(lambda: victim.peer.count("space", 0x77) >= sent, "what was sent is written")
    assert victim.peer.count("space", 0) == SIZE - sent


def test_a_refused_request_ends_the_connection(victim: Victim) -> None:
    """What comes behind it is not taken for requests."""
    bad = header(64, 4096, WRITE | V2)
    inner = header(64, victim.address, WRITE | V2) + b"\xa5" * 64
    with connect(victim.data, 2) as client:
        send_all(client, bad + inner * 10)
        answer = read_all(client)
    assert len(answer) == 8


def test_the_descriptor_is_what_others_accept(victim: Victim) -> None:
    text = ask(victim.control, METADATA)
    found = json.loads(text)
    assert found["name"] == victim.peer.session
    assert found["protocol"] == "tcp"
    assert {"addr", "length", "name"} <= set(found["buffers"][0])
