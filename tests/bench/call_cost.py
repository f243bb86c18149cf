"""What one blocking write costs before and after its bytes are on their way.

Two processes on this host, over loopback, and blocks scattered on both sides, in calls of
several lengths, with Python lists and with numpy arrays as arguments. The table has
nanoseconds a block: medians of interleaved rounds. Rows:

  convert   the three arguments to arrays of 64-bit integers (numpy: found, not copied)
  crossing  an empty mc_transfer: ctypes, the step into Go, a batch begun and ended
  check     both sides of every block looked up, its memory kept registered
  plan+post what mc_submit does besides: runs found, and handed to connections as far as
            they take them
  wait      from the return of mc_submit until every byte is confirmed
  whole     Segment.write() of the same blocks; in a call of more than 16,384 the conversion
            runs beside the transfer, so that it is less than the sum

and in microseconds:

  first     from the begin of Segment.write() until the first block is in the peer's
            memory, looked at every 50 us or so

"check" is a call that fails at its last block, without what failing costs. The planner by
itself: `go test -run xxx -bench Plan ./core`.

"pages" is the same blocks as a page group, with numpy's int32 page lists and an array of up to
160 layers: as many pages as it takes, in another order on each side, with a gap between them.
Its check is part of plan+post.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import random
import statistics
import subprocess
import sys
import time
from array import array
from collections.abc import Callable
from typing import Any

from mooncake import Engine, MooncakeError, NotRegistered, PageGroup, _ffi
from mooncake._blocks import TOGETHER, Blocks, many_blocks
from mooncake._pages import groups_of

try:
    import numpy
except ImportError:
    numpy = None  # type: ignore[assignment]

NAMES = ("local", "remote", "lengths")
ROWS = ("convert", "crossing", "check", "plan+post", "wait", "whole", "first")
clock = time.monotonic_ns


class Pages:
    """Registered memory of an engine."""

    def __init__(self, engine: Engine, size: int, fill: bytes) -> None:
        self.map = mmap.mmap(-1, size)
        self.map[:] = fill * size
        self.memory = engine.register(self.map)
        self.address = self.memory.address


def serve(size: int) -> None:
    """The peer: tells where its memory is, and for each line, an offset, when the byte
    there is no longer 0."""
    engine = Engine("127.0.0.1")
    pages = Pages(engine, size, b"\0")
    print(engine.session, pages.address, flush=True)
    for line in sys.stdin:
        at = int(line)
        pages.map[at] = 0
        print("watching", flush=True)
        give_up = time.monotonic() + 60
        while not pages.map[at] and time.monotonic() < give_up:
            time.sleep(20e-6)
        print(clock(), flush=True)
    os._exit(0)


class Bench:
    """An engine here, and a peer process to write to."""

    def __init__(self, size: int) -> None:
        self.peer = subprocess.Popen(
            [sys.executable, __file__, "--serve", str(size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        session, self.remote = self._line().split()
        self.engine = Engine("127.0.0.1")
        self.pages = Pages(self.engine, size, b"\xa5")
        self.segment = self.engine.open_segment(session)
        self.segment.write(self.pages.address, int(self.remote), 64)

    def _line(self) -> str:
        assert self.peer.stdout is not None
        return self.peer.stdout.readline()

    def watch(self, address: int) -> None:
        assert self.peer.stdin is not None
        self.peer.stdin.write(f"{address - int(self.remote)}\n")
        self.peer.stdin.flush()
        if self._line() != "watching\n":
            raise SystemExit("call_cost: the peer process ended")

    def seen(self) -> int:
        return int(self._line())

    def close(self) -> None:
        assert self.peer.stdin is not None
        self.peer.stdin.close()
        self.peer.wait(10)


def spread(base: int, count: int, block: int, seed: int) -> list[int]:
    """Addresses of blocks of which no two are neighbours, in random order."""
    slots = list(range(count))
    random.Random(seed).shuffle(slots)
    return [base + slot * 2 * block for slot in slots]


class Case:
    """Calls of one length with one kind of arguments."""

    def __init__(self, bench: Bench, count: int, block: int, form: str) -> None:
        self.bench, self.count, self.form = bench, count, form
        self.lists = (
            spread(bench.pages.address, count, block, 1),
            spread(int(bench.remote), count, block, 2),
            [block] * count,
        )
        self.arguments: tuple[Any, ...] = self.lists
        if form == "numpy":
            self.arguments = tuple(numpy.array(each, dtype=numpy.uint64) for each in self.lists)
        self.arrays = tuple(array("Q", each) for each in self.lists)
        self.repeat = max(1, 3000 // count)

    def round(self) -> dict[str, float]:
        """Every row once: nanoseconds a call."""
        took = {
            "convert": self.timed(self.convert),
            "crossing": self.timed(lambda: self.transfer(0)),
            "check": max(0.0, self.check() - self.refusals()),
        }
        submit, took["wait"] = self.submit()
        took["plan+post"] = max(0.0, submit - took["check"])
        took["whole"] = self.timed(self.write)
        self.bench.watch(self.first)
        began = clock()
        self.write()
        took["first"] = self.bench.seen() - began
        return took

    @property
    def first(self) -> int:
        """Where the first block goes."""
        return self.lists[1][0]

    def write(self) -> None:
        self.bench.segment.write(*self.arguments)

    def timed(self, call: Callable[[], object]) -> float:
        began = clock()
        for _ in range(self.repeat):
            call()
        return (clock() - began) / self.repeat

    def convert(self) -> None:
        blocks: Blocks = many_blocks(*self.arguments, NAMES)
        if self.count > TOGETHER:
            for _ in blocks.pieces():
                pass

    def addresses(self, start: int = 0) -> list[int]:
        return [each.buffer_info()[0] + 8 * start for each in self.arrays]

    def transfer(self, count: int) -> None:
        raw, out = _ffi.BatchStatus(), ctypes.c_uint64()
        _ffi.lib().mc_transfer(
            self.bench.segment.handle, 1, *self.addresses(), count, 0, 100,
            ctypes.byref(raw), ctypes.byref(out),
        )  # fmt: skip

    def check(self) -> float:
        """Calls of at most TOGETHER blocks each that fail at their last one."""
        total = 0.0
        for start in range(0, self.count, TOGETHER):
            total += self.refused(start, min(TOGETHER, self.count - start))
        return total

    def refusals(self) -> float:
        """What failing as often costs by itself."""
        return len(range(0, self.count, TOGETHER)) * self.refused(0, 1)

    def refused(self, start: int, count: int) -> float:
        local = self.arrays[0]  # for the other side the peer would be asked
        last = start + count - 1
        good, local[last] = local[last], 1
        try:
            return self.timed(lambda: self.refuse(start, count))
        finally:
            local[last] = good

    def refuse(self, start: int, count: int) -> None:
        out = ctypes.c_uint64()
        try:
            _ffi.lib().mc_submit(
                self.bench.segment.handle, 1, *self.addresses(start), count, 0, ctypes.byref(out)
            )
        except NotRegistered:
            return
        raise SystemExit("call_cost: a block outside of registered memory was taken")

    def submit(self) -> tuple[float, float]:
        """mc_submit and mc_wait."""
        library, out, raw = _ffi.lib(), ctypes.c_uint64(), _ffi.BatchStatus()
        submit = wait = 0
        for _ in range(self.repeat):
            began = clock()
            self.begin(out)
            submitted = clock()
            library.mc_wait(out, -1, ctypes.byref(raw))
            wait += clock() - submitted
            submit += submitted - began
            library.mc_batch_close(out)
        return submit / self.repeat, wait / self.repeat

    def begin(self, out: ctypes.c_uint64) -> None:
        _ffi.lib().mc_submit(
            self.bench.segment.handle, 1, *self.addresses(), self.count, 0, ctypes.byref(out)
        )


class PageCase(Case):
    """The same number of blocks as a page group."""

    def __init__(self, bench: Bench, count: int, block: int) -> None:
        layers = next(n for n in range(min(count, 160), 0, -1) if count % n == 0)
        pages = count // layers
        self.bench, self.count, self.form = bench, count, "pages"
        lists = [spread(0, pages, block, seed) for seed in (1, 2)]
        local, remote = (numpy.array(each, dtype=numpy.int32) // (2 * block) for each in lists)
        step = 2 * block * pages
        at = [(bench.pages.address + k * step, int(bench.remote) + k * step) for k in range(layers)]
        rows = [(here, there, 2 * block, 2 * block, block) for here, there in at]
        self.group = PageGroup(local, remote, numpy.array(rows, dtype=numpy.uint64))
        self.lists = ([], [int(bench.remote) + lists[1][0]], [])
        self.repeat = max(1, 3000 // count)
        self.given = groups_of(self.group)

    def convert(self) -> None:
        groups_of(self.group)

    def write(self) -> None:
        self.bench.segment.write_pages(self.group)

    def transfer(self, count: int) -> None:
        raw, out = _ffi.BatchStatus(), ctypes.c_uint64()
        _ffi.lib().mc_transfer_pages(
            self.bench.segment.handle, 1, self.given.array, count, 0, 100,
            ctypes.byref(raw), ctypes.byref(out),
        )  # fmt: skip

    def check(self) -> float:
        return 0.0

    def refusals(self) -> float:
        return 0.0

    def begin(self, out: ctypes.c_uint64) -> None:
        _ffi.lib().mc_submit_pages(
            self.bench.segment.handle, 1, self.given.array, 1, 0, ctypes.byref(out)
        )


def show(found: list[dict[str, Any]]) -> None:
    print(f"{'blocks':>9} {'as':>6}" + "".join(f"{row:>11}" for row in ROWS))
    print(f"{'':16}" + f"{'ns/block':>11}" * (len(ROWS) - 1) + f"{'us':>11}")
    for each in found:
        cells = "".join(f"{each['ns_per_block'][row]:>11,.1f}" for row in ROWS[:-1])
        print(f"{each['blocks']:>9,} {each['form']:>6}{cells}{each['first_us']:>11,.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="default 7")
    parser.add_argument("--block", type=int, default=64, help="bytes a block, default 64")
    parser.add_argument(
        "--counts", type=int, nargs="+", default=[1, 64, 4096, 100_000, 1_000_000],
        help="blocks a call, default 1 64 4096 100000 1000000",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
    if min(options.rounds, options.block, *options.counts) < 1:
        parser.error("--rounds, --block and --counts take numbers of 1 or more")
    forms = ["list"] if numpy is None else ["list", "numpy", "pages"]
    bench = Bench(max(options.counts) * 2 * options.block + 4096)
    try:
        cases = [
            PageCase(bench, n, options.block)
            if form == "pages"
            else Case(bench, n, options.block, form)
            for n in options.counts
            for form in forms
        ]
        rounds = [[case.round() for case in cases] for _ in range(options.rounds)]
    except MooncakeError as error:
        raise SystemExit(f"call_cost: {error}") from error
    finally:
        bench.close()
    found = []
    for at, case in enumerate(cases):
        middle = {row: statistics.median(each[at][row] for each in rounds) for row in ROWS}
        per_block = {row: middle[row] / case.count for row in ROWS[:-1]}
        found.append(
            {
                "blocks": case.count,
                "form": case.form,
                "ns_per_block": per_block,
                "first_us": middle["first"] / 1e3,
            }
        )
    if options.json:
        print(json.dumps({"block": options.block, "rounds": options.rounds, "calls": found}))
    else:
        show(found)


if __name__ == "__main__":
    main()
