"""Boots the two emulated hosts, has suites run inside, and says how they went.

    lab.py FOLDER SUITE...

FOLDER is what prepare.sh has filled, and below the repository. Results and logs, the hosts'
consoles included, are in FOLDER/out. Exits with 1 if a suite failed, or a host hung, died or
took longer than --limit. The suites get the variables ROCE_* of this process.

Each host sees the machine's root file system read-only, so that what is built outside runs
inside, and FOLDER/out writable. The links between them are socket pairs: no network of the
machine is touched.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
LINKS = 3  # rail 0, rail 1, and the one for control
SKIPPED = 77
# What a console says when its host's kernel, or what the kernel starts, has given up.
GAVE_UP = re.compile(
    r"(?<!end )Kernel panic|^lab: (?!host \d is up|both hosts are up|host\.sh ended with 0$)"
)


class LabError(Exception):
    """The hosts did not do their work."""


@dataclass
class Host:
    role: int
    process: subprocess.Popen[bytes]
    console: Path

    def lines(self) -> list[str]:
        return self.console.read_text(errors="replace").splitlines()

    def tail(self, lines: int = 25) -> str:
        return "\n".join(f"    host {self.role}| {line}" for line in self.lines()[-lines:])

    def how_it_ended(self) -> str:
        """In words, with what its console says about it."""
        status = self.process.poll()
        said = f": the emulator's status is {status}" if status else ""
        found = [line.strip() for line in self.lines() if GAVE_UP.search(line)]
        return f"host {self.role} ended{said}" + "".join(f": {line}" for line in found[-2:])


def machine(folder: Path, role: int, ends: list[socket.socket], memory: int) -> list[str]:
    """The command line of an emulated host. TCG: KVM may be there, and hang, in a machine that
    is emulated itself."""
    out = folder / "out"
    command_line = (
        # The emulation pays dearly for the guards against other programs' speculation.
        "console=ttyS0 loglevel=4 panic=-1 oops=panic mitigations=off "
        f"lab.role={role} lab.repository={REPOSITORY} lab.out={out}"
    )
    devices = []
    for link, end in enumerate(ends):
        devices += [
            "-netdev", f"socket,id=link{link},fd={end.fileno()}",
            "-device",
            f"virtio-net-pci,netdev=link{link},romfile=,mac=52:54:00:00:{link:02x}:{role:02x}",
        ]  # fmt: skip
    share = "security_model=none,multidevs=remap"
    return [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot",
        "-accel", "tcg,thread=multi", "-cpu", "max,la57=off", "-smp", "1", "-m", str(memory),
        "-display", "none", "-monitor", "none", "-serial", "stdio",
        "-kernel", str(folder / "vmlinuz"), "-initrd", str(folder / "initramfs.gz"),
        "-append", command_line,
        "-virtfs", f"local,path=/,mount_tag=root,readonly=on,{share}",
        "-virtfs", f"local,path={out},mount_tag=out,{share}",
        *devices,
    ]  # fmt: skip


def boot(folder: Path, memory: int) -> list[Host]:
    pairs = [socket.socketpair() for _ in range(LINKS)]
    hosts = []
    for role in (1, 2):
        ends = [pair[role - 1] for pair in pairs]
        console = folder / "out" / f"console{role}.log"
        with console.open("wb") as log:
            process = subprocess.Popen(
                machine(folder, role, ends, memory),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[end.fileno() for end in ends],
            )
        hosts.append(Host(role, process, console))
    # The hosts hold them now, and one sees it when the other dies.
    for pair in pairs:
        for end in pair:
            end.close()
    return hosts


def stop(hosts: list[Host]) -> None:
    for host in hosts:
        if host.process.poll() is None:
            host.process.kill()
        host.process.wait()


@dataclass
class Result:
    suite: str
    status: int
    seconds: int


def results(out: Path) -> list[Result]:
    lines = (out / "results").read_text().splitlines(keepends=True)
    whole = [line.split() for line in lines if line.endswith("\n")]
    return [Result(suite, int(status), int(seconds)) for suite, status, seconds in whole]


def follow(
    hosts: list[Host], out: Path, suites: list[str], limit: float, grace: float
) -> Iterator[Result]:
    """Yield results as they appear, until both hosts have ended. A host that has ended leaves the
    other nothing to do: that has grace seconds then. Raises LabError."""
    deadline = time.monotonic() + limit
    alone: float | None = None  # when one of them ended
    seen = 0
    while True:
        running = [host for host in hosts if host.process.poll() is None]
        have = results(out)
        yield from have[seen:]
        seen = len(have)
        if not running:
            break
        now = time.monotonic()
        if alone is None and len(running) < len(hosts):
            alone = now
        if alone is not None and now > alone + grace:
            gone = next(host for host in hosts if host not in running)
            raise LabError(f"{gone.how_it_ended()}; the other still ran {grace:.0f} s later")
        if now > deadline:
            roles = " and ".join(str(host.role) for host in running)
            raise LabError(f"host {roles} still ran after {limit:.0f} s{lacking(suites, have)}")
        time.sleep(0.2)
    if lacks := lacking(suites, have):
        raise LabError("; ".join(host.how_it_ended() for host in hosts) + lacks)


def lacking(suites: list[str], have: list[Result]) -> str:
    """Suites end in any order."""
    missing = [suite for suite in suites if suite not in {result.suite for result in have}]
    return f"; no result of {' and '.join(missing)}" if missing else ""


def report(result: Result, out: Path) -> None:
    log = (out / f"{result.suite}.log").read_text(errors="replace").splitlines()
    word = {0: "passed", SKIPPED: "skipped"}.get(result.status, f"FAILED ({result.status})")
    print(f"roce: {result.suite:10} {word:8} {result.seconds:4} s", flush=True)
    lines = 40 if result.status not in (0, SKIPPED) else 16
    for line in log[-lines:]:
        print(f"    {line}", flush=True)


def prepare_out(out: Path, suites: list[str]) -> None:
    variables = [f"{k}={shlex.quote(v)}" for k, v in os.environ.items() if k.startswith("ROCE_")]
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / "suites").write_text("".join(f"{suite}\n" for suite in suites))
    (out / "environment").write_text("".join(f"{variable}\n" for variable in variables))
    (out / "results").touch()


def fails(result: Result) -> bool:
    """A suite that is skipped fails where MC_REQUIRE contains rdma."""
    required = "rdma" in os.environ.get("MC_REQUIRE", "").replace(" ", "").split(",")
    return result.status != 0 and (result.status != SKIPPED or required)


def main() -> int:
    parser = argparse.ArgumentParser(description="Run suites on two emulated RoCE hosts.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("suites", nargs="+")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for everything")
    parser.add_argument(
        "--grace", type=float, default=20.0, help="seconds for a host once the other has ended"
    )
    parser.add_argument("--memory", type=int, default=2048, help="MiB of each host")
    options = parser.parse_args()
    folder = options.folder.resolve()
    if len(str(folder).split()) != 1:
        parser.error(f"{folder}: the path must have no blanks")
    out = folder / "out"
    prepare_out(out, options.suites)
    began = time.monotonic()
    hosts = boot(folder, options.memory)
    failed = False
    try:
        for result in follow(hosts, out, options.suites, options.limit, options.grace):
            report(result, out)
            failed = failed or fails(result)
    except LabError as error:
        print(f"roce: FAILED: {error}")
        for host in hosts:
            print(host.tail())
        failed = True
    finally:
        stop(hosts)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = time.monotonic() - began
    print(f"roce: {took:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of processors for both hosts")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
