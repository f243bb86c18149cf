"""A contender's processes, opened once for the whole run and stopped while others are measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from contenders import LOCAL, MEMORY, TCP, Contender
from plan import Laid, Workspace
from processes import BenchError, Process, clean_environment
from results import Latency, Sample
from sockets import tcp_received

WARM_SECONDS = 0.05


class Pair:
    """The initiator and the target, which may be one process."""

    def __init__(self, contender: Contender, workspace: Workspace) -> None:
        self.contender, self.workspace = contender, workspace
        self.processes: list[Process] = []
        self._logs = ExitStack()
        env = clean_environment(contender.env, python=contender.name.startswith("ours"))
        try:
            target = self._start("target", env)
            initiator = target if contender.one_process else self._start("initiator", env)
            self.target, self.initiator = target, initiator
            opened = target.call("open", "remote", workspace.content("remote"))
            self.at, self.about = opened["at"], opened["about"]
            initiator.call("open", "local", workspace.content("local"))
            self.freeze()
        except BaseException:
            self.close()
            raise

    def _start(self, role: str, env: dict[str, str]) -> Process:
        name = f"{self.contender.name.replace(' ', '-')}-{role}.log"
        log = self._logs.enter_context((self.workspace.folder / name).open("w"))
        process = Process(self.command(role), env, log)
        self.processes.append(process)
        return process

    def command(self, role: str) -> tuple[str, ...]:
        return self.contender.command

    def aim(self, laid: Laid, threads: int) -> None:
        """Prepare a cell's batches."""
        self.laid = laid
        with self.awake():
            self.target.call("expect", laid.plan, laid.cell.op, threads)
            self.initiator.call("aim", laid.plan, laid.cell.op, threads, self.at)

    def verify(self) -> str:
        """Move every block once, compare the destination's whole region, and tell the
        transport that did it."""
        laid = self.laid
        ends = (self.target, self.initiator) if laid.cell.op == "write" else (
            self.initiator, self.target)  # fmt: skip
        roles = ("remote", "local") if laid.cell.op == "write" else ("local", "remote")
        with self.awake():
            for end, role in zip((self.target, self.initiator), ("remote", "local"), strict=True):
                end.call("fill", role, self.workspace.content(role))
            pids = [process.process.pid for process in self.processes]
            before, counted = tcp_received(pids), self._counters()
            self.initiator.call("once")
            crossed = tcp_received(pids) - before
            counts = {k: v - counted[k] for k, v in self._counters().items()}
            if not ends[0].call("same", roles[0], laid.expected)["same"]:
                raise BenchError(f"{self.contender.name}, {laid.cell}: wrong bytes arrived")
        return self._used(crossed, counts)

    def _used(self, crossed: int, counts: dict[str, int]) -> str:
        """The transport: by the bytes that crossed sockets, then by the engine's own counters,
        and of those that have none the only one that is left."""
        if crossed >= self.laid.payload:
            return TCP
        for name, transport in (("bytes_self", MEMORY), ("bytes_local", LOCAL)):
            if counts.get(name, 0) >= self.laid.payload:
                return transport
        return MEMORY if self.contender.one_process else LOCAL

    def counters(self) -> dict[str, int]:
        """The initiator's, if it has any."""
        with self.awake():
            return self._counters()

    def _counters(self) -> dict[str, int]:
        counters: dict[str, int] = self.initiator.call("counters")["counters"]
        return counters

    def measure(self, seconds: float) -> Sample:
        with self.awake():
            self.initiator.call("run", WARM_SECONDS)
            before = self._cpu_seconds()
            answer = self.initiator.call("run", seconds)
            cpu = self._cpu_seconds() - before
        moved, elapsed = answer["bytes"], answer["seconds"]
        return Sample(
            moved / elapsed / 1e9, moved / self.laid.cell.size / elapsed, cpu / (moved / (1 << 30))
        )

    def latency(self, seconds: float) -> Latency:
        with self.awake():
            self.initiator.call("latency", WARM_SECONDS)
            answer = self.initiator.call("latency", seconds)
        return Latency(answer["p50_us"], answer["p99_us"], answer["calls"])

    def _cpu_seconds(self) -> float:
        return sum(process.cpu_seconds() for process in self.processes)

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Let the processes run. Some poll all the time: they would take cores from others."""
        for process in self.processes:
            process.thaw()
        try:
            yield
        finally:
            self.freeze()

    def freeze(self) -> None:
        for process in self.processes:
            process.freeze()

    def close(self) -> None:
        for process in self.processes:
            process.close()
        self._logs.close()
