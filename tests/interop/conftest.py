"""Upstream's wheels as peers of our engine.

The wheels live in virtual environments of their own (`make upstream`); their
Pythons are named by these variables, each with a default below the repository:

    MC_UPSTREAM_PYTHON          a release that speaks TCP version 2
    MC_UPSTREAM_V1_PYTHON       v0.3.9: version 1, closes after each request
    MC_UPSTREAM_V1_KEEP_PYTHON  v0.3.11: version 1, keeps its connections open

Where one is missing its tests are skipped, or fail if MC_REQUIRE contains "interop".
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kinds import KINDS, Launch
from ours import OurEngine
from upstream import UpstreamPeer

REPOSITORY = Path(__file__).resolve().parents[2]

PYTHONS = {
    "v2": ("MC_UPSTREAM_PYTHON", "build/venv-upstream"),
    "v1": ("MC_UPSTREAM_V1_PYTHON", "build/venv-upstream-v1"),
    "v1-keep": ("MC_UPSTREAM_V1_KEEP_PYTHON", "build/venv-upstream-v1-keep"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.interop)


def unavailable(reason: str) -> None:
    """Skip the test, or fail it when MC_REQUIRE asks for interop."""
    if "interop" in os.environ.get("MC_REQUIRE", "").replace(" ", "").split(","):
        pytest.fail(f"MC_REQUIRE contains interop, but {reason}")
    pytest.skip(reason)


def upstream_python(wheel: str) -> Path:
    variable, default = PYTHONS[wheel]
    named = os.environ.get(variable)
    python = Path(named) if named else REPOSITORY / default / "bin" / "python"
    if not python.exists():
        unavailable(f"{python} does not exist: run `make upstream`, or set {variable}")
    return python


@pytest.fixture
def upstream_v2() -> Path:
    """The interpreter that has a release with TCP version 2."""
    return upstream_python("v2")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The Python of a wheel that can be imported; checked once a session."""
    outcome: dict[str, tuple[Path, str]] = {}

    def usable(name: str) -> Path:
        if name not in outcome:
            python = upstream_python(name)
            check = subprocess.run(
                [str(python), "-c", "import mooncake.engine"],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
                cwd=tmp_path_factory.mktemp("import"),
                env={k: v for k, v in os.environ.items() if not k.startswith("PYTHON")},
            )
            outcome[name] = (python, check.stderr.strip() if check.returncode else "")
        python, error = outcome[name]
        if error:
            hint = ": apt-get install libibverbs1" if "libibverbs" in error else ""
            unavailable(f"{python} cannot import mooncake{hint}: {error.splitlines()[-1]}")
        return python

    return usable


@pytest.fixture(scope="session")
def ours() -> Iterator[OurEngine]:
    """Our engine with its defaults. One for all tests: upstream never forgets the
    data port of a session it has opened, so sessions should not come and go."""
    engine = OurEngine()
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def ours_v1() -> Iterator[OurEngine]:
    """Our engine told to speak version 1 to everybody."""
    engine = OurEngine(MC_TCP_PROTO="1")
    yield engine
    engine.close()


def launcher(wheel: Callable[[str], Path], folder: Path, peers: list[UpstreamPeer]) -> Launch:
    def launch(kind: str, host: str = "127.0.0.1", **env: str) -> UpstreamPeer:
        chosen = KINDS[kind]
        peer = UpstreamPeer(wheel(chosen.wheel), folder / f"upstream-{len(peers)}-{kind}.log")
        peers.append(peer)
        peer.start(host, {"MC_FORCE_TCP": "1", **chosen.env, **env})
        return peer

    return launch


@pytest.fixture
def launch(wheel: Callable[[str], Path], tmp_path: Path) -> Iterator[Launch]:
    """launch(kind, host, **env) starts an upstream process for this test only."""
    peers: list[UpstreamPeer] = []
    yield launcher(wheel, tmp_path, peers)
    for peer in peers:
        peer.close()


@pytest.fixture(scope="session")
def lasting(
    wheel: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Launch]:
    """lasting(kind) gives one upstream process a kind, the same for all tests."""
    peers: list[UpstreamPeer] = []
    start = launcher(wheel, tmp_path_factory.mktemp("upstream"), peers)
    known: dict[str, UpstreamPeer] = {}

    def get(kind: str) -> UpstreamPeer:
        peer = known.get(kind)
        if peer is None or peer.broken or peer.process.poll() is not None:
            peer = known[kind] = start(kind)
        return peer

    yield get
    for peer in peers:
        peer.close()


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def peer(lasting: Launch, kind: str) -> UpstreamPeer:
    return lasting(kind)


@pytest.fixture
def peer_v2(lasting: Launch) -> UpstreamPeer:
    return lasting("v2")


@pytest.fixture
def memory_name(request: pytest.FixtureRequest) -> str:
    """A name for a peer's memory that no other test uses."""
    return re.sub(r"\W+", "-", request.node.nodeid)


@pytest.fixture
def ipv6_loopback() -> None:
    """Skip where the host has no ::1."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError as error:
        unavailable(f"this host has no IPv6 loopback: {error}")
