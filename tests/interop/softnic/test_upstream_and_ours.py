"""Upstream's wheel and our engine as each other's peers over rdma, on a software NIC: what the
lab shows on the kernel's verbs, in seconds and without an emulated host. Our engine is in this
process, which ../test_interop_softnic.py starts with the NIC."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from blocks import Blocks, adjacent, content, mixed, scattered
from kinds import KINDS
from kit import Pages, Running, environment, within
from mooncake import Engine, MooncakeError, PeerUnreachable, Quiet
from upstream import UpstreamPeer

HOST, DEVICE = "127.0.0.1", "mlx5_0"
numbers = iter(range(1_000_000))


@pytest.fixture
def open_ours() -> Iterator[Callable[..., Engine]]:
    opened: list[Engine] = []

    def start(rpc_port: int = 0, **env: str) -> Engine:
        with environment(MC_FORCE_HCA="1", MC_LOCAL="0", **env):
            engine = Engine(HOST, protocol="rdma", devices=DEVICE, rpc_port=rpc_port)
        opened.append(engine)
        return engine

    yield start
    for engine in opened:
        within(30, engine.close)


@pytest.fixture
def start_upstream(
    wheel: Callable[[str], Path], tmp_path: Path
) -> Iterator[Callable[..., UpstreamPeer]]:
    started: list[UpstreamPeer] = []

    def start() -> UpstreamPeer:
        log = tmp_path / f"upstream{len(started)}.log"
        # It reads /sys/class/infiniband itself.
        paths = Path(os.environ["LD_LIBRARY_PATH"].split(":")[0]) / "libsoftnic-paths.so"
        with environment(LD_PRELOAD=str(paths)):
            started.append(UpstreamPeer(wheel(KINDS["v2"].wheel), log))
        started[-1].start(HOST, {"MC_FORCE_HCA": "1"}, protocol="rdma")
        return started[-1]

    yield start
    for peer in started:
        peer.close()


class Exchange:
    """Memory of both, and what each must hold."""

    def __init__(self, ours: Engine, peer: UpstreamPeer, blocks: Blocks) -> None:
        self.ours, self.peer, self.blocks = ours, peer, blocks
        self.name = f"exchange{next(numbers)}"
        self.here = Pages(blocks.size)
        self.data, self.other = content(11, blocks.size), content(22, blocks.size)
        self.here.map[:] = self.data
        self.memory = ours.register(self.here.map)
        self.there = peer.alloc(self.name, blocks.size, seed=22)

    def begin(self, initiator: str, opcode: str) -> Callable[[], None]:
        """Begins to move the blocks; the function that it returns waits for that."""
        near, far = self.here.address, self.there
        if initiator == "upstream":
            near, far = far, near
        if opcode == "write":
            local, remote, length = self.blocks.at(near, far)
        else:
            remote, local, length = self.blocks.at(far, near)
        if (initiator == "ours") == (opcode == "write"):
            self.other = self.blocks.applied(self.data, self.other)
        else:
            self.data = self.blocks.applied(self.other, self.data)
        if initiator == "ours":
            segment = within(10, self.ours.open_segment, self.peer.session)
            move = Running(getattr(segment, opcode), local, remote, length)
            return lambda: move.result(30)
        lists = {"local": local, "remote": remote, "length": length}
        self.peer.send("transfer", opcode=opcode, target=self.ours.session, **lists)

        def wait() -> None:
            assert self.peer.receive(60)["rc"] == 0

        return wait

    def run(self, initiator: str, opcode: str) -> None:
        self.begin(initiator, opcode)()
        self.check()

    def check(self) -> None:
        """Every byte, those beside the blocks too."""
        assert self.here.bytes() == self.data
        assert self.peer.sha256(self.name) == hashlib.sha256(self.other).hexdigest()


AGREED = (
    "mtu", "hop", "tc", "sl", "rnr_timer", "reads_in", "rq_psn", "timeout", "retries",
    "rnr_retries", "reads", "sq_psn", "pkey",
)  # fmt: skip


def queue_pairs() -> list[dict[str, str]]:
    """Those that are connected, as softnicctl tells of them."""
    program = Path(os.environ["LD_LIBRARY_PATH"].split(":")[0]) / "softnicctl"
    output = subprocess.run([program, "qps"], capture_output=True, text=True, check=True).stdout
    fields = (
        [field.split("=", 1) for field in line.split() if "=" in field]
        for line in output.splitlines()
    )
    return [qp for qp in map(dict, fields) if qp["state"] == "RTS"]


def both_ways(exchange: Exchange) -> None:
    for initiator in ("ours", "upstream"):
        for opcode in ("write", "read"):
            exchange.run(initiator, opcode)


def test_blocks(open_ours: Any, start_upstream: Any) -> None:
    ours, peer = open_ours(), start_upstream()
    for blocks in (
        scattered([512] * 500, seed=1),
        mixed(60, seed=3),
        scattered([1 << 20] * 3, seed=2, gap=4096),
        adjacent(200, 4096),
    ):
        both_ways(Exchange(ours, peer, blocks))
    assert ours.stats().batches_rdma == 8
    # Attributes that no message carries are the same at both ends.
    told: dict[bool, set[tuple[str, ...]]] = {True: set(), False: set()}
    for qp in queue_pairs():
        told[int(qp["pid"]) == os.getpid()].add(tuple(qp[name] for name in AGREED))
    assert len(told[True]) == 1 and told[True] == told[False]


def test_both_open_at_the_same_time(open_ours: Any, start_upstream: Any) -> None:
    peer = start_upstream()
    for _ in range(5):
        mine = open_ours()
        out, back = (Exchange(mine, peer, scattered([4096] * 8, seed=9)) for _ in range(2))
        waits = back.begin("upstream", "write"), out.begin("ours", "write")
        for wait in waits:
            wait()
        for exchange in (out, back):
            exchange.check()


def test_ours_restarts(open_ours: Any, start_upstream: Any) -> None:
    """A new engine at the old address, whichever of the two begins."""
    peer, port = start_upstream(), 0
    for _ in range(3):
        mine = open_ours(rpc_port=port)
        port = mine.rpc_port
        both_ways(Exchange(mine, peer, scattered([4096] * 20, seed=5)))
        mine.close()


def test_upstream_is_killed(open_ours: Any, start_upstream: Any) -> None:
    """An error that says what is known; then the engine goes on with another."""
    ours, victim = open_ours(), start_upstream()
    exchange = Exchange(ours, victim, adjacent(64, 65_536))
    exchange.run("ours", "write")
    segment = ours.open_segment(victim.session)
    victim.kill()
    with pytest.raises(MooncakeError) as raised:
        within(30, segment.write, *exchange.blocks.at(exchange.here.address, exchange.there))
    assert isinstance(raised.value, ConnectionError), raised.value
    assert raised.value.quiet in (Quiet.LOCAL, Quiet.BOTH)
    both_ways(Exchange(ours, start_upstream(), scattered([4096] * 20, seed=5)))


def test_another_number_of_queue_pairs(open_ours: Any, start_upstream: Any) -> None:
    """Upstream refuses it; the error says which variable helps, and others go on."""
    peer, odd, fine = start_upstream(), open_ours(MC_NUM_QP_PER_EP="3"), open_ours()
    exchange = Exchange(odd, peer, adjacent(1, 4096))
    began = time.monotonic()
    with pytest.raises(PeerUnreachable, match="MC_NUM_QP_PER_EP"):
        exchange.begin("ours", "write")()
    assert time.monotonic() - began < 15
    both_ways(Exchange(fine, peer, adjacent(4, 4096)))
