"""Messages of many ranges that are wrong: the engine refuses them, writes nothing of them, and
goes on serving others."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable, Iterator

import pytest
from kit import wait_until
from victim import SIZE, Victim, running_victim
from wire import (
    READ_MANY,
    V2,
    WRITE_MANY,
    connect,
    descriptor,
    hello,
    message,
    read_all,
    receive,
    send_all,
)  # fmt: skip

OK = struct.pack("<II", 0, 0x4D435456)
REFUSED = struct.pack("<II", 1, 0x4D435456)
READ, WRITE = READ_MANY | V2, WRITE_MANY | V2
BYTES = b"\xa5" * 64


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    with running_victim() as one:
        yield one


@pytest.fixture(autouse=True)
def unharmed(victim: Victim) -> Iterator[None]:
    victim.peer.call("fill", name="space", value=0)
    yield
    victim.unharmed()


def agreed(victim: Victim, timeout: float = 2, version: int = 2) -> socket.socket:
    """A connection on which messages are agreed on, unless version says otherwise."""
    instance = bytes.fromhex(descriptor(victim.peer.session)["mooncake_go"]["instance"])
    client = connect(victim.data, timeout)
    client.sendall(hello(instance, b"127.0.0.1:1", version=version))
    assert receive(client, 32)[:8] == OK
    return client


def test_a_good_message_is_served(victim: Victim) -> None:
    ranges = [(victim.space + 100 * number, 50) for number in range(400)]
    payload = random.Random(1).randbytes(400 * 50)
    with agreed(victim) as client:
        client.sendall(message(WRITE, ranges, payload) + message(READ, ranges[::-1]))
        assert receive(client, 8) == OK
        assert receive(client, 8) == OK
        back = receive(client, len(payload))
    assert back == b"".join(payload[at : at + 50] for at in range(len(payload) - 50, -1, -50))


# What is wrong with one range: the memory begins at v and ends at e.
BAD: dict[str, Callable[[int, int], tuple[int, int]]] = {
    "not registered": lambda v, e: (4096, 8),
    "past the end": lambda v, e: (e - 4, 1 << 30),
    "wraps around": lambda v, e: (v, 2**64 - v + 8),
    "length 0": lambda v, e: (v, 0),
    "everything": lambda v, e: (0, 2**64 - 1),
}


@pytest.mark.parametrize("opcode", [READ, WRITE])
@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize(("count", "at"), [(1, 0), (2, 1), (512, 300), (1024, 1023)])
def test_one_bad_range(victim: Victim, opcode: int, name: str, count: int, at: int) -> None:
    """The answer names it, and none of the others is written."""
    ranges = [(victim.space + 32 * number, 16) for number in range(count)]
    ranges[at] = BAD[name](victim.space, victim.space + SIZE)
    before = victim.peer.call("stats")["served_rejected"]
    with agreed(victim) as client:
        size = sum(length for _, length in ranges) % 2**64
        send_all(client, message(opcode, ranges, BYTES * (count // 4 + 1), size=size))
        assert read_all(client) == REFUSED + struct.pack("<Q", at)
    assert victim.peer.count("space", 0) == SIZE
    assert victim.peer.call("stats")["served_rejected"] == before + 1


LIES: dict[str, dict[str, int]] = {
    "no ranges": {"count": 0},
    "1025 ranges": {"count": 1025},
    "2^60 ranges": {"count": 1 << 60},
    "2^64-1 ranges": {"count": 2**64 - 1},
    "a byte less": {"size": 31},
    "a byte more": {"size": 33},
    "nothing": {"size": 0},
    "2^64-1 bytes": {"size": 2**64 - 1},
}


@pytest.mark.parametrize("opcode", [READ, WRITE])
@pytest.mark.parametrize("name", LIES)
def test_headers_that_lie(victim: Victim, opcode: int, name: str) -> None:
    ranges = [(victim.space, 16), (victim.space + 32, 16)]
    with agreed(victim) as client:
        send_all(client, message(opcode, ranges, BYTES, **LIES[name]))
        assert read_all(client) == REFUSED + bytes(8)
    assert victim.peer.count("space", 0) == SIZE


@pytest.mark.parametrize("version", [None, 0, 1])
@pytest.mark.parametrize("opcode", [READ_MANY, WRITE_MANY, READ, WRITE])
def test_messages_that_were_not_agreed_on(victim: Victim, opcode: int, version: int | None) -> None:
    client = connect(victim.data, 2) if version is None else agreed(victim, version=version)
    with client:
        send_all(client, message(opcode, [(victim.space, 16)], BYTES))
        assert read_all(client) == (REFUSED if opcode & V2 else b"")
    assert victim.peer.count("space", 0) == SIZE


@pytest.mark.parametrize("cut", [1, 23, 24, 25, 39, 40, 56, 57, 87, 20_000])
def test_writers_that_die_in_a_message(victim: Victim, cut: int) -> None:
    """What came of the payload is written, and no more."""
    ranges = [(victim.space + 64, 16), (victim.space, 16)]
    if cut > 100:
        ranges.append((victim.space + 1024, 40_000))
    head = 24 + 16 * len(ranges)
    with agreed(victim) as client:
        send_all(client, message(WRITE, ranges, b"\x77" * 40_032)[:cut])
    wait_until(lambda: victim.peer.count("space", 0x77) >= cut - head, "what was sent is written")
    assert victim.peer.count("space", 0) == SIZE - max(0, cut - head)


def test_reads_of_random_ranges(victim: Victim) -> None:
    rng = random.Random(5)
    for _ in range(100):
        ranges = [
            (victim.space + rng.randrange(-SIZE, 2 * SIZE), rng.choice([1, 7, 4096, 1 << 20]))
            if rng.random() < 0.5
            else (rng.getrandbits(64), rng.getrandbits(rng.choice([3, 16, 64])))
            for _ in range(rng.randrange(20))
        ]
        size = sum(length for _, length in ranges) % 2**64
        with agreed(victim, 0.5) as client:
            send_all(client, message(READ, ranges, size=size))
            client.shutdown(socket.SHUT_WR)
            assert read_all(client)[:8] in (OK, REFUSED)
