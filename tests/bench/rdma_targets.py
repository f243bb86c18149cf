"""The targets of the design for rdma, held against a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from plan import named
from rdma_contenders import LOOP, OURS_C, OURS_PYTHON, UPSTREAM
from rdma_lab import CONTIGUOUS, OURS, PATTERNS, PERFTEST, THEIRS, Lab
from rdma_outcomes import LARGE, SMALL, Outcomes
from rdma_replay import FIFO, RUNS, Replays, cpu_per_gib, messages_per_mib, per_token
from results import Results, median_of
from targets import Verdict

KIB, MIB = 1 << 10, 1 << 20
LOOP_FACTOR, UPSTREAM_FACTOR = 2.0, 5.0


def of_cost(results: Results) -> Iterator[Verdict]:
    """Against the loop by CPU time: both have one core, and what else the machine does is not
    counted. Of upstream the fastest way counts, by the clock, on all the cores it likes."""
    for cell in results.cells:
        size = named(cell.size)
        for name in (OURS_C, OURS_PYTHON):
            yield Verdict(
                f"CPU of a scattered block of {size}, {name} over the bare loop", LOOP_FACTOR,
                results.cpu_ratio(cell, name, LOOP), at_most=True,
            )  # fmt: skip
            best = results.best(cell, UPSTREAM)
            yield Verdict(
                f"time of a scattered block of {size}, {best or 'upstream'} over {name}",
                UPSTREAM_FACTOR, results.ratio(cell, name, best) if best else None,
            )  # fmt: skip


def of_replay(found: Replays) -> Iterator[Verdict]:
    """The replay of the incident at page size 1, then page size 1 against 64."""
    last = found.last()
    for number in range(1, last + 1):
        yield Verdict(
            f"replay, page 1, {FIFO}, pass {number}: wall over what the NIC needs", 1.1,
            found.median(found.passes(1, FIFO, number), lambda e: e["seconds"] / found.bound(e)),
            at_most=True,
        )  # fmt: skip
    end, first = found.passes(1, RUNS, last), found.passes(1, RUNS, 1)
    for what, most, of in (
        ("work requests a MiB", 1.05, messages_per_mib),
        ("CPU seconds a GiB", 1.1, cpu_per_gib),
        ("wall a token", 1.15, per_token),
    ):
        yield Verdict(
            f"replay, page 1, {RUNS}: {what}, pass {last} over 1", most,
            found.ratio(end, first, of), at_most=True,
        )  # fmt: skip
    for number in range(1, last + 1):
        yield Verdict(
            f"replay, {RUNS}, pass {number}: wall a token, page 1 over 64", 1.1,
            found.ratio(found.passes(1, RUNS, number), found.passes(64, RUNS, number), per_token),
            at_most=True,
        )  # fmt: skip


def of_lab(lab: Lab) -> Iterator[Verdict]:
    for pattern in PATTERNS:
        for size in lab.sizes():
            if size >= 64 * KIB:
                best = lab.best(size, pattern, (THEIRS, PERFTEST))
                yield Verdict(
                    f"soft-RoCE, {named(size)} {pattern}, ours over {best or 'the others'}", 1.0,
                    lab.ratio(size, pattern, OURS, best) if best else None,
                )  # fmt: skip
    for size in lab.sizes():
        if size <= 4 * KIB:
            yield Verdict(
                f"soft-RoCE, {named(size)} {CONTIGUOUS}, ours over our own 1 MiB", 0.9,
                lab.against(size, MIB, CONTIGUOUS, OURS),
            )  # fmt: skip


def of_outcomes(found: Outcomes) -> Iterator[Verdict]:
    large = f"{found.blocks:,}-block call"
    yield Verdict(
        f"10-block calls beside a {large}, {found.rate} work requests/s: P99 over alone", 3.0,
        found.slower(), at_most=True,
    )  # fmt: skip
    for kind, what in ((SMALL, "64 B blocks"), (LARGE, "1 MiB blocks")):
        yield Verdict(
            f"cancel of {what}: ms until both sides are quiet, the worst", 100.0,
            max(found.cancels.get(kind, []), default=None), at_most=True,
        )  # fmt: skip
    for form, most in (("lists", 1000.0), ("arrays", 1000.0), ("pages", 100.0)):
        yield Verdict(
            f"first work request of a {large}, {form}: us from its begin", most,
            median_of(found.firsts.get(form, [])), at_most=True,
        )  # fmt: skip


def verdicts(
    cost: Results | None, lab: Lab | None, replays: Replays | None,
    outcomes: Outcomes | None = None,
) -> list[Verdict]:  # fmt: skip
    found: list[Verdict] = []
    if cost is not None:
        found += of_cost(cost)
    if lab is not None:
        found += of_lab(lab)
    if replays is not None:
        found += of_replay(replays)
    if outcomes is not None:
        found += of_outcomes(outcomes)
    return found


def as_json(found: list[Verdict]) -> list[Mapping[str, object]]:
    return [
        {"what": v.what, "target": v.target, "value": v.value, "outcome": v.outcome} for v in found
    ]
