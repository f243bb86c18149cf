"""Who is measured on the software NIC, and how each is started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from contenders import Contender, why_not
from programs import DRIVERS, Programs
from softnic import SoftNic

RDMA = "rdma"
LOOP, OURS_C, OURS_PYTHON = "loop", "ours C", "ours Python"
UPSTREAM = ("upstream", "upstream 1,024", "upstream one core")

OURS = {"MC_FORCE_HCA": "1", "MC_LOCAL": "off", "BENCH_PROTOCOL": "rdma"}
THEIRS = {"MC_LOG_LEVEL": "ERROR", "BENCH_PROTOCOL": "rdma"}


@dataclass(frozen=True)
class NicContender(Contender):
    one_core: bool = True  # the initiator has one, where the part gives one


def contenders(python: str, peers: Path, programs: Programs, nic: SoftNic) -> list[NicContender]:
    """All there are, those that cannot run here with the reason."""
    driver = str(DRIVERS / "engine_driver.py")
    return [
        NicContender(
            LOOP, "C: one queue pair, work requests built, posted in chains and polled, no more",
            RDMA, (programs.path("verbs_loop"),), nic.environment(),
            missing=nic.missing or programs.missing("verbs_loop"),
        ),
        NicContender(
            OURS_C, "this engine through mooncake.h, mc_transfer", RDMA,
            (programs.path("engine"),), nic.environment({**programs.engine_environment, **OURS}),
            missing=nic.missing or programs.missing("engine"),
        ),
        NicContender(
            OURS_PYTHON, "this engine, batch_transfer_sync_write with array('Q')", RDMA,
            (python, "-u", driver), nic.environment(OURS), missing=nic.missing,
        ),
        *upstream(peers / "venv-upstream" / "bin" / "python", driver, nic),
    ]  # fmt: skip


def upstream(python: Path, driver: str, nic: SoftNic) -> list[NicContender]:
    missing = nic.missing or why_not(python).replace("make bench", "make bench-rdma")

    def one(name: str, meaning: str, one_core: bool = False, **env: str) -> NicContender:
        return NicContender(
            name, f"Mooncake's wheel, the same call, {meaning}", RDMA,
            (str(python), "-u", driver), nic.environment({**THEIRS, **env}), missing=missing,
            one_core=one_core,
        )  # fmt: skip

    whole, cut, pinned = UPSTREAM
    return [
        one(whole, "all cores"),
        one(cut, "all cores, at most 1,024 blocks in a call", BENCH_CALL="1024"),
        one(pinned, "one core", True),
    ]
