"""Processes with engines on rdma: idle, forked, ending, killed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import pytest
from kit import POISON, Pages, clean, python, stays, wait_until, within
from mooncake import Cancelled, Engine, Op, PeerRestarted, PeerUnreachable, Quiet, StaleHandle
from nic import Link, Nic
from peers import Peer

SETUP = """
import mmap, os, sys, time
import mooncake
from mooncake import Engine, Op

SIZE = 16 << 20
mine, theirs = mmap.mmap(-1, SIZE), mmap.mmap(-1, SIZE)
a, b = Engine("127.0.0.1"), Engine("127.0.0.1")
source, target = a.register(mine), b.register(theirs)
segment = a.open_segment(b.session)
segment.write(source.address, target.address, 4096)
assert a.stats().batches_rdma == 1
"""


def test_an_idle_engine_needs_no_processor() -> None:
    """Connected, and after there was something to do."""
    result = python(
        SETUP
        + """
segment.write(range(source[0], source[SIZE - 1], 512), range(target[0], target[SIZE - 1], 512), 256)
for attempt in range(5):
    time.sleep(0.2)  # what is left to do is done
    began = time.process_time()
    time.sleep(1)
    share = (time.process_time() - began) / 2  # two engines
    if share < 0.01:
        break
else:
    raise SystemExit(f"{share:.1%} of a core for each engine")
""",
    )
    clean(result)


def test_a_process_ends_with_batches_in_flight(nic: Nic, engine: Any) -> None:
    """Whether or not it closes what it has; the peer does not mind."""
    nic.set(rate=1000)
    for end in ("", "del segment, a, b", "a.close()", "batch.cancel()", "os._exit(0)"):
        began = time.monotonic()
        result = python(
            SETUP
            + """
n = SIZE // 512
batch = segment.submit(Op.WRITE, [source[2 * k * 256] for k in range(n)],
                       [target[2 * k * 256] for k in range(n)], 256)
assert not batch.poll().done
"""
            + end,
            SOFTNIC="kernel_copy=1",  # what is freed at the end stays readable to a real NIC
        )
        assert result.returncode == 0, (end, result.stderr)
        assert "Traceback" not in result.stderr and "panic" not in result.stderr, result.stderr
        assert time.monotonic() - began < 15, end


def test_fork() -> None:
    """The child can use nothing and hurt nothing; the parent goes on, also in a batch."""
    result = python(
        SETUP
        + """
at = range(0, SIZE, 512)
batch = segment.submit(Op.WRITE, [source[k] for k in at], [target[k] for k in at], 256)
pid = os.fork()
if pid == 0:
    for call in (lambda: Engine("127.0.0.1"), batch.wait, segment.connect, mooncake.rdma_ports):
        try:
            call()
        except mooncake.ForkedError:
            continue
        os._exit(1)
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
batch.wait(20)
mine[:5] = b"after"
segment.write(source.address, target.address, 5)
assert theirs[:5] == b"after"
for thing in (batch, segment, a, b):
    thing.close()
"""
    )
    clean(result)


def test_engines_come_and_go(open_engine: Callable[..., Any]) -> None:
    """Used or not, and nothing of them is left."""
    other, theirs = open_engine(), Pages(1 << 20)
    other.register(theirs.map)

    def once(used: bool) -> None:
        with Engine("127.0.0.1") as engine:
            mine = Pages(1 << 20, 1)
            engine.register(mine.map)
            if used:
                engine.open_segment(other.session).write(mine.address, theirs.address, mine.size)
                assert theirs.sha() == mine.sha()

    once(True)
    wait_until(lambda: other.stats().connections == 0, "the connection is given up")
    before = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
    for k in range(20):
        once(k % 2 == 0)
    wait_until(lambda: other.stats().connections == 0, "the connections are given up")
    after = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
    assert after[0] <= before[0] + 2
    assert after[1] <= before[1] + 10  # threads of the Go runtime, which it keeps


@pytest.mark.parametrize("op", list(Op))
def test_a_killed_peer(link: Link, nic: Nic, op: Op) -> None:
    """In the middle of a batch: an error in seconds, and the pages are the caller's again."""
    nic.set(rate=5000, retry=200)
    with link.submit(op) as batch:
        wait_until(lambda: batch.poll().bytes_done > 0, "the first bytes")
        began = time.monotonic()
        link.peer.kill()
        with pytest.raises(PeerUnreachable) as raised:
            within(10, batch.wait)
        assert time.monotonic() - began < 4
    assert raised.value.quiet is Quiet.BOTH
    link.pages.fill(POISON)
    stays(lambda: bool((link.pages.array == POISON).all()), "no late byte here")
    with pytest.raises((PeerUnreachable, PeerRestarted)):
        within(5, link.segment.write, link.pages.address, link.remote, 64)


@pytest.mark.parametrize(
    "end", ["cancel", "close the batch", "close the segment", "close the engine"]
)
def test_a_batch_is_ended(link: Link, nic: Nic, end: str) -> None:
    """With a peer that is alive: quickly, quiet at both ends, and its neighbour is not
    concerned."""
    nic.set(rate=20_000)
    batch = link.submit(Op.WRITE)
    wait_until(lambda: batch.poll().bytes_done > 0, "the first bytes")
    began = time.monotonic()
    if end == "cancel":
        batch.cancel()
        with pytest.raises(Cancelled) as raised:
            batch.wait(5)
        assert raised.value.quiet is Quiet.BOTH
    elif end == "close the batch":
        within(5, batch.close)
    elif end == "close the segment":
        link.segment.close()
        assert not batch.done, "it goes on"
        within(5, batch.close)
    else:
        within(5, link.engine.close)
        with pytest.raises(StaleHandle):
            batch.poll()
    assert time.monotonic() - began < 2
    # What the batch did not write by now it never will.
    link.pages.fill(POISON - 1)
    left = link.peer.count("kv", POISON)
    stays(lambda: link.peer.count("kv", POISON) == left, "no late byte at the peer")
    assert link.peer.count("kv", POISON - 1) < link.SIZE // 100  # the pattern has some, too


def test_closing_while_nothing_moves(link: Link) -> None:
    """A NIC and a peer that stand still do not keep an engine from closing."""
    link.works()  # connected
    link.peer.freeze()
    link.submit(Op.WRITE), link.submit(Op.READ)
    within(6, link.engine.close)
    link.pages.fill(POISON)
    link.peer.thaw()
    stays(lambda: bool((link.pages.array == POISON).all()), "no late byte here")


def test_a_fenced_peer_begins_again(engine: Any, peer: Peer, pages: Any, nic: Nic) -> None:
    """What it had begun fails, quiet at both ends; what it begins later works."""
    ours = pages(8 << 20)
    engine.register(ours.map)
    theirs = peer.memory("kv", 8 << 20, seed=9)
    peer.call("open", session=engine.session)
    nic.set(rate=20_000)
    at = list(range(0, 8 << 20, 512))
    peer.call("submit", session=engine.session, kind="write", local=[theirs + k for k in at],
              remote=[ours.address + k for k in at], lengths=256, deadline=30)  # fmt: skip
    wait_until(ours.array.any, "bytes arrive")
    within(5, engine.fence, peer.session)
    ours.fill(POISON)
    stays(lambda: bool((ours.array == POISON).all()), "no late byte after the fence")
    with pytest.raises(Exception, match="Fenced") as raised:
        peer.call("wait", batch=0)
    assert raised.value.quiet == Quiet.BOTH  # type: ignore[attr-defined]
    nic.set(rate=0)
    peer.call("submit", session=engine.session, kind="write", local=theirs, remote=ours.address,
              lengths=8 << 20, deadline=20)  # fmt: skip
    assert peer.call("wait", batch=1)["bytes"] == 8 << 20
    assert ours.sha() == peer.sha("kv")
