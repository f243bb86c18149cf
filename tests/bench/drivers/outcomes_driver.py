"""One of two engines of ours: how a small call fares beside a large one, how soon a cancelled
batch is quiet, and how soon a call has posted its first work request.

Standard library and our package only. The commands are the methods of Outcomes.
"""

from __future__ import annotations

import mmap
import os
import random
import subprocess
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from frame import serve

from mooncake import Cancelled, Engine, Op, PageGroup, Quiet

BLOCK, STEP = 64, 128  # no two blocks are neighbours
FEW = 10  # blocks of a small call
LARGE = 1 << 20
LAYERS = 160
PROGRESS_SECONDS = 20.0
UNDER_WAY = 2000  # work requests after which the large call fills its queues
COMMANDS = ("listen", "connect", "alone", "beside", "cancel", "first", "counters")
clock = time.monotonic_ns


def spread(count: int, seed: int, step: int) -> list[int]:
    """Offsets of blocks, in random order."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return [at * step for at in order]


def shifted(base: int, offsets: list[int]) -> array[int]:
    return array("Q", [base + offset for offset in offsets])


class Outcomes:
    def listen(self, blocks: str) -> dict[str, Any]:
        """An engine, and memory for so many scattered blocks and a small call besides."""
        self.blocks = int(blocks)
        self.size = max(self.blocks * STEP, 4 * LARGE)
        self.engine = Engine("127.0.0.1")
        self.map = mmap.mmap(-1, self.size + FEW * STEP)
        self.memory = self.engine.register(self.map)
        return {"session": self.engine.session, "address": self.memory.address}

    def connect(self, session: str, address: str, control: str) -> dict[str, Any]:
        """control is softnicctl, which tells when work requests are posted."""
        self.remote = int(address)
        self.segment = self.engine.open_segment(session)
        self.segment.connect(10)
        self.watcher = subprocess.Popen(
            [control, "watch"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        here, there = spread(self.blocks, 1, STEP), spread(self.blocks, 2, STEP)
        self.arrays = (
            shifted(self.memory.address, here), shifted(self.remote, there),
            array("Q", [BLOCK]) * self.blocks,
        )  # fmt: skip
        self.lists = tuple(each.tolist() for each in self.arrays)
        self.group = self._group()
        few = [self.size + at * STEP for at in range(FEW)]
        self.few = (
            shifted(self.memory.address, few), shifted(self.remote, few[::-1]),
            array("Q", [BLOCK]) * FEW,
        )  # fmt: skip
        return {}

    def _group(self) -> PageGroup:
        """The blocks as pages, in another order on each side."""
        layers = next(n for n in range(min(self.blocks, LAYERS), 0, -1) if self.blocks % n == 0)
        pages = self.blocks // layers
        local, remote = (array("i", spread(pages, seed, 1)) for seed in (1, 2))
        rows = array("Q")
        for at in range(0, layers * pages * STEP, pages * STEP):
            rows.extend((self.memory.address + at, self.remote + at, STEP, STEP, BLOCK))
        # As numpy would have it: read where it is.
        return PageGroup(local, remote, memoryview(rows).cast("B").cast("Q", (layers, 5)))

    # -- small calls

    def alone(self, seconds: str) -> dict[str, Any]:
        return self._small_calls(float(seconds))

    def beside(self, seconds: str) -> dict[str, Any]:
        """The large call, in a thread of its own, begins again whenever it has ended."""
        with self._large_calls():
            return self._small_calls(float(seconds))

    @contextmanager
    def _large_calls(self) -> Iterator[None]:
        over = threading.Event()
        failed: list[BaseException] = []

        def move() -> None:
            try:
                while not over.is_set():
                    self.segment.write(*self.arrays)
            except BaseException as error:  # reported by the one who waits
                failed.append(error)

        thread = threading.Thread(target=move)
        before = self._posted()
        thread.start()
        try:
            self._await(lambda: bool(failed) or self._posted() > before + UNDER_WAY)
            yield
        finally:
            over.set()
            thread.join()
        if failed:
            raise failed[0]

    def _small_calls(self, seconds: float) -> dict[str, Any]:
        took = array("Q")
        posted, start = self._posted(), clock()
        end = start + int(seconds * 1e9)
        while True:
            began = clock()
            self.segment.write(*self.few)
            now = clock()
            took.append(now - began)
            if now >= end:
                break
        requests = (self._posted() - posted) / (now - start) * 1e9
        return {"us": [each / 1e3 for each in sorted(took)], "requests_per_second": requests}

    def _posted(self) -> int:
        return int(self.engine.stats().messages)

    def _await(self, condition: Callable[[], bool]) -> None:
        give_up = time.monotonic() + PROGRESS_SECONDS
        while not condition():
            if time.monotonic() > give_up:
                raise RuntimeError("the batch makes no progress")
            time.sleep(0.001)

    # -- cancel

    def cancel(self, kind: str) -> dict[str, Any]:
        """kind: small blocks, or large ones. The time from the question until the batch has
        ended with both sides quiet."""
        blocks = self.arrays if kind == "small" else self._large_blocks()
        self.segment.write(*self.few)  # there is a connection
        batch = self.segment.submit(Op.WRITE, *blocks)
        self._await(lambda: batch.poll().bytes_done > 0)
        total = batch.poll().bytes
        began = clock()
        batch.cancel()
        try:
            batch.wait(PROGRESS_SECONDS)
        except Cancelled as error:
            took = clock() - began
            if error.quiet != Quiet.BOTH:
                raise RuntimeError(f"cancelled, and quiet is {error.quiet}") from error
            done = error.batch_status.bytes_done if error.batch_status else 0
            return {"ms": took / 1e6, "done": done / total}
        finally:
            batch.close()
        raise RuntimeError("the batch was done before it was cancelled: set a lower rate")

    def _large_blocks(self) -> tuple[array[int], array[int], int]:
        """1 GiB of them; which bytes land last does not matter here."""
        slots = self.size // LARGE
        offsets = [LARGE * (3 * at % slots) for at in range(1024)]
        return shifted(self.memory.address, offsets), shifted(self.remote, offsets), LARGE

    # -- the first work request

    def first(self, form: str) -> dict[str, Any]:
        """From the begin of a blocking call until its first work request is posted."""
        assert self.watcher.stdin is not None and self.watcher.stdout is not None
        self.segment.write(*self.few)  # there is a connection
        write: Callable[[], object] = {
            "lists": lambda: self.segment.write(*self.lists),
            "arrays": lambda: self.segment.write(*self.arrays),
            "pages": lambda: self.segment.write_pages(self.group),
        }[form]
        self.watcher.stdin.write("\n")
        self.watcher.stdin.flush()
        if self.watcher.stdout.readline() != "watching\n":
            raise RuntimeError("softnicctl watch ended")
        began = clock()
        write()
        return {"us": (int(self.watcher.stdout.readline()) - began) / 1e3}

    def counters(self) -> dict[str, Any]:
        stats = self.engine.stats()
        return {"bytes_rdma": stats.bytes_rdma, "bytes_written": stats.bytes_written}


if __name__ == "__main__":
    os.environ.setdefault("MC_LOG_LEVEL", "ERROR")
    serve(Outcomes(), COMMANDS)
