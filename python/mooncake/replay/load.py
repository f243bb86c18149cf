"""What is asked of the servers: requests with their lengths and times of arrival."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import UsageError

# Beyond this a number in a trace is a mistake: no model has such a context.
HUGE = 16_000_000


@dataclass(frozen=True)
class Request:
    """Times are seconds from the begin of the load, lengths tokens."""

    arrival: float
    input: int
    output: int


@dataclass(frozen=True)
class Lengths:
    """A distribution of lengths."""

    text: str
    draw: Callable[[random.Random], int]
    longest: int
    mean: float


def lengths_of(text: str, option: str) -> Lengths:
    """N, LOW-HIGH (uniform) or lognormal:MEDIAN:SIGMA:HIGHEST. Raises UsageError."""
    if re.fullmatch(r"\d+", text):
        low = high = int(text)
    elif match := re.fullmatch(r"(\d+)-(\d+)", text):
        low, high = map(int, match.groups())
    elif match := re.fullmatch(r"lognormal:(\d+):(\d+(?:\.\d+)?):(\d+)", text):
        return _lognormal(text, option, match.groups())
    else:
        raise UsageError(
            f"{option} {text!r} is not a number of tokens, a range such as 200-2000, or "
            "lognormal:MEDIAN:SIGMA:HIGHEST"
        )
    if not 1 <= low <= high <= HUGE:
        raise UsageError(
            f"{option} {text!r} must lie within 1 and {HUGE:,}, the lower number first"
        )
    return Lengths(text, lambda rng: rng.randint(low, high), high, (low + high) / 2)


def _lognormal(text: str, option: str, numbers: tuple[Any, ...]) -> Lengths:
    median, sigma, high = int(numbers[0]), float(numbers[1]), int(numbers[2])
    if not 1 <= median <= high <= HUGE or not 0 < sigma <= 5:
        raise UsageError(
            f"{option} {text!r}: 1 <= MEDIAN <= HIGHEST <= {HUGE:,} and 0 < SIGMA <= 5 are needed"
        )

    def draw(rng: random.Random) -> int:
        return min(high, max(1, round(median * rng.lognormvariate(0, sigma))))

    sample = random.Random(0)
    return Lengths(text, draw, high, sum(draw(sample) for _ in range(1000)) / 1000)


def generated(
    count: int, inputs: Lengths, outputs: Lengths, rate: float, rng: random.Random
) -> list[Request]:
    """count requests, rate a second apart on average (Poisson); rate 0: all at once."""
    now, requests = 0.0, []
    for _ in range(count):
        if rate:
            now += rng.expovariate(rate)
        requests.append(Request(now, inputs.draw(rng), outputs.draw(rng)))
    return requests


@dataclass
class Bad:
    """What to do about bad lines of a trace: stop, or count and report them."""

    stop: bool
    report: Callable[[str], None]
    count: int = 0
    shown: int = 20

    def line(self, name: str, number: int, reason: str) -> None:
        text = f"{name}, line {number}: {reason}"
        if self.stop:
            raise UsageError(f"{text} (--on-bad-line skip goes on without it)")
        self.count += 1
        if self.count <= self.shown:
            self.report(f"{text}: skipped")

    def end(self) -> None:
        """Say how many more there were."""
        if self.count > self.shown:
            self.report(f"{self.count - self.shown} more bad lines were skipped")


def from_trace(path: Path, count: int, speed: float, most: int, bad: Bad) -> list[Request]:
    """The first count requests of a JSONL trace: timestamp in milliseconds, input_length and
    output_length in tokens; other members are ignored.

    Times are divided by speed and count from the first request. A line that is malformed,
    has a number below its range or beyond all reason, has more than most tokens (the pool), or
    goes back in time, is bad. Raises UsageError; also if nothing is left.
    """
    requests: list[Request] = []
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            _read(lines, requests, count, speed, most, str(path), bad)
    except OSError as error:
        raise UsageError(f"the trace cannot be read: {error}") from error
    bad.end()
    if not requests:
        raise UsageError(f"{path} has no request that can be used")
    return requests


def _read(
    lines: Iterable[str], requests: list[Request], count: int, speed: float, most: int,
    name: str, bad: Bad,
) -> None:  # fmt: skip
    first = last = 0
    for number, line in enumerate(lines, 1):
        if len(requests) == count:
            return
        if not line.strip():
            continue
        try:
            entry = _entry(line)
            timestamp = _number(entry, "timestamp", 0, 2**53)
            length = _number(entry, "input_length", 1, HUGE)
            output = _number(entry, "output_length", 0, HUGE)
            if requests and timestamp < last:
                raise ValueError(
                    f"out of order: timestamp {timestamp} comes after {last} of an earlier line"
                )
            if length + output > most:
                raise ValueError(
                    f"the request needs {length + output:,} tokens and the whole pool has {most:,}"
                )
        except ValueError as error:
            bad.line(name, number, str(error))
            continue
        if not requests:
            first = timestamp
        last = timestamp
        requests.append(Request((timestamp - first) / 1000 / speed, length, max(1, output)))


def _entry(line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(entry, dict):
        raise ValueError("not a JSON object")
    return entry


def _number(entry: dict[str, Any], name: str, low: int, high: int) -> int:
    if name not in entry:
        raise ValueError(f"{name} is missing")
    value = entry[name]
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be a whole number, not {json.dumps(value)[:40]}")
    if value < low:
        raise ValueError(f"{name} must be at least {low}, not {value}")
    if value > high:
        raise ValueError(f"{name} is {value}, which is beyond all reason (more than {high})")
    return value
