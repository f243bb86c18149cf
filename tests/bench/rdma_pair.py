"""A contender's processes on the software NIC."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping

from contenders import LOCAL, TCP, Contender
from measure import Field
from pair import WARM_SECONDS, Pair
from plan import Workspace
from progress import Progress
from rdma_contenders import RDMA, NicContender
from results import Results, Sample
from softnic import COPYING, SoftNic


class NicPair(Pair):
    """The NIC copies while bytes are compared. While a contender is measured it has the part's
    settings, and the target, of which nothing is needed then, stands still."""

    def __init__(
        self, contender: NicContender, workspace: Workspace, nic: SoftNic,
        settings: Mapping[str, str], core: int | None,
    ) -> None:  # fmt: skip
        self.nic, self.settings = nic, settings
        self.core = core if contender.one_core else None
        super().__init__(contender, workspace)

    def command(self, role: str) -> tuple[str, ...]:
        if self.core is None or role == "target":
            return self.contender.command
        # From the start: a library may count the cores once.
        return (shutil.which("taskset") or "taskset", "-c", str(self.core), *self.contender.command)

    def verify(self) -> str:
        self.nic.set(COPYING)
        return super().verify()

    def _used(self, crossed: int, counts: dict[str, int]) -> str:
        if crossed >= self.laid.payload:
            return TCP
        if counts.get("bytes_rdma", self.laid.payload) >= self.laid.payload:
            return RDMA
        return LOCAL

    def measure(self, seconds: float) -> Sample:
        """CPU is the initiator's, with the threads that the NIC's library has in it."""
        self.nic.set(self.settings)
        self.initiator.thaw()
        try:
            self.initiator.call("run", WARM_SECONDS)
            before = self._cpu_seconds()
            answer = self.initiator.call("run", seconds)
            cpu = self._cpu_seconds() - before
        finally:
            self.freeze()
        moved, elapsed = answer["bytes"], answer["seconds"]
        return Sample(
            moved / elapsed / 1e9, moved / self.laid.cell.size / elapsed, cpu / (moved / (1 << 30))
        )

    def _cpu_seconds(self) -> float:
        """The clock of another process, clock_getcpuclockid(3): finer than the ticks of /proc."""
        return time.clock_gettime((~self.initiator.process.pid << 3) | 2)


class NicField(Field):
    """settings are those of the NIC while it is measured; core is where a contender that is to
    have one gets it, or None."""

    def __init__(
        self, workspace: Workspace, results: Results, progress: Progress, nic: SoftNic,
        settings: Mapping[str, str], core: int | None,
    ) -> None:  # fmt: skip
        super().__init__(workspace, results, progress)
        self.nic, self.settings, self.core = nic, settings, core

    def runner(self, contender: Contender) -> NicPair:
        assert isinstance(contender, NicContender)
        return NicPair(contender, self.workspace, self.nic, self.settings, self.core)
