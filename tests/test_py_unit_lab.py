"""What the RoCE lab says of hosts that end well, fail, panic or hang: lab.py with an emulator that
is a shell script, and prints what a host would."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kit import REPOSITORY, wait_until

LAB = REPOSITORY / "tests" / "roce" / "lab.py"
Run = Callable[..., subprocess.CompletedProcess[str]]

EMULATOR = """#!/bin/sh
role=$(echo "$*" | sed 's/.*lab\\.role=\\([12]\\).*/\\1/')
out=$(echo "$*" | sed 's/.*lab\\.out=\\([^ ]*\\).*/\\1/')
echo $$ >"$out/pid$role"
ends() { # SUITE STATUS: a suite of host 1 ends
    echo "a line of $1" >"$out/$1.log"
    echo "$1 $2 3" >>"$out/results"
}
# Returns when the file is there.
waits() { until [ -e "$out/$1" ]; do sleep 0.02; done; }
hangs() { exec sleep 60; }
panics() {
    echo "[   12.345678] Kernel panic - not syncing: Fatal exception in interrupt"
    echo "[   12.345679] ---[ end Kernel panic - not syncing: Fatal exception in interrupt ]---"
}
if [ "$role" = 1 ]; then
    %s
else
    %s
fi
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """run(one, two, *arguments): lab.py with hosts that do this, in shell."""

    def call(
        one: str, two: str = ":", *arguments: str, **env: str
    ) -> subprocess.CompletedProcess[str]:
        program = tmp_path / "bin" / "qemu-system-x86_64"
        program.parent.mkdir(exist_ok=True)
        program.write_text(EMULATOR % (one, two))
        program.chmod(0o755)
        return subprocess.run(
            [sys.executable, str(LAB), str(tmp_path / "lab"), "first", "second", *arguments],
            capture_output=True, text=True, timeout=50, check=False,
            env={"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}", **env},
        )  # fmt: skip

    return call


WELL = "ends first 0; ends second 0"


def test_all_is_well(run: Run, tmp_path: Path) -> None:
    done = run(WELL, "waits results", ROCE_WORD="two words", OTHER="x")
    assert done.returncode == 0, done
    for suite in ("first", "second"):
        assert f"roce: {suite:10} passed" in done.stdout
        assert f"    a line of {suite}\n" in done.stdout
    out = tmp_path / "lab" / "out"
    assert (out / "environment").read_text() == "ROCE_WORD='two words'\n"
    assert (out / "suites").read_text() == "first\nsecond\n"


def test_what_an_earlier_run_left_is_no_result(run: Run, tmp_path: Path) -> None:
    assert run(WELL).returncode == 0
    done = run("ends first 0")
    assert done.returncode == 1
    assert "; no result of second\n" in done.stdout


def test_a_suite_fails_and_the_next_one_runs(run: Run) -> None:
    done = run("ends first 2; ends second 0")
    assert done.returncode == 1
    assert "first      FAILED (2)" in done.stdout and "second     passed" in done.stdout


def test_suites_end_in_any_order(run: Run) -> None:
    done = run("ends second 0; ends first 0")
    assert done.returncode == 0
    assert done.stdout.index("second     passed") < done.stdout.index("first      passed")


@pytest.mark.parametrize(("required", "status"), [("", 0), ("interop, rdma", 1)])
def test_a_suite_is_skipped(run: Run, required: str, status: int) -> None:
    done = run("ends first 77; ends second 0", ":", MC_REQUIRE=required)
    assert done.returncode == status
    assert "first      skipped" in done.stdout


def test_a_host_panics(run: Run) -> None:
    """The other waits for it in vain, and is ended."""
    began = time.monotonic()
    done = run("ends first 0; hangs", "panics; exit 3", "--grace", "0.3", "--limit", "40")
    assert time.monotonic() - began < 20
    assert done.returncode == 1
    assert "first      passed" in done.stdout, "what it did before counts"
    failed = next(line for line in done.stdout.splitlines() if "FAILED" in line)
    assert "host 2 ended: the emulator's status is 3: [" in failed
    assert failed.count("Kernel panic - not syncing: Fatal exception") == 1
    assert "    host 2| [   12.345678] Kernel panic" in done.stdout, "the tail of its console"


def test_both_hosts_end_early(run: Run) -> None:
    done = run('echo "lab: cannot mount the root file system"', ":", "--limit", "40")
    assert done.returncode == 1
    failed = next(line for line in done.stdout.splitlines() if "FAILED" in line)
    assert "host 1 ended: lab: cannot mount the root file system; host 2 ended" in failed
    assert failed.endswith("; no result of first and second")


def test_a_host_hangs(run: Run, tmp_path: Path) -> None:
    done = run("ends first 0; echo the last words; hangs", "hangs", "--limit", "0.7")
    assert done.returncode == 1
    assert "roce: FAILED: host 1 and 2 still ran after 1 s; no result of second" in done.stdout
    assert "    host 1| the last words" in done.stdout
    for role in (1, 2):
        pid = int((tmp_path / "lab" / "out" / f"pid{role}").read_text())
        wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), "the host has ended")


def test_half_a_line_of_results_is_not_read(run: Run) -> None:
    """The file is read while a host writes it."""
    done = run('printf "first 0" >"$out/results"; sleep 0.5; '
               'printf " 3\\n" >>"$out/results"; echo a >"$out/first.log"; ends second 0')  # fmt: skip
    assert done.returncode == 0, done


def test_a_console_that_is_no_text(run: Run) -> None:
    done = run("printf '\\377\\376 boot\\n'; exit 1")
    assert done.returncode == 1 and "host 1|" in done.stdout
