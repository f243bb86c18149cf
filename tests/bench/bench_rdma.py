"""The engine over rdma: beside a bare loop on the same verbs, beside Mooncake's wheel, and beside
what the NIC and the link can do.

Parts:

  cost    a software NIC that completes work requests without moving bytes: what the engine itself
          takes for each scattered block, on one core, beside a bare C loop that posts and polls the
          same work requests, and beside upstream
  limit   the same NIC with a limit of work requests a second: how much of it each uses
  lab     two emulated hosts with soft-RoCE: MB/s of contiguous and scattered blocks, beside
          ib_write_bw and upstream
  replay  the incident, `mooncake replay`, over a software NIC that moves bytes, with a limit of
          work requests and of bandwidth
  outcomes  calls of 10 blocks alone and beside one of 1,000,000 on a NIC with a limit of work
          requests; the time from a cancel until both sides are quiet; the time from the begin
          of a call of 1,000,000 blocks until its first work request is posted

Rounds are interleaved, each contender once a round in an order that turns, the others stopped
meanwhile; figures are medians over the rounds, ratios medians of the rounds' ratios. All bytes are
compared once for each contender and cell while the NIC copies. A part that cannot be had here is
left out with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bench
import machine
import rdma_lab
import rdma_options
import rdma_outcomes
import rdma_replay
import rdma_table
import rdma_targets
import softnic
import table
import targets
from measure import cells
from plan import Workspace
from processes import BenchError
from programs import RDMA_NAMES, Programs
from progress import Progress
from rdma_contenders import NicContender, contenders
from rdma_lab import Lab
from rdma_outcomes import Outcomes
from rdma_pair import NicField
from rdma_replay import Replays
from results import Results


@dataclass
class Found:
    """What each part found; None where it was not run."""

    cost: Results | None = None
    limits: dict[str, Results] = field(default_factory=dict)  # by work requests a second
    lab: Lab | None = None
    replays: Replays | None = None
    outcomes: Outcomes | None = None
    interrupted: bool = False

    def verdicts(self) -> list[targets.Verdict]:
        return rdma_targets.verdicts(self.cost, self.lab, self.replays, self.outcomes)


def main() -> int:
    options = rdma_options.parse(__doc__)
    os.environ["BENCH_BLOCKS"] = "array"
    # A terminated run ends like an interrupted one: with its children.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    facts = machine.facts()
    programs = Programs(options.build / "bench", bench.library_of(options.python))
    programs.build(RDMA_NAMES)
    nic = softnic.SoftNic(options.build / "softnic")
    known = contenders(options.python, options.build, programs, nic)
    chosen = [each for each in known if each.name.split()[0] in options.contenders]
    found = Found()
    try:
        run(chosen, nic, found, options)
    except KeyboardInterrupt:
        found.interrupted = True
    finally:
        nic.close()
    print(document(facts, chosen, found, options))
    write(facts, found, options)
    return 130 if found.interrupted else int(ours_failed(found))


def run(
    chosen: list[NicContender], nic: softnic.SoftNic, found: Found, options: argparse.Namespace
) -> None:
    progress = Progress(steps(options))
    try:
        if "cost" in options.parts:
            found.cost = Results()
            on_nic(chosen, nic, softnic.COUNTING, options.core, found.cost, options, progress)
        if "limit" in options.parts:
            for rate in options.limits:
                found.limits[rate] = Results()
                on_nic(
                    rdma_table.limited(chosen), nic, {**softnic.COUNTING, "rate": rate}, None,
                    found.limits[rate], options, progress,
                )  # fmt: skip
        if "replay" in options.parts:
            found.replays = rdma_replay.measure(nic, options, progress)
        if "outcomes" in options.parts:
            found.outcomes = rdma_outcomes.measure(nic, options, progress)
        if "lab" in options.parts:
            found.lab = rdma_lab.measure(options, progress)
    finally:
        progress.clear()


def steps(options: argparse.Namespace) -> int:
    """Rounds of all parts; one for the lab, whose rounds are its own."""
    sizes = len(options.sizes)
    each = {
        "cost": sizes, "limit": sizes * len(options.limits), "replay": 1, "outcomes": 1, "lab": 0,
    }  # fmt: skip
    return sum(options.rounds * each[part] for part in options.parts) or 1


def on_nic(
    chosen: list[NicContender], nic: softnic.SoftNic, settings: dict[str, str], core: int | None,
    results: Results, options: argparse.Namespace, progress: Progress,
) -> None:  # fmt: skip
    """All sizes, by all contenders, under these settings."""
    with tempfile.TemporaryDirectory(prefix="mooncake-bench-") as folder:
        workspace = Workspace(Path(folder), options.memory)
        runners = NicField(workspace, results, progress, nic, settings, core)
        try:
            runners.open(list(chosen))
            for cell in cells(options.sizes, ["scattered"], ["write"]):
                laid = workspace.lay(cell, options.batch)
                runners.throughput(laid, options.rounds, options.seconds)
        finally:
            runners.close()


def document(
    facts: dict[str, str], chosen: list[NicContender], found: Found, options: argparse.Namespace
) -> str:
    parts = [
        f"{facts['date']}, {facts['cpu']}, {facts['memory']}, {facts['kernel']}, commit "
        f"{facts['commit']}, load {facts['load']}.",
        f"Medians of {options.rounds} interleaved rounds of {options.seconds:g} s, "
        f"{options.batch:,} blocks in a call, regions of {options.memory >> 20} MiB.",
    ]
    if found.interrupted:
        parts.append("**Interrupted: of the rounds there are those until then.**")
    if found.cost is not None:
        parts.append("### Cost of a scattered block")
        parts.append(f"A software NIC that completes at once; one core is core {options.core}.")
        parts += [rdma_table.cost(found.cost, chosen), table.legend(found.cost, list(chosen))]
    if found.limits:
        parts.append("### Under a limit of work requests")
        parts.append("Blocks a second over what the NIC takes; no one is held to a core.")
        parts.append(rdma_table.limit(found.limits, rdma_table.limited(chosen)))
    if found.replays is not None:
        parts.append("### The incident")
        parts += replay_part(found.replays)
    if found.outcomes is not None:
        parts.append("### Beside others, cancelled, and first")
        parts += outcomes_part(found.outcomes)
    if found.lab is not None:
        parts.append("### Soft-RoCE between two emulated hosts, MB/s")
        why = found.lab.why_not
        parts.append(f"Not run: {why}" if why else rdma_table.lab(found.lab))
    parts.append(targets.report(found.verdicts()))
    return "\n\n".join(parts)


def replay_part(found: Replays) -> list[str]:
    said = (
        f"{len(found.reports)} runs; the NIC takes {found.rate:,.0f} work requests a second and "
        f"its link {found.link / 1e9:g} Gb/s."
    )
    if found.why_not:
        said += f" Ended early: {found.why_not}"
    return [said, rdma_table.replay(found)] if found.reports else [said]


def outcomes_part(found: Outcomes) -> list[str]:
    said = (
        f"Between two of ours, from Python, microseconds. Small calls: the NIC takes {found.rate} "
        f"work requests a second. The large call has {found.blocks:,} blocks of 64 B."
    )
    if found.why_not:
        said += f" Ended early: {found.why_not}"
    return [said, rdma_table.outcomes(found)] if found.calls else [said]


def write(facts: dict[str, str], found: Found, options: argparse.Namespace) -> None:
    settings = {
        "rounds": options.rounds, "seconds": options.seconds, "batch": options.batch,
        "memory": options.memory, "core": options.core,
    }  # fmt: skip
    report: dict[str, Any] = {"machine": facts, "settings": settings}
    if found.cost is not None:
        report["cost"] = found.cost.as_json()
    if found.limits:
        report["limit"] = {rate: results.as_json() for rate, results in found.limits.items()}
    if found.replays is not None:
        report["replay"] = found.replays.as_json()
    if found.outcomes is not None:
        report["outcomes"] = found.outcomes.as_json()
    if found.lab is not None:
        report["lab"] = found.lab.as_json()
    report["targets"] = rdma_targets.as_json(found.verdicts())
    options.json.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\nwritten: {options.json}", file=sys.stderr)


def ours_failed(found: Found) -> bool:
    """A peer that cannot run, or a lab that cannot be had, is no failure of the benchmark."""
    by_nic = [each for each in (found.cost, *found.limits.values()) if each is not None]
    names = [name for each in by_nic for name in (*each.failed, *each.absent)]
    if found.lab is not None:
        names += found.lab.absent
    ended = any(each is not None and each.why_not for each in (found.replays, found.outcomes))
    return ended or any(name.startswith("ours") for name in names)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"bench-rdma: {error}")
