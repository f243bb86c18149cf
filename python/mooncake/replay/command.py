"""`mooncake replay`."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from .._demo_models import DemoError
from .._errors import MooncakeError
from . import report
from .errors import UsageError
from .options import Plan, add_arguments, plan_of
from .progress import progress
from .run import replay

__all__ = ["add_arguments", "run"]

HELP = "replay a load between a prefill and a decode process, and see what limits it"
DESCRIPTION = """Requests go from a prefill process to a decode process, pass after pass, with
real memory and real transfers, while decode steps take and give back pages. Reports for each
configuration and pass how long runs of pages are, and what that does to the transfers. See
docs/replay.md."""


def run(options: argparse.Namespace) -> int:
    """Exit status: 0 if every byte arrived, 1 if not, 2 for a bad option or file, 130 after
    Ctrl-C."""
    try:
        plan = plan_of(options, _say)
    except UsageError as error:
        _say(str(error))
        return 2
    try:
        return _ramp(plan) if plan.rates else _passes(plan)
    except (DemoError, MooncakeError, OSError) as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        _say("interrupted")
        return 130


def _say(text: str) -> None:
    print(f"mooncake replay: {text}", file=sys.stderr, flush=True)


def _passes(plan: Plan) -> int:
    options = plan.options
    print(report.description(plan), flush=True)
    found = replay(plan, progress(options.plain))
    for about in found.engines:
        if not about["numpy"]:
            _say(f"{about['engine']}: without numpy, filling and comparing took longer")
    used = found.engines[0]["transport"]
    if options.transport == "local" and used != "local":
        _say(f"the bytes went over {used}: the processes could not reach each other in memory")
    print()
    print(report.table(found.passes, options.verify))
    print(
        f"\nmean contiguous run in decode's pool by pass, tokens; pass {options.passes} against 1:"
    )
    print(report.comparison(found.passes))
    _written(plan, report.as_json(plan, found))
    failures = [failure for each in found.passes for failure in each.failures]
    for failure in failures[:20]:
        _say(failure)
    if len(failures) > 20:
        _say(f"{len(failures) - 20} more failures")
    return 1 if failures else 0


def _ramp(plan: Plan) -> int:
    from . import ramp

    print(report.description(plan), flush=True)
    found = ramp.ramp(plan, _say)
    print()
    print(ramp.table(found))
    print(found.verdict)
    _written(plan, {**report.head(plan), **found.as_json()})
    for failure in found.failures[:20]:
        _say(failure)
    return 1 if found.failures else 0


def _written(plan: Plan, figures: dict[str, Any]) -> None:
    options = plan.options
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if options.chart is not None:
        from .chart import draw

        draw(figures, options.chart)
        print(f"chart: {options.chart}")
