"""Peers on this host are reached in memory: which way, what it counts, and when not."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit import Pages, skip_or_fail, wait_until, within
from mooncake import Engine, Op, PeerUnreachable
from peers import Peer

MIB = 1 << 20
SIZE = 16 * MIB
NOBODY = 65534


@pytest.fixture(autouse=True)
def default_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MC_LOCAL", "on")


class Moved:
    """An engine here and one there, SIZE bytes on either side, and the same segment."""

    def __init__(self, engine: Any, peer: Peer, pages: Callable[..., Pages]) -> None:
        self.engine, self.peer = engine, peer
        self.pages = pages(SIZE, 1)
        self.memory = engine.register(self.pages.map)
        self.remote = peer.memory("kv", SIZE)
        self.segment = engine.open_segment(peer.session)

    def everything(self, op: Op, block: int) -> None:
        """Move all bytes in blocks of a size, in random order, and compare them."""
        offsets = np.random.default_rng(block).permutation(SIZE // block).astype(np.uint64) * block
        move = self.segment.write if op is Op.WRITE else self.segment.read
        move(self.pages.address + offsets, self.remote + offsets, block, deadline=20)
        assert self.peer.sha("kv") == self.pages.sha()


@pytest.mark.parametrize("op", [Op.WRITE, Op.READ])
@pytest.mark.parametrize("block", [512, 64 << 10, SIZE])
@pytest.mark.parametrize("way", ["on", "packed", "cma"])
def test_between_two_processes(
    monkeypatch: pytest.MonkeyPatch, open_engine: Any, start_peer: Any, pages: Any,
    way: str, block: int, op: Op,
) -> None:  # fmt: skip
    monkeypatch.setenv("MC_LOCAL", way)
    moved = Moved(open_engine(), start_peer(), pages)
    if op is Op.READ:
        moved.peer.call("fill", name="kv", value=3)
    moved.everything(op, block)
    stats = moved.engine.stats()
    assert (stats.batches_local, stats.bytes_local) == (1, SIZE)
    if way == "cma":
        assert stats.bytes_packed == 0
    elif way == "packed":
        assert stats.bytes_packed == SIZE
    elif block == 512:
        assert stats.bytes_packed > 0.9 * SIZE, "the first few, before it is known how many come"
    else:
        assert stats.bytes_packed > 0, "the rest, too, unless the peer had no core to unpack on"
    assert (stats.peers_local, stats.local_refused, stats.bytes_self) == (1, 0, 0)
    served = moved.peer.call("stats")
    assert served["served_written" if op is Op.WRITE else "served_read"] == SIZE
    assert served["connections"] == 1, "no tcp besides"
    moved.segment.close()
    wait_until(lambda: moved.engine.stats().peers_local == 0, "the way is given back")
    wait_until(lambda: moved.peer.call("stats")["connections"] == 0, "the connection ends")


@pytest.mark.parametrize(
    ("here", "there"),
    [({"MC_LOCAL": "0"}, {}), ({}, {"MC_LOCAL": "off"}), ({"MC_FORCE_TCP": "1"}, {}),
     ({}, {"MC_FORCE_TCP": "1"})],
)  # fmt: skip
def test_turned_off_on_either_side(
    monkeypatch: pytest.MonkeyPatch, open_engine: Any, start_peer: Any, pages: Any,
    here: dict[str, str], there: dict[str, str],
) -> None:  # fmt: skip
    peer = start_peer(**there)
    for name, value in here.items():
        monkeypatch.setenv(name, value)
    moved = Moved(open_engine(), peer, pages)
    moved.everything(Op.WRITE, 4096)
    stats = moved.engine.stats()
    assert stats.bytes_written == SIZE
    assert (stats.bytes_local, stats.peers_local, stats.local_refused) == (0, 0, 0)


def test_within_one_process(open_engine: Any, pages: Any) -> None:
    one, other = open_engine(), open_engine()
    here, there = pages(SIZE, 1), pages(SIZE)
    one.register(here.map), other.register(there.map)
    one.open_segment(other.session).write(here.address, there.address, SIZE)
    assert there.sha() == here.sha()
    stats = one.stats()
    assert (stats.batches_self, stats.bytes_self, stats.bytes_local) == (1, SIZE, 0)
    assert other.stats().served_written == SIZE


def log_of(tmp_path: Path) -> Path:
    return tmp_path / "log"


def test_a_malformed_variable_is_reported(start_peer: Any, tmp_path: Path) -> None:
    log = log_of(tmp_path)
    start_peer(log=log, MC_LOCAL="maybe")
    assert "MC_LOCAL" in log.read_text()


def as_root() -> None:
    if os.geteuid() != 0:
        skip_or_fail("root", "this needs to be root: it changes users and namespaces")


def initiated_by(peer: Peer, engine: Any, pages: Any) -> dict[str, int]:
    """Let the peer write large blocks into memory of this process; its counters."""
    ours = pages(SIZE)
    engine.register(ours.map)
    theirs = peer.memory("kv", SIZE, seed=4)
    peer.call("open", session=engine.session)
    peer.call("submit", session=engine.session, kind="write", local=theirs, remote=ours.address,
              lengths=SIZE, deadline=20)  # fmt: skip
    assert peer.call("wait", batch=0)["bytes"] == SIZE
    assert ours.sha() == peer.sha("kv")
    return peer.call("stats")


def test_another_user_packs(engine: Any, start_peer: Any, pages: Any, tmp_path: Path) -> None:
    """A process without rights to ours moves everything through shared memory, and says why."""
    as_root()
    log = log_of(tmp_path)
    peer = start_peer(log=log, PEER_USER=str(NOBODY))
    stats = initiated_by(peer, engine, pages)
    assert stats["bytes_local"] == stats["bytes_packed"] == SIZE
    assert stats["local_refused"] == 0
    peer.call("open", session=engine.session)
    lines = [line for line in log.read_text().splitlines() if "level=WARN" in line]
    assert len(lines) == 1, lines
    assert "run both as one" in lines[0] and str(NOBODY) in lines[0]


def test_a_pid_namespace_packs(engine: Any, start_peer: Any, pages: Any, tmp_path: Path) -> None:
    """From inside a PID namespace the process outside has no number."""
    as_root()
    log = log_of(tmp_path)
    unshare = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    peer = start_peer(prefix=unshare, log=log)
    stats = initiated_by(peer, engine, pages)
    assert stats["bytes_local"] == stats["bytes_packed"] == SIZE
    assert "run both in one PID namespace" in log.read_text()
    # The other way round the number is known.
    before = engine.stats()
    segment = engine.open_segment(peer.session)
    local = pages(SIZE, 6)
    engine.register(local.map)
    remote = peer.memory("more", SIZE)
    half = 512 << 10  # too little to wake the peer for
    for at in range(0, SIZE, half):
        segment.write(local.address + at, remote + at, half, deadline=20)
    assert peer.sha("more") == local.sha()
    after = engine.stats()
    assert after.bytes_local - before.bytes_local == SIZE
    assert after.bytes_packed == before.bytes_packed


def test_another_network_namespace_is_reached_over_tcp(
    engine: Any, start_peer: Any, pages: Any, tmp_path: Path, veth: tuple[str, str, str]
) -> None:
    """One host, and no way in memory: counted, and one line in the log."""
    namespace, outer, inner = veth
    log = log_of(tmp_path)
    peer = start_peer(
        inner, prefix=("ip", "netns", "exec", namespace), log=log, MC_LOG_LEVEL="INFO"
    )
    with Engine(outer) as reachable:
        stats = initiated_by(peer, reachable, pages)
        assert stats["bytes_local"] == 0
        assert (stats["local_refused"], stats["peers_local"]) == (1, 0)
    lines = [line for line in log.read_text().splitlines() if "reached over the network" in line]
    assert len(lines) == 1, lines
    assert "network namespace" in lines[0]


@pytest.fixture
def veth() -> Any:
    """A network namespace and the addresses of both ends of a cable to it."""
    as_root()
    name, outer, inner = f"mc{os.getpid()}", "198.18.77.1", "198.18.77.2"

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=10)

    try:
        ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError) as error:
        skip_or_fail("root", f"network namespaces cannot be made here: {error}")
    try:
        ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("addr", "add", f"{outer}/30", "dev", name)
        ip("link", "set", name, "up")
        for what in (("addr", "add", f"{inner}/30", "dev", "eth0"), ("link", "set", "eth0", "up"),
                     ("link", "set", "lo", "up")):  # fmt: skip
            ip("-n", name, *what)
        yield name, outer, inner
    finally:
        ip("netns", "del", name)


def test_opening_is_bounded_when_the_peer_stands_still(engine: Any, start_peer: Any) -> None:
    """Its descriptor cannot be had either; nothing hangs."""
    peer = start_peer()
    peer.freeze()
    with pytest.raises(PeerUnreachable):
        within(8, engine.open_segment, peer.session)
    peer.thaw()
    within(8, engine.open_segment, peer.session)
