"""Where the tests are: on host 1 of the lab with a peer on host 2, or anywhere, over tcp.

The tests do not say which. What only the lab has, such as rails that can be cut, is for tests
with the fixture `lab`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kit import environment
from peers import Peer

IN_LAB = os.environ.get("ROCE_ROLE") == "1"
LONG = bool(os.environ.get("ROCE_LONG"))
HERE = os.environ.get("ROCE_HOST1", "127.0.0.1")
THERE = os.environ.get("ROCE_HOST2", "127.0.0.1")
ON2 = ("on2", "run") if IN_LAB else ()
PROTOCOL = "rdma" if IN_LAB else "tcp"
DEVICE = "rxe0" if IN_LAB else ""
# Bytes of a transfer that takes so long that a test can do something meanwhile.
A_WHILE = 6 << 20 if IN_LAB else 64 << 20
# Seconds after which what is bounded must have ended. The emulation is slow.
BOUND = 20.0 if IN_LAB else 10.0


def variables(**more: str) -> dict[str, str]:
    """The variables of an engine: over rdma there is no way out to tcp."""
    return {**({"MC_FORCE_HCA": "1"} if IN_LAB else {}), "MC_LOCAL": "0", **more}


def open_engine(devices: str = DEVICE, protocol: str = PROTOCOL, **env: str) -> Any:
    """An engine of this process."""
    from mooncake import Engine

    with environment(**variables(**env)):
        return Engine(HERE, protocol=protocol, devices=devices)


class LabPeer(Peer):
    """A process with an engine on the other host."""

    STARTS = 90.0

    def __init__(self, rpc_port: int = 0, devices: str = DEVICE, **env: str) -> None:
        super().__init__(
            THERE,
            rpc_port,
            prefix=ON2,
            PEER_PROTOCOL=PROTOCOL,
            PEER_DEVICES=devices,
            **variables(**env),
        )


def sh(command: str, timeout: float = 30.0) -> str:
    """Run a command on this host; AssertionError with what it printed if it fails."""
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, (command, done.returncode, done.stdout, done.stderr)
    return done.stdout


def measured(text: str) -> None:
    """Tell what a test has measured, at the end of the suite's log too."""
    print(text)
    if folder := os.environ.get("ROCE_OUT"):
        with (Path(folder) / "measured.log").open("a") as log:
            log.write(text + "\n")


def sent(rail: int) -> int:
    """How many bytes this host has sent over a rail."""
    return int(Path(f"/sys/class/net/rail{rail}/statistics/tx_bytes").read_text())


@contextlib.contextmanager
def silent(rail: int) -> Iterator[None]:
    """Lose every packet of this host on a rail, which looks healthy all the while."""
    sh(f"tc qdisc add dev rail{rail} root netem loss 100%")
    try:
        yield
    finally:
        sh(f"tc qdisc del dev rail{rail} root")


@contextlib.contextmanager
def down(rail: int) -> Iterator[None]:
    """Take the port of a rail down."""
    sh(f"ip link set rail{rail} down")
    try:
        wait_state(rail, "DOWN")
        yield
    finally:
        sh(f"ip link set rail{rail} up")
        wait_state(rail, "ACTIVE")


def wait_state(rail: int, state: str) -> None:
    path = Path(f"/sys/class/infiniband/rxe{rail}/ports/1/state")
    deadline = time.monotonic() + 10
    while state not in path.read_text():
        assert time.monotonic() < deadline, f"{path} is {path.read_text()}, not {state}"
        time.sleep(0.02)


@contextlib.contextmanager
def no_devices() -> Iterator[None]:
    """This host without any verbs device."""
    for rail in (0, 1):
        sh(f"rdma link delete rxe{rail}")
    try:
        yield
    finally:
        for rail in (0, 1):
            sh(f"rdma link add rxe{rail} type rxe netdev rail{rail}")
            wait_state(rail, "ACTIVE")
