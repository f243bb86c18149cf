"""What was measured over rdma, as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from plan import Cell, named
from rdma_contenders import LOOP, OURS_C, UPSTREAM, NicContender
from rdma_lab import Lab
from rdma_options import per_second
from rdma_outcomes import ALONE, BESIDE, FORMS, LARGE, SMALL, Outcomes
from rdma_replay import FIFO, RUNS, Pass, Replays, cpu_per_gib, messages_per_mib
from results import Results, Sample
from table import aligned, lacking, number, times


def cost(results: Results, chosen: list[NicContender]) -> str:
    """A row for each size and contender: what a block takes, on the clock and of the CPU."""
    rows = [["block", "engine", "ns a block", "low", "high", "CPU ns a block",
             f"CPU / {LOOP}", f"{OURS_C} is faster by"]]  # fmt: skip
    for cell in results.cells:
        for each in chosen:
            samples = list(results.cells[cell].get(each.name, {}).values())
            if not samples:
                rows.append([named(cell.size), each.name, lacking(results, each.name), *[""] * 5])
                continue
            took = [nanoseconds(sample) for sample in samples]
            cpu = statistics.median(processor_nanoseconds(cell, sample) for sample in samples)
            slower = results.cpu_ratio(cell, each.name, LOOP)
            faster = results.ratio(cell, OURS_C, each.name)
            rows.append([
                named(cell.size), each.name, f"{statistics.median(took):,.1f}",
                f"{min(took):,.1f}", f"{max(took):,.1f}", f"{cpu:,.1f}",
                "-" if slower is None or each.name == LOOP else times(slower),
                "-" if faster is None or each.name == OURS_C else times(faster),
            ])  # fmt: skip
    return aligned(rows, text_columns=2)


def nanoseconds(sample: Sample) -> float:
    return 1e9 / sample.blocks_per_second


def processor_nanoseconds(cell: Cell, sample: Sample) -> float:
    return sample.cpu_seconds_per_gib * cell.size / (1 << 30) * 1e9


def limit(found: Mapping[str, Results], chosen: list[NicContender]) -> str:
    """How much of the NIC's rate of work requests each uses; a column for each contender."""
    rows = [["NIC takes", "block", *(each.name for each in chosen)]]
    for rate, results in found.items():
        for cell in results.cells:
            cells = []
            for each in chosen:
                blocks = results.blocks(cell, each.name)
                share = None if blocks is None else 100 * blocks / per_second(rate)
                cells.append(number(share, ".1f") + "%" if share else lacking(results, each.name))
            rows.append([f"{rate}/s", named(cell.size), *cells])
    return aligned(rows, text_columns=2)


def limited(chosen: list[NicContender]) -> list[NicContender]:
    """Who is measured under a limit: nobody is held to one core there."""
    return [each for each in chosen if each.name != UPSTREAM[2]]


def replay(found: Replays) -> str:
    """Medians over the runs."""
    rows = [["page", "allocator", "pass", "mean run", "MB/s", "wall s", "NIC needs s",
             "wall / that", "WRs a MiB", "CPU s/GiB", "P50 ms", "P99 ms"]]  # fmt: skip
    for page in (1, 64):
        for allocator in (FIFO, RUNS):
            for at in range(1, found.last() + 1):
                passes = found.passes(page, allocator, at)
                rows.append([str(page), allocator, str(at), *row(found, passes)])
    return aligned(rows, text_columns=2)


def row(found: Replays, passes: list[Pass]) -> list[str]:
    columns = (
        (lambda each: each["mean_run_tokens"], ",.1f"),
        (lambda each: each["goodput_mb_per_s"], ",.0f"),
        (lambda each: each["seconds"], ".3f"),
        (found.bound, ".3f"),
        (lambda each: each["seconds"] / found.bound(each), ".2f"),
        (messages_per_mib, ",.2f"),
        (cpu_per_gib, ".2f"),
        (lambda each: each["p50_ms"], ".2f"),
        (lambda each: each["p99_ms"], ".2f"),
    )
    return [number(found.median(passes, of), form) for of, form in columns]


def outcomes(found: Outcomes) -> str:
    """Microseconds: of calls medians of the rounds' P50 and P99, of the rest over all."""
    rows = [["what", "P50", "P99", "worst", "of"]]
    for which in (ALONE, BESIDE):
        calls = list(found.calls.get(which, {}).values())
        if calls:
            rows.append([
                f"a call of 10 blocks, {which}",
                f"{statistics.median(each.p50_us for each in calls):,.1f}",
                f"{statistics.median(each.p99_us for each in calls):,.1f}", "",
                f"{sum(each.calls for each in calls):,}",
            ])  # fmt: skip
    for kind, what in ((SMALL, "64 B blocks at 100k/s"), (LARGE, "1 MiB blocks at 4 Gb/s")):
        took = [1e3 * each for each in found.cancels.get(kind, [])]
        rows.append([f"cancel until quiet, {what}", *middle_and_worst(took)])
    for form in FORMS:
        took = found.firsts.get(form, [])
        rows.append([f"first work request, {form}", *middle_and_worst(took)])
    return aligned(rows, text_columns=1)


def middle_and_worst(took: list[float]) -> list[str]:
    if not took:
        return ["-", "", "-", "0"]
    return [f"{statistics.median(took):,.1f}", "", f"{max(took):,.1f}", str(len(took))]


def lab(found: Lab) -> str:
    """MB/s, medians over the rounds; a column for each tool. Then what is to be known of them."""
    tools = found.tools()
    rows = [["block", "pattern", *tools]]
    for size, pattern in found.cells():
        rows.append([
            named(size), pattern,
            *(number(found.speed(size, pattern, tool), ",.1f") or "-" for tool in tools),
        ])  # fmt: skip
    said = [f"{tool} does not compare the bytes." for tool in tools if tool not in found.compared]
    said += [f"{tool} is absent: {reason}" for tool, reason in found.absent.items()]
    return "\n\n".join([aligned(rows, text_columns=2), *said])
