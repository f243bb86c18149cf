"""What limits transfers, in plain words, and what to change."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .advice import Advice, Change
from .advise_stats import from_stats
from .model import Costs, costs_of

__all__ = ["Advice", "Change", "advise"]

_BUSY = 0.85  # of all cores: nothing is left
_PAGE_SIZES = (16, 64)


def advise(subject: Any, *, link_mb_per_s: float | None = None) -> list[Advice]:
    """What limits, from a replay's report (the dict of its JSON file), or from the counters of a
    running engine: Engine.stats(), or a dict of them.

    Of a report there is one advice for each configuration, about its last pass; of counters one.
    link_mb_per_s is what the link could move, for counters: without it gains are upper bounds.
    Raises ValueError if it is neither.
    """
    if dataclasses.is_dataclass(subject) and not isinstance(subject, type):
        subject = dataclasses.asdict(subject)
    if not isinstance(subject, Mapping):
        raise ValueError(
            f"neither a report of mooncake replay nor counters: {type(subject).__name__}"
        )
    if "schema" in subject:
        return _from_report(subject)
    return [from_stats(subject, link_mb_per_s)]


def _from_report(report: Mapping[str, Any]) -> list[Advice]:
    from .report import SCHEMA

    if report["schema"] != SCHEMA:
        raise ValueError(
            f"the report has schema {report['schema']!r}, and this version reads {SCHEMA}"
        )
    if "stages" in report:
        raise ValueError(
            "the report is one of --ramp, which names the limit itself: see its verdict"
        )
    try:
        rows = _last_rows(report["passes"])
        return [_of_row(report, row, rows) for row in rows]
    except (KeyError, TypeError, IndexError, ZeroDivisionError) as error:
        raise ValueError(f"the report is damaged: {type(error).__name__} {error}") from error


def _last_rows(passes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the last pass, in the order of the table: passes were run in turn."""
    last = max(row["pass"] for row in passes)
    rows = [row for row in passes if row["pass"] == last and row["bytes"]]
    return sorted(rows, key=lambda row: (row["engine"], row["page_size"], row["allocator"]))


@dataclass
class _Row:
    """A row of the report with what its parts cost."""

    row: Mapping[str, Any]
    report: Mapping[str, Any]
    costs: Costs
    shares: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        self.shares = self.costs.shares(self.row["requests"], self.row["runs"], self.row["bytes"])

    @property
    def buffers(self) -> int:
        return int(self.report["shape"]["buffers"])

    @property
    def mean_input(self) -> float:
        return float(self.row["tokens"] / self.row["requests"])

    @property
    def cpu_share(self) -> float:
        """Of all cores, in both processes, while something was moved."""
        used = self.row["prefill_cpu_seconds"] + self.row["decode_cpu_seconds"]
        return float(used / (self.row["seconds"] * self.report["machine"]["cores"]))

    @property
    def fewest_runs(self) -> float:
        """One for each request and buffer."""
        return float(self.row["requests"] * self.buffers)

    def factor(self, runs: float, size: float) -> float:
        """The time with other runs and bytes, against that of now."""
        now = self.costs.seconds(self.row["requests"], self.row["runs"], self.row["bytes"])
        return self.costs.seconds(self.row["requests"], runs, size) / now


def _of_row(
    report: Mapping[str, Any], row: Mapping[str, Any], rows: list[dict[str, Any]]
) -> Advice:
    subject = (
        f"{row['engine']}, page size {row['page_size']}, {row['allocator']}, pass {row['pass']}"
    )
    costs = costs_of(report["calibrations"], row["engine"], overlap=_by_nic(report, row))
    if costs is None:
        raise ValueError(f"the report has no calibration of {row['engine']}")
    each = _Row(row, report, costs)
    limit, why = _limit(each)
    advice = Advice(subject, limit, why, {k: round(v, 3) for k, v in each.shares.items()})
    advice.changes += _changes(each, limit)
    for change in advice.changes:
        change.measured = _measured(change, row, rows)
    build = row["build_seconds"]
    if build > 0.1 * row["seconds"] and report["transfer"]["api"] != "groups":
        total = row["seconds"] + build
        advice.changes.append(
            Change(
                "page groups (Segment.write_pages) instead of block lists",
                row["seconds"] / total,
                f"making the lists takes {build:.2f} s beside {row['seconds']:.2f} s of transfers",
            )
        )
    return advice


def _by_nic(report: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    used = {each["engine"]: each["transport"] for each in report["engines"]}
    return used.get(row["engine"]) == "rdma"


def _limit(each: _Row) -> tuple[str, str]:
    """The name of the limit and the evidence."""
    row, costs, shares = each.row, each.costs, each.shares
    run_bytes = row["bytes"] / row["runs"]
    register = sum(engine["register_seconds"] for engine in each.report["engines"])
    moving = sum(other["seconds"] for other in each.report["passes"])
    if register > 0.25 * moving:
        return "registration", (
            f"registering memory took {register:.2f} s, all transfers {moving:.2f} s"
        )
    facts = (
        f"runs of {row['mean_run_tokens']:,.1f} tokens, {run_bytes:,.0f} B: {row['runs']:,} of "
        f"them at {1e9 * costs.run:,.0f} ns each beside {row['bytes'] / 2**20:,.0f} MiB at "
        f"{costs.link / 1e6:,.0f} MB/s; by the model {100 * shares['runs']:.0f}% of the time goes "
        f"to runs, {100 * shares['bytes']:.0f}% to bytes, {100 * shares['calls']:.0f}% to calls"
    )
    if shares["runs"] >= max(shares["bytes"], shares["calls"]):
        if row["runs"] > 2 * each.fewest_runs:
            return "run length", facts
        return "cost per block", f"one run for each request and buffer, and yet: {facts}"
    if shares["calls"] > shares["bytes"]:
        return "cost per call", facts
    if each.cpu_share >= _BUSY:
        return "CPU", f"both processes use {100 * each.cpu_share:.0f}% of all cores; {facts}"
    return "link", f"the CPU is used to {100 * each.cpu_share:.0f}% only; {facts}"


def _changes(each: _Row, limit: str) -> list[Change]:
    row = each.row
    found: list[Change] = []
    if limit == "run length":
        if row["allocator"] != "runs":
            found.append(
                Change(
                    "allocator runs (mooncake.PagePool)",
                    each.factor(each.fewest_runs, row["bytes"]),
                    "one run for each request and buffer",
                    allocator="runs",
                )
            )
        for size in _PAGE_SIZES:
            if size > row["page_size"] and size > row["mean_run_tokens"]:
                padding = 1 + (size - row["page_size"]) / 2 / each.mean_input
                runs = row["runs"] * row["mean_run_tokens"] / size
                found.append(
                    Change(
                        f"page size {size}",
                        each.factor(runs, row["bytes"] * padding),
                        f"runs of {size} tokens at least; {100 * (padding - 1):.0f}% more bytes",
                        page_size=size,
                    )
                )
    elif limit == "cost per block":
        found.append(
            Change(
                "fewer, longer buffers: K and V, or all layers of a page, side by side",
                each.factor(row["runs"] / 2, row["bytes"]),
                "with half as many buffers",
            )
        )
    elif limit == "cost per call":
        found.append(
            Change(
                "several requests in one batch", 1 - each.shares["calls"] / 2, "with two in each"
            )
        )
    elif limit == "registration":
        found.append(Change("fewer, larger memories, registered once at the start", None, ""))
    elif limit == "CPU":
        found.append(
            Change("more cores, or a transport that takes less CPU (on one host: local)", None, "")
        )
    else:
        found.append(
            Change("more lanes (MC_TCP_LANES_PER_PEER), more transfers at once, or a faster link",
                   None, "")
        )  # fmt: skip
    return found


def _measured(change: Change, row: Mapping[str, Any], rows: list[dict[str, Any]]) -> float | None:
    """The same change as this report measured it, in time a token; None if it did not."""
    if change.allocator is None and change.page_size is None:
        return None
    want = {
        "engine": row["engine"],
        "allocator": change.allocator or row["allocator"],
        "page_size": change.page_size or row["page_size"],
    }
    for other in rows:
        if all(other[name] == value for name, value in want.items()):
            return float((other["seconds"] / other["tokens"]) / (row["seconds"] / row["tokens"]))
    return None
