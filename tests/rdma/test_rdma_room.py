"""A device that has room for few queue pairs: peers that are gone give way, others stay."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kit import free_port, wait_until
from nic import DEVICE
from peers import Peer, PeerError
from wire import CONNECTION, ask, descriptor, port_of

SIZE = 4096
ROOM = 20  # queue pairs
OF_OURS, OF_UPSTREAM = 4, 2  # queue pairs that a peer asks for


@pytest.fixture
def hub(tmp_path: Any) -> Iterator[Peer]:
    """An engine in another process, on a device of its own."""
    log = tmp_path / "hub.log"
    peer = Peer(SOFTNIC=f"host=1,max_qp={ROOM}", MC_LOG_LEVEL="INFO", log=log)
    yield peer
    peer.close()
    print(log.read_text())


def test_peers_that_were_killed_give_way(
    hub: Peer, engine: Any, pages: Any, start_peer: Callable[..., Peer]
) -> None:
    """They come back on other ports, one after the other, more of them than there is room for.
    One that lives is never cut off, although it connected before all others."""
    there = hub.memory("kv", SIZE)
    here = pages(SIZE, 1)
    engine.register(here.map)
    segment = engine.open_segment(hub.session)
    segment.write(here.address, there, SIZE, deadline=10)
    opened = engine.stats().connections_opened
    for seed in range(2 * ROOM // OF_OURS):
        peer = start_peer()
        local = peer.memory("own", SIZE, seed=seed)
        peer.call("open", session=hub.session)

        def moved(peer: Peer = peer, local: int = local) -> bool:
            """The first second after a peer died it is not asked whether it is there."""
            try:
                batch = peer.call(
                    "submit", session=hub.session, kind="write", local=[local], remote=[there],
                    lengths=[SIZE], deadline=None,
                )["batch"]  # fmt: skip
                return bool(peer.call("wait", batch=batch)["bytes"] == SIZE)
            except PeerError as error:
                assert "MC_MAX_EP_PER_CTX" in str(error) or "QP" in str(error), error
                return False

        wait_until(moved, "a connection", 15)
        assert hub.sha("kv") == peer.sha("own")
        peer.kill()
    segment.write(here.address, there, SIZE, deadline=10)
    assert engine.stats().connections_opened == opened
    assert hub.call("stats")["connections"] <= ROOM // OF_OURS


def test_upstreams_peers_that_are_gone_give_way(hub: Peer) -> None:
    """They connected as upstream does, and nobody listens where they did."""
    hub.memory("kv", SIZE)
    to = f"{hub.session}@{descriptor(hub.session)['devices'][0]['name']}"

    def connects(port: int) -> bool:
        request = {
            "local_nic_path": f"127.0.0.1:{port}@{DEVICE}", "peer_nic_path": to,
            "qp_num": list(range(1, OF_UPSTREAM + 1)), "local_lid": 0, "reply_msg": "",
            "local_gid": "00:00:00:00:00:00:00:00:00:00:ff:ff:c6:33:64:01",
        }  # fmt: skip
        answer = ask(port_of(hub.session), CONNECTION, json.dumps(request).encode())
        reply = json.loads(answer)
        return not reply["reply_msg"] and len(reply["qp_num"]) == OF_UPSTREAM

    for _ in range(ROOM // OF_UPSTREAM):
        assert connects(free_port()), "there is room"
    assert hub.call("stats")["connections"] == ROOM // OF_UPSTREAM
    for _ in range(3):
        port = free_port()
        wait_until(lambda port=port: connects(port), "a connection", 15)
    assert hub.call("stats")["connections"] <= ROOM // OF_UPSTREAM
