"""`mooncake advise`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from .advise import advise
from .options import positive

HELP = "say what limits, from a replay's JSON or an engine's counters, and what to change"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("report", nargs="?", metavar="REPLAY.JSON", help="from mooncake replay --json; - for stdin")
    add(
        "--stats",
        metavar="FILE",
        help="instead: counters, dataclasses.asdict(engine.stats()) as JSON; - for stdin",
    )
    add(
        "--link-mb-per-s",
        type=positive,
        metavar="MB/S",
        help="with --stats: what the link could move; without it gains are upper bounds",
    )
    add("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Exit status: 0, or 2 for a file that cannot be used."""
    if (options.report is None) == (options.stats is None):
        return _refused("give either a replay's JSON file or --stats FILE")
    name = options.report if options.report is not None else options.stats
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
        subject = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        return _refused(f"{name} cannot be read: {error}")
    if (options.report is not None) != (isinstance(subject, dict) and "schema" in subject):
        what = "counters" if options.stats is not None else "a report of mooncake replay --json"
        return _refused(f"{name} is not {what}")
    try:
        found = advise(subject, link_mb_per_s=options.link_mb_per_s)
    except ValueError as error:
        return _refused(f"{name}: {error}")
    if options.json:
        print(json.dumps([each.as_json() for each in found], indent=1))
    else:
        print("\n".join(each.text for each in found))
    return 0


def _refused(reason: str) -> int:
    print(f"mooncake advise: {reason}", file=sys.stderr)
    return 2
