"""How a replay's figures look: tables for people, JSON for programs."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from .._demo_report import aligned
from .measure import PassResult, Way, percentile
from .options import Plan
from .process import cores
from .run import Replay

SCHEMA = "mooncake-replay/1"

_HEADING = (
    "engine", "page", "allocator", "pass", "requests", "tokens", "blocks", "runs", "mean_run",
    "messages", "MiB", "MB/s", "P50_ms", "P99_ms", "CPU_s/GiB", "TTFT_share", "time/pass1",
    "result",
)  # fmt: skip


def ways_of(passes: Sequence[PassResult]) -> list[Way]:
    """In the order in which a reader looks for them."""
    return sorted({each.way for each in passes}, key=lambda w: (w.engine, w.page_size, w.allocator))


def of_way(passes: Sequence[PassResult], way: Way) -> list[PassResult]:
    return sorted((each for each in passes if each.way == way), key=lambda each: each.number)


def time_ratio(result: PassResult, first: PassResult) -> float:
    """Seconds a token, against those of the first pass."""
    if not (result.tokens and first.tokens and first.seconds):
        return 0.0
    return (result.seconds / result.tokens) / (first.seconds / first.tokens)


def table(passes: Sequence[PassResult], verify: str) -> str:
    """A line for each configuration and pass."""
    rows = [list(_HEADING)]
    for way in ways_of(passes):
        found = of_way(passes, way)
        rows += [_row(result, found[0], verify) for result in found]
    return aligned(rows, left=3)


def _row(result: PassResult, first: PassResult, verify: str) -> list[str]:
    done = {"full": "verified", "sample": "sampled", "none": "not compared"}[verify]
    messages = "-" if result.messages is None else f"{result.messages:,}"
    return [
        result.way.engine,
        f"{result.way.page_size}",
        result.way.allocator,
        f"{result.number}",
        f"{result.requests:,}",
        f"{result.tokens:,}",
        f"{result.blocks:,}",
        f"{result.runs * result.buffers:,}",
        f"{result.mean_run:,.1f}",
        messages,
        f"{result.bytes / 2**20:,.0f}",
        f"{result.goodput:,.0f}",
        f"{1000 * percentile(result.transfers, 0.50):,.2f}",
        f"{1000 * percentile(result.transfers, 0.99):,.2f}",
        f"{result.cpu_per_gib:.2f}",
        f"{100 * result.share:.0f}%",
        f"{time_ratio(result, first):.2f}",
        f"{len(result.failures)} FAILED" if result.failures else done,
    ]


def comparison(passes: Sequence[PassResult]) -> str:
    """A line for each configuration: what the last pass costs against the first."""
    last = max(each.number for each in passes)
    rows = [
        [
            "engine", "page", "allocator",
            *(f"run_{n}" for n in range(1, last + 1)),
            f"time_{last}/1", f"blocks_{last}/1", f"messages/MiB_{last}/1", f"CPU/GiB_{last}/1",
        ]
    ]  # fmt: skip
    for way in ways_of(passes):
        found = of_way(passes, way)
        first, end = found[0], found[-1]
        rows.append([
            way.engine, f"{way.page_size}", way.allocator,
            *(f"{each.mean_target_run:,.1f}" for each in found),
            f"{time_ratio(end, first):.2f}",
            _times(first, end, lambda each: each.blocks / each.tokens),
            _times(first, end, lambda each: (each.messages or 0) / each.bytes),
            _times(first, end, lambda each: each.cpu_per_gib),
        ])  # fmt: skip
    return aligned(rows, left=3)


def _times(first: PassResult, end: PassResult, of: Callable[[PassResult], float]) -> str:
    if not (first.bytes and end.bytes and of(first)):
        return "-"
    return f"{of(end) / of(first):.2f}"


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def description(plan: Plan) -> str:
    """What is about to be run."""
    options, shape = plan.options, plan.shape
    first = plan.requests[0]
    lengths = [request.input for request in first]
    outputs = [request.output for request in first]
    lines = [
        f"{len(first):,} requests a pass of {_range(lengths)} tokens, outputs "
        f"of {_range(outputs)}; {options.running} run at once in a pool of "
        f"{plan.pool_tokens:,} tokens; {options.passes} passes",
        f"{shape.of.title}: {shape.shape.buffers} buffers of {shape.shape.row_bytes:,} B a token; "
        f"KV memory {plan.pool_tokens * shape.shape.token_bytes >> 20:,} MiB in decode, "
        f"{plan.prefill_tokens * shape.shape.token_bytes >> 20:,} MiB in prefill; over "
        f"{options.transport}, {options.concurrency} transfers at once, --api {options.api}",
        *plan.notes,
    ]
    return "\n".join(lines)


def as_json(plan: Plan, found: Replay) -> dict[str, Any]:
    """The whole report; docs/replay.md describes it."""
    return {
        **head(plan),
        "seconds": found.seconds,
        "engines": found.engines,
        "calibrations": found.calibrations,
        "passes": [each.as_json() for each in found.passes],
    }


def head(plan: Plan) -> dict[str, Any]:
    """What every report begins with: where it was made, and of what load."""
    options, shape = plan.options, plan.shape
    return {
        "schema": SCHEMA,
        "version": __version__,
        "machine": machine(),
        "load": {
            "requests": len(plan.requests[0]),
            "input": options.input,
            "output": options.output,
            "trace": None if options.trace is None else str(options.trace),
            "rate": options.rate,
            "running": options.running,
            "pool_tokens": plan.pool_tokens,
            "prefill_pool_tokens": plan.prefill_tokens,
            "step_ms": options.step_ms,
            "seed": options.seed,
            "mean_input_tokens": sum(r.input for r in plan.requests[0]) / len(plan.requests[0]),
        },
        "shape": {
            "model": shape.of.name,
            "layers_of_model": shape.of.layers,
            "layers": shape.shape.layers,
            "buffers": shape.shape.buffers,
            "row_bytes": shape.shape.row_bytes,
            "statement": shape.statement,
        },
        "transfer": {
            "transport": options.transport,
            "api": options.api,
            "concurrency": options.concurrency,
            "verify": options.verify,
        },
    }


def machine() -> dict[str, Any]:
    """The facts about this host that a reader of figures needs."""
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": _cpu_model(),
        "cores": cores(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()
