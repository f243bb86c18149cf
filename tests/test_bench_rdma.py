"""make bench-rdma: what it makes of samples, of the lab's figures and of replays; and a smoke
run on the software NIC."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
from kit import REPOSITORY, skip_or_fail

sys.path.append(str(REPOSITORY / "tests" / "bench"))

import plan
import rdma_lab
import rdma_options
import rdma_table
import rdma_targets
from processes import BenchError
from rdma_contenders import LOOP, OURS_C, UPSTREAM, NicContender, contenders
from rdma_outcomes import ALONE, BESIDE, LARGE, SMALL, Outcomes, latency
from rdma_replay import Replays
from results import Latency, Results, Sample
from softnic import COPYING, PATHS, SoftNic, words

BENCH = REPOSITORY / "tests" / "bench" / "bench_rdma.py"
CELL = plan.Cell(256, "scattered", "write")
MIB = 1 << 20


def samples(*blocks_per_second: float, cpu: float = 1.0) -> dict[int, Sample]:
    """cpu is CPU seconds of each second."""
    return {
        n: Sample(blocks * 256 / 1e9, blocks, cpu / (blocks * 256 / 2**30))
        for n, blocks in enumerate(blocks_per_second)
    }


def verdict(found: list[Any], *words: str) -> Any:
    return next(each for each in found if all(word in each.what for word in words))


# -- cost


def test_ours_is_held_against_the_loop_by_cpu_and_against_upstreams_fastest_by_the_clock() -> None:
    whole, cut, pinned = UPSTREAM
    results = Results(
        cells={
            CELL: {
                LOOP: samples(10e6, 20e6, 40e6),
                OURS_C: samples(5e6, 5e6, 5e6),
                whole: samples(2e6, 2e6, 2e6, cpu=2.0),
                cut: samples(1e6, 1e6, 1e6),
                pinned: samples(1e3, 1e3, 1e3),
            }
        }
    )
    found = rdma_targets.verdicts(results, None, None)
    over_loop = verdict(found, f"{OURS_C} over the bare loop")
    assert over_loop.value == pytest.approx(4) and over_loop.outcome == "MISSED"
    over_upstream = verdict(found, f"{whole} over {OURS_C}")
    assert over_upstream.value == pytest.approx(2.5) and over_upstream.outcome == "MISSED"


def test_the_table_has_nanoseconds_on_the_clock_and_of_the_cpu() -> None:
    results = Results(
        cells={CELL: {LOOP: samples(50e6, 50e6), OURS_C: samples(10e6, 8e6, cpu=0.5)}},
        failed={UPSTREAM[0]: "no answer"},
    )
    chosen = [NicContender(name, "", "rdma") for name in (LOOP, OURS_C, UPSTREAM[0])]
    lines = rdma_table.cost(results, chosen).splitlines()
    cells = [[cell.strip() for cell in line.split("|")] for line in lines]
    assert cells[2][3:7] == ["20.0", "20.0", "20.0", "20.0"]
    assert cells[3][3:8] == ["112.5", "100.0", "125.0", "56.2", "2.81x"]
    assert cells[4][3] == "failed"


def test_a_share_of_the_limit() -> None:
    results = {"1M": Results(cells={CELL: {OURS_C: samples(9e5, 95e4, 1e6)}})}
    text = rdma_table.limit(results, [NicContender(OURS_C, "", "rdma")])
    assert "95.0%" in text and "1M/s" in text


# -- the replay


def passed(page: int, allocator: str, number: int, **more: Any) -> dict[str, Any]:
    series = [{"bytes": 100 * MIB, "runs": more.get("runs", 1000)}]
    return {
        "series": series,
        "page_size": page, "allocator": allocator, "pass": number, "seconds": 1.0, "tokens": 1000,
        "bytes": 100 * MIB, "runs": 1000, "messages": 1000, "prefill_cpu_seconds": 0.5,
        "decode_cpu_seconds": 0.5, "mean_run_tokens": 1.0, "goodput_mb_per_s": 100.0,
        "p50_ms": 1.0, "p99_ms": 2.0, **more,
    }  # fmt: skip


def replays(*runs: list[dict[str, Any]]) -> Replays:
    return Replays(1e6, 8e9, [{"passes": passes} for passes in runs])


def test_a_pass_is_held_against_link_or_work_requests() -> None:
    found = replays([])
    link = 100 * MIB * 8 / 8e9
    assert found.bound(passed(1, "fifo", 1)) == pytest.approx(link)
    assert found.bound(passed(1, "fifo", 1, runs=1_000_000)) == pytest.approx(1.0)
    both = [{"bytes": 100 * MIB, "runs": 1}, {"bytes": 1, "runs": 1_000_000}]
    assert found.bound(passed(1, "fifo", 1, series=both)) == pytest.approx(link + 1.0)


def test_ratios_of_passes_are_medians_over_runs() -> None:
    def run(last: float) -> list[dict[str, Any]]:
        return [
            passed(1, "fifo", 1, runs=500_000, seconds=1.0), passed(1, "runs", 1),
            passed(64, "runs", 1), passed(1, "runs", 2, seconds=last, messages=1020),
        ]  # fmt: skip

    found = rdma_targets.verdicts(None, None, replays(run(9.0), run(1.1), run(1.2)))
    fifo = verdict(found, "fifo, pass 1")
    assert fifo.value == pytest.approx(2.0) and fifo.outcome == "MISSED"
    wall = verdict(found, "wall a token, pass 2 over 1")
    assert wall.value == pytest.approx(1.2) and wall.outcome == "MISSED"
    assert verdict(found, "work requests a MiB").outcome == "met"
    assert verdict(found, "pass 1: wall a token, page 1 over 64").value == pytest.approx(1.0)
    assert verdict(found, "pass 2: wall a token, page 1 over 64").outcome == "not measured"


def test_no_replay_no_verdict() -> None:
    found = rdma_targets.verdicts(None, None, replays())
    assert {each.outcome for each in found} == {"not measured"}


# -- the lab

LAB: dict[str, Any] = {
    "facts": {"rounds": 2, "absent": {"upstream": "512 B scattered: the process has ended"},
              "compared": ["ours", "upstream"]},
    "cells": [
        {"size": 4096, "layout": "contiguous",
         "samples": {"ours": [9.0, 10.0], "upstream": [4.0, 5.0], "ib_write_bw": [5.0, 6.0]}},
        {"size": MIB, "layout": "contiguous",
         "samples": {"ours": [10.0, 10.0], "upstream": [12.0, 12.0], "ib_write_bw": [8.0, 8.0]}},
        {"size": MIB, "layout": "scattered",
         "samples": {"ours": [None, 10.0, 10.0], "upstream": [9.0, 9.0, None]}},
    ],
}  # fmt: skip


def test_the_lab_is_held_against_the_best_of_the_others() -> None:
    found = rdma_targets.verdicts(None, rdma_lab.read(LAB), None)
    contiguous = verdict(found, "1 MiB contiguous, ours over upstream")
    assert contiguous.value == pytest.approx(10 / 12) and contiguous.outcome == "MISSED"
    scattered = verdict(found, "1 MiB scattered, ours over upstream")
    assert scattered.outcome == "met"
    small = verdict(found, "4 KiB contiguous, ours over our own 1 MiB")
    assert small.value == pytest.approx(0.95) and small.outcome == "met"


def test_ib_write_bw_stands_beside_scattered_blocks_too() -> None:
    lab = rdma_lab.read(LAB)
    assert lab.speed(MIB, "scattered", "ib_write_bw") == 8.0
    text = rdma_table.lab(lab)
    assert "| 1 MiB | scattered" in text and text.index("4 KiB") < text.index("1 MiB")


def test_the_table_of_the_lab_says_what_was_not_compared_and_who_failed() -> None:
    text = rdma_table.lab(rdma_lab.read(LAB))
    assert "ib_write_bw does not compare the bytes." in text and "ours does" not in text
    assert "upstream is absent: 512 B scattered: the process has ended" in text


def test_a_round_in_which_one_failed_gives_no_ratio() -> None:
    lab = rdma_lab.read(LAB)
    assert lab.ratio(MIB, "scattered", "ours", "upstream") == pytest.approx(10 / 9)
    assert lab.speed(MIB, "scattered", "upstream") == 9.0


def test_a_lab_that_cannot_run_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Quiet:
        def line(self, text: str) -> None: ...

    def refused(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 0, "roce: skipped: there is no qemu\n")

    monkeypatch.setattr(subprocess, "run", refused)
    options = argparse.Namespace(build=tmp_path, quick=True, lab_rounds=7)
    lab = rdma_lab.measure(options, Quiet())  # type: ignore[arg-type]
    assert "there is no qemu" in lab.why_not
    found = rdma_targets.verdicts(None, lab, None)
    assert found == [], "nothing was measured, and nothing is claimed"


# -- outcomes


def outcomes() -> Outcomes:
    found = Outcomes(1_000_000, "1M")
    found.calls = {
        ALONE: {0: Latency(10, 20, 100), 1: Latency(10, 30, 100), 2: Latency(10, 50, 100)},
        BESIDE: {0: Latency(20, 40, 50), 1: Latency(20, 120, 50), 2: Latency(20, 500, 50)},
    }
    found.cancels = {SMALL: [1.0, 2.0, 99.0], LARGE: [1.0, 101.0]}
    found.firsts = {"lists": [900.0, 950.0, 5000.0], "arrays": [1100.0], "pages": [99.0]}
    return found


def test_outcomes_are_held_against_their_targets() -> None:
    found = rdma_targets.verdicts(None, None, None, outcomes())
    beside = verdict(found, "P99 over alone")
    assert beside.value == pytest.approx(4) and beside.outcome == "MISSED", "median of the ratios"
    assert verdict(found, "cancel of 64 B").outcome == "met"
    large = verdict(found, "cancel of 1 MiB")
    assert large.value == pytest.approx(101) and large.outcome == "MISSED", "the worst counts"
    lists = verdict(found, "first work request", "lists")
    assert lists.value == pytest.approx(950) and lists.outcome == "met"
    assert verdict(found, "first work request", "arrays").outcome == "MISSED"
    assert verdict(found, "first work request", "pages").outcome == "met"


def test_outcomes_that_were_not_measured_are_not_met() -> None:
    found = rdma_targets.verdicts(None, None, None, Outcomes(1000, "1M", why_not="no NIC"))
    assert {each.outcome for each in found} == {"not measured"}


def test_the_table_of_outcomes_has_medians_and_the_worst() -> None:
    lines = rdma_table.outcomes(outcomes()).splitlines()
    rows = [[cell.strip() for cell in line.split("|")][1:-1] for line in lines]
    assert rows[2][1:] == ["10.0", "30.0", "", "300"]
    assert rows[3][1:] == ["20.0", "120.0", "", "150"]
    assert rows[4][1:] == ["2,000.0", "", "99,000.0", "3"]
    assert rows[6][1:] == ["950.0", "", "5,000.0", "3"]


def test_percentiles_of_calls() -> None:
    assert latency([float(n) for n in range(200)]) == Latency(100.0, 198.0, 200)
    assert latency([7.0]) == Latency(7.0, 7.0, 1)


# -- options and the NIC


def test_rates_have_units() -> None:
    assert rdma_options.per_second("400k") == 400e3
    assert rdma_options.per_second("1M") == 1e6
    assert rdma_options.rates("200k, 1M") == ["200k", "1M"]
    for text in ("", "x", "1G", "-1", "0", "10"):
        with pytest.raises(argparse.ArgumentTypeError):
            rdma_options.rate(text)


def test_a_nic_that_was_not_built_is_missed_by_everyone(tmp_path: Path) -> None:
    class NoPrograms:
        engine_environment: ClassVar[dict[str, str]] = {}

        def path(self, name: str) -> str:
            return name

        def missing(self, name: str) -> str:
            return ""

    nic = SoftNic(tmp_path)
    try:
        known = contenders("python", tmp_path, NoPrograms(), nic)  # type: ignore[arg-type]
        assert all("make bench-rdma builds it" in each.missing for each in known)
        with pytest.raises(BenchError, match="make bench-rdma"):
            nic.set(COPYING)
    finally:
        nic.close()
    assert not nic.state.exists()


def test_what_a_process_needs_to_use_the_nic(tmp_path: Path) -> None:
    nic = SoftNic(tmp_path)
    try:
        env = nic.environment({"LD_LIBRARY_PATH": "/x", "A": "b"}, {"mode": "copy", "rate": "1k"})
        assert env["LD_LIBRARY_PATH"] == f"{tmp_path}:/x" and env["A"] == "b"
        assert env["SOFTNIC"].endswith("mode=copy,rate=1k") and "LD_PRELOAD" not in env
        (tmp_path / PATHS).touch()
        assert nic.environment()["LD_PRELOAD"] == str(tmp_path / PATHS)
    finally:
        nic.close()
    assert words({"a": "1", "b": "2"}) == ["a=1", "b=2"]


# -- a smoke run


@pytest.fixture(scope="module")
def nic_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build folder that has the software NIC."""
    if shutil.which(os.environ.get("CC") or "gcc") is None:
        skip_or_fail("rdma", "there is no C compiler: set CC")
    folder = tmp_path_factory.mktemp("build")
    build = REPOSITORY / "tests" / "softnic" / "build.sh"
    done = subprocess.run(
        [str(build), str(folder / "softnic")], check=False, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    if done.returncode != 0:
        skip_or_fail("rdma", f"the software NIC cannot be built: {done.stderr.strip()[-200:]}")
    return folder


def run(*arguments: str, timeout: float = 110) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCH), *arguments], check=False, capture_output=True, text=True,
        timeout=timeout,
    )  # fmt: skip


def test_a_smoke_run_measures_ours_and_the_loop(nic_folder: Path) -> None:
    report = nic_folder / "report.json"
    done = run(
        "--quick", "--parts", "cost,limit", "--contenders", "loop,ours", "--sizes", "256",
        "--memory", "8", "--batch", "1024", "--limits", "100k", "--build", str(nic_folder),
        "--json", str(report),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())
    (cell,) = found["cost"]["cells"]
    assert found["cost"]["failed"] == {} and found["cost"]["not_run"] == {}
    for name in ("loop", "ours C", "ours Python"):
        assert cell["contenders"][name]["strayed_to"] is None, "over the NIC, and nothing else"
        assert cell["contenders"][name]["rounds"]["0"]["blocks_per_second"] > 0
    (limited,) = found["limit"]["100k"]["cells"]
    for name, contender in limited["contenders"].items():
        assert contender["rounds"]["0"]["blocks_per_second"] < 130e3, f"{name} keeps to the limit"
    assert "over the bare loop" in done.stdout


def test_a_smoke_run_replays_the_incident(nic_folder: Path) -> None:
    report = nic_folder / "replay.json"
    done = run("--quick", "--parts", "replay", "--build", str(nic_folder), "--json", str(report))
    assert done.returncode == 0, done.stdout + done.stderr
    (replay,) = json.loads(report.read_text())["replay"]["runs"]
    assert replay["engines"][0]["transport"] == "rdma"
    assert len(replay["passes"]) == 2 * 2 * 3
    assert all(each["failures"] == [] for each in replay["passes"])


def test_a_smoke_run_measures_outcomes(nic_folder: Path) -> None:
    report = nic_folder / "outcomes.json"
    done = run(
        "--quick", "--parts", "outcomes", "--build", str(nic_folder), "--json", str(report),
        "--outcome-rate", "200k", "--outcome-blocks", "20000",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())["outcomes"]
    assert found["why_not"] == "" and found["blocks"] == 20_000
    alone, beside = (found["calls"][which]["0"] for which in (ALONE, BESIDE))
    assert alone["calls"] > 0 and beside["p50_us"] > 0
    assert found["used"]["0"] > 0.5, "the large call uses the NIC meanwhile"
    for kind in (SMALL, LARGE):
        assert len(found["cancels"][kind]) == 3 and min(found["cancels"][kind]) > 0
    for form in ("lists", "arrays", "pages"):
        assert 0 < found["firsts"][form][0] < 10e6, form
    assert done.stdout.count("until both sides are quiet") == 2


def test_without_a_nic_it_says_so(tmp_path: Path) -> None:
    done = run("--quick", "--parts", "cost,replay,outcomes", "--build", str(tmp_path))
    assert done.returncode == 1, done
    assert "there is no software NIC" in done.stdout and "Traceback" not in done.stderr
