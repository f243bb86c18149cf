"""One stage of a ramp, in real time: requests arrive at a rate, whether or not earlier ones are
done."""

from __future__ import annotations

import queue
import random
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from .load import Request
from .measure import percentile
from .pair import Pair
from .process import Usage, machine, usage
from .schedule import Job, Scheduler

_LOOK = 0.1  # seconds between two looks at the processes
_NAP = 0.0005
_AHEAD = 2  # requests that wait in the prefill process for one that is moved
_CHECKED = 10  # one request in so many is compared


@dataclass
class Stage:
    """What one rate did. Latencies are seconds from a request's arrival to its last byte."""

    rate: float
    seconds: float
    speed: float  # of decode's clock
    arrived: int = 0
    done: int = 0  # within the stage
    bytes: int = 0  # likewise
    late: int = 0  # done after its end, or given up
    checked: int = 0
    latencies: list[float] = field(default_factory=list)
    transfers: list[float] = field(default_factory=list)  # seconds of the calls alone
    busy: float = 0.0  # seconds of transfers within the stage
    refused: int = 0  # looks at which decode had no slot or no pages for the next one
    looks: int = 0
    prefill: list[Usage] = field(default_factory=list)
    decode: list[Usage] = field(default_factory=list)
    driver_cores: float = 0.0
    machine_share: float = 0.0  # of all cores, whoever used them
    failures: list[str] = field(default_factory=list)

    @property
    def goodput(self) -> float:
        """MB/s."""
        return self.bytes / self.seconds / 1e6

    @property
    def p99(self) -> float:
        return percentile(self.latencies, 0.99)

    def cores(self, samples: Sequence[Usage]) -> float:
        """In use on average."""
        first, last = samples[0], samples[-1]
        return (last.cpu - first.cpu) / max(1e-9, last.at - first.at)

    @property
    def network(self) -> float:
        """MB/s that left the interfaces of the prefill process's network namespace."""
        first, last = self.prefill[0], self.prefill[-1]
        return (last.sent - first.sent) / max(1e-9, last.at - first.at) / 1e6

    def as_json(self) -> dict[str, Any]:
        return {
            "offered_per_s": self.rate,
            "decode_speed": self.speed,
            "arrived": self.arrived,
            "done": self.done,
            "late": self.late,
            "checked": self.checked,
            "done_per_s": self.done / self.seconds,
            "goodput_mb_per_s": self.goodput,
            "p50_ms": 1000 * percentile(self.latencies, 0.50),
            "p99_ms": 1000 * self.p99,
            "transfer_p50_ms": 1000 * percentile(self.transfers, 0.50),
            "transfers_at_once": self.busy / self.seconds,
            "refused_share": self.refused / self.looks if self.looks else 0.0,
            "prefill_cores": self.cores(self.prefill),
            "decode_cores": self.cores(self.decode),
            "driver_cores": self.driver_cores,
            "machine_share": self.machine_share,
            "network_mb_per_s": self.network,
            "prefill_resident_mib": max(each.resident for each in self.prefill) / 2**20,
            "decode_resident_mib": max(each.resident for each in self.decode) / 2**20,
            "failures": self.failures,
        }


@dataclass(frozen=True)
class Bench:
    """What all stages share."""

    pair: Pair
    scheduler: Scheduler
    prompts: Sequence[tuple[Request, Sequence[int]]]  # with their pages in prefill's memory
    token_bytes: int
    step_seconds: float  # of a decode step
    concurrency: int
    api: str
    check: bool


@dataclass(frozen=True)
class _Done:
    job: Job
    arrival: float
    begin: float
    end: float
    wrong: int | None  # None: not compared


class Running:
    """A stage while it runs. The scheduler is this thread's; others wait for transfers."""

    def __init__(
        self, bench: Bench, rate: float, speed: float, seconds: float, first: int, seed: int
    ) -> None:
        self._bench, self._first = bench, first
        self._step = bench.step_seconds / speed
        self.stage = Stage(rate, seconds, speed)
        rng = random.Random(seed)
        self._arrivals: deque[float] = deque()
        at = rng.expovariate(rate)
        while at < seconds:
            self._arrivals.append(at)
            at += rng.expovariate(rate)
        self.stage.arrived = len(self._arrivals)
        self._waiting: deque[tuple[int, float]] = deque()
        self._ended: queue.SimpleQueue[_Done | Exception] = queue.SimpleQueue()
        self._flying = 0
        self._most = bench.concurrency + _AHEAD

    def run(self) -> Stage:
        """Blocks: for the stage, and at most as long again for what is late. Raises what a
        transfer raised."""
        stage = self.stage
        begin = time.perf_counter()
        driver, before = time.process_time(), machine()
        steps, looked = 0, -_LOOK
        with ThreadPoolExecutor(self._most) as pool:
            while True:
                now = time.perf_counter() - begin
                if now - looked >= _LOOK and now <= stage.seconds:
                    looked = now
                    self._look()
                self._arrive(now)
                self._start(pool, begin)
                due = int(now / self._step)
                for _ in range(min(due - steps, 100)):
                    self._bench.scheduler.step()
                steps = due
                left = self._arrivals or self._waiting or self._flying
                if now > stage.seconds and (not left or now > 2 * stage.seconds):
                    break
                self._take(begin)
            stage.driver_cores = (time.process_time() - driver) / now
            stage.machine_share = machine().share_since(before)
            stage.late += len(self._waiting)
            while self._flying:
                self._land(self._ended.get(), begin)
        self._end()
        return stage

    def _look(self) -> None:
        prefill, decode = self._bench.pair.pids
        self.stage.prefill.append(usage(prefill))
        self.stage.decode.append(usage(decode))

    def _arrive(self, now: float) -> None:
        while self._arrivals and self._arrivals[0] <= now:
            self._waiting.append((self._first, self._arrivals.popleft()))
            self._first += 1

    def _start(self, pool: ThreadPoolExecutor, begin: float) -> None:
        """Give pages and threads to those that wait."""
        self.stage.looks += 1
        while self._waiting and self._flying < self._most:
            number, arrival = self._waiting[0]
            request, source = self._bench.prompts[number % len(self._bench.prompts)]
            job = self._bench.scheduler.admit(number, request, held=True)
            if job is None:
                self.stage.refused += 1
                return
            self._waiting.popleft()
            job.source = source
            self._flying += 1
            check = self._bench.check and number % _CHECKED == 0
            pool.submit(self._transfer, job, begin + arrival, check)

    def _transfer(self, job: Job, arrival: float, check: bool) -> None:
        """In a thread of the pool."""
        bench = self._bench
        size = bench.scheduler.capacity.page_size
        target, source = list(job.target), list(job.source)
        wrong = None
        try:
            if check:
                bench.pair.decode.call("poison", pages=target, page_size=size)
            answer = bench.pair.prefill.call(
                "move", jobs=[(source, target)], page_size=size, api=bench.api, concurrency=1
            )
            if check:
                # The contents are those of the prompt that lies in prefill's memory.
                jobs = [(job.number % len(bench.prompts), target)]
                looked = bench.pair.decode.call("verify", jobs=jobs, page_size=size, sample=False)
                wrong = looked["wrong"][0]
        except Exception as error:  # run() raises it
            self._ended.put(error)
            return
        _, _, began, end = answer["jobs"][0]
        self._ended.put(_Done(job, arrival, began, end, wrong))

    def _take(self, begin: float) -> None:
        """Wait for a moment, or until a transfer has ended, and take what there is."""
        try:
            self._land(self._ended.get(timeout=_NAP), begin)
            while self._flying:
                self._land(self._ended.get_nowait(), begin)
        except queue.Empty:
            return

    def _land(self, ended: _Done | Exception, begin: float) -> None:
        self._flying -= 1
        if isinstance(ended, Exception):
            raise ended
        stage, bench = self.stage, self._bench
        bench.scheduler.begin(ended.job.number)
        stage.latencies.append(ended.end - ended.arrival)
        stage.transfers.append(ended.end - ended.begin)
        stage.busy += max(0.0, min(ended.end, begin + stage.seconds) - ended.begin)
        stage.checked += ended.wrong is not None
        if ended.wrong:
            stage.failures.append(
                f"request {ended.job.number}: wrong bytes in {ended.wrong} of its pages and buffers"
            )
        if ended.end - begin <= stage.seconds:
            stage.done += 1
            size = bench.scheduler.capacity.page_size
            stage.bytes += len(ended.job.target) * size * bench.token_bytes
        else:
            stage.late += 1

    def _end(self) -> None:
        """Decode what still runs, so that the next stage finds the pool as a server would after
        a pause: in another order, and free."""
        while self._bench.scheduler.running:
            self._bench.scheduler.step()

    @property
    def next_number(self) -> int:
        return self._first + len(self._arrivals)
