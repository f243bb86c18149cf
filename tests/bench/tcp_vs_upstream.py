"""TCP writes of scattered blocks: ours beside upstream's wheel, in one run.

Each contender is two processes on this host, a sender and a receiver, that use the same
lines over the API that both have: TransferEngine.batch_transfer_sync_write of
mooncake.engine, from one thread. Rounds are interleaved: each contender measures a size
once a round, in an order that turns, so that a disturbance of the machine hits all of them.
The table shows the median of the rounds, the lowest and the highest; "ours / it" is the
median of the rounds' ratios. CPU is the time of sender and receiver together. All bytes
are compared once for each contender and size.

    ours               this package
    upstream pooled    MC_TCP_ENABLE_CONNECTION_POOL=1 with a deep queue: its best mode
    upstream default   no variables but MC_FORCE_TCP
    bare stream        one socket, up to 1,024 blocks a system call, one answer a batch: a limit

Upstream's default queue takes 1,024 blocks: a larger batch makes it fail, so that is the
batch of all, unless the blocks are so large that fewer cover the memory.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from contenders import Contender, Pair, Sample, expected_hash
from plan import PAYLOAD
from processes import BenchError

REPOSITORY = Path(__file__).resolve().parents[2]
FORCE_TCP = {"MC_FORCE_TCP": "1", "MC_LOG_LEVEL": "ERROR"}
POOLED = {"MC_TCP_ENABLE_CONNECTION_POOL": "1", "MC_TCP_MAX_QUEUED_TRANSFERS_PER_PEER": "65535"}
UPSTREAM_QUEUE = 1024

Results = dict[int, dict[str, list[Sample]]]


def main() -> int:
    options = arguments()
    contenders = choose(options)
    with tempfile.TemporaryDirectory(prefix="mooncake-bench-") as logs:
        pairs: list[Pair] = []
        try:
            for contender in contenders:
                pairs.append(Pair(contender, Path(logs)))
            print(header(options, pairs), flush=True)
            results = measure(pairs, options)
        except BenchError as error:
            print(f"tcp_vs_upstream: {error}", file=sys.stderr)
            for log in sorted(Path(logs).glob("*.log")):
                tail = log.read_text(errors="replace").splitlines()[-5:]
                if tail:
                    print(f"-- {log.name}", *tail, sep="\n", file=sys.stderr)
            return 1
        finally:
            for pair in pairs:
                pair.close()
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps(report(options, pairs, results), indent=1) + "\n")
        print(f"\nwritten: {options.json}")
    return 0


# -- options


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes",
        type=sizes,
        default=[512, 4096, 65536, 1 << 20],
        help="block sizes, comma separated: 512,4K,64K,1M (the default)",
    )
    parser.add_argument("--rounds", type=positive, default=7, help="rounds, 7 by default")
    parser.add_argument(
        "--seconds", type=seconds, default=0.4, help="length of a measurement, 0.4 by default"
    )
    parser.add_argument(
        "--batch",
        type=positive,
        default=UPSTREAM_QUEUE,
        help="blocks in a call at most, 1024 by default",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample to FILE")
    parser.add_argument(
        "--python",
        default=sys.executable,
        help="a Python that has our package; by default this one",
    )
    parser.add_argument(
        "--upstream-python",
        default=os.environ.get("MC_UPSTREAM_PYTHON")
        or str(REPOSITORY / "build" / "venv-upstream" / "bin" / "python"),
        help="a Python that has upstream's wheel; by default MC_UPSTREAM_PYTHON, "
        "else build/venv-upstream/bin/python (make upstream)",
    )
    parser.add_argument(
        "--without-upstream", action="store_true", help="only ours and the bare stream"
    )
    options = parser.parse_args()
    if options.batch > UPSTREAM_QUEUE and not options.without_upstream:
        parser.error(
            f"--batch {options.batch}: upstream's default mode fails above {UPSTREAM_QUEUE}; "
            "add --without-upstream"
        )
    if not options.without_upstream and not Path(options.upstream_python).exists():
        parser.error(
            f"{options.upstream_python} does not exist: run `make upstream`, name another with "
            "--upstream-python, or give --without-upstream"
        )
    return options


def sizes(text: str) -> list[int]:
    found = []
    for word in text.split(","):
        number, unit = word.strip().upper().removesuffix("IB").removesuffix("B"), 1
        if number.endswith(("K", "M")):
            number, unit = number[:-1], {"K": 1 << 10, "M": 1 << 20}[number[-1]]
        if not number.isdigit() or not 1 <= int(number) * unit <= PAYLOAD:
            raise argparse.ArgumentTypeError(
                f"{word!r} is not a size between 1 and {PAYLOAD >> 20}M, such as 512, 4K or 1M"
            )
        found.append(int(number) * unit)
    return found


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


def choose(options: argparse.Namespace) -> list[Contender]:
    found = [Contender("ours", options.python, "peer_driver.py", FORCE_TCP)]
    if not options.without_upstream:
        theirs = options.upstream_python
        found += [
            Contender("upstream pooled", theirs, "peer_driver.py", {**FORCE_TCP, **POOLED}),
            Contender("upstream default", theirs, "peer_driver.py", FORCE_TCP),
        ]
    return [*found, Contender("bare stream", sys.executable, "stream_driver.py")]


# -- measurement


def measure(pairs: list[Pair], options: argparse.Namespace) -> Results:
    """All sizes one after the other, in each all rounds."""
    results: Results = {}
    for size in options.sizes:
        expected = expected_hash(size, options.batch)
        for pair in pairs:
            pair.aim(size, options.batch)
            pair.verify(expected)
        samples: dict[str, list[Sample]] = {pair.contender.name: [] for pair in pairs}
        for number in range(options.rounds):
            turn = number % len(pairs)
            for pair in pairs[turn:] + pairs[:turn]:
                name = pair.contender.name
                progress(f"{named(size)}: round {number + 1} of {options.rounds}, {name}")
                samples[name].append(pair.measure(options.seconds))
        results[size] = samples
    progress("")
    return results


def progress(text: str) -> None:
    """One line on a terminal that the next one overwrites; nothing elsewhere."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


# -- output


def named(size: int) -> str:
    for unit, word in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if size % unit == 0:
            return f"{size // unit} {word}"
    return f"{size} B"


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def commit() -> str:
    """The checkout's commit, with a mark if it was changed since."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=REPOSITORY,
            check=False,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def header(options: argparse.Namespace, pairs: list[Pair]) -> str:
    lines = [
        f"{os.cpu_count()} cores, {cpu_model()}, Linux {platform.release()}, commit {commit()}",
        f"{options.rounds} interleaved rounds of {options.seconds:g} s; blocks scattered on both "
        f"sides, at most {options.batch} in a call and {PAYLOAD >> 20} MiB in all; loopback",
    ]
    for pair in pairs:
        if pair.about["version"]:
            lines.append(f"{pair.contender.name}: {pair.about['version']}, {pair.about['file']}")
    return "\n".join(lines)


def spread(values: list[float], form: str) -> str:
    """median (lowest..highest)"""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:{form}} ({low:{form}}..{high:{form}})"


def table(results: Results) -> str:
    rows = [("block", "contender", "blocks/s", "GB/s", "CPU s/GiB", "ours / it", "CPU: it / ours")]
    for size, samples in results.items():
        ours = samples["ours"]
        for name, theirs in samples.items():
            speed = [a.gb_per_second / b.gb_per_second for a, b in zip(ours, theirs)]
            cpu = median_cpu(theirs) / median_cpu(ours) if median_cpu(ours) else float("nan")
            rows.append(
                (
                    named(size) if theirs is ours else "",
                    name,
                    spread([sample.blocks_per_second for sample in theirs], ",.0f"),
                    spread([sample.gb_per_second for sample in theirs], ".3f"),
                    spread([sample.cpu_seconds_per_gib for sample in theirs], ".2f"),
                    "" if theirs is ours else f"{statistics.median(speed):.2f}x",
                    "" if theirs is ours else f"{cpu:.2f}x",
                )
            )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for index, row in enumerate(rows):
        if index == 1 or row[0] and index > 1:
            lines.append("-" * (sum(widths) + 2 * (len(widths) - 1)))
        cells = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(["", *lines])


def median_cpu(samples: list[Sample]) -> float:
    return statistics.median(sample.cpu_seconds_per_gib for sample in samples)


def report(options: argparse.Namespace, pairs: list[Pair], results: Results) -> dict[str, object]:
    return {
        "machine": {"cores": os.cpu_count(), "cpu": cpu_model(), "kernel": platform.release()},
        "commit": commit(),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "batch": options.batch,
        "versions": {pair.contender.name: pair.about["version"] for pair in pairs},
        "samples": {
            str(size): {
                name: [dataclasses.asdict(sample) for sample in theirs]
                for name, theirs in samples.items()
            }
            for size, samples in results.items()
        },
    }


if __name__ == "__main__":
    sys.exit(main())
