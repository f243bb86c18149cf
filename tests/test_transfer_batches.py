"""A batch's ways to be waited for, and how it ends: timeout, deadline, cancel, close."""

from __future__ import annotations

import asyncio
import math
import select
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from kit import Pages, Running, within
from peers import Peer
from stage import SIZE, Stage

from mooncake import (
    BatchState,
    BatchStatus,
    Cancelled,
    DeadlineExceeded,
    MooncakeError,
    Op,
    Quiet,
    StaleHandle,
    WaitTimeout,
    _ffi,
)


def status_in(error: MooncakeError) -> BatchStatus:
    assert error.batch_status is not None
    return error.batch_status


@pytest.fixture
def frozen(stage: Stage) -> Iterator[Stage]:
    """A stage whose peer process stands still: batches neither end nor fail by themselves."""
    stage.peer.freeze()
    yield stage
    stage.peer.thaw()


def test_poll_tells_progress(stage: Stage) -> None:
    with stage.submit() as batch:
        first = batch.poll()
        done = batch.wait(20)
    assert (first.blocks, first.bytes, first.error) == (1, SIZE, 0)
    assert 0 <= first.bytes_done <= SIZE
    assert (done.state, done.bytes_done, done.runs) == (BatchState.DONE, SIZE, 1)
    assert done.done and done.quiet is Quiet.NONE and not done.unconfirmed
    assert 0 < done.duration < 20
    assert stage.peer.sha("kv") == stage.pages.sha()


def test_the_duration_of_an_ended_batch_stands(stage: Stage) -> None:
    with stage.submit() as batch:
        batch.wait()
        assert batch.poll().duration == batch.poll().duration


@pytest.mark.alone
@pytest.mark.parametrize("timeout", [0, 0.05, 0.25])
def test_a_wait_that_times_out_cancels_nothing(frozen: Stage, timeout: float) -> None:
    batch = frozen.submit(deadline=math.inf)
    began = time.monotonic()
    with pytest.raises(WaitTimeout) as raised:
        within(5, batch.wait, timeout)
    assert timeout <= time.monotonic() - began < timeout + 1
    assert isinstance(raised.value, TimeoutError)
    assert raised.value.quiet is None
    assert status_in(raised.value).state is BatchState.RUNNING
    assert not batch.done
    frozen.peer.thaw()
    assert within(20, batch.wait).bytes_done == SIZE
    batch.close()
    assert frozen.peer.sha("kv") == frozen.pages.sha()


def test_several_threads_wait_for_one_batch(frozen: Stage) -> None:
    batch = frozen.submit(deadline=math.inf)
    waiters = [Running(batch.wait, timeout) for timeout in (None, None, 30, 60)]
    early = Running(batch.wait, 0.01)
    with pytest.raises(WaitTimeout):
        early.result(5)
    frozen.peer.thaw()
    assert {waiter.result(20).bytes_done for waiter in waiters} == {SIZE}
    batch.close()


def test_the_descriptor_is_readable_when_the_batch_has_ended(frozen: Stage) -> None:
    batch = frozen.submit(deadline=math.inf)
    assert batch.fileno() == batch.fileno()
    assert select.select([batch], [], [], 0.05)[0] == []
    frozen.peer.thaw()
    assert select.select([batch], [], [], 20)[0] == [batch]
    assert batch.poll().state is BatchState.DONE
    assert select.select([batch], [], [], 0)[0] == [batch], "it stays readable"
    batch.close()


def test_the_descriptor_of_an_ended_batch_is_readable(stage: Stage) -> None:
    with stage.submit() as batch:
        batch.wait()
        assert select.select([batch], [], [], 0)[0] == [batch]


def test_await(stage: Stage) -> None:
    async def move() -> Any:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        beside = asyncio.create_task(tick())
        with stage.submit() as one, stage.submit() as other:
            results = await asyncio.gather(one, other, one)
        beside.cancel()
        return results, ticks

    results, ticks = within(30, asyncio.run, move())
    assert [r.bytes_done for r in results] == [SIZE] * 3
    assert ticks > 1, "the loop was blocked"


def test_await_raises_what_wait_raises_and_can_be_cancelled(frozen: Stage) -> None:
    async def impatient() -> None:
        batch = frozen.submit(deadline=math.inf)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(batch, 0.05)
        assert not batch.done, "cancelling the await must not cancel the batch"
        batch.cancel()
        with pytest.raises(Cancelled):
            await batch
        batch.close()

    within(30, asyncio.run, impatient())


@pytest.mark.parametrize("op", [Op.WRITE, Op.READ])
def test_deadline(frozen: Stage, op: Op) -> None:
    began = time.monotonic()
    with frozen.submit(op, deadline=0.3) as batch, pytest.raises(DeadlineExceeded) as raised:
        within(10, batch.wait)
    assert 0.3 <= time.monotonic() - began < 3
    assert isinstance(raised.value, TimeoutError)
    assert status_in(raised.value).state is BatchState.FAILED
    assert frozen.engine.stats().batches_failed == 1


def test_a_deadline_that_is_not_reached_does_nothing(stage: Stage) -> None:
    with stage.submit(deadline=20) as batch:
        assert batch.wait().bytes_done == SIZE
    with stage.submit(deadline=math.inf) as batch:
        assert batch.wait().bytes_done == SIZE


def test_the_default_deadline_is_mc_transfer_timeout(
    open_engine: Callable[..., Any], peer: Peer, pages: Callable[..., Pages],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("MC_TRANSFER_TIMEOUT", "5")  # the least there is
    stage = Stage(open_engine(), peer, pages)
    monkeypatch.delenv("MC_TRANSFER_TIMEOUT")
    peer.freeze()
    began = time.monotonic()
    with stage.submit() as batch, pytest.raises(DeadlineExceeded):
        within(12, batch.wait)
    assert 5 <= time.monotonic() - began < 9


def test_cancel_ends_a_batch_and_is_harmless_afterwards(frozen: Stage) -> None:
    with frozen.submit(deadline=math.inf) as batch:
        batch.cancel()
        batch.cancel()
        with pytest.raises(Cancelled) as raised:
            within(5, batch.wait)
        batch.cancel()
        with pytest.raises(Cancelled):
            batch.wait()
    assert raised.value.quiet is status_in(raised.value).quiet is Quiet.LOCAL
    assert status_in(raised.value).error == raised.value.status


def test_cancelling_a_done_batch_changes_nothing(stage: Stage) -> None:
    with stage.submit() as batch:
        batch.wait()
        batch.cancel()
        assert batch.wait().state is BatchState.DONE


def test_close_cancels_and_waits(frozen: Stage) -> None:
    batch = frozen.submit(deadline=math.inf)
    within(5, batch.close)
    assert frozen.engine.stats().batches_open == 0
    assert frozen.engine.stats().batches_failed == 1
    for call in (batch.wait, batch.poll, batch.cancel, batch.fileno):
        with pytest.raises(StaleHandle):
            call()
    batch.close()


def test_a_waiter_is_woken_by_close(frozen: Stage) -> None:
    batch = frozen.submit(deadline=math.inf)
    waiter = Running(batch.wait)
    within(5, batch.close)
    with pytest.raises((Cancelled, StaleHandle)):
        waiter.result(5)


def test_cancel_leaves_the_neighbours_alone(stage: Stage) -> None:
    half = SIZE // 2
    blocks = np.arange(0, half, 4096, dtype=np.uint64)
    for _ in range(10):
        victim = stage.segment.submit(
            Op.WRITE, stage.pages.address + blocks[::-1], stage.remote + blocks[::-1], 4096
        )
        other = stage.segment.submit(
            Op.WRITE, stage.pages.address + half, stage.remote + half, half
        )
        victim.cancel()
        assert within(20, other.wait).bytes_done == half
        try:
            within(20, victim.wait)
        except Cancelled as error:
            assert error.quiet is Quiet.BOTH, error
        victim.close()
        other.close()
    assert stage.engine.stats().batches_open == 0


def test_closing_the_segment_lets_batches_go_on(frozen: Stage) -> None:
    batch = frozen.submit(deadline=math.inf)
    frozen.segment.close()
    frozen.peer.thaw()
    assert within(20, batch.wait).bytes_done == SIZE
    batch.close()


class Interrupted:
    """The library, in which the second quantum of a wait is interrupted."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def mc_wait(self, *arguments: Any) -> int:
        raise KeyboardInterrupt


@pytest.mark.parametrize("count", [1, 20_000])
def test_interrupted_write_is_quiet_before_the_exception_goes_on(
    frozen: Stage, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """write() cancels what it began when something is raised out of its wait."""
    local, remote = [frozen.pages.address] * count, [frozen.remote] * count
    monkeypatch.setattr(_ffi, "_library", Interrupted(_ffi.lib()))
    with pytest.raises(KeyboardInterrupt):
        within(10, frozen.segment.write, local, remote, SIZE)
    assert frozen.engine.stats().batches_open == 0
