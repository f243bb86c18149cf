"""Moving KV-cache blocks between two processes of this host: ours beside others, and beside
what the machine can do, in one run.

Every contender is two processes (or one), an initiator and a target, that walk the same blocks
over regions larger than the cache. Rounds are interleaved: each contender is measured once a
round, in an order that turns; the others are stopped meanwhile. Cells of the table are medians
over the rounds, ratios are medians of the rounds' ratios, and CPU is user and system time of
both processes. All bytes are compared once for each contender and cell.

Rows are transports: tcp and local between two processes, process within one. In a row, upstream
is Mooncake's wheel (which has tcp only), NIXL its wheel with UCX, UCX is ucx_perftest; the limits
walk the same memory with no protocol: a bare stream over as many sockets as ours opened,
process_vm_writev (CMA), packing through shared memory, memcpy; of limits with one and several
threads the better one is shown. "ours / limit" is against the bare stream for tcp, for
local against the better of CMA and packed. "via tcp": it was not the transport that the column
stands for.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

import machine
import options as cli
import table
import targets
from contenders import Contender, contenders
from measure import Field, cells
from plan import Cell, Workspace
from processes import BenchError
from programs import Programs
from progress import Progress
from results import Results


def main() -> int:
    options = cli.parse(__doc__)
    os.environ["BENCH_BLOCKS"] = options.blocks
    # A terminated run ends like an interrupted one: with its children.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    facts = machine.facts()
    programs = Programs(options.build / "bench", library_of(options.python))
    programs.build()
    known = contenders(options.python, options.build, programs)
    chosen = cli.choose(known, options)
    results = Results()
    interrupted = run(chosen, results, options)
    print(document(facts, chosen, results, options, interrupted))
    write_files(facts, chosen, results, options)
    if interrupted:
        return 130
    # A peer that cannot run or fails is no failure of the benchmark.
    return int(any(name.startswith("ours") for name in (*results.failed, *results.absent)))


def run(chosen: list[Contender], results: Results, options: argparse.Namespace) -> bool:
    """Measure; whether it was interrupted."""
    wanted = cells(options.sizes, options.patterns, options.ops)
    if options.latency == "only":
        wanted = []
    progress = Progress((len(wanted) + (options.latency != "no")) * options.rounds)
    with tempfile.TemporaryDirectory(prefix="mooncake-bench-") as folder:
        workspace = Workspace(Path(folder), options.memory)
        field = Field(workspace, results, progress)
        field.lanes = results.lanes = options.lanes or 0
        try:
            field.open(chosen)
            for cell in wanted:
                laid = workspace.lay(cell, options.batch)
                field.throughput(laid, options.rounds, options.seconds)
            if options.latency != "no":
                laid = workspace.lay(Cell(4096, "scattered", "write"), 1)
                field.latency(laid, options.rounds, options.seconds)
        except KeyboardInterrupt:
            return True
        finally:
            progress.clear()
            field.close()
    return False


def library_of(python: str) -> Path:
    """The libmooncake.so that this Python's package uses."""
    named = os.environ.get("MOONCAKE_LIBRARY")
    if named:
        return Path(named).resolve()
    return cli.package_of(python) / "libmooncake.so"


def document(
    facts: dict[str, str], chosen: list[Contender], results: Results,
    options: argparse.Namespace, interrupted: bool,
) -> str:  # fmt: skip
    parts = [
        f"{facts['date']}, {facts['cpu']}, {facts['memory']}, {facts['kernel']}, commit "
        f"{facts['commit']}, load {facts['load']}.",
        f"Medians of {options.rounds} interleaved rounds of {options.seconds:g} s; at most "
        f"{options.batch} blocks or 16 MiB in a call, as {cli.BLOCKS[options.blocks]}; regions of "
        f"{options.memory >> 20} MiB; lanes of ours over tcp, and of the limits: "
        f"{results.lanes or 'unknown'}. Other columns: GB/s (CPU s/GiB).",
    ]
    if interrupted:
        parts.append("**Interrupted: of these rounds there are those until then.**")
    if results.cells:
        parts.append(table.throughput(results))
    if results.latencies:
        parts.append(table.latency(results, chosen))
    if options.details and results.cells:
        parts.append(table.details(results))
    parts += [targets.report(targets.verdicts(results)), table.legend(results, chosen)]
    return "\n\n".join(parts)


def write_files(
    facts: dict[str, str], chosen: list[Contender], results: Results, options: argparse.Namespace
) -> None:
    if options.json:
        settings = {"rounds": options.rounds, "seconds": options.seconds, "batch": options.batch,
                    "blocks": options.blocks, "memory": options.memory}  # fmt: skip
        verdicts = [
            {"what": v.what, "target": v.target, "value": v.value, "outcome": v.outcome}
            for v in targets.verdicts(results)
        ]
        report = {"machine": facts, "settings": settings, **results.as_json(), "targets": verdicts}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
        print(f"\nwritten: {options.json}", file=sys.stderr)
    if options.chart:
        import chart

        chart.draw(results, chosen, options.chart)
        print(f"\nwritten: {options.chart}", file=sys.stderr)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"bench: {error}")
