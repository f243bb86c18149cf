"""Threads: the GIL is free, Ctrl-C is seen, and objects are shared without care."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from kit import Pages, Running, python, stays, wait_for_more, wait_until, within
from mooncake import Engine, MooncakeError, NotRegistered, Op, Rejected
from stage import Stage
from test_lifecycle import LOOPBACK

PAGE = 4096


@pytest.mark.alone
def test_python_runs_while_a_thread_waits(stage: Stage) -> None:
    stage.peer.freeze()
    batch = stage.submit(deadline=math.inf)
    waiter = Running(batch.wait, 30)
    counted = 0

    def counts() -> bool:
        nonlocal counted
        counted += 1
        return waiter.alive

    began = time.thread_time()
    stays(counts, "the thread waits", 0.3)
    assert counted > 20
    assert time.thread_time() - began < 0.3
    stage.peer.thaw()
    assert waiter.result(20).done
    batch.close()


@pytest.mark.alone
def test_waiting_takes_no_processor_time(stage: Stage) -> None:
    stage.peer.freeze()
    batch = stage.submit(deadline=math.inf)
    waiters = [Running(batch.wait, 30) for _ in range(8)]
    wait_until(lambda: all(w.alive for w in waiters), "all wait")
    before = time.process_time()
    stays(lambda: True, "", 0.5)
    assert time.process_time() - before < 0.25
    stage.peer.thaw()
    for waiter in waiters:
        waiter.result(20)
    batch.close()


@pytest.mark.parametrize("call", ["probe", "open_segment", "fence"])
def test_python_runs_while_the_control_plane_is_asked(stage: Stage, call: str) -> None:
    stage.peer.freeze()
    asking = Running(getattr(stage.engine, call), stage.peer.session)
    stays(lambda: True, "Python runs", 0.1)
    stage.peer.thaw()
    thing = asking.result(10)
    if thing is not None:
        thing.close()


def test_ctrl_c_reaches_the_main_thread_while_others_transfer() -> None:
    result = python(
        LOOPBACK
        + """
stop = threading.Event()
def work():
    while not stop.is_set():
        move()
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for turn in range(10):
    try:
        threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT)).start()
        while True:
            move()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
stop.set()
for thread in threads: thread.join(10)
assert engine.stats().batches_open == 0
move()
"""
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.split() == ["interrupted"] * 10


def in_threads(count: int, work: Callable[[int], None], timeout: float = 60) -> None:
    """Run work(number) in so many threads, begun together; raise what one of them raised."""
    start = threading.Barrier(count)

    def run(number: int) -> None:
        start.wait(10)
        work(number)

    for running in [Running(run, number) for number in range(count)]:
        running.result(timeout)


def test_many_threads_on_one_engine_and_segment(
    open_engine: Callable[..., Any], pages: Callable[..., Pages]
) -> None:
    here_engine, there_engine = open_engine(), open_engine()
    threads, share = 16, 64 * PAGE
    here, there = pages(threads * share, 1), pages(threads * share)
    back = pages(threads * share)
    for each in (here, back):
        here_engine.register(each.map)
    there_engine.register(there.map)
    segment = here_engine.open_segment(there_engine.session)

    def work(number: int) -> None:
        order = np.random.default_rng(number).permutation(share // PAGE) * PAGE + number * share
        for _ in range(10):
            segment.write(order + here.address, order + there.address, PAGE)
            segment.read(order + back.address, order + there.address, PAGE)

    in_threads(threads, work)
    assert there.sha() == back.sha() == here.sha()
    assert here_engine.stats().batches_open == 0
    assert here_engine.stats().batches == threads * 20


def test_registrations_come_and_go_beside_transfers(
    open_engine: Callable[..., Any], pages: Callable[..., Pages]
) -> None:
    """Transfers of memory that stays are not disturbed."""
    one, other = open_engine(), open_engine()
    half = 64 * PAGE
    here, there = pages(2 * half, 2), pages(2 * half)
    one.register(here.address, half), other.register(there.address, half)
    segment = one.open_segment(other.session)
    stop = threading.Event()

    def churn(number: int) -> int:
        """Register a piece of the other half on either side, use it, deregister it."""
        size = half // 2
        at = half + number * size
        turns = 0
        while not stop.is_set():
            with one.register(here.address + at, size), other.register(there.address + at, size):
                segment.write(here.address + at, there.address + at, size)
            turns += 1
        return turns

    def steady(number: int) -> None:
        at = number * half // 4
        for _ in range(150):
            segment.write(here.address + at, there.address + at, half // 4)

    churners = [Running(churn, number) for number in range(2)]
    in_threads(4, steady)
    stop.set()
    assert all(churner.result(20) > 3 for churner in churners)
    assert there.sha() == here.sha()
    assert (one.stats().memories, other.stats().memories) == (1, 1)


def test_deregistering_beneath_transfers(
    open_engine: Callable[..., Any], pages: Callable[..., Pages]
) -> None:
    """Transfers into memory that comes and goes are done or refused, and nothing else; while
    it is not registered nobody writes there."""
    one, other = open_engine(), open_engine()
    here, there = pages(16 * PAGE, 4), pages(16 * PAGE)
    one.register(here.map)
    memory = other.register(there.map)
    segment = one.open_segment(other.session)
    stop = threading.Event()

    def write(number: int) -> tuple[int, int]:
        outcomes = [0, 0]
        while not stop.is_set():
            try:
                segment.write(here.address, there.address, 16 * PAGE)
                outcomes[0] += 1
            except (NotRegistered, Rejected):
                outcomes[1] += 1
        return outcomes[0], outcomes[1]

    writers = [Running(write, number) for number in range(4)]
    for turn in range(60):
        within(10, memory.close)
        there.fill(turn)
        as_filled = there.sha()
        stays(lambda: there.sha() == as_filled, "nobody writes", 0.004)  # noqa: B023
        memory = other.register(there.map)
        wait_for_more(lambda: other.stats().served_written, "it is used again")
    stop.set()
    outcomes = [writer.result(20) for writer in writers]
    assert sum(done for done, _ in outcomes) >= 60
    assert sum(refused for _, refused in outcomes) > 0


def test_segments_and_engines_are_closed_beneath_transfers(
    open_engine: Callable[..., Any], pages: Callable[..., Pages]
) -> None:
    """Whoever loses the race gets an exception of the package; nothing hangs or crashes."""
    peer = open_engine()
    there = pages(16 * PAGE)
    peer.register(there.map)
    for _ in range(15):
        engine = Engine("127.0.0.1")
        here = pages(16 * PAGE, 5)
        engine.register(here.map)
        segment = engine.open_segment(peer.session)
        begun = threading.Semaphore(0)

        def work(segment: Any = segment, here: Any = here, begun: Any = begun) -> str:
            try:
                while True:
                    segment.write(here.address, there.address, 16 * PAGE)
                    begun.release()
            except MooncakeError as error:
                return type(error).__name__

        workers = [Running(work) for _ in range(4)]
        for _ in range(8):
            assert begun.acquire(timeout=10)
        within(10, engine.close)
        assert {worker.result(10) for worker in workers} == {"StaleHandle"}


def test_batches_are_polled_cancelled_and_closed_by_others(
    open_engine: Callable[..., Any], pages: Callable[..., Pages]
) -> None:
    one, other = open_engine(), open_engine()
    here, there = pages(256 * PAGE, 6), pages(256 * PAGE)
    one.register(here.map), other.register(there.map)
    segment = one.open_segment(other.session)

    def work(number: int) -> None:
        for _ in range(40):
            batch = segment.submit(Op.WRITE, here.address, there.address, 256 * PAGE)
            calls = [batch.poll, batch.cancel, batch.fileno, batch.wait, batch.close, batch.close]
            for running in [Running(call) for call in calls]:
                try:
                    running.result(20)
                except MooncakeError:
                    pass

    in_threads(4, work)
    assert one.stats().batches_open == 0
