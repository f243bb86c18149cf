"""Hosts, devices, limits and peers that are not as they should be: an error that names the
thing and the remedy, and an engine that stays usable."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kit import Pages, clean, engine_environment, python, within
from mooncake import DeviceError, PeerUnreachable, Rejected
from nic import DEVICE, Nic
from peers import Peer
from wire import CONNECTION, METADATA, ask, descriptor, fake_peer, frame, port_of, receive

# Opens an engine with MC_FORCE_HCA and tells what happened; then one of tcp, which must
# work all the same; then two without MC_FORCE_HCA, which must work over tcp.
OPEN = """
import json, os, sys
from mooncake import Engine, MooncakeError

def moves(**options):
    with Engine("127.0.0.1", **options) as a, Engine("127.0.0.1", **options) as b:
        mine, theirs = bytearray(b"x" * 4096), bytearray(4096)
        source, target = a.register(mine), b.register(theirs)
        a.open_segment(b.session).write(source.address, target.address, 4096)
        assert theirs == mine
        assert a.stats().batches_rdma == 0

try:
    Engine("127.0.0.1", protocol="rdma", devices=sys.argv[1]).close()
    print(json.dumps(["", ""]))
except MooncakeError as error:
    print(json.dumps([type(error).__name__, str(error)]))
moves(protocol="tcp")
del os.environ["MC_FORCE_HCA"]
moves(protocol="rdma", devices=sys.argv[1])
"""

# What is wrong: settings of the NIC, devices, variables; the exception, words of its text.
BAD_HOSTS: dict[str, tuple[str, str, dict[str, str], str, list[str]]] = {
    "no device": ("ndev=0", "", {}, "DeviceError", ["ibv_devices"]),
    "no such device": ("", "mlx5_9", {}, "InvalidArgument", ["mlx5_9", "mlx5_0, mlx5_1"]),
    "no such device among good ones": ("", "mlx5_0,x", {}, "InvalidArgument", ['"x"']),
    "no permission": ("denied=13", "", {}, "DeviceError", [DEVICE, "/dev/infiniband/uverbs0"]),
    "all ports down": ("port=down", "", {}, "DeviceError", [DEVICE, "mlx5_1", "ip link"]),
    "port down": ("port=down", DEVICE, {}, "DeviceError", [DEVICE, "ip link"]),
    "no GID": ("gids=none", DEVICE, {}, "DeviceError", [DEVICE, "GID", "give its network"]),
    "wrong GID": ("", DEVICE, {"MC_GID_INDEX": "9"}, "DeviceError", [DEVICE, "GID index 9", "MC_GID_INDEX"]),
    "wrong port": ("", DEVICE, {"MC_IB_PORT": "2"}, "InvalidArgument", [f"port 2 of {DEVICE}"]),
}  # fmt: skip


def opened(devices: str, tmp_path: Path, **env: str) -> tuple[str, str]:
    """Run OPEN; the name of the exception, "" if there was none, and its text."""
    result = python(OPEN, devices, SOFTNIC_DIR=str(tmp_path), MC_FORCE_HCA="1", **env)
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stderr.splitlines() if "level=WARN" in line]
    assert len(lines) == 1, result.stderr
    assert "using tcp" in lines[0]
    name, text = json.loads(result.stdout)
    return name, text


@pytest.mark.parametrize("case", BAD_HOSTS)
def test_an_engine_cannot_be_opened(tmp_path: Path, case: str) -> None:
    setting, devices, variables, kind, words = BAD_HOSTS[case]
    name, text = opened(devices, tmp_path, SOFTNIC=setting, **variables)
    assert name == kind, text
    for word in [*words, "MC_FORCE_HCA"]:
        assert word in text


def test_without_libibverbs(tmp_path: Path) -> None:
    """Whether one is installed or not: a file in its place that is none."""
    (tmp_path / "libibverbs.so.1").write_text("no library")
    name, text = opened("", tmp_path, LD_LIBRARY_PATH=str(tmp_path))
    assert name == "Unsupported"
    assert "libibverbs" in text and "install libibverbs1" in text


def test_the_command_line_says_what_is_wrong(tmp_path: Path) -> None:
    def topology(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mooncake.cli", "topology", "--rdma", *arguments],
            capture_output=True, text=True, timeout=20,
            env=engine_environment(SOFTNIC_DIR=str(tmp_path), **env),
        )  # fmt: skip

    good = topology()
    clean(good)
    lines = good.stdout.splitlines()
    assert lines[0] == f"{DEVICE} port 1: active, Ethernet, MTU 4096, 200 Gb/s, used"
    assert lines[1] == "    PCIe x16, 32 GT/s"
    assert lines[2].split()[:3] == ["GID", "3", "198.51.100.1"] and lines[2].endswith("chosen")

    bad = topology(SOFTNIC="mlx5_0.port=down,mlx5_1.gids=none")
    assert bad.returncode == 1 and bad.stderr == ""
    assert "cannot be used: port 1 of mlx5_0 is down" in bad.stdout
    assert "cannot be used: mlx5_1 port 1: the port has no GID" in bad.stdout
    assert bad.stdout.splitlines()[-1] == "engines use none of them"

    one = topology("--json", "--devices", "mlx5_1", MC_GID_INDEX="1")
    (port,) = json.loads(one.stdout)["ports"]
    assert (port["device"], port["chosen"], port["used"]) == ("mlx5_1", 1, True)

    none = topology(SOFTNIC="ndev=0")
    assert none.returncode == 1
    assert none.stdout.startswith("no RDMA port: this host has no RDMA device")


# Memory that does not fit is refused with the remedy, all or nothing; what fits works.
LOCK = """
import resource
from mooncake import DeviceError, Engine

resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 20, 1 << 20))
big, small = bytearray(4 << 20), bytearray(b"x" * 4096)
with Engine("127.0.0.1") as a, Engine("127.0.0.1") as b:
    for call in (a.register, lambda m: a.register_many([small, m])):
        try:
            call(big)
        except DeviceError as error:
            assert "mlx5_0" in str(error) and "ulimit -l" in str(error), error
        else:
            raise SystemExit("it was registered")
        assert a.stats().memories == 0
    mine, theirs = a.register(small), b.register(bytearray(4096))
    a.open_segment(b.session).write(mine.address, theirs.address, 4096)
    assert a.stats().batches_rdma == 1
"""


def test_too_little_lockable_memory(tmp_path: Path) -> None:
    # There is no limit for root, unless it lacks the capability.
    prefix = ["setpriv", "--bounding-set=-ipc_lock"] if os.geteuid() == 0 else []
    result = subprocess.run(
        [*prefix, sys.executable, "-c", LOCK],
        capture_output=True, text=True, timeout=30,
        env=engine_environment(SOFTNIC_DIR=str(tmp_path), SOFTNIC="memlock=1M"),
    )  # fmt: skip
    clean(result)


def test_the_drop_in_returns_minus_one(tmp_path: Path) -> None:
    result = python(
        """
import os
from mooncake.engine import TransferEngine

e = TransferEngine()
assert e.initialize("127.0.0.1", "P2PHANDSHAKE", "rdma", "mlx5_0") == -1
assert e.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", "") == 0
""",
        SOFTNIC_DIR=str(tmp_path), SOFTNIC="port=down",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "DeviceError" in result.stderr and "ip link" in result.stderr


@pytest.mark.parametrize("op", ["write", "read"])
def test_memory_that_the_peer_took_back(engine: Any, peer: Peer, pages: Any, op: str) -> None:
    """Known to be gone or not: no byte lands, and the engine goes on."""
    here, there = pages(65536, 1), peer.memory("kv", 65536)
    other = peer.memory("other", 65536)
    engine.register(here.map)
    segment = engine.open_segment(peer.session)
    move = getattr(segment, op)
    move(here.address, there, 65536)
    peer.call("deregister", name="kv")
    with pytest.raises(Rejected):
        within(10, move, here.address, there, 65536)
    move(here.address, other, 65536)
    peer.call("register", name="kv")
    move(here.address, there, 65536)


def message(session: str, pairs: int, **changes: Any) -> bytes:
    """A request to connect as upstream sends it."""
    device = descriptor(session)["devices"][0]["name"]
    fields = {
        "local_nic_path": f"192.0.2.7:12345@{device}",
        "peer_nic_path": f"{session}@{device}",
        "qp_num": list(range(1, pairs + 1)),
        "local_gid": "00:00:00:00:00:00:00:00:00:00:ff:ff:c6:33:64:01",
        "local_lid": 0,
        "reply_msg": "",
        "ready_ack": False,
    }
    return json.dumps({**fields, **changes}).encode()


def test_a_peer_with_any_number_of_queue_pairs_asks(engine: Any, link: Any) -> None:
    """It gets as many; none at all are refused."""
    for pairs in (2, 3):
        at = f"192.0.2.7:{20000 + pairs}@{DEVICE}"
        request = message(engine.session, pairs, local_nic_path=at)
        accepted = json.loads(ask(port_of(engine.session), CONNECTION, request))
        assert accepted["reply_msg"] == "" and len(accepted["qp_num"]) == pairs
    refused = json.loads(ask(port_of(engine.session), CONNECTION, message(engine.session, 0)))
    assert refused["reply_msg"] and not refused["qp_num"]
    link.works()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"qp_num": [7, 8, 9]}, "MC_NUM_QP_PER_EP"),
        ({"qp_num": []}, ""),
        ({"qp_num": [], "reply_msg": "not here"}, "not here"),
        ({"qp_num": [1, 2], "local_gid": "nowhere"}, ""),
        (None, ""),
    ],
)
def test_a_peer_answers_what_cannot_be(
    open_engine: Callable[..., Any], pages: Any, answer: Any, words: str
) -> None:
    """A process that speaks upstream's handshake: the batch fails, and says why."""
    engine = open_engine()
    here = pages(4096, 1)
    engine.register(here.map)
    known = descriptor(engine.session)
    known.pop("mooncake_go")

    def serve(client: socket.socket) -> None:
        (length,) = struct.unpack("<Q", receive(client, 8))
        body = receive(client, length)
        kind, text = body[0], body[1:]
        if kind == METADATA:
            known["name"] = peer.session
            client.sendall(frame(METADATA, json.dumps(known).encode()))
        elif kind == CONNECTION and answer is not None:
            asked = json.loads(text)
            reply = {**asked, "local_nic_path": asked["peer_nic_path"],
                     "peer_nic_path": asked["local_nic_path"], **answer}  # fmt: skip
            client.sendall(frame(CONNECTION, json.dumps(reply).encode()))

    with fake_peer(serve) as peer:
        segment = engine.open_segment(peer.session)
        began = os.times().elapsed
        with pytest.raises((PeerUnreachable, DeviceError)) as raised:
            within(15, segment.connect)
        assert words in str(raised.value)
        assert os.times().elapsed - began < 10
        with pytest.raises((PeerUnreachable, DeviceError)):
            within(15, segment.write, here.address, here.address, 64)
    own = engine.open_segment(engine.session)
    own.write(here.address, here.address, 64)


def test_errors_of_the_device_end_in_an_outcome(link: Any, nic: Nic) -> None:
    """Requests that fail once are sent again; those that fail for ever are an error."""
    nic.set(fail_status="retry", fail_for=1, fail_at=100)
    link.move(1, 512)
    assert link.engine.stats().retries > 0
    nic.set(fail_status="retry", fail_for=10_000_000, fail_at=1)
    with pytest.raises(PeerUnreachable, match="quiet at both ends"):
        link.move(1, 512)
    nic.set(fail_at=0)
    link.works()


def test_memory_of_many_kinds_is_registered(engine: Any) -> None:
    """Untouched, touched in part, and a thousand buffers at once."""
    untouched = Pages(64 << 20)
    engine.register(untouched.map)
    some = [bytearray(4096 + k) for k in range(1000)]
    memories = engine.register_many(some)
    assert engine.stats().memories == 1001
    assert len(descriptor(engine.session)["buffers"]) >= 1001
    engine.deregister_many(memories)
    assert engine.stats().memories == 1
