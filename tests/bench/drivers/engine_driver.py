"""mooncake.engine.TransferEngine, ours or upstream's: whichever `mooncake` this Python has.

It uses only calls that both have, with the same arguments: array('Q'), or lists with
--blocks list (BENCH_BLOCKS=list). Two engines in this process when both regions are here.
"""

from __future__ import annotations

import dataclasses
import os
from array import array
from importlib import metadata
from typing import Any

from frame import Driver, Move, Plan, Region, serve

DISTRIBUTIONS = (
    "mooncake-go",
    "mooncake-transfer-engine-non-cuda",
    "mooncake-transfer-engine",
)


class EngineDriver(Driver):
    def __init__(self) -> None:
        super().__init__()
        self.engines: dict[str, Any] = {}

    def listen(self, role: str, region: Region) -> str:
        from mooncake.engine import TransferEngine

        engine = self.engines[role] = TransferEngine()
        protocol = os.environ.get("BENCH_PROTOCOL", "tcp")
        succeeded("initialize", engine.initialize("127.0.0.1", "P2PHANDSHAKE", protocol, ""))
        succeeded("register_memory", engine.register_memory(region.address, region.size))
        return f"127.0.0.1:{engine.get_rpc_port()}@{region.address}"

    def prepare(self, plan: Plan, at: str) -> list[Move]:
        session, address = at.rsplit("@", 1)
        here, there = self.regions["local"].address, int(address)
        local = array("Q", [here + offset for offset in plan.local])
        remote = array("Q", [there + offset for offset in plan.remote])
        lengths = form(array("Q", [plan.size]) * plan.batch)
        engine, n = self.engines["local"], plan.batch
        most = int(os.environ.get("BENCH_CALL", n))  # blocks that a call of this engine takes
        name = "batch_transfer_sync_read" if plan.read else "batch_transfer_sync_write"
        call = getattr(engine, name)

        def batch(first: int) -> Move:
            calls = [
                (form(local[at : at + k]), form(remote[at : at + k]), lengths[:k])
                for at in range(first, first + n, most)
                for k in (min(most, first + n - at),)
            ]

            def move() -> None:
                for froms, tos, sizes in calls:
                    status = call(session, froms, tos, sizes)
                    if status != 0:
                        raise RuntimeError(f"{name} answered {status}")

            return move

        return [batch(first) for first in plan.batches()]

    def about(self) -> str:
        for name in DISTRIBUTIONS:
            try:
                return f"{name} {metadata.version(name)}"
            except metadata.PackageNotFoundError:
                continue
        return "mooncake, not an installed distribution"

    def counters(self) -> dict[str, Any]:
        """Ours has counters; upstream's get_engine() gives an object that has none."""
        stats = getattr(self.engines["local"].get_engine(), "stats", None)
        return {"counters": dataclasses.asdict(stats()) if stats else {}}


def form(numbers: array[int]) -> Any:
    """As the call is to get them."""
    return numbers.tolist() if os.environ.get("BENCH_BLOCKS") == "list" else numbers


def succeeded(what: str, status: int) -> None:
    if status != 0:
        raise RuntimeError(f"{what} answered {status}")


if __name__ == "__main__":
    serve(EngineDriver())
