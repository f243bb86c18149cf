"""One of the two servers, as a process: KV memory, and the engine that moves it.

Started by pair.py with the configuration as its argument. It answers each line on stdin, a JSON
object with op and call, with one on stdout, not necessarily in turn, and ends at the end of stdin.
`mooncake` is whichever this interpreter has, ours or upstream's.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import itertools
import json
import os
import signal
import sys
import threading
import time
from array import array
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from . import kv

_PR_SET_PDEATHSIG = 1
_UPSTREAM_CALL = 1024  # blocks: its queue refuses more in one call
_CALIBRATION_SECONDS = 0.15
_CALIBRATION_BLOCKS = 4096


class WorkerError(Exception):
    """An op failed; the text goes to the parent."""


class Worker:
    """The memory and the engine; a method per op."""

    def __init__(self, config: dict[str, Any]) -> None:
        from mooncake.engine import TransferEngine

        self.memory = kv.Memory(
            config["buffers"],
            config["row_bytes"],
            config["tokens"],
            config["tape_tokens"],
            config["seed"],
        )
        self.upstream = config["engine"] == "upstream"
        self._slots = threading.BoundedSemaphore(config["concurrency"])  # of calls that move
        self.engine = TransferEngine()
        if self.engine.initialize(config["host"], "P2PHANDSHAKE", config["protocol"], "") != 0:
            raise WorkerError("the engine cannot be opened; the reason is in the log")
        begin = time.perf_counter()
        self._register()
        self.hello = {
            "session": f"{config['host']}:{self.engine.get_rpc_port()}",
            "addresses": self.memory.addresses,
            "register_seconds": time.perf_counter() - begin,
            "numpy": kv.numpy is not None,
            "pid": os.getpid(),
        }
        self.session = ""
        self.there: list[int] = []  # where the peer's buffers begin
        self.segment: Any = None

    def _register(self) -> None:
        for address in self.memory.addresses:
            if self.engine.register_memory(address, self.memory.length) != 0:
                raise WorkerError("the KV memory cannot be registered; the reason is in the log")

    # -- of the prefill process

    def connect(self, session: str, addresses: list[int]) -> dict[str, Any]:
        """Say where the decode process is."""
        self.session, self.there = session, addresses
        return {}

    def fill(self, jobs: list[tuple[int, list[int]]], page_size: int) -> dict[str, Any]:
        """Write requests' contents to their pages: what a prefill would do."""
        for number, pages in jobs:
            self.memory.fill(number, pages, page_size)
        return {}

    def move(
        self, jobs: list[tuple[list[int], list[int]]], page_size: int, api: str, concurrency: int
    ) -> dict[str, Any]:
        """Move each job's pages to the decode process, so many jobs at once. Per job: seconds
        to make its block list, begin and end of its transfer, blocks."""
        calls, made = [], []
        for source, target in jobs:
            begin = time.perf_counter()
            call, blocks = self._prepared(source, target, page_size, api)
            made.append((time.perf_counter() - begin, blocks))
            calls.append(call)
        before = self._counters()
        if len(calls) == 1 or concurrency == 1:
            times = [self._moved(call) for call in calls]
        else:
            with ThreadPoolExecutor(min(concurrency, len(calls))) as pool:
                times = list(pool.map(self._moved, calls))
        after = self._counters()
        return {
            "jobs": [(*a, *b) for a, b in zip(made, times, strict=True)],
            "counters": {name: after[name] - before[name] for name in after},
        }

    def _moved(self, call: Callable[[], None]) -> tuple[float, float]:
        with self._slots:
            return _timed(call)

    def _prepared(
        self, source: list[int], target: list[int], page_size: int, api: str
    ) -> tuple[Callable[[], None], int]:
        size = page_size * self.memory.row_bytes
        if api == "groups":
            return self._prepared_group(source, target, size)
        here = self.memory.addresses
        blocks = kv.blocks_of(source, target, size, here, self.there, api == "blocks")
        return self._prepared_blocks(*blocks), len(blocks[0])

    def _prepared_blocks(self, local: Any, remote: Any, lengths: Any) -> Callable[[], None]:
        most = _UPSTREAM_CALL if self.upstream else max(1, len(local))
        parts = [
            (local[at : at + most], remote[at : at + most], lengths[at : at + most])
            for at in range(0, len(local), most)
        ]

        def call() -> None:
            for part in parts:
                status = self.engine.batch_transfer_sync_write(self.session, *part)
                if status != 0:
                    raise WorkerError(f"a transfer failed ({status}); the reason is in the log")

        return call

    def _prepared_group(
        self, source: list[int], target: list[int], size: int
    ) -> tuple[Callable[[], None], int]:
        from mooncake import Layer, PageGroup

        if self.segment is None:
            self.segment = self.engine.get_engine().open_segment(self.session)
        layers = [
            Layer(here, there, size, size, size)
            for here, there in zip(self.memory.addresses, self.there, strict=True)
        ]
        group = PageGroup(source, target, layers)
        segment = self.segment
        return lambda: segment.write_pages(group), len(source) * len(layers)

    def stats(self) -> dict[str, Any]:
        """The engine's counters, {} if it has none."""
        return {"counters": self._counters()}

    def _counters(self) -> dict[str, int]:
        if self.upstream:
            return {}
        return dataclasses.asdict(self.engine.get_engine().stats())

    def calibrate(self, page_size: int, peer_tokens: int, run_tokens: int) -> dict[str, Any]:
        """What a call, a scattered page and a byte cost here, moved as the replay moves them.
        run_tokens is how long the runs are by which bytes are measured: a whole prompt."""
        memory, row = self.memory, self.memory.row_bytes
        size = page_size * row
        pages = min(memory.tokens, peer_tokens) // page_size
        # Every second page, the two sides apart by one: nothing merges, buffers take turns.
        spots = [
            (buffer, page) for page in range(0, pages - 1, 2) for buffer in range(memory.buffers)
        ][:_CALIBRATION_BLOCKS]
        local, remote = array("Q"), array("Q")
        for at, (buffer, page) in enumerate(spots):
            local.append(memory.addresses[buffer] + page * size)
            remote.append(self.there[buffer] + (page + at % 2) * size)
        one = array("Q", [row])
        tiny = self._prepared_blocks(local[:1], remote[:1], one)
        scattered = self._prepared_blocks(local, remote, array("Q", [size]) * len(local))
        tokens = min(memory.tokens, peer_tokens, run_tokens)
        prompts = [
            self._prepared_blocks(
                array("Q", [base + at * row for base in memory.addresses]),
                array("Q", [base + at * row for base in self.there]),
                array("Q", [tokens * row]) * memory.buffers,
            )
            for at in range(0, min(memory.tokens, peer_tokens) - tokens + 1, tokens)
        ]
        # As prompts do, each comes from memory that was not used a moment ago.
        large = itertools.cycle(prompts)
        return {
            "call_seconds": _median(tiny),
            "blocks": len(local),
            "block_bytes": size,
            "scattered_seconds": _median(scattered),
            "large_bytes": tokens * row * memory.buffers,
            "large_seconds": _median(lambda: next(large)()),
        }

    # -- of the decode process

    def verify(
        self, jobs: list[tuple[int, list[int]]], page_size: int, sample: bool
    ) -> dict[str, Any]:
        """How many (page, buffer) of each request do not hold what they should."""
        return {"wrong": [self.memory.wrong(n, pages, page_size, sample) for n, pages in jobs]}

    def poison(self, pages: list[int], page_size: int) -> dict[str, Any]:
        """Overwrite pages with what no request has."""
        self.memory.poison(pages, page_size)
        return {}

    def close(self) -> None:
        """End the registrations before the memory is unmapped."""
        for address in self.memory.addresses:
            self.engine.unregister_memory(address)


OPS = ("connect", "fill", "move", "stats", "calibrate", "verify", "poison")


def _timed(call: Callable[[], None]) -> tuple[float, float]:
    begin = time.perf_counter()
    call()
    return begin, time.perf_counter()


def _median(call: Callable[[], None]) -> float:
    """Median seconds of a call, after one to warm up."""
    call()
    taken: list[float] = []
    while (sum(taken) < _CALIBRATION_SECONDS and len(taken) < 50) or len(taken) < 3:
        begin, end = _timed(call)
        taken.append(end - begin)
    return sorted(taken)[len(taken) // 2]


def _serve(worker: Worker, answers: Any) -> None:
    lock = threading.Lock()  # guards answers

    def answer(call: int, op: str, arguments: dict[str, Any]) -> None:
        try:
            if op not in OPS:
                raise WorkerError(f"unknown op {op!r}")
            result = getattr(worker, op)(**arguments)
        except Exception as error:  # the parent decides what it means
            result = {"error": f"{op}: {error if str(error) else type(error).__name__}"}
        with lock, contextlib.suppress(BrokenPipeError):  # nobody wants to know any more
            print(json.dumps({"call": call, **result}), file=answers, flush=True)

    with ThreadPoolExecutor(16) as pool:
        for line in sys.stdin:
            request = json.loads(line)
            pool.submit(answer, request.pop("call"), request.pop("op"), request)


def main() -> int:
    # Ctrl-C reaches the whole process group; the parent decides what becomes of it. Its death
    # must not leave a stopped process behind.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # A thread whose transfer has ended must not wait 5 ms for one that reads JSON.
    sys.setswitchinterval(0.0002)
    # What a library prints must not come between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    config = json.loads(sys.argv[1])
    if os.getppid() != config["parent"]:
        return 1  # it died before prctl
    try:
        worker = Worker(config)
        hello = worker.hello
    except Exception as error:  # whatever upstream's raises, too
        worker, hello = None, {"error": str(error)}
    try:
        print(json.dumps({"call": 0, **hello}), file=answers, flush=True)
    except BrokenPipeError:  # nobody wants to know any more
        os._exit(1)
    if worker is None:
        return 1
    _serve(worker, answers)
    if worker.upstream:
        # Its destructors wait for its threads, sometimes for seconds.
        os._exit(0)
    worker.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
