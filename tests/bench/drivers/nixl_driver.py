"""NIXL with its UCX backend, as its users call it in their hot loop: descriptor lists prepared
once for all blocks, then for each batch a request made of indices, posted and polled.

numpy comes with NIXL, whose fast calls take its arrays. The target has NIXL's progress
thread; the initiator polls, so that a second thread which polls too would take a core from
it: on two cores that is twice as fast.
"""

from __future__ import annotations

import os
from importlib import metadata
from typing import Any

import numpy as np
from frame import Driver, Move, Plan, Region, serve
from nixl_cu12 import nixl_agent, nixl_agent_config  # type: ignore[import-not-found]

UNFINISHED = "PROC"


class NixlDriver(Driver):
    peer: str | None = None
    lists: tuple[Any, ...] = ()

    def listen(self, role: str, region: Region) -> str:
        self.agent = nixl_agent(
            f"{role}-{os.getpid()}",
            nixl_agent_config(enable_prog_thread=role == "remote", backends=["UCX"]),
        )
        if "UCX" not in self.agent.backends:
            raise RuntimeError("the UCX backend could not be made")
        whole = self.agent.get_reg_descs(rows([region.address], region.size), "DRAM")
        self.agent.register_memory(whole)
        return f"{self.agent.get_agent_metadata().hex()}@{region.address}"

    def prepare(self, plan: Plan, at: str) -> list[Move]:
        blob, address = at.rsplit("@", 1)
        if self.peer is None:
            self.peer = self.agent.add_remote_agent(bytes.fromhex(blob))
        for prepared in self.lists:
            prepared.release()
        here = rows(np.array(plan.local, np.uint64) + self.regions["local"].address, plan.size)
        there = rows(np.array(plan.remote, np.uint64) + int(address), plan.size)
        mine = self.agent.prep_xfer_dlist("NIXL_INIT_AGENT", here, "DRAM")
        theirs = self.agent.prep_xfer_dlist(self.peer, there, "DRAM")
        self.lists = (mine, theirs)
        op = "READ" if plan.read else "WRITE"
        agent, n = self.agent, plan.batch

        def batch(first: int) -> Move:
            indices = np.arange(first, first + n, dtype=np.int32)

            def move() -> None:
                request = agent.make_prepped_xfer(op, mine, indices, theirs, indices)
                state = agent.transfer(request)
                while state == UNFINISHED:
                    state = agent.check_xfer_state(request)
                request.release()
                if state != "DONE":
                    raise RuntimeError(f"the request ended as {state}")

            return move

        return [batch(first) for first in plan.batches()]

    def about(self) -> str:
        return f"nixl-cu12 {metadata.version('nixl-cu12')}, UCX backend"


def rows(addresses: Any, size: int) -> Any:
    """Descriptors: address, length, device."""
    table = np.zeros((len(addresses), 3), np.uint64)
    table[:, 0], table[:, 1] = addresses, size
    return table


if __name__ == "__main__":
    serve(NixlDriver())
