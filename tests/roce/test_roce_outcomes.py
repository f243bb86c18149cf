"""How transfers between the hosts end when they do not end well: in bounded time, with an error
that says what may still be written, and without a late byte."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hosts import A_WHILE, BOUND, DEVICE, IN_LAB, LONG, LabPeer, measured, silent
from kit import POISON, Pages, Running, free_port, stays, wait_until, within
from link import Link, Side
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
from peers import PeerError

MIB = 1 << 20
QUIET = 0.3  # seconds without a late byte


def works(link: Link) -> None:
    """The engine moves bytes to its peer and back."""
    side = link.side(300_000)
    side.move(Op.WRITE, [1], [2], [299_000])
    side.move(Op.READ, [3], [0], [299_000])


def ended(batch: Any, *errors: type[BaseException]) -> Any:
    """The exception of a batch, which must come within BOUND."""
    with batch, pytest.raises(errors) as raised:
        within(BOUND, batch.wait)
    return raised.value


def no_late_byte(link: Link, side: Side, op: Op) -> None:
    """After a batch has ended quietly its pages are the caller's: poison stays at the
    destination, and poison in the source never arrives."""
    side.here.fill(POISON)
    if op is Op.READ:
        stays(side.poisoned, "no late byte here", QUIET)
        return
    before = link.peer.sha(side.name)
    assert link.peer.count(side.name, POISON) == 0
    stays(lambda: link.peer.count(side.name, POISON) == 0, "no late byte at the peer", QUIET)
    assert link.peer.sha(side.name) == before


@pytest.mark.parametrize("op", Op)
def test_cancel(link: Link, op: Op) -> None:
    side = link.side(A_WHILE)
    batch = link.begin(side, op)
    began = time.monotonic()
    batch.cancel()
    error = ended(batch, Cancelled)
    took = time.monotonic() - began
    assert error.quiet is Quiet.BOTH, error
    no_late_byte(link, side, op)
    measured(f"cancel of a {op.name.lower()}: quiet at both ends after {took * 1000:.0f} ms")
    works(link)


@pytest.mark.parametrize("op", Op)
def test_deadline(link: Link, op: Op) -> None:
    side = link.side(A_WHILE)
    link.side(64).move(op, [0], [0], [64])  # so that the time is the transfer's only
    batch = link.segment.submit(
        op, side.here.address, side.remote, side.size, deadline=0.15 if IN_LAB else 0.01
    )
    error = ended(batch, DeadlineExceeded)
    assert error.quiet is Quiet.BOTH, error
    no_late_byte(link, side, op)
    works(link)


def test_a_cancelled_batch_leaves_its_neighbours_alone(link: Link) -> None:
    side, other = link.side(A_WHILE), link.side(MIB)
    batch = link.begin(side)
    other.expect(Op.WRITE, [0], [0], [MIB])
    neighbour = link.segment.submit(Op.WRITE, other.here.address, other.remote, MIB, deadline=60)
    batch.cancel()
    ended(batch, Cancelled)
    with neighbour:
        assert within(60, neighbour.wait).bytes_done == MIB
    other.check()


@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_silence_on_the_rail(lab: None, link: Link, how: str) -> None:
    """Packets are lost while the port looks healthy. The peer can be asked elsewhere, so the
    batch is quiet at both ends; once packets pass, the engine works again."""
    side = link.side(MIB)
    side.move(Op.WRITE, [0], [0], [64])
    with silent(0):
        batch = link.segment.submit(
            Op.WRITE, side.here.address, side.remote, side.size,
            deadline=math.inf if how == "cancel" else 0.5,
        )  # fmt: skip
        began = time.monotonic()
        if how == "cancel":
            batch.cancel()
        error = ended(batch, Cancelled if how == "cancel" else DeadlineExceeded, PeerUnreachable)
        measured(f"silent rail, {how}: ended after {time.monotonic() - began:.2f} s: {error}")
        assert error.quiet in (Quiet.BOTH, Quiet.LOCAL), error
        side.here.fill(POISON)
    if error.quiet is Quiet.BOTH:
        stays(lambda: link.peer.count(side.name, POISON) == 0, "no late byte at the peer", QUIET)
    works(link)


def test_lost_packets_are_sent_again(lab: None, link: Link) -> None:
    """A pause that the hardware's retries outlast is not seen."""
    side = link.side(2 * MIB)
    side.expect(Op.WRITE, [0], [0], [side.size])
    with link.segment.submit(
        Op.WRITE, side.here.address, side.remote, side.size, deadline=60
    ) as batch:
        with silent(0):
            time.sleep(0.05)  # the pause itself
        within(60, batch.wait)
    side.check()


@pytest.mark.parametrize("op", Op)
def test_the_peer_is_killed(doomed: Link, shared: Any, open_more: Callable[..., Any], op: Op) -> None:
    side = doomed.side(A_WHILE)
    batch = doomed.begin(side, op)
    began = time.monotonic()
    doomed.peer.kill()
    error = ended(batch, PeerUnreachable, PeerRestarted)
    measured(f"peer killed during a {op.name.lower()}: {time.monotonic() - began:.2f} s: {error}")
    assert isinstance(error, ConnectionError)
    assert error.quiet in (Quiet.BOTH, Quiet.LOCAL), error
    side.here.fill(POISON)
    stays(side.poisoned, "no late byte here", QUIET)
    with pytest.raises((PeerUnreachable, PeerRestarted)):
        within(BOUND, doomed.segment.write, side.here.address, side.remote, 64)
    assert doomed.engine.stats().batches_open == 0
    # The engine goes on with others.
    works(Link(doomed.engine, shared.get()))


def mistaken(link: Link, new: LabPeer, at: int) -> None:
    """Another engine answers where the link's peer was, with the same memory, full of zeros."""
    here = Pages(MIB, 1)
    held = link.engine.register(here.map)
    assert new.session == link.segment.name
    for move in (link.segment.write, link.segment.read):
        with pytest.raises(PeerRestarted):
            within(BOUND, move, here.address, at, 4096)
    assert link.segment.stale
    assert new.count("kv", 0) == MIB, "the old segment wrote into the new engine's memory"
    again = link.engine.open_segment(new.session)
    within(BOUND, again.write, here.address, at, MIB)
    assert new.sha("kv") == here.sha()
    held.close()


def test_another_engine_at_the_old_address(engine: Any, peer: LabPeer) -> None:
    link = Link(engine, peer)
    at = peer.memory("kv", MIB, seed=5)
    link.side(4096).move(Op.WRITE, [0], [0], [4096])
    peer.call("reopen", devices=DEVICE)
    peer.call("fill", name="kv", value=0)
    peer.call("register", name="kv")
    mistaken(link, peer, at)
    peer.call("free", name="kv")


@pytest.mark.skipif(IN_LAB and not LONG, reason="takes two more Pythons: ROCE_LONG=1")
def test_another_process_at_the_old_address(engine: Any) -> None:
    port, at = free_port(), 0x6100_0000_0000
    old = new = LabPeer(port)
    try:
        link = Link(engine, old)
        old.memory("kv", MIB, seed=5, at=at)
        link.side(4096).move(Op.WRITE, [0], [0], [4096])
        old.kill()
        new = LabPeer(port)
        new.memory("kv", MIB, at=at)
        mistaken(link, new, at)
    finally:
        old.close()
        new.close()


def receiver(link: Link, side: Side) -> int:
    """The peer begins to write all of the memory here, in small blocks; the batch's number."""
    block = 1 << 14
    order = np.random.default_rng(2).permutation(side.size // block) * block
    link.peer.call("open", session=link.engine.session)
    link.peer.send(
        "submit", session=link.engine.session, kind="write",
        local=(order + side.remote).tolist(), remote=(order + side.here.address).tolist(),
        lengths=block, deadline=60,
    )  # fmt: skip
    seen = side.here.array[::block]  # a byte of each
    before = seen.copy()
    wait_until(lambda: (seen != before).any(), "bytes arrive", 30)
    number: int = link.peer.receive(30)["batch"]
    return number


def outcome(link: Link, batch: int) -> str:
    """The error of a batch of the peer's, its class first; "" if it is done."""
    try:
        link.peer.call("wait", batch=batch, timeout=60)
    except PeerError as error:
        return str(error)
    return ""


def test_fence(link: Link) -> None:
    """The receiving side fences a peer that writes, and then owns its pages."""
    side = link.side(A_WHILE)
    for _ in range(8):  # the batch can be done before the fence
        side.fill_here(0)
        batch = receiver(link, side)
        began = time.monotonic()
        within(BOUND, link.engine.fence, link.peer.session, BOUND - 2)
        took = time.monotonic() - began
        side.here.fill(POISON)
        stays(side.poisoned, "no late byte after the fence", QUIET)
        ended_with = outcome(link, batch)
        assert side.poisoned()
        if ended_with:
            break
    assert ended_with.startswith(Fenced.__name__)
    measured(f"fence: {took * 1000:.0f} ms")
    # What the peer begins later arrives.
    again = receiver(link, side)
    assert outcome(link, again) == ""
    assert link.peer.sha(side.name) == side.here.sha()


def test_deregistering_the_destination(link: Link) -> None:
    """The receiving side deregisters while the peer writes, and then owns its pages."""
    side = link.side(A_WHILE)
    for _ in range(8):  # the batch can be done before
        side.fill_here(0)
        batch = receiver(link, side)
        within(BOUND, side.memory.close)
        side.here.fill(POISON)
        stays(side.poisoned, "no late byte after deregistering", QUIET)
        ended_with = outcome(link, batch)
        assert side.poisoned()
        if ended_with:
            break
        side.memory = link.engine.register(side.here.map)
    assert ended_with.startswith((Rejected.__name__, NotRegistered.__name__))
    side.memory = link.engine.register(side.here.map)
    again = receiver(link, side)
    assert outcome(link, again) == ""
    assert link.peer.sha(side.name) == side.here.sha()


def test_deregistering_waits_for_the_batches_here(link: Link) -> None:
    side = link.side(A_WHILE)
    batch = link.begin(side, deadline=math.inf)
    closing = Running(side.memory.close)
    batch.cancel()
    closing.result(BOUND)
    assert batch.done
    batch.close()
    side.memory = None


def test_memory_that_is_registered_anew_is_found(link: Link) -> None:
    """The key that the segment knows is stale: it is fetched again, and nobody notices."""
    side = link.side(MIB)
    side.move(Op.WRITE, [0], [0], [4096])
    for _ in range(3):
        link.peer.call("deregister", name=side.name)
        link.peer.call("register", name=side.name)
        side.move(Op.WRITE, [100], [200], [300_000])
        side.move(Op.READ, [0], [500], [300_000])


def test_deregistered_memory_is_refused(link: Link) -> None:
    """A block to it fails, whatever key was known; blocks to other memory do not."""
    side, other = link.side(MIB), link.side(MIB)
    side.move(Op.WRITE, [0], [0], [4096])
    link.peer.call("deregister", name=side.name)
    for move in (link.segment.write, link.segment.read):
        with pytest.raises((Rejected, NotRegistered)):
            within(BOUND, move, side.here.address, side.remote, 4096, deadline=BOUND - 2)
    other.move(Op.WRITE, [0], [0], [MIB])
    link.peer.call("register", name=side.name)
    side.move(Op.WRITE, [0], [0], [MIB])


def test_a_remote_address_out_of_range(link: Link) -> None:
    side = link.side(8192)
    for at in (side.remote + 8000, side.remote - 100):
        with pytest.raises((NotRegistered, Rejected)):
            within(BOUND, link.segment.write, side.here.address, at, 400)
    side.check()
    works(link)


@pytest.mark.parametrize("op", Op)
def test_closing_the_engine_quiets_everything(
    open_more: Callable[..., Any], peer: LabPeer, op: Op
) -> None:
    link = Link(open_more(), peer)
    side = link.side(A_WHILE)
    batch = link.begin(side, op, deadline=math.inf)
    waiting = Running(batch.wait)
    within(BOUND, link.engine.close)
    with contextlib.suppress(StaleHandle):  # it may have been done before
        waiting.result(5)
    side.memory = None
    side.here.fill(POISON)
    if op is Op.READ:
        stays(side.poisoned, "no late byte here", QUIET)
    else:
        stays(lambda: peer.count(side.name, POISON) == 0, "no late byte at the peer", QUIET)
    link.free()
