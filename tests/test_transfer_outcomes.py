"""What an outcome promises about late bytes: poisoned pages stay poisoned."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from kit import HEADER, POISON, Pages, Running, free_port, stays, wait_until, within
from mooncake import (
    Cancelled,
    DeadlineExceeded,
    Fenced,
    NotRegistered,
    Op,
    PeerRestarted,
    PeerUnreachable,
    Quiet,
    Rejected,
    StaleHandle,
)
from peers import Peer, PeerError
from stage import MIB, SEED, SIZE, Stage


def poisoned(stage: Stage) -> bool:
    return bool((stage.pages.array == POISON).all())


def source_never_seen_late(stage: Stage) -> None:
    """Poison the pages after the outcome of a write: none of it reaches the peer, which has
    only what the batch was to write."""
    stage.pages.fill(POISON)
    stage.peer.thaw()
    stays(lambda: stage.peer.strange("kv", SEED) == 0, "no late byte at the peer")


def settled(stage: Stage) -> None:
    """The peer has the last word about all that was sent to it: a transfer on the same
    segment is done, and so is whatever came before it."""
    probe = stage.peer.memory("probe", 4096)
    stage.segment.read(stage.pages.address, probe, 4096, deadline=10)


def cancelled_on_the_way(stage: Stage, op: Op) -> Cancelled:
    """Cancel a batch that runs, with a peer that is alive."""
    blocks = np.random.default_rng(1).permutation(SIZE // 256).astype(np.uint64) * 256
    for _ in range(20):
        batch = stage.segment.submit(
            op, stage.pages.address + blocks, stage.remote + blocks, 256, deadline=30
        )
        batch.cancel()
        try:
            with batch:
                within(10, batch.wait)
        except Cancelled as error:
            return error
    raise AssertionError("20 times the batch was done before it could be cancelled")


@pytest.mark.alone  # the peer confirms in time
def test_cancelled_write_with_a_live_peer_is_quiet_at_both_ends(stage: Stage) -> None:
    began = time.monotonic()
    error = cancelled_on_the_way(stage, Op.WRITE)
    assert time.monotonic() - began < 10
    assert error.quiet is Quiet.BOTH, error
    at_the_peer = stage.peer.sha("kv")
    source_never_seen_late(stage)
    assert stage.peer.sha("kv") == at_the_peer
    settled(stage)
    assert stage.peer.sha("kv") == at_the_peer


@pytest.mark.alone  # the peer confirms in time
def test_cancelled_read_with_a_live_peer_is_quiet_at_both_ends(stage: Stage) -> None:
    error = cancelled_on_the_way(stage, Op.READ)
    assert error.quiet is Quiet.BOTH, error
    stage.pages.fill(POISON)
    stays(lambda: poisoned(stage), "no late byte here")
    probe = stage.peer.memory("probe", 4096, seed=3)
    stage.segment.write(stage.pages.address, probe, 4096)
    assert poisoned(stage)


def ended_while_frozen(stage: Stage, op: Op, how: str) -> Any:
    """The exception of a batch that is ended while its peer process stands still."""
    stage.peer.freeze()
    batch = stage.submit(op, deadline=0.2 if how == "deadline" else math.inf)
    if how == "cancel":
        batch.cancel()
    with batch, pytest.raises((Cancelled, DeadlineExceeded)) as raised:
        within(10, batch.wait)
    assert raised.type is (Cancelled if how == "cancel" else DeadlineExceeded)
    return raised.value


@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_write_to_a_frozen_peer_is_quiet_here_only(stage: Stage, how: str) -> None:
    error = ended_while_frozen(stage, Op.WRITE, how)
    assert error.quiet is Quiet.LOCAL
    assert "quiet here only" in str(error)
    # What had reached the peer's host may be written when it goes on; nothing else is.
    source_never_seen_late(stage)
    # The engine goes on with the same peer.
    stage.segment.write(stage.pages.address, stage.remote, SIZE, deadline=20)
    assert stage.peer.sha("kv") == stage.pages.sha()


@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_read_from_a_frozen_peer_leaves_local_pages_alone(stage: Stage, how: str) -> None:
    error = ended_while_frozen(stage, Op.READ, how)
    assert error.quiet in (Quiet.LOCAL, Quiet.BOTH)
    stage.pages.fill(POISON)
    stage.peer.thaw()
    stays(lambda: poisoned(stage), "no late byte here")
    stage.peer.call("stats")  # it runs again, and has answered
    assert poisoned(stage)


def test_the_manual_says_what_quiet_local_means() -> None:
    text = " ".join(HEADER.read_text().replace("*", " ").split())
    assert "bytes that had reached its host may still be written there" in text


@pytest.mark.parametrize("op", [Op.WRITE, Op.READ])
def test_peer_killed_in_mid_transfer(stage: Stage, op: Op) -> None:
    stage.peer.freeze()  # so that the batch cannot end before
    with stage.submit(op, deadline=20) as batch:
        began = time.monotonic()
        stage.peer.kill()
        with pytest.raises(PeerUnreachable) as raised:
            within(10, batch.wait)
        assert time.monotonic() - began < 3
    assert isinstance(raised.value, ConnectionError)
    assert raised.value.quiet is Quiet.BOTH, raised.value
    stage.pages.fill(POISON)
    stays(lambda: poisoned(stage), "no late byte here")
    with pytest.raises((PeerUnreachable, PeerRestarted)):
        within(3, stage.segment.write, stage.pages.address, stage.remote, 64)
    assert stage.engine.stats().batches_open == 0


def test_opening_a_dead_peer_fails_at_once(stage: Stage) -> None:
    stage.peer.kill()
    with pytest.raises(PeerUnreachable, match="refused"):
        within(2, stage.engine.open_segment, stage.peer.session)


@pytest.mark.parametrize("before", ["idle", "in flight"])
def test_a_restarted_peer_is_never_mistaken_for_the_old_one(
    engine: Any, start_peer: Callable[..., Peer], pages: Callable[..., Pages], before: str
) -> None:
    port, at = free_port(), 0x6100_0000_0000  # the same memory addresses, too
    old = start_peer("127.0.0.1", port)
    local = pages(SIZE, 5)
    memory = engine.register(local.map)
    remote = old.memory("kv", SIZE, at=at)
    segment = engine.open_segment(old.session)
    segment.write(memory[0], remote, 4096)
    if before == "in flight":
        old.freeze()
        batch = segment.submit(Op.WRITE, memory[0], remote, SIZE)
    old.kill()
    new = start_peer("127.0.0.1", port)
    assert new.session == old.session
    assert new.memory("kv", SIZE, at=at) == remote
    if before == "in flight":
        with batch, pytest.raises((PeerRestarted, PeerUnreachable)):
            within(10, batch.wait)
    for move in (segment.write, segment.read):
        with pytest.raises(PeerRestarted) as raised:
            within(5, move, memory[0], remote, 4096)
        assert isinstance(raised.value, ConnectionResetError)
    assert segment.stale
    assert new.count("kv", 0) == SIZE, "the old segment wrote into the new process"
    again = engine.open_segment(new.session)
    again.write(memory[0], remote, SIZE)
    assert new.sha("kv") == local.sha()
    assert segment.stale and not again.stale


def test_a_batch_begun_after_a_fence_is_not_concerned(
    engine: Any, open_engine: Callable[..., Any], pages: Callable[..., Pages]
) -> None:
    other = open_engine()
    here, there = pages(MIB, 6), pages(MIB)
    engine.register(here.map), other.register(there.map)
    segment = engine.open_segment(other.session)
    for _ in range(5):
        segment.write(here.address, there.address, MIB)
        within(5, other.fence, engine.session)
    segment.write(here.address, there.address, MIB)
    assert there.sha() == here.sha()


def test_fence_ends_what_the_peer_has_begun(
    engine: Any, peer: Peer, pages: Callable[..., Pages]
) -> None:
    """The receiving side fences a peer that writes, and then owns its pages."""
    size = 64 * MIB
    ours = pages(size)
    engine.register(ours.map)
    theirs = peer.memory("kv", size, seed=9)
    peer.call("open", session=engine.session)
    order = (np.random.default_rng(2).permutation(size // 256) * 256).astype(int)
    fenced = 0
    for attempt in range(20):
        peer.send(
            "submit", session=engine.session, kind="write", local=(theirs + order).tolist(),
            remote=(ours.address + order).tolist(), lengths=256, deadline=30,
        )  # fmt: skip
        wait_until(ours.array.any, "bytes arrive")
        within(10, engine.fence, peer.session)
        ours.fill(POISON)
        stays(lambda: (ours.array == POISON).all(), "no late byte after the fence", 0.05)
        peer.receive()
        try:
            peer.call("wait", batch=attempt)
        except PeerError as error:
            assert error.kind == Fenced.__name__, error
            assert error.quiet == Quiet.BOTH
            fenced += 1
            break
        assert (ours.array == POISON).all()
        ours.fill(0)
    assert fenced, "every batch was done before the fence"
    assert (ours.array == POISON).all()
    peer.call("submit", session=engine.session, kind="write", local=theirs,
              remote=ours.address, lengths=size, deadline=20)  # fmt: skip
    assert peer.call("wait", batch=attempt + 1)["bytes"] == size
    assert ours.sha() == peer.sha("kv")


def test_deregistering_waits_for_the_batches_that_use_the_memory(stage: Stage) -> None:
    stage.peer.freeze()
    batch = stage.submit(deadline=math.inf)
    deregistering = Running(stage.memory.close)
    stays(lambda: deregistering.alive, "the memory is in use")
    assert not batch.done
    batch.cancel()
    deregistering.result(5)
    assert batch.done
    batch.close()


def test_memory_is_the_owners_again_after_deregistering_in_mid_transfer(
    engine: Any, peer: Peer, pages: Callable[..., Pages]
) -> None:
    """The receiving side deregisters while a peer writes, and then owns its pages."""
    size = 64 * MIB
    ours = pages(size)
    theirs = peer.memory("kv", size, seed=9)
    rejected = 0
    for attempt in range(20):
        memory = engine.register(ours.map)
        peer.call("open", session=engine.session)
        peer.call("submit", session=engine.session, kind="write", local=theirs,
                  remote=ours.address, lengths=size, deadline=20)  # fmt: skip
        within(10, memory.close)
        ours.fill(POISON)
        try:
            peer.call("wait", batch=attempt)
        except PeerError as error:
            assert error.kind in (Rejected.__name__, NotRegistered.__name__), error
            rejected += 1
        assert (ours.array == POISON).all()
        ours.fill(0)
        if rejected:
            break
    assert rejected, "every batch was done before the memory was deregistered"


def test_closing_the_engine_quiets_everything(stage: Stage) -> None:
    stage.peer.freeze()
    batches = [stage.submit(deadline=math.inf), stage.submit(Op.READ, deadline=math.inf)]
    waiters = [Running(batch.wait) for batch in batches]
    within(3, stage.engine.close)
    for waiter in waiters:
        with pytest.raises(StaleHandle):
            waiter.result(5)
    stage.pages.fill(POISON)
    stage.peer.thaw()
    stays(lambda: poisoned(stage), "no late byte here")
    stays(lambda: stage.peer.strange("kv", SEED) == 0, "no late byte at the peer")
