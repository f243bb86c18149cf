"""Fixtures of the tests of the installed package, and the option --long.

The tests need no network but loopback. MC_REQUIRE, a comma separated list of features,
turns the skips for want of these features into failures.
"""

from __future__ import annotations

import os
import signal
import socket
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from board import Board
from kit import Pages, skip_or_fail, within
from peers import Peer
from stage import Stage

HERE = Path(__file__).parent
# Whose groups take the longest: so that no worker is alone with one at the end.
BEGIN_WITH = {"test_rdma.py", "test_local_conformance.py", "test_replay.py"}
# test_rdma.py and interop/test_interop_softnic.py run these, in processes that have a software NIC.
collect_ignore = [] if "SOFTNIC_DIR" in os.environ else ["rdma", "interop/softnic"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the long variants of tests too")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: runs with --long only")
    config.addinivalue_line(
        "markers", "alone: is about time, or must be quick: tools/pytest.sh runs it beside no other"
    )
    os.environ["MC_LOCAL"] = "0"  # as in default_variables, for fixtures of modules
    # A shell without job control starts what runs in the background with these ignored, and
    # a program that is started so has no Ctrl-C to test.
    for number, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGQUIT, signal.SIG_DFL),
    ):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    workers = config.pluginmanager.hasplugin("xdist")
    for item in items:
        if item.path.parent == HERE:
            # A call that hangs in the library keeps Python from running the signal
            # handler that pytest-timeout uses by default.
            item.add_marker(pytest.mark.timeout(method="thread"))
        if item.get_closest_marker("long") and not config.getoption("--long"):
            item.add_marker(pytest.mark.skip(reason="takes long: give --long to run it"))
        if workers:
            item.add_marker(pytest.mark.xdist_group(worker_group(item)))
    if workers:
        items.sort(key=lambda item: item.path.name not in BEGIN_WITH)


def worker_group(item: pytest.Item) -> str:
    """Tests of one group run in one worker of pytest-xdist, in their order: those of a file,
    which have fixtures in common; not those that have nothing in common and take long."""
    if item.path.name in ("test_rdma.py", "test_softnic.py"):
        return item.name
    if item.path.name == "test_interop_transfer.py":
        return str(getattr(item, "originalname", item.name))
    callspec = getattr(item, "callspec", None)
    way = callspec.params.get("default_variables", "") if callspec else ""
    return f"{item.path.stem}-{way}".rstrip("-")


@pytest.fixture(autouse=True)
def default_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests expect the defaults, not what the caller's shell has set, and tcp."""
    for name in list(os.environ):
        if name.startswith("MC_") and not name.startswith(("MC_REQUIRE", "MC_UPSTREAM")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MC_LOCAL", "0")


@pytest.fixture
def open_engine() -> Iterator[Callable[..., Any]]:
    """open_engine(host, **options) makes a native engine that is closed after the test."""
    from mooncake import Engine

    engines: list[Engine] = []

    def open_one(host: str = "127.0.0.1", **options: Any) -> Engine:
        engines.append(Engine(host, **options))
        return engines[-1]

    yield open_one
    for engine in engines:
        within(20, engine.close)


@pytest.fixture
def board(open_engine: Callable[..., Any]) -> Board:
    return Board(open_engine)


@pytest.fixture
def engine(open_engine: Callable[..., Any]) -> Any:
    return open_engine()


@pytest.fixture
def start_peer() -> Iterator[Callable[..., Peer]]:
    """start_peer(host, rpc_port, **env) starts an engine in another process."""
    peers: list[Peer] = []

    def start(*args: Any, **kwargs: Any) -> Peer:
        peers.append(Peer(*args, **kwargs))
        return peers[-1]

    yield start
    for peer in peers:
        peer.close()


@pytest.fixture
def peer(start_peer: Callable[..., Peer]) -> Peer:
    return start_peer()


@pytest.fixture
def pages() -> Iterator[Callable[..., Pages]]:
    """pages(size, seed) maps memory that outlives the engines of the test."""
    kept: list[Pages] = []

    def get(size: int, seed: int | None = None) -> Pages:
        kept.append(Pages(size, seed))
        return kept[-1]

    yield get
    kept.clear()


@pytest.fixture
def stage(engine: Any, peer: Peer, pages: Callable[..., Pages]) -> Stage:
    return Stage(engine, peer, pages)


@pytest.fixture
def drop_in() -> Iterator[Callable[..., Any]]:
    """drop_in(host, protocol) makes an initialized TransferEngine."""
    from mooncake.engine import TransferEngine

    engines: list[Any] = []

    def get(host: str = "127.0.0.1", protocol: str = "tcp") -> Any:
        engine = TransferEngine()
        assert within(10, engine.initialize, host, "P2PHANDSHAKE", protocol, "") == 0
        engines.append(engine)
        return engine

    yield get
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        for engine in engines:
            within(20, engine.get_engine().close)


@pytest.fixture(scope="module")
def world() -> Iterator[Any]:
    """What the tests of the C ABI call it with; see world.py."""
    from raw import c
    from world import make_world

    made = make_world()
    yield made
    for engine in (made.engine, made.peer):
        assert c.mc_engine_close(engine) == 0


@pytest.fixture
def nothing_leaks(world: Any) -> Iterator[None]:
    """Whatever a test tried, the engines of the world have what they had, and work."""
    from raw import c
    from world import holdings, submit

    before, descriptors = holdings(world), len(os.listdir("/proc/self/fd"))
    held = world.pages.sha(), world.theirs.sha()
    yield
    assert holdings(world) == before
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 4  # kept connections
    assert (world.pages.sha(), world.theirs.sha()) == held
    batch = submit(world.segment, world.pages.address, world.theirs.address, 8)
    assert c.mc_wait(batch, 5000, None) == 0
    assert c.mc_batch_close(batch) == 0


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.fixture
def ipv6() -> None:
    """Skip where the host has no ::1."""
    if not _has_ipv6():
        skip_or_fail("ipv6", "this host has no IPv6 loopback")
