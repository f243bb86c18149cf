"""The rounds: every contender once a round, in an order that turns, so that a disturbance of
the machine hits all of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import machine
from contenders import TCP, Contender
from pair import Pair
from perftest import Perftest
from plan import Cell, Laid, Workspace
from processes import BenchError
from progress import Progress
from results import Results

Runner = Pair | Perftest
DEFAULT_LANES = 4


class Field:
    """The contenders that take part. One that fails leaves; the others go on."""

    def __init__(self, workspace: Workspace, results: Results, progress: Progress) -> None:
        self.workspace, self.results, self.progress = workspace, results, progress
        self.runners: dict[str, Runner] = {}
        self.lanes = 0

    def open(self, contenders: list[Contender]) -> None:
        for contender in contenders:
            if contender.missing:
                self.results.absent[contender.name] = contender.missing
                continue
            self.progress.line(f"start {contender.name}")
            try:
                runner = self.runners[contender.name] = self.runner(contender)
            except BenchError as error:
                self.results.absent[contender.name] = self._explained(contender.name, error)
                continue
            if runner.about:
                self.results.about[contender.name] = runner.about

    def runner(self, contender: Contender) -> Runner:
        kind = Perftest if contender.perftest else Pair
        return kind(contender, self.workspace)

    def close(self) -> None:
        for runner in self.runners.values():
            runner.close()

    def throughput(self, laid: Laid, rounds: int, seconds: float) -> None:
        speeds = self.results.cells.setdefault(laid.cell, {})
        names = self._aim(
            laid, [n for n, r in self.runners.items() if r.contender.moves(laid.cell)]
        )

        def one(name: str, number: int) -> None:
            sample = self.runners[name].measure(seconds)
            speeds.setdefault(name, {})[number] = sample

        self._rounds(str(laid.cell), names, rounds, one)

    def latency(self, laid: Laid, rounds: int, seconds: float) -> None:
        """laid has one block in a batch. All contenders of one thread."""
        names = [n for n, r in self.runners.items() if not n.endswith(" xN")]
        names = self._aim(laid, names, threads=1)

        def one(name: str, number: int) -> None:
            sample = self.runners[name].latency(seconds)
            self.results.latencies.setdefault(name, {})[number] = sample

        self._rounds(f"latency, {laid.cell}", names, rounds, one)

    def _aim(self, laid: Laid, names: list[str], threads: int = 0) -> list[str]:
        """Prepare a cell, and verify the bytes of each contender. Those that could."""
        ready = []
        for name in names:
            self.progress.now(f"{laid.cell}: verify {name}")
            runner = self.runners[name]
            if self._attempt(name, partial(self._verify, runner, laid, threads)):
                ready.append(name)
        return ready

    def _verify(self, runner: Runner, laid: Laid, threads: int) -> None:
        runner.aim(laid, threads or self._threads(runner.contender))
        used = runner.verify()
        name = runner.contender.name
        if used != runner.contender.transport:
            self.results.strayed[laid.cell, name] = used
        if name == f"ours {TCP}":
            self.lanes = max(self.lanes, runner.counters().get("connections_opened", 0))
            self.results.lanes = self.lanes

    def _threads(self, contender: Contender) -> int:
        lanes = self.lanes or DEFAULT_LANES
        return {"one": 1, "lanes": lanes, "cores": min(lanes, machine.cores())}[contender.threads]

    def _rounds(
        self, what: str, names: list[str], rounds: int, one: Callable[[str, int], None]
    ) -> None:
        self.progress.line(f"{what}: {rounds} rounds of {len(names)}")
        for number in range(rounds):
            turn = number % max(len(names), 1)
            for name in names[turn:] + names[:turn]:
                if name in self.runners:
                    self.progress.now(f"{what}: round {number + 1} of {rounds}, {name}")
                    self._attempt(name, partial(one, name, number))
            self.progress.step()

    def _attempt(self, name: str, act: Callable[[], Any]) -> bool:
        try:
            act()
            return True
        except BenchError as error:
            self.runners.pop(name).close()
            self.results.failed[name] = self._explained(name, error)
            self.progress.line(f"{name} leaves: {error}")
            return False

    def _explained(self, name: str, error: BenchError) -> str:
        """With the last words of its logs."""
        logs = sorted(self.workspace.folder.glob(f"{name.replace(' ', '-')}-*.log"))
        return "; ".join([str(error), *filter(None, map(last_line, logs))])


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else ""


def cells(sizes: list[int], patterns: list[str], ops: list[str]) -> list[Cell]:
    return [Cell(size, pattern, op) for op in ops for pattern in patterns for size in sizes]
