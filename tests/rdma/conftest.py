"""Fixtures of the tests over rdma, which need a software NIC; see ../test_rdma.py."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kit import Pages
from nic import Link, Nic, StillPeer
from peers import Peer

HERE = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    os.environ["MC_FORCE_HCA"] = "1"  # as in default_variables, for fixtures of modules


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == HERE:
            item.add_marker(pytest.mark.timeout(method="thread"))


@pytest.fixture(autouse=True)
def default_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """rdma or an error, and else the defaults."""
    for name in list(os.environ):
        if name.startswith("MC_") and not name.startswith("MC_REQUIRE"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MC_LOCAL", "0")
    monkeypatch.setenv("MC_FORCE_HCA", "1")


@pytest.fixture
def nic() -> Iterator[Nic]:
    """What the ports of the software NIC do; all is well again after the test."""
    made = Nic()
    yield made
    made.restore()


@pytest.fixture
def start_peer() -> Iterator[Callable[..., Peer]]:
    """As in ../conftest.py; to a peer that is frozen nothing moves, although a NIC does not
    need the process."""
    peers: list[Peer] = []

    def start(*args: Any, **kwargs: Any) -> Peer:
        peers.append(StillPeer(*args, **kwargs))
        return peers[-1]

    yield start
    for one in peers:
        one.close()


@pytest.fixture
def drop_in(drop_in: Callable[..., Any]) -> Callable[..., Any]:
    """drop_in(host) makes a TransferEngine as a server with RDMA does."""
    return functools.partial(drop_in, protocol="rdma")


@pytest.fixture
def link(engine: Any, peer: Peer, pages: Callable[..., Pages]) -> Link:
    """An engine here, one in another process, and memory on both sides."""
    return Link(engine, peer, pages)
