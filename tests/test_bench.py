"""make bench works: a smoke run measures every cell and checks the bytes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from kit import REPOSITORY, skip_or_fail

BENCH = REPOSITORY / "tests" / "bench" / "bench.py"
LIMITS = ("bare stream", "cma", "cma xN", "packed", "memcpy", "memcpy xN")
OURS = ("ours tcp", "ours local", "ours process")


def run(*arguments: str, timeout: float = 90) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCH), *arguments],
        check=False, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip


@pytest.fixture
def compiler() -> None:
    if shutil.which(os.environ.get("CC") or "gcc") is None:
        skip_or_fail("bench", "there is no C compiler: set CC")


def children_of(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue  # it has ended
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found


def measured(folder: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    """A quick run without peers; its JSON and what it printed."""
    report = folder / "report.json"
    # A build folder of its own: the programs are compiled, and no peers are found.
    done = run("--quick", "--build", str(folder), "--json", str(report), *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(report.read_text()), done.stdout


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("op", ["write", "read"])
def test_every_cell_is_measured(tmp_path: Path, op: str) -> None:
    found, printed = measured(
        tmp_path, "--only", "ours", "--only", "limits", "--sizes", "512,64K", "--ops", op
    )
    assert found["failed"] == {} and found["not_run"] == {}
    assert [(cell["size"], cell["pattern"], cell["op"]) for cell in found["cells"]] == [
        (size, pattern, op) for pattern in ("contiguous", "scattered") for size in (512, 65536)
    ]
    for cell in found["cells"]:
        assert set(cell["contenders"]) == {*OURS, *LIMITS}
        for name, contender in cell["contenders"].items():
            sample = contender["rounds"]["0"]
            assert sample["gb_per_second"] > 0, name
            assert sample["blocks_per_second"] == pytest.approx(
                sample["gb_per_second"] * 1e9 / cell["size"]
            )
    assert found["latency"]["ours tcp C"]["0"]["p50_us"] > 0
    assert "| 64 KiB | scattered" in printed and "socket ping-pong" in printed
    assert found["lanes"] >= 1


@pytest.mark.usefixtures("compiler")
def test_the_transport_of_a_column_is_looked_at(tmp_path: Path) -> None:
    """With MC_FORCE_TCP there is no other way than tcp; ours over tcp never strays."""
    found, _ = measured(tmp_path, "--columns", "ours tcp,cma,memcpy", "--sizes", "64K")
    for cell in found["cells"]:
        assert {name: c["strayed_to"] for name, c in cell["contenders"].items()} == {
            "ours tcp": None, "cma": None, "memcpy": None,
        }  # fmt: skip


@pytest.mark.usefixtures("compiler")
def test_a_peer_that_is_not_there_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "venv-nixl.skipped").write_text("there is no wheel for this Python\n")
    found, printed = measured(
        tmp_path, "--columns", "ours tcp,upstream,nixl", "--sizes", "64K", "--patterns", "scattered"
    )
    assert "make bench installs it" in found["not_run"]["upstream"]
    assert found["not_run"]["nixl tcp"] == "there is no wheel for this Python"
    assert "not run: nixl local" in printed


@pytest.mark.usefixtures("compiler")
def test_an_interrupted_run_prints_what_it_has(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, str(BENCH), "--columns", "ours tcp,memcpy", "--sizes", "4K",
         "--patterns", "scattered", "--memory", "16", "--rounds", "100000", "--seconds", "0.02",
         "--build", str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    try:
        assert process.stderr is not None
        started = any("rounds" in line for line in iter(process.stderr.readline, ""))
    finally:
        watchdog.cancel()
    assert started
    children = children_of(process.pid)
    assert len(children) == 3
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Interrupted" in printed and "| 4 KiB | scattered" in printed
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)


def test_mistakes_on_the_command_line_are_explained(tmp_path: Path) -> None:
    for arguments, words in (
        (("--sizes", "12Q"), "is not a size"),
        (("--patterns", "spiral"), "none of contiguous, scattered"),
        (("--columns", "theirs"), "there is no contender 'theirs'"),
        (("--memory", "1", "--sizes", "1M"), "two blocks at least"),
        (("--chart", "picture.txt"), ".png or .svg"),
    ):
        done = run(*arguments, "--build", str(tmp_path))
        assert done.returncode != 0 and words in done.stderr, (arguments, done.stderr)


def test_help_tells_what_the_columns_are() -> None:
    done = run("--help")
    assert done.returncode == 0
    for word in ("upstream", "NIXL", "bare stream", "--quick", "--json", "--chart"):
        assert word in done.stdout
