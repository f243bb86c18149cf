"""The command line."""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path

import machine
from contenders import Contender
from machine import REPOSITORY
from plan import OPS, PATTERNS
from processes import BenchError

BLOCKS = {"array": "array('Q')", "list": "lists"}
MIB = 1 << 20
PROCESSES = 24  # at most, each with a region


def parse(about: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_argument_group("what is measured")
    what.add_argument("--sizes", type=sizes, default=[512, 4096, 65536, MIB],
                      help="block sizes; by default 512,4K,64K,1M")  # fmt: skip
    what.add_argument("--patterns", type=SomeOf(PATTERNS), default=list(PATTERNS),
                      help="of contiguous,scattered; by default both")  # fmt: skip
    what.add_argument("--ops", type=SomeOf(OPS), default=["write"],
                      help="of write,read; by default write")  # fmt: skip
    what.add_argument("--columns", metavar="NAMES",
                      help="only these contenders, comma separated, as they are named below the "
                      "table; ours and nixl stand for all whose names begin so")  # fmt: skip
    what.add_argument("--only", choices=("ours", "peers", "limits"), action="append",
                      help="only this kind; may be repeated")  # fmt: skip
    what.add_argument("--latency", choices=("yes", "no", "only"), default="yes",
                      help="the latency of one 4 KiB write; by default yes")  # fmt: skip
    what.add_argument("--batch", type=positive, default=16384,
                      help="blocks in a call at most; by default 16384. A call has 16 MiB at most "
                      "in any case, and upstream's calls 1024 blocks")  # fmt: skip
    what.add_argument("--blocks", choices=tuple(BLOCKS), default="array",
                      help="how ours and upstream get them; by default array")  # fmt: skip
    what.add_argument("--lanes", type=positive,
                      help="of the limits; by default as many as ours opened")  # fmt: skip
    how = parser.add_argument_group("how")
    how.add_argument("--rounds", type=positive, help="7 by default")
    how.add_argument("--seconds", type=seconds, help="of a measurement, 0.3 by default")
    how.add_argument("--memory", type=positive, metavar="MIB", help="of a region; 128 by default")
    how.add_argument("--quick", action="store_true",
                     help="a smoke run: 1 round of 0.05 s over 16 MiB, sizes as given")  # fmt: skip
    how.add_argument("--python", default=sys.executable,
                     help="a Python that has our package; by default this one")  # fmt: skip
    how.add_argument("--build", type=Path, default=REPOSITORY / "build",
                     help="where make bench installed the peers; by default build")  # fmt: skip
    out = parser.add_argument_group("output")
    out.add_argument("--details", action="store_true", help="also each contender's spread")
    out.add_argument("--json", type=Path, metavar="FILE", help="write every sample to FILE")
    out.add_argument("--chart", type=Path, metavar="FILE",
                     help="draw a chart, FILE.png or FILE.svg; needs matplotlib")  # fmt: skip
    return checked(parser, parser.parse_args())


def checked(parser: argparse.ArgumentParser, options: argparse.Namespace) -> argparse.Namespace:
    rounds, length, memory = (1, 0.05, 16) if options.quick else (7, 0.3, 128)
    options.rounds = options.rounds or rounds
    options.seconds = options.seconds or length
    options.memory = (options.memory or memory) * MIB
    if options.memory < 2 * max(options.sizes):
        parser.error(f"--memory {options.memory // MIB}: a region holds two blocks at least")
    if options.chart and options.chart.suffix not in (".png", ".svg"):
        parser.error(f"--chart {options.chart}: the name must end in .png or .svg")
    if options.chart and importlib.util.find_spec("matplotlib") is None:
        parser.error("--chart needs matplotlib: pip install 'mooncake-go[bench]'")
    free = machine.memory_of("MemAvailable")
    if free and PROCESSES * options.memory > free:
        parser.error(
            f"{PROCESSES} regions of {options.memory // MIB} MiB do not fit the "
            f"{free // MIB} MiB of memory that are free: give a smaller --memory"
        )
    return options


def choose(known: list[Contender], options: argparse.Namespace) -> list[Contender]:
    """Those that the options ask for, in the order of the list."""
    chosen = known if options.columns else [c for c in known if c.name != "upstream default"]
    if options.columns:
        words = [word.strip() for word in options.columns.split(",")]
        wanted = {name for word in words for name in named_by(word, known)}
        chosen = [each for each in known if each.name in wanted]
    if options.only:
        chosen = [each for each in chosen if kind_of(each) in options.only]
    if not chosen:
        raise BenchError("--columns and --only leave no contender")
    return chosen


def named_by(word: str, known: list[Contender]) -> list[str]:
    """The contender of this name, or else those whose names begin with the word."""
    names = [each.name for each in known]
    found = [word] if word in names else [n for n in names if n.startswith(word + " ")]
    if not found:
        raise BenchError(f"--columns: there is no contender {word!r}; there are {', '.join(names)}")
    return found


def kind_of(contender: Contender) -> str:
    first = contender.name.split()[0]
    return "ours" if first == "ours" else "peers" if first in ("upstream", "nixl", "ucx") else (
        "limits")  # fmt: skip


def package_of(python: str) -> Path:
    """Where this Python has our package. Raises BenchError."""
    try:
        done = subprocess.run(
            [python, "-c", "import mooncake; print(mooncake.__path__[0])"],
            check=False, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    except OSError as error:
        raise BenchError(f"--python {python}: {error.strerror}") from error
    if done.returncode != 0:
        raise BenchError(f"--python {python} has no package mooncake: make bench installs it")
    return Path(done.stdout.strip())


def sizes(text: str) -> list[int]:
    return [size(word) for word in text.split(",")]


def size(word: str) -> int:
    number, unit = word.strip().upper().removesuffix("IB").removesuffix("B"), 1
    if number.endswith(("K", "M")):
        number, unit = number[:-1], {"K": 1 << 10, "M": MIB}[number[-1]]
    if not number.isdigit() or not 8 <= int(number) * unit <= 64 * MIB:
        raise argparse.ArgumentTypeError(
            f"{word!r} is not a size between 8 and 64M, such as 512, 4K or 1M"
        )
    return int(number) * unit


class SomeOf:
    """A comma separated selection."""

    def __init__(self, known: tuple[str, ...]) -> None:
        self.known = known

    def __call__(self, text: str) -> list[str]:
        words = [word.strip() for word in text.split(",")]
        for word in words:
            if word not in self.known:
                raise argparse.ArgumentTypeError(f"{word!r} is none of {', '.join(self.known)}")
        return words


def positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 60:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds up to 60")
    return value
