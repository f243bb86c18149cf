"""Staged load: the rate of requests rises until something gives, which is named."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from .._demo_report import aligned
from .errors import UsageError
from .measure import percentile
from .options import Plan
from .pools import Pool, open_pool
from .process import cores
from .run import open_pairs
from .schedule import Scheduler
from .stage import Bench, Running, Stage

_PROMPTS = 64  # that lie ready in prefill's memory
_KEPT_UP = 0.95  # of what arrived was done, or the rate is too high
_SLOW = 4  # times the P99 of the best stage before: too high, too
_BUSY = 0.8  # of all cores, or of the transfers at once: there is no more to be had
_ROOM = 1.5  # decode is sped up so that it has so many times the slots that it needs
_GROWN = 1.5  # times as long as in the first stage: transfers are in each other's way


@dataclass
class Ramp:
    """What came out."""

    stages: list[Stage] = field(default_factory=list)
    concurrency: int = 1

    @property
    def failures(self) -> list[str]:
        return [failure for stage in self.stages for failure in stage.failures]

    def kept_up(self, stage: Stage) -> bool:
        before = [each.p99 for each in self.stages if each.rate < stage.rate and each.latencies]
        calm = not before or stage.p99 <= _SLOW * min(before)
        return stage.done >= _KEPT_UP * stage.arrived - 1 and calm

    @property
    def knee(self) -> float | None:
        """The highest rate before the first that was too much; None if none was, or all were."""
        before = None
        for stage in self.stages:
            if not self.kept_up(stage):
                return before
            before = stage.rate
        return None

    @property
    def too_much(self) -> Stage | None:
        return next((stage for stage in self.stages if not self.kept_up(stage)), None)

    @property
    def limit(self) -> str | None:
        """What the first stage that was too much had too little of; None if there is none."""
        stage = self.too_much
        if stage is None:
            return None
        if stage.machine_share >= _BUSY:
            ours = stage.cores(stage.prefill) + stage.cores(stage.decode) + stage.driver_cores
            others = stage.machine_share * cores() - ours
            return "CPU, much of which others use" if others > 0.25 * ours else "CPU"
        if stage.refused > 0.5 * stage.looks:
            return "slots or pages of decode"
        if stage.busy / stage.seconds < _BUSY * self.concurrency:
            return "this program, which plays the servers' schedulers"
        slower = percentile(stage.transfers, 0.5) / percentile(self.stages[0].transfers, 0.5)
        return "link" if slower > _GROWN else "transfers at once (--concurrency)"

    @property
    def verdict(self) -> str:
        stage = self.too_much
        if stage is None:
            last = self.stages[-1].rate
            return f"no knee up to {last:g} requests a second: give higher rates to --ramp"
        used = (
            f"prefill {stage.cores(stage.prefill):.2f}, decode {stage.cores(stage.decode):.2f}, "
            f"this program {stage.driver_cores:.2f} of {cores()} cores, "
            f"{100 * stage.machine_share:.0f}% of which were in use; {stage.network:,.0f} MB/s "
            f"over the network; {stage.busy / stage.seconds:.1f} of {self.concurrency} transfers "
            "at once"
        )
        found = (
            "the first rate is too high already: give lower ones to --ramp"
            if self.knee is None
            else f"knee at {self.knee:g} requests a second"
        )
        return f"{found}; at {stage.rate:g} the limit is {self.limit} ({used})"

    def as_json(self) -> dict[str, Any]:
        return {
            "stages": [
                {**stage.as_json(), "kept_up": self.kept_up(stage)} for stage in self.stages
            ],
            "knee_per_s": self.knee,
            "limit": self.limit,
            "verdict": self.verdict,
        }


def ramp(
    plan: Plan,
    say: Callable[[str], None],
    open_pool: Callable[[str, int], Pool] = open_pool,
) -> Ramp:
    """Run the stages, up to the second that is too much. Blocks. Raises DemoError when a transfer
    fails or a process ends; wrong bytes are failures in the result."""
    options, shape = plan.options, plan.shape.shape
    sys.setswitchinterval(0.0002)  # threads that wait for processes must not wait for this one
    found = Ramp(concurrency=options.concurrency)
    with ExitStack() as stack:
        (pair,) = open_pairs(plan, stack)
        scheduler = Scheduler(plan.capacities[0], open_pool)
        stack.callback(scheduler.close)
        prompts = scheduler.resident(plan.requests[0], _PROMPTS)
        if not prompts:
            raise UsageError("--prefill-pool-tokens is too small for one prompt")
        pair.go_on()
        fills = [(number, list(pages)) for number, (_, pages) in enumerate(prompts)]
        pair.prefill.call("fill", jobs=fills, page_size=plan.capacities[0].page_size)
        bench = Bench(
            pair,
            scheduler,
            prompts,
            shape.token_bytes,
            plan.capacities[0].step_seconds,
            options.concurrency,
            options.api,
            options.verify != "none",
        )
        # Connections are made, and memory is touched, before anything counts.
        Running(bench, plan.rates[0], _speed(plan, plan.rates[0]), 0.3, 0, options.seed).run()
        number = 1_000_000
        for index, rate in enumerate(plan.rates):
            speed, seconds = _speed(plan, rate), options.ramp_seconds
            running = Running(bench, rate, speed, seconds, number, options.seed + index)
            found.stages.append(running.run())
            number = running.next_number
            say(_line(found.stages[-1]))
            if sum(not found.kept_up(stage) for stage in found.stages) == 2:
                break
    return found


def _speed(plan: Plan, rate: float) -> float:
    """How much faster than real decode has to be to have slots and pages to spare: this measures
    transfers."""
    requests = plan.requests[0]
    capacity = plan.capacities[0]
    output = sum(request.output for request in requests) / len(requests)
    length = output + sum(request.input for request in requests) / len(requests)
    slots = min(capacity.running, capacity.pool_tokens / length)
    return max(1.0, _ROOM * rate * output * capacity.step_seconds / slots)


def _line(stage: Stage) -> str:
    return (
        f"{stage.rate:g} a second: {stage.done:,} of {stage.arrived:,} done, {stage.goodput:,.0f} "
        f"MB/s, P99 {1000 * stage.p99:,.1f} ms"
    )


_HEADING = (
    "offered/s", "done/s", "MB/s", "P50_ms", "P99_ms", "at_once", "prefill_cores", "decode_cores",
    "driver_cores", "net_MB/s", "prefill_MiB", "decode_MiB", "",
)  # fmt: skip


def table(found: Ramp) -> str:
    """A line for each stage."""
    rows: list[Sequence[str]] = [_HEADING]
    for stage in found.stages:
        kept = "kept up" if found.kept_up(stage) else "too much"
        rows.append((
            f"{stage.rate:g}",
            f"{stage.done / stage.seconds:,.1f}",
            f"{stage.goodput:,.0f}",
            f"{1000 * percentile(stage.latencies, 0.5):,.2f}",
            f"{1000 * stage.p99:,.2f}",
            f"{stage.busy / stage.seconds:.2f}",
            f"{stage.cores(stage.prefill):.2f}",
            f"{stage.cores(stage.decode):.2f}",
            f"{stage.driver_cores:.2f}",
            f"{stage.network:,.0f}",
            f"{max(each.resident for each in stage.prefill) >> 20:,}",
            f"{max(each.resident for each in stage.decode) >> 20:,}",
            f"{len(stage.failures)} FAILED" if stage.failures else kept,
        ))  # fmt: skip
    return aligned([list(row) for row in rows], left=0)
