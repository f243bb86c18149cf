"""The options of `mooncake replay`, and what they come to."""

from __future__ import annotations

import argparse
import itertools
import math
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .errors import UsageError
from .load import Bad, Request, from_trace, generated, lengths_of
from .pools import KINDS
from .schedule import Capacity
from .shapes import SHAPES, Scaled, scaled, shape_of

# The incident: see docs/replay.md.
_REQUESTS, _RUNNING, _POOL = 1000, 256, 400_000
_WAVE = 4  # longest prompts that the prefill pool holds for each transfer at once


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _load(parser.add_argument_group("load"))
    _servers(parser.add_argument_group("servers"))
    _transfer(parser.add_argument_group("transfer"))
    _run(parser.add_argument_group("run and report"))


def _load(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--requests", type=count, metavar="N", help=f"in a pass ({_REQUESTS}, over --load-scale)")
    add(
        "--input",
        default="200-2000",
        metavar="TOKENS",
        help="prompts: N, LOW-HIGH, or lognormal:MEDIAN:SIGMA:HIGHEST (200-2000)",
    )
    add("--output", default="512", metavar="TOKENS", help="outputs, likewise (512)")
    add(
        "--rate",
        type=number,
        default=0.0,
        metavar="R",
        help="requests a second, in virtual time; 0: as fast as slots and pages are free (0)",
    )
    add(
        "--trace",
        type=Path,
        metavar="FILE",
        help="JSONL with timestamp (ms), input_length and output_length, instead of the above",
    )
    add("--speed", type=positive, default=1.0, metavar="X", help="of the trace's clock (1)")
    add(
        "--on-bad-line",
        choices=["stop", "skip"],
        default="stop",
        help="what to do about a bad line of the trace (stop)",
    )
    add(
        "--load-scale",
        type=count,
        default=1,
        metavar="N",
        help="an N-th of the default requests, running requests and pool: run lengths stay alike",
    )
    add("--seed", type=int, default=1, help="of lengths, arrivals and contents (1)")


def _servers(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--page-size", default="1", metavar="LIST", help="tokens a page, comma separated (1)")
    add(
        "--allocator",
        default="fifo",
        metavar="LIST",
        help=f"of both pools, of {', '.join(KINDS)}, comma separated (fifo)",
    )
    add("--pool-tokens", type=count, metavar="N", help=f"of decode ({_POOL:,}, over --load-scale)")
    add("--prefill-pool-tokens", type=count, metavar="N", help="of prefill (a few prompts)")
    add("--running", type=count, metavar="N", help=f"at once ({_RUNNING}, over --load-scale)")
    add("--step-ms", type=positive, default=30.0, metavar="MS", help="of a decode step (30)")
    add(
        "--prefill-rate",
        type=positive,
        default=8000.0,
        metavar="R",
        help="tokens a second of prefill, for the transfer's share of TTFT (8000)",
    )
    add(
        "--model",
        default="qwen-32b-tp8",
        metavar="SHAPE",
        help=f"{', '.join(SHAPES)}, or LAYERSxBUFFERSxBYTES (qwen-32b-tp8)",
    )
    add("--scale", type=count, metavar="N", help="an N-th of its layers (what fits --memory)")
    add("--row-bytes", type=count, metavar="B", help="of a token in a buffer (the model's)")
    add(
        "--memory",
        type=count,
        default=2048,
        metavar="MIB",
        help="of KV memory in all processes together (2048)",
    )


def _transfer(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--transport",
        choices=["auto", "tcp", "local", "rdma"],
        default="tcp",
        help="tcp; local: in memory, on one host; rdma: through this host's RDMA port, also "
        "between its own processes; auto: the engine's choice (tcp)",
    )
    add(
        "--protocol",
        choices=["tcp", "rdma"],
        help="asked of the engine (rdma with --transport rdma, else tcp)",
    )
    add(
        "--api",
        choices=["blocks", "pages", "groups"],
        default="blocks",
        help="blocks: a block for each stretch of pages in each buffer, as sglang; pages: one for "
        "each page in each buffer; groups: page lists and layers (blocks)",
    )
    add("--concurrency", type=count, default=2, metavar="N", help="transfers at once (2)")
    add(
        "--baseline",
        choices=["upstream"],
        help="the same block lists through upstream's wheel, too",
    )
    add(
        "--upstream-python",
        type=Path,
        metavar="FILE",
        help="its interpreter (MC_UPSTREAM_PYTHON, or build/venv-upstream/bin/python)",
    )


def _run(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--passes", type=count, default=3, metavar="N", help="of the load, one after the other (3)")
    add(
        "--verify",
        choices=["full", "sample", "none"],
        default="full",
        help="full: every byte that arrived; sample: some pages of each request, in every "
        "buffer; in a ramp either means every byte of one request in ten (full)",
    )
    add(
        "--ramp",
        metavar="RATES",
        help="staged load in real time instead of passes: requests a second of each stage, comma "
        "separated, or START:FACTOR:STAGES",
    )
    add("--ramp-seconds", type=positive, default=5.0, metavar="S", help="of each stage (5)")
    add("--json", type=Path, metavar="FILE", help="write the figures there")
    add("--chart", type=Path, metavar="FILE", help="draw them there: .png or .svg")
    add("--plain", action="store_true", help="no progress bar, though this is a terminal")


def count(text: str) -> int:
    """A whole number above 0."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if not 1 <= value <= 10**12:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return value


def number(text: str) -> float:
    """A number of 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 0 or more")
    return value


def positive(text: str) -> float:
    value = number(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


@dataclass(frozen=True)
class Plan:
    """What is to be run."""

    options: argparse.Namespace
    requests: list[list[Request]]  # of each pass
    capacities: list[Capacity]
    shape: Scaled
    upstream: Path | None
    rates: list[float]  # of a ramp; [] for passes
    notes: list[str]

    @property
    def prefill_tokens(self) -> int:
        return self.capacities[0].prefill_tokens

    @property
    def pool_tokens(self) -> int:
        return self.capacities[0].pool_tokens

    @property
    def tape_tokens(self) -> int:
        """The longest prompt in whole pages, of whatever page size."""
        longest = max(request.input for each in self.requests for request in each)
        return longest + max(capacity.page_size for capacity in self.capacities)


def plan_of(options: argparse.Namespace, report: Callable[[str], None]) -> Plan:
    """What the options come to. report gets a line for each bad line that is skipped. Raises
    UsageError."""
    scale = options.load_scale
    options.protocol = _protocol(options)
    options.requests = options.requests or max(1, _REQUESTS // scale)
    options.running = options.running or max(1, _RUNNING // scale)
    sizes = _numbers(options.page_size)
    kinds = _kinds(options.allocator)
    pool = options.pool_tokens or _divisible(max(1, _POOL // scale), sizes)
    requests = _requests(options, pool, report)
    longest_input = max(request.input for each in requests for request in each)
    longest = max(request.input + request.output for each in requests for request in each)
    prefill = options.prefill_pool_tokens or _divisible(
        (longest_input + max(sizes)) * _WAVE * options.concurrency, sizes
    )
    capacities = [
        Capacity(
            size, kind, pool, prefill, options.running, options.step_ms / 1000, options.concurrency
        )
        for size in sizes
        for kind in kinds
    ]
    for capacity in capacities:
        capacity.check(longest, longest_input)
    rates = _rates(options.ramp)
    if rates and len(capacities) > 1:
        raise UsageError("--ramp loads one configuration: give one --page-size and one --allocator")
    engines = 2 if options.baseline else 1
    shape = scaled(
        shape_of(options.model),
        (pool + prefill) * engines,
        options.memory << 20,
        options.scale,
        options.row_bytes,
    )
    _check_chart(options.chart)
    return Plan(
        options, requests, capacities, shape, _upstream(options), rates,
        [shape.statement] if shape.statement else [],
    )  # fmt: skip


def _protocol(options: argparse.Namespace) -> str:
    fitting = "rdma" if options.transport == "rdma" else "tcp"
    chosen: str = options.protocol or fitting
    if options.transport == "rdma" and chosen != "rdma":
        raise UsageError("--transport rdma and --protocol tcp do not go together")
    return chosen


def _numbers(text: str) -> list[int]:
    try:
        found = [count(each) for each in text.split(",")]
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"--page-size: {error}") from error
    return list(dict.fromkeys(found))


def _kinds(text: str) -> list[str]:
    found = list(dict.fromkeys(text.split(",")))
    for kind in found:
        if kind not in KINDS:
            raise UsageError(f"--allocator: {kind!r} is not one of {', '.join(KINDS)}")
    return found


def _divisible(tokens: int, sizes: list[int]) -> int:
    """The next number up that all page sizes divide."""
    unit = math.lcm(*sizes)
    return -(-tokens // unit) * unit


def _requests(
    options: argparse.Namespace, pool: int, report: Callable[[str], None]
) -> list[list[Request]]:
    """Of each pass: a trace is the same in all, what is drawn is drawn anew."""
    inputs = lengths_of(options.input, "--input")
    outputs = lengths_of(options.output, "--output")
    if options.trace is not None:
        bad = Bad(options.on_bad_line == "stop", report)
        found = from_trace(options.trace, options.requests, options.speed, pool, bad)
        return [found] * options.passes
    rng = random.Random(options.seed)
    return [
        generated(options.requests, inputs, outputs, options.rate, rng)
        for _ in range(options.passes)
    ]


def _rates(text: str | None) -> list[float]:
    """Of a ramp's stages."""
    if text is None:
        return []
    try:
        if ":" in text:
            start, factor, stages = text.split(":")
            first, times, most = positive(start), positive(factor), count(stages)
            rates = [first * times**stage for stage in range(most)]
        else:
            rates = [positive(each) for each in text.split(",")]
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise UsageError(
            f"--ramp {text!r} is neither a list such as 10,20,40 nor START:FACTOR:STAGES such as "
            f"10:1.5:8 ({error})"
        ) from error
    if any(b <= a for a, b in itertools.pairwise(rates)) or len(rates) > 100:
        raise UsageError(f"--ramp {text!r}: rates must rise, in at most 100 stages")
    return rates


def _check_chart(path: Path | None) -> None:
    if path is None:
        return
    if path.suffix.lower() not in (".png", ".svg"):
        raise UsageError(f"--chart {path}: the name must end in .png or .svg")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"--chart needs matplotlib, which cannot be imported ({error}): "
            "pip install 'mooncake-go[bench]', or leave the option out"
        ) from error


def _upstream(options: argparse.Namespace) -> Path | None:
    if options.baseline is None:
        return None
    default = Path("build/venv-upstream/bin/python")
    named = options.upstream_python or os.environ.get("MC_UPSTREAM_PYTHON") or default
    python = Path(named).absolute()  # not resolved: a virtual environment is known by its link
    if not python.exists():
        raise UsageError(
            f"--baseline upstream: there is no {python}: `make upstream` installs upstream's "
            "wheel, --upstream-python names another interpreter that has it"
        )
    if options.ramp is not None:
        raise UsageError("--baseline and --ramp do not go together: a ramp loads one engine")
    if options.api == "groups":
        raise UsageError(
            "--baseline upstream needs --api blocks or pages: upstream has no page groups"
        )
    return python
