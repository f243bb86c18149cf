"""Fixtures: an engine here for each test, and one peer on the other host for most of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hosts import DEVICE, IN_LAB, LabPeer, open_engine
from kit import Pages, Running, within
from link import Link

sys.path.insert(0, str(Path(__file__).parents[1] / "interop"))


class Shared:
    """The peer that tests share, since a Python takes seconds to start in the lab, and one that
    starts meanwhile for the next test that will kill its own."""

    def __init__(self) -> None:
        self.peer: LabPeer | None = None
        self.spare: Running | None = None
        self.suspect = False  # a test with it has failed
        self.taken: list[LabPeer] = []

    def get(self) -> LabPeer:
        if self.peer is None or self.suspect or self.peer.process.poll() is not None:
            self.drop()
            self.peer = self.take()
        return self.peer

    def take(self) -> LabPeer:
        """A peer for one test only."""
        starting = self.spare or Running(LabPeer)
        peer: LabPeer = starting.result(LabPeer.STARTS + 5)
        self.spare = Running(LabPeer) if IN_LAB else None
        self.taken.append(peer)
        return peer

    def drop(self) -> None:
        if self.peer is not None:
            self.peer.close()
        self.peer, self.suspect = None, False

    def close(self) -> None:
        if self.spare is not None:
            self.taken.append(self.spare.result(LabPeer.STARTS + 5))
        for peer in self.taken:
            peer.close()


@pytest.fixture(scope="session")
def shared() -> Iterator[Shared]:
    made = Shared()
    yield made
    made.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: Any) -> Any:
    """After a failure the next test has another peer."""
    report = yield
    if report.failed and "shared" in item.funcargs:
        item.funcargs["shared"].suspect = True
    return report


@pytest.fixture
def peer(shared: Shared) -> LabPeer:
    return shared.get()


@pytest.fixture
def victim(shared: Shared) -> Iterator[LabPeer]:
    """A peer that the test may kill."""
    one = shared.take()
    yield one
    one.close()


@pytest.fixture
def open_more() -> Iterator[Callable[..., Any]]:
    """open_more(devices, **env) makes an engine here that is closed after the test."""
    engines: list[Any] = []

    def open_one(devices: str = DEVICE, **env: str) -> Any:
        engines.append(open_engine(devices, **env))
        return engines[-1]

    yield open_one
    for one in engines:
        within(30, one.close)


@pytest.fixture
def engine(open_more: Callable[..., Any]) -> Any:
    return open_more()


@pytest.fixture
def link(engine: Any, peer: LabPeer) -> Iterator[Link]:
    """An engine here, the shared peer, and memory on both sides."""
    made = Link(engine, peer)
    yield made
    made.free()


@pytest.fixture
def doomed(engine: Any, victim: LabPeer) -> Link:
    """As link, with a peer that may be killed."""
    return Link(engine, victim)


@pytest.fixture(scope="session")
def lab() -> None:
    """Skip outside the lab."""
    if not IN_LAB:
        pytest.skip("needs the emulated hosts: make test-rdma")


@pytest.fixture
def keep() -> Iterator[Callable[..., Pages]]:
    """keep(size, seed) maps memory that outlives the engines of the test."""
    kept: list[Pages] = []

    def get(size: int, seed: int | None = None) -> Pages:
        kept.append(Pages(size, seed))
        return kept[-1]

    yield get
    kept.clear()
