"""Fixtures, beside those of tests/conftest.py: an engine here for each test, and one peer on the
other host for most of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hosts import DEVICE, HERE, IN_LAB, PROTOCOL, LabPeer, variables
from kit import Running, environment
from link import Link
from upstreams import PYTHON, Ahead


class Shared:
    """The peer that tests share, since a Python takes seconds to start in the lab, and one that
    starts meanwhile for the next test that will kill its own."""

    def __init__(self) -> None:
        self.peer: LabPeer | None = None
        self.spare: Running | None = Running(LabPeer) if IN_LAB else None
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


# In the lab the first one starts while tests run that need none.
@pytest.fixture(scope="session", autouse=IN_LAB)
def shared() -> Iterator[Shared]:
    made = Shared()
    yield made
    made.close()


def interop(item: pytest.Item) -> bool:
    return item.get_closest_marker("interop") is not None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs upstream comes last: until then it has started."""
    here = Path(__file__).parent
    items.sort(key=lambda item: item.path.parent == here and interop(item))


@pytest.fixture(scope="session", autouse=IN_LAB)
def ahead(
    request: pytest.FixtureRequest, shared: Shared, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ahead | None]:
    """Upstream's processes, if a test needs them and they can be had."""
    if not PYTHON.exists() or not any(map(interop, request.session.items)):
        yield None
        return
    made = Ahead(tmp_path_factory.mktemp("upstream"), shared.spare)
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
def open_more(open_engine: Callable[..., Any]) -> Callable[..., Any]:
    """open_more(devices, **env) makes an engine here that is closed after the test."""

    def open_one(devices: str = DEVICE, **env: str) -> Any:
        with environment(**variables(**env)):
            return open_engine(HERE, protocol=PROTOCOL, devices=devices)

    return open_one


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
