"""The schedulers of both servers, in virtual time: who runs, and which pages it has.

Time goes in decode steps. Nothing here depends on how long a transfer took, so one load gives
the same page lists to every engine that is compared, run after run.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from .errors import UsageError
from .load import Request
from .pools import Pool, open_pool


@dataclass(frozen=True)
class Capacity:
    """Of one configuration; tokens are those of the pools."""

    page_size: int
    allocator: str
    pool_tokens: int
    prefill_tokens: int
    running: int
    step_seconds: float
    servers: int  # prefills at once

    def check(self, longest: int, longest_input: int) -> None:
        """Raises UsageError where pages do not divide the pools, or a request does not fit."""
        for option, tokens in (
            ("--pool-tokens", self.pool_tokens),
            ("--prefill-pool-tokens", self.prefill_tokens),
        ):
            if tokens % self.page_size:
                down = tokens - tokens % self.page_size
                fits = " or ".join(f"{n:,}" for n in (down, down + self.page_size) if n)
                raise UsageError(
                    f"{option} {tokens:,} is no multiple of --page-size {self.page_size}: give "
                    f"{fits}"
                )
        for option, have, need, what in (
            ("--pool-tokens", self.pool_tokens, longest, "prompt and output"),
            ("--prefill-pool-tokens", self.prefill_tokens, longest_input, "prompt"),
        ):
            if pages_of(need, self.page_size) * self.page_size > have:
                raise UsageError(
                    f"{option} {have:,} is too small for one request: the longest has {need:,} "
                    f"tokens of {what}, in pages of {self.page_size}"
                )


def pages_of(tokens: int, page_size: int) -> int:
    return -(-tokens // page_size)


@dataclass
class Job:
    """A request whose prompt is to be moved."""

    number: int
    request: Request
    target: Sequence[int]  # pages of the decode pool, in the order of the tokens
    admitted: float  # virtual seconds
    source: Sequence[int] = ()  # pages of the prefill pool, likewise


@dataclass
class _Running:
    tokens: int
    until: int
    pages: int
    last: int  # pages that it will have had at its end
    held: bool  # its prompt is still to come: no step gives it a token


@dataclass
class Scheduler:
    """The pools and the running requests of one configuration. They outlive a pass."""

    capacity: Capacity
    open_pool: Callable[[str, int], Pool] = open_pool
    now: int = 0  # decode steps
    admission_waits: int = 0  # steps in which somebody had to wait
    _running: dict[int, _Running] = field(default_factory=dict)
    _promised: int = 0  # pages that the running ones may still take

    def __post_init__(self) -> None:
        size, kind = self.capacity.page_size, self.capacity.allocator
        self._free = self.capacity.pool_tokens // size
        self._decode = self.open_pool(kind, self._free)
        self._prefill = self.open_pool(kind, self.capacity.prefill_tokens // size)

    @property
    def running(self) -> int:
        return len(self._running)

    def run(self, requests: Sequence[Request], first: int) -> Iterator[list[Job]]:
        """The waves of one pass, each to be moved before the next is asked for: requests are
        numbered from first on. Steps until all have ended, so a pass leaves nothing running."""
        step = self.capacity.step_seconds
        begin = self.now
        waiting = deque(enumerate(requests, first))
        while waiting or self._running:
            if not self._running and waiting:
                due = begin + int(waiting[0][1].arrival / step)
                self.now = max(self.now, due)
            yield from self.waves(self._admitted(waiting, begin))
            self.step()

    def _admitted(self, waiting: deque[tuple[int, Request]], begin: int) -> list[Job]:
        jobs: list[Job] = []
        elapsed = (self.now - begin) * self.capacity.step_seconds
        while waiting and waiting[0][1].arrival <= elapsed:
            job = self.admit(*waiting[0])
            if job is None:
                self.admission_waits += 1
                break
            waiting.popleft()
            jobs.append(job)
        return jobs

    def admit(self, number: int, request: Request, held: bool = False) -> Job | None:
        """Pages for a prompt, if there is a slot, and pages also for all that the running ones
        may still need: a decode step never runs out of pages. held: steps leave it out until
        begin()."""
        size = self.capacity.page_size
        need = pages_of(request.input, size)
        room = pages_of(request.input + request.output, size) - need
        if len(self._running) >= self.capacity.running or self._free < need + room + self._promised:
            return None
        target = self._decode.alloc(number, need, room=room)
        self._free -= need
        self._promised += room
        self._running[number] = _Running(
            request.input, request.input + request.output, need, need + room, held
        )
        return Job(number, request, target, self.now * self.capacity.step_seconds)

    def begin(self, number: int) -> None:
        """The prompt of a held request is there."""
        self._running[number].held = False

    def resident(
        self, requests: Sequence[Request], most: int
    ) -> list[tuple[Request, Sequence[int]]]:
        """The first of these prompts that the prefill pool holds all at once, with their pages,
        which stay theirs."""
        size, free = (
            self.capacity.page_size,
            self.capacity.prefill_tokens // self.capacity.page_size,
        )
        found: list[tuple[Request, Sequence[int]]] = []
        for number, request in enumerate(requests[:most]):
            need = pages_of(request.input, size)
            if need > free:
                break
            free -= need
            found.append((request, self._prefill.alloc(number, need)))
        return found

    def waves(self, jobs: list[Job]) -> Iterator[list[Job]]:
        """Jobs with source pages, as many at a time as the prefill pool holds. When the next
        wave is asked for the last one's source pages are free again."""
        size, most = self.capacity.page_size, self.capacity.prefill_tokens
        wave: list[Job] = []
        held = 0
        for job in jobs:
            need = len(job.target)
            if held + need > most // size:
                yield wave
                self._prefilled(wave)
                wave, held = [], 0
            job.source = self._prefill.alloc(job.number, need)
            wave.append(job)
            held += need
        if wave:
            yield wave
            self._prefilled(wave)

    def _prefilled(self, wave: list[Job]) -> None:
        """Free source pages in the order in which prefill servers would be done."""
        servers = [(0, -1)] * self.capacity.servers
        done = []
        for at, job in enumerate(wave):
            free_at, _ = heapq.heappop(servers)
            end = (free_at + job.request.input, at)
            heapq.heappush(servers, end)
            done.append(end)
        for _, at in sorted(done):
            self._prefill.release(wave[at].number)

    def step(self) -> list[int]:
        """A decode step: every running request gets a token, and who is done leaves. Returns
        the numbers of those."""
        self.now += 1
        size = self.capacity.page_size
        growing, ended = [], []
        for number, each in self._running.items():
            if each.held:
                continue
            each.tokens += 1
            if each.tokens > each.pages * size:
                each.pages += 1
                growing.append(number)
            if each.tokens >= each.until:
                ended.append(number)
        if growing:
            self._decode.grow_batch(growing, [1] * len(growing))
            self._free -= len(growing)
            self._promised -= len(growing)
        for number in ended:
            each = self._running.pop(number)
            self._decode.release(number)
            self._free += each.pages
            self._promised -= each.last - each.pages
        return ended

    def close(self) -> None:
        self._decode.close()
        self._prefill.close()
