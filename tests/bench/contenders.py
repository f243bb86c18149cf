"""Who is compared: the names, and how each is started.

A contender is a way to move the blocks between two processes of this host, or within one. Each
has a transport that it is meant to use; pair.py looks which one it did use.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from machine import REPOSITORY
from plan import Cell
from programs import DRIVERS, Programs

TCP, LOCAL, MEMORY = "tcp", "local", "memory"
PINGPONG, COPY = "bare stream", "memcpy"
LIMITS_OF_LOCAL = ("cma", "cma xN", "packed")
LIMITS_OF_MEMORY = ("memcpy", "memcpy xN")

POOLED = {
    "MC_FORCE_TCP": "1",
    "MC_LOG_LEVEL": "ERROR",
    "MC_TCP_ENABLE_CONNECTION_POOL": "1",
    "MC_TCP_MAX_QUEUED_TRANSFERS_PER_PEER": "65535",
}
QUIET = {"UCX_LOG_LEVEL": "error", "NIXL_LOG_LEVEL": "ERROR"}
UCX_TCP = {**QUIET, "UCX_TLS": "tcp", "UCX_NET_DEVICES": "lo"}
UCX_SHM = {**QUIET, "UCX_TLS": "posix,sysv,cma,self"}


@dataclass(frozen=True)
class Contender:
    name: str
    meaning: str
    transport: str
    command: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    one_process: bool = False
    # How many threads or connections it is told to use: "one" (it decides itself), "lanes"
    # (as many as ours over tcp), "cores" (as many, but no more than cores).
    threads: str = "one"
    in_table: bool = True  # measured in every cell; else for latency only
    perftest: bool = False  # driven by perftest.py, not by commands
    missing: str = ""  # why it cannot run here

    def moves(self, cell: Cell) -> bool:
        """Whether it has a place in a row of the table."""
        # ucx_perftest waits for each read before it asks for the next: that is a latency.
        return self.in_table and not (self.perftest and cell.op == "read")


def contenders(python: str, peers: Path, programs: Programs) -> list[Contender]:
    """All there are, those that cannot run here with the reason. python has our package;
    peers is the folder that make bench installs the peers in."""
    return [
        *ours(python, programs),
        upstream(peers, "upstream", POOLED, "Mooncake's wheel over tcp, pooled, its best mode"),
        upstream(
            peers, "upstream default", {"MC_FORCE_TCP": "1", "MC_LOG_LEVEL": "ERROR"},
            "Mooncake's wheel over tcp with no other variables", False,
        ),
        nixl(peers, "nixl tcp", TCP, UCX_TCP),
        nixl(peers, "nixl local", LOCAL, QUIET),
        perftest("ucx tcp", TCP, UCX_TCP),
        perftest("ucx shm", LOCAL, UCX_SHM),
        limit(programs, PINGPONG, "stream", TCP,
              "a socket for each lane, both ends know the plan", "lanes"),
        limit(programs, "cma", "cma", LOCAL, "process_vm_writev, 1,024 ranges a call"),
        limit(programs, "cma xN", "cma", LOCAL, "the same by several threads", "cores"),
        limit(programs, "packed", "packed", LOCAL,
              "a shared ring: one process gathers, the other scatters"),
        limit(programs, COPY, "copy", MEMORY, "memcpy of every block in one process"),
        limit(programs, "memcpy xN", "copy", MEMORY, "the same by several threads", "cores"),
    ]  # fmt: skip


def ours(python: str, programs: Programs) -> list[Contender]:
    driver = (python, "-u", str(DRIVERS / "engine_driver.py"))
    ways: tuple[tuple[str, dict[str, str], str], ...] = (
        (TCP, {"MC_FORCE_TCP": "1"}, "over tcp"),
        (LOCAL, {}, "between two processes, as it chooses"),
        (MEMORY, {}, "two engines in one process, as it chooses"),
    )
    found = []
    for way, env, meaning in ways:
        name = "process" if way == MEMORY else way
        found.append(
            Contender(f"ours {name}", f"this package {meaning}", way, driver,
                      env, way == MEMORY)
        )  # fmt: skip
        found.append(
            Contender(
                f"ours {name} C", f"the same from C, {meaning}", way,
                (programs.path("engine"),), {**programs.engine_environment, **env},
                way == MEMORY, in_table=False, missing=programs.missing("engine"),
            )
        )  # fmt: skip
    return found


def upstream(
    peers: Path, name: str, env: dict[str, str], meaning: str, in_table: bool = True
) -> Contender:
    python = peers / "venv-upstream" / "bin" / "python"
    return Contender(
        name, meaning, TCP, (str(python), "-u", str(DRIVERS / "engine_driver.py")), env,
        in_table=in_table, missing=why_not(python),
    )  # fmt: skip


def nixl(peers: Path, name: str, transport: str, env: dict[str, str]) -> Contender:
    python = peers / "venv-nixl" / "bin" / "python"
    how = "tcp" if transport == TCP else "what UCX chooses on one host"
    return Contender(
        name, f"NIXL's wheel, UCX backend, {how}", transport,
        (str(python), "-u", str(DRIVERS / "nixl_driver.py")), env, missing=why_not(python),
    )  # fmt: skip


def perftest(name: str, transport: str, env: dict[str, str]) -> Contender:
    tool = shutil.which("ucx_perftest")
    return Contender(
        name, f"ucx_perftest with UCX_TLS={env['UCX_TLS']}, one buffer again and again, "
        "writes only", transport, (tool or "ucx_perftest",), env, perftest=True,
        missing="" if tool else "ucx_perftest is not on PATH (Debian: apt-get install ucx-utils)",
    )  # fmt: skip


def limit(
    programs: Programs, name: str, program: str, transport: str, meaning: str, threads: str = "one"
) -> Contender:
    return Contender(
        name, meaning, transport, (programs.path(program),), {}, transport == MEMORY, threads,
        missing=programs.missing(program),
    )  # fmt: skip


def why_not(python: Path) -> str:
    """Why a peer's Python cannot be used; "" if it can. Its installer leaves the reason."""
    if python.exists():
        return ""
    folder = python.parent.parent
    reason = folder.with_name(folder.name + ".skipped")
    if reason.exists():
        return reason.read_text().strip()
    where = folder.relative_to(REPOSITORY) if folder.is_relative_to(REPOSITORY) else folder
    return f"{where} is not there: make bench installs it"
