"""Upstream's wheel as a peer of the tests: its processes, on host 2 unless told otherwise."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hosts import DEVICE, HERE, ON2, THERE
from kit import REPOSITORY, Running

sys.path.insert(0, str(REPOSITORY / "tests" / "interop"))

from upstream import UpstreamPeer

PYTHON = Path(os.environ.get("MC_UPSTREAM_PYTHON", REPOSITORY / "build/venv-upstream/bin/python"))
STARTS = 95.0  # seconds, at most


class Upstreams:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.peers: list[UpstreamPeer] = []

    def start(self, there: bool = True, port: int = 0, **env: str) -> UpstreamPeer:
        """port 0: one that upstream chooses."""
        log = self.folder / f"upstream{len(self.peers)}.log"
        peer = UpstreamPeer(PYTHON, log, ON2 if there else ())
        self.peers.append(peer)
        host = THERE if there else HERE
        if port:
            env = {"MC_MIN_RPC_PORT": str(port), "MC_MAX_RPC_PORT": str(port), **env}
        peer.start(host, {"MC_FORCE_HCA": "1", **env}, protocol="rdma", devices=DEVICE)
        return peer

    def close(self) -> None:
        for peer in self.peers:
            peer.kill()
            peer.close()


class Ahead:
    """Two processes that start one after the other while something else is tested: one for most
    tests, and one to kill."""

    def __init__(self, folder: Path, before: Running | None) -> None:
        """before: what tests wait for first. They start once that has ended."""
        self.upstreams = Upstreams(folder)
        self._before = before
        self._peer = Running(self._first)
        self._victim = Running(self._second)

    def _first(self) -> UpstreamPeer:
        if self._before is not None:
            self._before.thread.join(STARTS)
        return self.upstreams.start()

    def _second(self) -> UpstreamPeer:
        self.peer()
        return self.upstreams.start()

    def peer(self) -> UpstreamPeer:
        peer: UpstreamPeer = self._peer.result(2 * STARTS)
        return peer

    def victim(self) -> UpstreamPeer:
        victim: UpstreamPeer = self._victim.result(3 * STARTS)
        return victim

    def close(self) -> None:
        self._victim.thread.join(3 * STARTS)
        self.upstreams.close()
