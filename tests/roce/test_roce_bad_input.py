"""What is wrong with this host or the request is said at once, by name and with the remedy; an
engine that was told to use rdma never goes over to tcp in silence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hosts import BOUND, DEVICE, LabPeer, down, no_devices, open_engine
from kit import within
from link import Link
from mooncake import DeviceError, InvalidArgument, MooncakeError, Op, PeerUnreachable, Unsupported

MIB = 1 << 20
pytestmark = pytest.mark.usefixtures("lab")


def refused(*words: str, devices: str = DEVICE, **env: str) -> MooncakeError:
    """Opening an engine fails with an error of ours that has these words."""
    with pytest.raises((DeviceError, InvalidArgument, Unsupported)) as raised:
        within(BOUND, open_engine, devices, **env)
    for word in words:
        assert word.lower() in str(raised.value).lower(), f"{word!r} is not in {raised.value}"
    return raised.value


def test_an_unknown_device() -> None:
    refused("mlx5_17", "rxe0", devices="mlx5_17")


def test_no_device_at_all() -> None:
    with no_devices():
        refused("device", devices="")
    within(BOUND, open_engine).close()


def test_a_port_that_is_down() -> None:
    with down(1):
        refused("rxe1", "down", devices="rxe1")
    within(BOUND, open_engine, "rxe1").close()


@pytest.mark.parametrize("index", ["200", "3"])
def test_a_gid_that_is_not_there(index: str) -> None:
    refused("rxe0", index, MC_GID_INDEX=index)


def test_a_gid_that_is_chosen_by_its_index(open_more: Callable[..., Any], peer: LabPeer) -> None:
    link = Link(open_more(MC_GID_INDEX="1"), peer)
    link.side(MIB).move(Op.WRITE, [0], [0], [MIB])
    link.free()


def test_another_number_of_queue_pairs(open_more: Callable[..., Any], peer: LabPeer) -> None:
    """Between two of ours the initiator says how many there are."""
    link = Link(open_more(MC_NUM_QP_PER_EP="5"), peer)
    link.side(MIB).move(Op.WRITE, [0], [0], [MIB])
    link.free()


def test_a_peer_without_rdma(open_more: Callable[..., Any]) -> None:
    """There is no transport in common, and no way out."""
    from mooncake import Engine

    engine, other = open_more(), Engine("198.51.100.1", protocol="tcp")
    try:
        with pytest.raises((Unsupported, PeerUnreachable)):
            within(BOUND, engine.open_segment, other.session)
    finally:
        other.close()


def test_nobody_listens(open_more: Callable[..., Any]) -> None:
    with pytest.raises(PeerUnreachable):
        within(BOUND, open_more().open_segment, "198.51.100.2:9")
