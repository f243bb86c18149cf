"""Two processes of upstream's wheel over the software NIC: bytes both ways, on one host and
between two. It proves the NIC, before our engine is measured on it. Then our engine and
upstream's wheel as each other's peers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import softnics
from kinds import KINDS
from kit import skip_or_fail
from softnics import Network
from upstream import UpstreamPeer

REPOSITORY = Path(__file__).resolve().parents[2]
SIZE = 8 << 20


@pytest.fixture(scope="module")
def built() -> Path:
    reason = softnics.unavailable()
    if reason:
        skip_or_fail("interop", reason)
    return softnics.build(REPOSITORY / "build" / "softnic")


@pytest.fixture
def network(built: Path) -> Iterator[Network]:
    with Network(built) as network:
        yield network


class Pair:
    """Two peers with memory of SIZE bytes each."""

    def __init__(self, peers: list[UpstreamPeer]) -> None:
        self.peers = peers
        self.addresses = [
            peer.alloc("memory", SIZE, seed=number) for number, peer in enumerate(peers)
        ]

    def refill(self, seed: int) -> None:
        """Different bytes at both ends."""
        for number, peer in enumerate(self.peers):
            peer.call("fill", name="memory", seed=2 * seed + number)

    def move(self, opcode: str, initiator: int, size: int, blocks: int) -> None:
        """Blocks of a size, every second one of the memory, in the other order there."""
        here, there = self.peers[initiator], self.peers[1 - initiator]
        offsets = [2 * size * i for i in range(blocks)]
        local = [self.addresses[initiator] + offset for offset in offsets]
        remote = [self.addresses[1 - initiator] + offset for offset in reversed(offsets)]
        assert here.transfer(opcode, there.session, local, remote, [size] * blocks) == 0
        for offset, other in zip(offsets, reversed(offsets), strict=True):
            assert here.sha256("memory", offset, size) == there.sha256("memory", other, size)


@pytest.fixture(params=["one host", "two hosts"])
def pair(
    request: pytest.FixtureRequest, network: Network, wheel: object, tmp_path: Path
) -> Iterator[Pair]:
    python = wheel(KINDS["v2"].wheel)  # type: ignore[operator]
    peers: list[UpstreamPeer] = []
    try:
        for number in range(2):
            settings = f"host={number}" if request.param == "two hosts" else ""
            with pytest.MonkeyPatch.context() as patch:
                for name, value in network.environment(settings, paths=True).items():
                    patch.setenv(name, value)
                peer = UpstreamPeer(python, tmp_path / f"upstream-{number}.log")
            peers.append(peer)
            answer = peer.call("start", 60, host="127.0.0.1", protocol="rdma", env={})
            peer.session = answer["session"]
        yield Pair(peers)
    finally:
        for peer in peers:
            peer.close()


def test_bytes_both_ways(pair: Pair, network: Network) -> None:
    seed = 1
    for opcode in ("write", "read"):
        for initiator in (0, 1):
            for size, blocks in ((SIZE // 2, 1), (4096, 200), (100, 20)):
                pair.refill(seed := seed + 1)
                pair.move(opcode, initiator, size, blocks)
    # It was the software NIC that moved them.
    executed = [line for line in network.control("qps").splitlines() if " executed=0 " not in line]
    assert len(executed) >= 2, network.control("qps")


def test_killed_peer(pair: Pair) -> None:
    pair.move("write", 0, 4096, 10)
    pair.peers[1].kill()
    rc = pair.peers[0].transfer(
        "write",
        pair.peers[1].session,
        [pair.addresses[0]],
        [pair.addresses[1]],
        [4096],
        timeout=120,
    )
    assert rc != 0


def test_port_that_goes_down(pair: Pair, network: Network) -> None:
    """Upstream leaves the port of a host with two, and goes on over the other."""
    pair.move("write", 0, 4096, 10)
    network.control("set", "mlx5_0", "port=down")
    pair.refill(9)
    pair.move("write", 0, 4096, 10)


@pytest.mark.timeout(400, method="thread")
def test_ours_and_upstream(network: Network, wheel: Callable[[str], Path]) -> None:
    """softnic/, in a process whose loader finds the NIC."""
    python = wheel(KINDS["v2"].wheel)
    result = subprocess.run(
        [sys.executable, "-m", "pytest", Path(__file__).with_name("softnic"),
         "-q", "-ra", "--timeout=120", "-p", "no:cacheprovider"],
        capture_output=True, text=True, timeout=390,
        env={**os.environ, **network.environment(), "MC_UPSTREAM_PYTHON": str(python)},
    )  # fmt: skip
    print(result.stdout, result.stderr)
    assert result.returncode == 0
    assert " passed" in result.stdout and "skipped" not in result.stdout
