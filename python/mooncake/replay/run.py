"""A replay: passes of the load, every configuration and engine in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

from .measure import PassResult, Way
from .options import Plan
from .pair import Engine, Pair, ours, upstream
from .pools import Pool, count_runs, open_pool
from .schedule import Capacity, Job, Scheduler


class Progress(Protocol):
    """Where a replay says how far it is."""

    def begin(self, title: str, total: int) -> None: ...
    def step(self, requests: int, result: PassResult) -> None: ...
    def end(self, result: PassResult) -> None: ...


@dataclass
class Replay:
    """What came out."""

    passes: list[PassResult] = field(default_factory=list)
    calibrations: list[dict[str, Any]] = field(default_factory=list)
    engines: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


def engines_of(plan: Plan) -> list[Engine]:
    options = plan.options
    found = [ours(options.transport, options.protocol)]
    if plan.upstream is not None:
        found.append(upstream(plan.upstream, options.transport))
    return found


def open_pairs(plan: Plan, stack: ExitStack) -> list[Pair]:
    """A pair of processes for each engine, which all configurations share."""
    shape = plan.shape.shape
    memory = {
        "buffers": shape.buffers,
        "row_bytes": shape.row_bytes,
        "tape_tokens": plan.tape_tokens,
        "seed": plan.options.seed,
        "concurrency": plan.options.concurrency,
    }
    pairs: list[Pair] = []
    for engine in engines_of(plan):
        pair = Pair(engine, memory, plan.prefill_tokens, plan.pool_tokens)
        stack.push(_Closing(pair))
        pairs.append(pair)
    return pairs


class _Closing:
    """Ends a pair at once after a failure, in an orderly way otherwise."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, *_: object) -> None:
        self._pair.close(kill=kind is not None)


def calibrated(pairs: Sequence[Pair], plan: Plan) -> list[dict[str, Any]]:
    """The constants of the cost model, measured before any request runs."""
    sizes = sorted({capacity.page_size for capacity in plan.capacities} | {1, 16, 64})
    longest = min(plan.pool_tokens, plan.prefill_tokens) // 4
    prompt = max(1, sum(r.input for r in plan.requests[0]) // len(plan.requests[0]))
    return [
        {"engine": pair.engine.name, "page_size": size, **pair.calibrate(size, prompt)}
        for pair in pairs
        for size in sizes
        if size <= longest and not (plan.pool_tokens % size or plan.prefill_tokens % size)
    ]


def replay(
    plan: Plan, progress: Progress, open_pool: Callable[[str, int], Pool] = open_pool
) -> Replay:
    """Run all passes. Blocks. Raises DemoError when a transfer fails or a process ends; wrong
    bytes are failures in the result."""
    began = time.monotonic()
    found = Replay()
    with ExitStack() as stack:
        pairs = open_pairs(plan, stack)
        found.calibrations = calibrated(pairs, plan)
        schedulers = [Scheduler(capacity, open_pool) for capacity in plan.capacities]
        for scheduler in schedulers:
            stack.callback(scheduler.close)
        first = 0
        for number, requests in enumerate(plan.requests, 1):
            # A machine that slows down or speeds up meanwhile must not favour one.
            turn = number % len(schedulers)
            for scheduler in schedulers[turn:] + schedulers[:turn]:
                runner = _Pass(plan, pairs, scheduler, number)
                found.passes += runner.run(first, progress)
                first += len(requests)
        found.engines = [_about(pair) for pair in pairs]
    found.seconds = time.monotonic() - began
    return found


def _used(counters: Mapping[str, int]) -> str:
    """The transport of the engine's bytes."""
    for name in ("local", "rdma"):
        if counters.get(f"bytes_{name}", 0):
            return name
    return "tcp"


def _about(pair: Pair) -> dict[str, Any]:
    counters = pair.stats()
    return {
        "engine": pair.engine.name,
        "transport": pair.engine.transport or _used(counters),
        "numpy": pair.numpy,
        "register_seconds": pair.register_seconds,
        "counters": counters,
    }


class _Pass:
    """One pass of one configuration, by all engines: each wave by one after the other."""

    def __init__(
        self, plan: Plan, pairs: Sequence[Pair], scheduler: Scheduler, number: int
    ) -> None:
        self._plan, self._pairs, self._scheduler = plan, list(pairs), scheduler
        capacity: Capacity = scheduler.capacity
        shape = plan.shape.shape
        # A prefill of fewer layers takes that much less time.
        rate = plan.options.prefill_rate * plan.shape.of.buffers / shape.buffers
        self._results = [
            PassResult(
                Way(pair.engine.name, capacity.page_size, capacity.allocator),
                number,
                shape.row_bytes,
                shape.buffers,
                rate,
            )
            for pair in pairs
        ]
        self._number = number

    def run(self, first: int, progress: Progress) -> list[PassResult]:
        requests = self._plan.requests[self._number - 1]
        capacity = self._scheduler.capacity
        title = f"pass {self._number}, page {capacity.page_size} {capacity.allocator}"
        progress.begin(title, len(requests))
        begin = self._scheduler.now
        for wave in self._scheduler.run(requests, first):
            self._wave(wave, begin)
            progress.step(len(wave), self._results[0])
        for result in self._results:
            progress.end(result)
        return self._results

    def _wave(self, wave: list[Job], begin: int) -> None:
        options, capacity = self._plan.options, self._scheduler.capacity
        runs = (
            sum(count_runs(job.source, job.target) for job in wave),
            sum(count_runs(job.target) for job in wave),
        )
        at = (self._scheduler.now - begin) * capacity.step_seconds
        order = list(zip(self._pairs, self._results, strict=True))
        if wave[0].number % 2:
            order.reverse()
        for pair, result in order:
            moved, failures = pair.move(
                wave, capacity.page_size, options.api, options.concurrency, options.verify
            )
            result.add(wave, moved, runs, at)
            result.failures += failures
