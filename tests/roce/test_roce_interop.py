"""Upstream's wheel as the peer over rdma: both directions, either one restarted, and what the two
cannot agree on."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from blocks import Blocks, adjacent, content, mixed, scattered
from hosts import BOUND, DEVICE, HERE, LONG, LabPeer, measured, sh, variables
from kit import (
    POISON,
    Pages,
    Running,
    environment,
    skip_or_fail,
    stays,
    wait_until,
    within,
)
from link import Link
from mooncake import Engine, MooncakeError, Op, PeerUnreachable, Quiet
from upstream import UpstreamPeer
from upstreams import PYTHON, Ahead, Upstreams

MIB = 1 << 20
pytestmark = [pytest.mark.interop, pytest.mark.usefixtures("lab", "wheel")]


@pytest.fixture(scope="session")
def wheel() -> None:
    """Skip where upstream's wheel cannot be had."""
    if not PYTHON.exists():
        reason = PYTHON.parents[1].with_name("venv-upstream.skipped")
        text = reason.read_text().strip() if reason.exists() else "run `make upstream`"
        skip_or_fail("interop", f"{PYTHON} does not exist: {text}")


class Ours:
    """Our engine here, as hosts.open_engine() makes it, with a port of choice."""

    def __init__(self, rpc_port: int = 0, **env: str) -> None:
        with environment(**variables(**env)):
            self.engine = Engine(HERE, protocol="rdma", devices=DEVICE, rpc_port=rpc_port)
        self.port = self.engine.rpc_port
        self.session = self.engine.session

    def move(self, opcode: str, target: str, *lists: Any) -> None:
        segment = within(BOUND, self.engine.open_segment, target)
        within(90, getattr(segment, opcode), *lists, deadline=60)

    def close(self) -> None:
        within(30, self.engine.close)


@pytest.fixture
def start_ours() -> Iterator[Callable[..., Ours]]:
    started: list[Ours] = []

    def start(**options: Any) -> Ours:
        started.append(Ours(**options))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture(scope="module")
def ours() -> Iterator[Ours]:
    one = Ours()
    yield one
    one.close()


@pytest.fixture
def upstreams(tmp_path: Path) -> Iterator[Upstreams]:
    made = Upstreams(tmp_path)
    yield made
    made.close()


@pytest.fixture
def peer(ahead: Ahead) -> UpstreamPeer:
    """The same for most tests: its Python takes seconds to start."""
    return ahead.peer()


numbers = iter(range(1_000_000))


class Exchange:
    """The memory of one exchange, ours and upstream's, and what each must hold after it."""

    def __init__(self, ours: Ours, peer: UpstreamPeer, blocks: Blocks) -> None:
        self.ours, self.peer, self.blocks = ours, peer, blocks
        self.name = f"exchange{next(numbers)}"
        self.here = Pages(blocks.size)
        self.data, self.other = content(11, blocks.size), content(22, blocks.size)
        self.here.map[:] = self.data
        self.memory = ours.engine.register(self.here.map)
        self.there = peer.alloc(self.name, blocks.size, seed=22)

    def run(self, initiator: str, opcode: str) -> None:
        """Move the blocks and compare every byte."""
        here, there, blocks = self.here.address, self.there, self.blocks
        near, far = (here, there) if initiator == "ours" else (there, here)
        if opcode == "write":
            local, remote, length = blocks.at(near, far)
        else:
            remote, local, length = blocks.at(far, near)
        if initiator == "ours":
            self.ours.move(opcode, self.peer.session, local, remote, length)
        else:
            assert self.peer.transfer(opcode, self.ours.session, local, remote, length, 90) == 0
        if (initiator == "ours") == (opcode == "write"):
            self.other = blocks.applied(self.data, self.other)
        else:
            self.data = blocks.applied(self.other, self.data)
        self.check()

    def check(self) -> None:
        assert self.here.bytes() == self.data
        assert self.peer.sha256(self.name) == hashlib.sha256(self.other).hexdigest()

    def close(self) -> None:
        self.memory.close()
        self.peer.free(self.name)


SHAPES = {
    "small": lambda: scattered([512] * 500, seed=1),
    "mixed": lambda: mixed(60, seed=3),
    "large": lambda: scattered([MIB] * 3, seed=2, gap=4096),
    "adjacent": lambda: adjacent(200, 4096),
}


@pytest.mark.skipif(not LONG, reason="needs a third of them: ROCE_LONG=1; the benchmark has it too")
def test_upstream_with_upstream(upstreams: Upstreams, peer: UpstreamPeer) -> None:
    """The lab carries what upstream does by itself."""
    here = upstreams.start(there=False)
    source, target = here.alloc("kv", MIB, seed=1), peer.alloc("kv", MIB, byte=0)
    for opcode in ("write", "read"):
        lists = ([source, source + 70_000], [target, target + 70_000], [65_536, MIB - 70_000])
        assert here.transfer(opcode, peer.session, *lists) == 0
    assert peer.sha256("kv", 0, 65_536) == here.sha256("kv", 0, 65_536)
    assert peer.sha256("kv", 70_000, None) == here.sha256("kv", 70_000, None)
    assert peer.bytes("kv", 65_536, 4464) == bytes(4464)
    peer.free("kv")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("opcode", ["write", "read"])
@pytest.mark.parametrize("initiator", ["ours", "upstream"])
def test_blocks(ours: Ours, peer: UpstreamPeer, initiator: str, opcode: str, shape: str) -> None:
    exchange = Exchange(ours, peer, SHAPES[shape]())
    exchange.run(initiator, opcode)
    exchange.close()


def test_both_directions_at_once(ours: Ours, peer: UpstreamPeer) -> None:
    """Over the same queue pairs: upstream has one endpoint for both."""
    out, back = (Exchange(ours, peer, adjacent(32, 65_536)) for _ in range(2))
    ours_running = Running(
        ours.move, "write", peer.session, *out.blocks.at(out.here.address, out.there)
    )
    lists = back.blocks.at(back.there, back.here.address)
    assert peer.transfer("write", ours.session, *lists, 90) == 0
    ours_running.result(90)
    out.other = out.blocks.applied(out.data, out.other)
    back.data = back.blocks.applied(back.other, back.data)
    for exchange in (out, back):
        exchange.check()
        exchange.close()


def test_both_open_at_the_same_time(start_ours: Callable[..., Ours], peer: UpstreamPeer) -> None:
    """Neither engine has met the other, and both begin at once."""
    mine = start_ours()
    out, back = (Exchange(mine, peer, scattered([4096] * 8, seed=9)) for _ in range(2))
    local, remote, length = back.blocks.at(back.there, back.here.address)
    peer.send(
        "transfer", opcode="write", target=mine.session, local=local, remote=remote, length=length
    )
    mine.move("write", peer.session, *out.blocks.at(out.here.address, out.there))
    assert peer.receive(60)["rc"] == 0
    out.other = out.blocks.applied(out.data, out.other)
    back.data = back.blocks.applied(back.other, back.data)
    for exchange in (out, back):
        exchange.check()


def vacant(port: int) -> bool:
    """No socket of host 2 has the port, not even one of a process that was killed."""
    return f":{port:04X} " not in sh("on2 run cat /proc/net/tcp /proc/net/tcp6")


def test_ours_restarts(start_ours: Callable[..., Ours], peer: UpstreamPeer) -> None:
    """A new engine at the old address. It begins: upstream learns of the new queue pairs from its
    handshake. By itself upstream, whose queue pairs try for ever on soft-RoCE, never would."""
    port = 0
    for _ in range(3):
        mine = start_ours(rpc_port=port)
        port = mine.port
        exchange = Exchange(mine, peer, scattered([4096] * 20, seed=5))
        for initiator in ("ours", "upstream"):
            exchange.run(initiator, "write")
            exchange.run(initiator, "read")
        exchange.close()
        mine.close()


@pytest.mark.parametrize("initiator", ["ours", "upstream"])
def test_another_number_of_queue_pairs(
    start_ours: Callable[..., Ours], peer: UpstreamPeer, ours: Ours, initiator: str
) -> None:
    """Upstream refuses one, and the error says which variable to set. Ours may take upstream's
    number. Nothing hangs, and others are not concerned."""
    mine = start_ours(MC_NUM_QP_PER_EP="3")
    exchange = Exchange(mine, peer, adjacent(1, 4096))
    began = time.monotonic()
    if initiator == "ours":
        with pytest.raises(PeerUnreachable) as raised:
            exchange.run("ours", "write")
        assert "MC_NUM_QP_PER_EP" in str(raised.value), raised.value
    else:
        lists = ([exchange.there], [exchange.here.address], [4096])
        if peer.transfer("write", mine.session, *lists, 90) == 0:
            exchange.data = exchange.blocks.applied(exchange.other, exchange.data)
    assert time.monotonic() - began < 60
    exchange.check()
    exchange.close()
    fine = Exchange(ours, peer, adjacent(4, 4096))
    fine.run("ours", "write")
    fine.close()


def begin(exchange: Exchange, op: Op) -> Any:
    """A batch of ours with all blocks of the exchange."""
    segment = exchange.ours.engine.open_segment(exchange.peer.session)
    here, there = exchange.here.address, exchange.there
    near, far = (here, there) if op is Op.WRITE else (there, here)
    source, target, length = exchange.blocks.at(near, far)
    local, remote = (source, target) if op is Op.WRITE else (target, source)
    return segment.submit(op, local, remote, length, deadline=60)


def both_ways(mine: Ours, peer: UpstreamPeer, first: str) -> None:
    """Bytes move, and the first to begin is as told."""
    exchange = Exchange(mine, peer, scattered([4096] * 20, seed=5))
    for initiator in (first, *({"ours", "upstream"} - {first})):
        exchange.run(initiator, "write")
        exchange.run(initiator, "read")
    exchange.close()


def test_upstream_is_killed_and_comes_back(
    start_ours: Callable[..., Ours], ahead: Ahead, upstreams: Upstreams
) -> None:
    """It is killed while nothing moves, and another process is at its address. That one is killed
    in the middle of transfers."""
    mine, first = start_ours(), ahead.victim()
    both_ways(mine, first, "ours")
    port = int(first.session.rsplit(":", 1)[1])
    first.kill()
    wait_until(lambda: vacant(port), f"port {port} of host 2 is free", 30)
    second = upstreams.start(port=port)
    assert second.session == first.session
    both_ways(mine, second, "upstream")
    killed_meanwhile(mine, second)
    both_ways(mine, ahead.peer(), "ours")


def killed_meanwhile(mine: Ours, victim: UpstreamPeer) -> None:
    """In the middle of a write and a read: errors in bounded time that say how far each came, and
    no late byte."""
    exchanges = [Exchange(mine, victim, scattered([65_536] * 256, seed=4)) for _ in Op]
    batches = [begin(each, op) for each, op in zip(exchanges, Op, strict=True)]
    wait_until(
        lambda: all(each.poll().bytes_done > 0 or each.done for each in batches), "bytes move", 30
    )
    victim.kill()
    began = time.monotonic()
    for op, exchange, batch in zip(Op, exchanges, batches, strict=True):
        with batch, pytest.raises(MooncakeError) as raised:
            within(BOUND, batch.wait)
        took, error, status = time.monotonic() - began, raised.value, raised.value.batch_status
        exchange.here.fill(POISON)
        measured(
            f"upstream killed during a {op.name.lower()}, {status.bytes_done} of {status.bytes} "
            f"bytes moved: {took:.2f} s: {error}"
        )
        assert isinstance(error, ConnectionError), error
        assert error.quiet in (Quiet.LOCAL, Quiet.BOTH), error
        assert 0 < status.bytes_done < status.bytes
    for exchange in exchanges:
        stays(lambda e=exchange: (e.here.array == POISON).all(), "no late byte here", 0.3)
    assert mine.engine.stats().batches_open == 0
    with pytest.raises(ConnectionError):
        exchanges[0].run("ours", "write")


def test_cancel_says_that_upstream_cannot_confirm(ours: Ours, peer: UpstreamPeer) -> None:
    """Nothing of ours touches the pages any more, and the engine goes on with upstream."""
    exchange = Exchange(ours, peer, adjacent(256, 65_536))
    segment = ours.engine.open_segment(peer.session)
    batch = segment.submit(
        Op.WRITE, *exchange.blocks.at(exchange.here.address, exchange.there), deadline=60
    )
    batch.cancel()
    with batch, pytest.raises(MooncakeError) as raised:
        within(BOUND, batch.wait)
    assert raised.value.quiet in (Quiet.LOCAL, Quiet.BOTH)
    again = Exchange(ours, peer, adjacent(4, 4096))
    again.run("ours", "write")


def test_ours_beside_upstream(ours: Ours, peer: UpstreamPeer, shared: Any) -> None:
    """One engine with a peer of each kind at once."""
    exchange = Exchange(ours, peer, adjacent(8, 4096))
    exchange.run("ours", "write")
    other: LabPeer = shared.get()
    link = Link(ours.engine, other)
    side = link.side(100_000)
    side.move(Op.WRITE, [3], [5], [99_000])
    link.free()
    exchange.run("ours", "read")
    exchange.run("upstream", "write")
    exchange.close()
