"""In memory, too, an outcome says the truth: peers that die or stand still, memory that is
deregistered in the middle."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from kit import POISON, Pages, Running, free_port, stays, wait_until, within
from mooncake import DeadlineExceeded, Fenced, Op, PeerRestarted, PeerUnreachable, Quiet, Rejected
from peers import Peer, PeerError

# They catch a batch in the middle.
pytestmark = pytest.mark.alone

MIB = 1 << 20
SIZE = 64 * MIB
WAYS = ["on", "packed", "cma"]


@pytest.fixture(autouse=True, params=WAYS)
def default_variables(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    monkeypatch.setenv("MC_LOCAL", request.param)
    way: str = request.param
    return way


class Ours:
    """Memory of ours that a peer writes to."""

    def __init__(self, engine: Any, peer: Peer, pages: Callable[..., Pages]) -> None:
        self.engine, self.peer = engine, peer
        self.pages = pages(SIZE)
        self.memory = engine.register(self.pages.map)
        self.theirs = peer.memory("kv", SIZE, seed=9)
        peer.call("open", session=engine.session)

    def storm(self, block: int = 256, deadline: float = 30) -> None:
        """Let the peer begin to write all of it in random order; the answer is to come."""
        order = (np.random.default_rng(2).permutation(SIZE // block) * block).astype(int)
        self.peer.send("submit", session=self.engine.session, kind="write",
                       local=(self.theirs + order).tolist(),
                       remote=(self.pages.address + order).tolist(), lengths=block,
                       deadline=deadline)  # fmt: skip

    def poisoned(self) -> bool:
        return bool((self.pages.array == POISON).all())


@pytest.fixture
def ours(engine: Any, peer: Peer, pages: Callable[..., Pages]) -> Ours:
    return Ours(engine, peer, pages)


@pytest.mark.parametrize("block", [256, 65536])
def test_deregistered_in_a_storm_of_writes(ours: Ours, block: int) -> None:
    """When deregistering returns, the pages are the owner's: no late byte, ever."""
    refused = 0
    for attempt in range(6):
        ours.storm(block)
        wait_until(ours.pages.array.any, "bytes arrive")
        within(10, ours.memory.close)
        ours.pages.fill(POISON)
        stays(ours.poisoned, "no late byte", 0.05)
        ours.peer.receive()
        try:
            ours.peer.call("wait", batch=attempt)
        except PeerError as error:
            assert error.kind == Rejected.__name__, error
            assert error.quiet == Quiet.BOTH
            refused += 1
        assert ours.poisoned()
        ours.pages.fill(0)
        ours.memory = ours.engine.register(ours.pages.map)
    assert refused, "every batch was done before the memory was deregistered"


def test_registered_anew_at_the_same_address(ours: Ours) -> None:
    """What began before belongs to the old registration, and does not touch the new one."""
    refused = 0
    for attempt in range(10):
        ours.storm()
        wait_until(ours.pages.array.any, "bytes arrive")
        within(10, ours.memory.close)
        ours.pages.fill(POISON)
        ours.memory = ours.engine.register(ours.pages.map)
        ours.peer.receive()
        with contextlib.suppress(PeerError):
            ours.peer.call("wait", batch=attempt)
            ours.pages.fill(0)
            continue
        refused += 1
        stays(ours.poisoned, "nothing of the old batch", 0.05)
        break
    assert refused, "every batch was done before the memory was deregistered"
    ours.peer.call("submit", session=ours.engine.session, kind="write", local=ours.theirs,
                   remote=ours.pages.address, lengths=SIZE, deadline=20)  # fmt: skip
    assert ours.peer.call("wait", batch=attempt + 1)["bytes"] == SIZE
    assert ours.pages.sha() == ours.peer.sha("kv")


def test_fence_ends_what_the_peer_has_begun(ours: Ours) -> None:
    fenced = 0
    for attempt in range(20):
        ours.storm()
        wait_until(ours.pages.array.any, "bytes arrive")
        within(10, ours.engine.fence, ours.peer.session)
        ours.pages.fill(POISON)
        stays(ours.poisoned, "no late byte after the fence", 0.05)
        ours.peer.receive()
        try:
            ours.peer.call("wait", batch=attempt)
        except PeerError as error:
            assert error.kind == Fenced.__name__, error
            assert error.quiet == Quiet.BOTH
            fenced += 1
            break
        ours.pages.fill(0)
    assert fenced, "every batch was done before the fence"
    ours.peer.call("submit", session=ours.engine.session, kind="write", local=ours.theirs,
                   remote=ours.pages.address, lengths=SIZE, deadline=20)  # fmt: skip
    assert ours.peer.call("wait", batch=attempt + 1)["bytes"] == SIZE


def test_a_writer_that_is_killed_holds_nobody_up(ours: Ours) -> None:
    ours.storm()
    wait_until(ours.pages.array.any, "bytes arrive")
    ours.peer.kill()
    within(5, ours.memory.close)
    ours.pages.fill(POISON)
    stays(ours.poisoned, "no late byte")
    wait_until(lambda: ours.engine.stats().connections == 0, "its connection ends")


def test_a_writer_that_stands_still_writes_nothing_late(ours: Ours) -> None:
    """It may stand in the middle of a copy: then deregistering waits until it goes on."""
    ours.storm()
    wait_until(ours.pages.array.any, "bytes arrive")
    ours.peer.freeze()
    closing = Running(ours.memory.close)
    closing.thread.join(0.2)
    if not closing.alive:
        ours.pages.fill(POISON)
        stays(ours.poisoned, "it stands still")
    ours.peer.thaw()
    closing.result(5)
    ours.pages.fill(POISON)
    stays(ours.poisoned, "no late byte")


def test_our_peer_is_killed_in_mid_transfer(
    engine: Any, start_peer: Callable[..., Peer], pages: Callable[..., Pages]
) -> None:
    port = free_port()
    peer = start_peer("127.0.0.1", port)
    here = pages(SIZE, 1)
    engine.register(here.map)
    remote = peer.memory("kv", SIZE)
    segment = engine.open_segment(peer.session)
    order = np.random.default_rng(2).permutation(SIZE // 256).astype(np.uint64) * 256
    with segment.submit(Op.WRITE, here.address + order, remote + order, 256) as batch:
        peer.kill()
        try:
            within(5, batch.wait)
        except PeerUnreachable as error:
            assert error.quiet is Quiet.BOTH
    here.fill(POISON)
    with pytest.raises((PeerUnreachable, PeerRestarted)):
        within(5, segment.write, here.address, remote, 64)
    again = start_peer("127.0.0.1", port)
    with pytest.raises(PeerRestarted):
        within(5, segment.write, here.address, remote, 64)
    there = again.memory("kv", SIZE)
    engine.open_segment(again.session).write(here.address, there, SIZE, deadline=20)
    assert again.sha("kv") == here.sha()
    assert engine.stats().batches_open == 0


def test_our_peer_stands_still(
    engine: Any, peer: Peer, pages: Callable[..., Pages], default_variables: str
) -> None:
    """Who copies by itself does not need the peer; what is in a ring waits for it, and ends in
    time."""
    here = pages(SIZE, 1)
    engine.register(here.map)
    remote = peer.memory("kv", SIZE)
    segment = engine.open_segment(peer.session)
    segment.write(here.address, remote, 4096)
    peer.freeze()
    if default_variables == "packed":
        with pytest.raises(DeadlineExceeded) as raised:
            within(5, segment.write, here.address, remote, SIZE, deadline=0.2)
        assert raised.value.quiet is Quiet.BOTH, "the peer had begun nothing"
        here.fill(POISON)
        peer.thaw()
        stays(lambda: peer.strange("kv", 1) == 0, "no late byte at the peer")
    elif default_variables == "on":
        with segment.submit(Op.WRITE, here.address, remote, SIZE) as batch:
            waiting = SIZE // 4  # more than the rings hold; the rest goes past them
            wait_until(lambda: batch.poll().bytes_done >= SIZE - waiting, "the rest arrives")
            peer.thaw()
            within(5, batch.wait)
        assert peer.sha("kv") == here.sha()
    else:
        within(5, segment.write, here.address, remote, SIZE, deadline=4)
        peer.thaw()
        assert peer.sha("kv") == here.sha()
    segment.write(here.address, remote, SIZE, deadline=20)
    assert peer.sha("kv") == here.sha()


def test_closing_the_engine_ends_its_batches(
    engine: Any, peer: Peer, pages: Callable[..., Pages]
) -> None:
    here = pages(SIZE, 1)
    engine.register(here.map)
    remote = peer.memory("kv", SIZE)
    order = np.random.default_rng(2).permutation(SIZE // 256).astype(np.uint64) * 256
    segment = engine.open_segment(peer.session)
    batch = segment.submit(Op.WRITE, here.address + order, remote + order, 256, deadline=math.inf)
    within(5, engine.close)
    here.fill(POISON)
    stays(lambda: peer.strange("kv", 1) == 0, "no late byte at the peer")
    del batch
