"""The command line of bench_rdma.py."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import machine
import options as cli
from machine import REPOSITORY

CONTENDERS = ("loop", "ours", "upstream")
PARTS = ("cost", "limit", "lab", "replay", "outcomes")


def parse(about: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench-rdma", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_argument_group("what is measured")
    what.add_argument("--parts", type=cli.SomeOf(PARTS), default=list(PARTS),
                      help=f"of {','.join(PARTS)}; by default all")  # fmt: skip
    what.add_argument("--sizes", type=cli.sizes, default=[256, 1152],
                      help="cost and limit: block sizes; by default 256,1152")  # fmt: skip
    what.add_argument("--contenders", type=cli.SomeOf(CONTENDERS), default=list(CONTENDERS),
                      metavar="NAMES",
                      help=f"cost and limit: of {','.join(CONTENDERS)}; "
                      "by default all")  # fmt: skip
    what.add_argument("--batch", type=cli.positive, default=16384,
                      help="blocks in a call; by default 16384")  # fmt: skip
    what.add_argument("--limits", type=rates, default=["1M"],
                      help="limit: work requests a second that the NIC takes, comma separated; "
                      "by default 1M")  # fmt: skip
    what.add_argument("--replay-rate", type=rate, default="400k", metavar="R",
                      help="replay: work requests a second; by default 400k")  # fmt: skip
    what.add_argument("--replay-link", type=number, default=4.0, metavar="GBIT",
                      help="replay: Gb/s of the link; by default 4")  # fmt: skip
    what.add_argument("--replay-scale", type=cli.positive, default=32, metavar="N",
                      help="replay: --load-scale, an N-th of the load; by default 32")  # fmt: skip
    what.add_argument("--outcome-rate", type=rate, default="1M", metavar="R",
                      help="outcomes: work requests a second; by default 1M")  # fmt: skip
    what.add_argument("--outcome-blocks", type=cli.positive, metavar="N",
                      help="outcomes: blocks of the large call; by default 1000000")  # fmt: skip
    how = parser.add_argument_group("how")
    how.add_argument("--rounds", type=cli.positive, help="7 by default")
    how.add_argument("--lab-rounds", type=cli.positive, default=7, help="7 by default")
    how.add_argument("--seconds", type=cli.seconds, help="of a measurement, 0.3 by default")
    how.add_argument("--memory", type=cli.positive, default=64, metavar="MIB",
                     help="of a region; 64 by default")  # fmt: skip
    how.add_argument("--core", type=int, metavar="N",
                     help="cost: the core of those that get one; by default the last")  # fmt: skip
    how.add_argument("--quick", action="store_true",
                     help="a smoke run: 1 round of 0.05 s, a small load, 1 round in "
                     "the lab")  # fmt: skip
    how.add_argument("--python", default=sys.executable,
                     help="a Python that has our package; by default this one")  # fmt: skip
    how.add_argument("--build", type=Path, default=REPOSITORY / "build",
                     help="where upstream's wheel, the programs and the lab are; by default "
                     "build")  # fmt: skip
    out = parser.add_argument_group("output")
    out.add_argument("--json", type=Path, metavar="FILE",
                     help="write every sample to FILE; by default bench-rdma.json in "
                     "--build")  # fmt: skip
    return checked(parser, parser.parse_args())


def checked(parser: argparse.ArgumentParser, options: argparse.Namespace) -> argparse.Namespace:
    rounds, length = (1, 0.05) if options.quick else (7, 0.3)
    options.rounds = options.rounds or rounds
    options.seconds = options.seconds or length
    options.outcome_blocks = options.outcome_blocks or (100_000 if options.quick else 1_000_000)
    options.memory *= cli.MIB
    options.build = options.build.resolve()
    options.json = options.json or options.build / "bench-rdma.json"
    if options.memory < 2 * max(options.sizes):
        parser.error(f"--memory {options.memory // cli.MIB}: a region holds two blocks at least")
    if not options.json.parent.is_dir():
        parser.error(f"--json {options.json}: there is no folder {options.json.parent}")
    usable = machine.usable()
    options.core = usable[-1] if options.core is None else options.core
    if options.core not in usable:
        parser.error(f"--core {options.core}: this process may use {', '.join(map(str, usable))}")
    return options


def per_second(text: str) -> float:
    """What 400k or 1M means; 0 for anything else."""
    digits, factor = text, 1.0
    if text[-1:] in ("k", "M"):
        digits, factor = text[:-1], {"k": 1e3, "M": 1e6}[text[-1]]
    try:
        return float(digits) * factor
    except ValueError:
        return 0.0


def rate(text: str) -> str:
    if not 1e3 <= per_second(text) <= 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a rate such as 400k or 1M")
    return text


def rates(text: str) -> list[str]:
    return [rate(word.strip()) for word in text.split(",")]


def number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of Gb/s up to 1000")
    return value
