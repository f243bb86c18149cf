"""`mooncake replay` and `mooncake advise`, from outside: what they print, write and refuse."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kit import engine_environment, wait_until, within
from test_demo import MODULE, mooncake

# A few seconds in all; 24 requests in a pool that fits eight of them.
SMALL = [
    "--requests", "24", "--input", "60-200", "--output", "64", "--running", "8",
    "--pool-tokens", "3200", "--prefill-pool-tokens", "1600", "--model", "3x2x64",
]  # fmt: skip


def replay(*arguments: str) -> subprocess.CompletedProcess[str]:
    return mooncake("replay", *SMALL, *arguments)


def passes(report: dict[str, Any], size: int, allocator: str) -> list[dict[str, Any]]:
    found = [
        each
        for each in report["passes"]
        if (each["page_size"], each["allocator"]) == (size, allocator)
    ]
    return sorted(found, key=lambda each: each["pass"])


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    """All combinations of two page sizes and the three allocators, two passes."""
    path = tmp_path_factory.mktemp("replay") / "report.json"
    result = replay(
        "--page-size", "1,16", "--allocator", "fifo,sorted,runs", "--passes", "2",
        "--json", str(path),
    )  # fmt: skip
    assert result.returncode == 0, result
    assert "Traceback" not in result.stderr
    return json.loads(path.read_text()), result.stdout, path


def test_every_combination_is_reported(reported: tuple[dict[str, Any], str, Path]) -> None:
    report, printed, _ = reported
    assert report["schema"] == "mooncake-replay/1"
    assert len(report["passes"]) == 2 * 3 * 2
    for each in report["passes"]:
        tokens, size = each["tokens"], each["page_size"]
        assert each["requests"] == 24
        assert each["failures"] == []
        assert tokens <= each["bytes"] // (3 * 2 * 64) < tokens + 24 * size, "whole pages"
        assert each["runs"] <= each["blocks"] or size == 1
        assert 0 < each["p50_ms"] <= each["p99_ms"]
        assert 0 < each["ttft_share"] < 1
        assert sum(point["moved"] for point in each["series"]) > 0
        assert each["messages"] > 0
    assert printed.count("verified") == 12
    assert "time_2/1" in printed and "messages/MiB_2/1" in printed


def test_the_incident_and_its_cure(reported: tuple[dict[str, Any], str, Path]) -> None:
    """With a list runs are shorter in the second pass than in the first; with runs a prompt is
    one run, whatever the page size."""
    report, _, _ = reported
    first, second = passes(report, 1, "fifo")
    assert second["mean_run_tokens"] < 0.7 * first["mean_run_tokens"]
    assert second["mean_run_tokens"] < 5
    for size in (1, 16):
        for each in passes(report, size, "runs"):
            assert each["mean_run_tokens"] > 60
    assert passes(report, 16, "fifo")[1]["mean_run_tokens"] > 3 * second["mean_run_tokens"]


def test_all_ways_move_the_same(reported: tuple[dict[str, Any], str, Path]) -> None:
    report, _, _ = reported
    for number in (1, 2):
        tokens = {each["tokens"] for each in report["passes"] if each["pass"] == number}
        assert len(tokens) == 1, "one load for all combinations"


@pytest.mark.parametrize("api", ["pages", "groups"])
@pytest.mark.parametrize("transport", ["tcp", "local"])
def test_other_calls_and_transports(tmp_path: Path, api: str, transport: str) -> None:
    path = tmp_path / "report.json"
    result = replay(
        "--api", api, "--transport", transport, "--passes", "1", "--json", str(path),
        "--verify", "sample",
    )  # fmt: skip
    assert result.returncode == 0, result
    report = json.loads(path.read_text())
    assert report["engines"][0]["transport"] == transport
    (each,) = report["passes"]
    assert each["blocks"] == each["tokens"] * 6, "page size 1: a block for each token and buffer"
    assert "sampled" in result.stdout


def test_a_wrong_byte_is_found(tmp_path: Path) -> None:
    """By what compares the bytes: a byte that is changed in the decode process's memory."""
    code = """
import sys
from mooncake.replay import kv
memory = kv.Memory(2, 64, 64, 32, 1)
pages = list(range(0, 40, 2))
memory.fill(7, pages, 1)
whole = memory.wrong(7, pages, 1, False)
memory.maps[1][pages[13] * 64 + 5] ^= 1
print(whole, memory.wrong(7, pages, 1, False), memory.wrong(8, pages, 1, False) > 0)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert result.stdout.split() == ["0", "1", "True"], result


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('{"timestamp": 0, "input_length": 5', "line 2: not JSON"),
        ("[1]", "line 2: not a JSON object"),
        ('{"timestamp": 0, "output_length": 5}', "line 2: input_length is missing"),
        ('{"timestamp": 9, "input_length": -5, "output_length": 5}', "must be at least 1"),
        ('{"timestamp": 0, "input_length": 5, "output_length": -1}', "must be at least 0"),
        ('{"timestamp": 0, "input_length": 99999999999, "output_length": 5}', "beyond all reason"),
        ('{"timestamp": 9, "input_length": 5000, "output_length": 5}', "the whole pool has 3,200"),
        ('{"timestamp": -3, "input_length": 5, "output_length": 5}', "must be at least 0"),
        ('{"timestamp": 7, "input_length": 5, "output_length": 5}', "out of order: timestamp 7"),
        ('{"timestamp": "x", "input_length": 5, "output_length": 5}', "must be a whole number"),
    ],
)  # fmt: skip
def test_bad_lines_of_a_trace(tmp_path: Path, lines: str, said: str) -> None:
    path = tmp_path / "trace.jsonl"
    good = '{"timestamp": 9, "input_length": 50, "output_length": 5, "hash_ids": [1]}\n'
    path.write_text(good + lines + "\n" + good)
    stops = replay("--trace", str(path), "--passes", "1")
    assert stops.returncode == 2
    assert said in stops.stderr and ", line 2: " in stops.stderr
    assert "--on-bad-line skip" in stops.stderr
    if "not JSON" in said:
        goes_on = replay("--trace", str(path), "--passes", "1", "--on-bad-line", "skip")
        assert goes_on.returncode == 0, goes_on
        assert said in goes_on.stderr and "2 requests" in goes_on.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pool-tokens", "100"], "--pool-tokens 100 is too small for one request"),
        (["--prefill-pool-tokens", "100"], "--prefill-pool-tokens 100 is too small for one"),
        (["--page-size", "7"], "3,200 is no multiple of --page-size 7: give 3,199 or 3,206"),
        (["--page-size", "0"], "--page-size: '0' is not a whole number above 0"),
        (["--allocator", "best"], "'best' is not one of runs, fifo, sorted"),
        (["--input", "9-3"], "--input '9-3'"),
        (["--input", "many"], "--input 'many' is not a number of tokens"),
        (["--model", "gpt"], "--model 'gpt' is neither one of"),
        (["--model", "llama3-8b", "--memory", "1", "--scale", "1"], "--memory allows 1"),
        (["--chart", "x.pdf"], "must end in .png or .svg"),
        (["--ramp", "9,3"], "rates must rise"),
        (["--ramp", "9", "--page-size", "1,16"], "one configuration"),
        (["--trace", "nothere"], "the trace cannot be read"),
        (["--baseline", "upstream", "--upstream-python", "/nothere"], "make upstream"),
    ],
)  # fmt: skip
def test_what_is_refused(arguments: list[str], said: str) -> None:
    result = replay(*arguments)
    assert result.returncode == 2, result
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_without_matplotlib_a_chart_is_refused_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "matplotlib.py").write_text("raise ImportError('not here')\n")
    result = subprocess.run(
        [*MODULE, "replay", *SMALL, "--chart", str(tmp_path / "x.png")],
        capture_output=True,
        text=True,
        timeout=60,
        env={**engine_environment(), "PYTHONPATH": str(tmp_path)},
    )
    assert result.returncode == 2
    assert "--chart needs matplotlib" in result.stderr and "[bench]" in result.stderr


def test_the_chart(tmp_path: Path, reported: tuple[dict[str, Any], str, Path]) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed; make bench installs it")
    from mooncake.replay.chart import draw

    for name, magic in (("x.png", b"\x89PNG"), ("x.svg", b"<?xml")):
        draw(reported[0], tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(magic)


def test_interrupted_it_leaves_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*MODULE, "replay", *SMALL, "--requests", "100000", "--plain"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=engine_environment(),
        start_new_session=True,
    )
    workers: list[int] = []

    def started() -> bool:
        found = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True
        )
        workers[:] = [int(pid) for pid in found.stdout.split() if int(pid) != found.returncode]
        return len(workers) >= 2

    wait_until(started, "both processes")
    process.send_signal(signal.SIGINT)
    _, errors = within(20, process.communicate)
    assert process.returncode == 130
    assert "Traceback" not in errors
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers), "they ended")


CORRUPT = """
import os
from mooncake.replay import kv

def flipped(self, number, pages, page_size, sample, wrong=kv.Memory.wrong):
    if number == 5:
        self.maps[2][pages[-1] * page_size * self.row_bytes] ^= 1
    return wrong(self, number, pages, page_size, sample)

kv.Memory.wrong = flipped
"""


@pytest.mark.parametrize("verify", ["full", "sample"])
def test_a_byte_that_arrives_wrong_is_a_failure(tmp_path: Path, verify: str) -> None:
    """The decode process of this test changes a byte before it compares."""
    (tmp_path / "sitecustomize.py").write_text(CORRUPT)
    environment = engine_environment()
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), environment["PYTHONPATH"]])
    result = subprocess.run(
        [*MODULE, "replay", *SMALL, "--passes", "1", "--verify", verify],
        capture_output=True, text=True, timeout=60, env=environment,
    )  # fmt: skip
    assert result.returncode == 1, result
    assert "request 5: wrong bytes in 1 of its pages and buffers" in result.stderr
    assert "1 FAILED" in result.stdout


# -- ramp


@pytest.mark.alone
def test_a_ramp_names_its_stages_and_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    result = replay(
        "--ramp", "20,40,80", "--ramp-seconds", "0.5", "--allocator", "runs", "--json", str(path)
    )
    assert result.returncode == 0, result
    report = json.loads(path.read_text())
    first = report["stages"][0]
    assert report["schema"] == "mooncake-replay/1" and first["offered_per_s"] == 20
    for each in report["stages"]:
        assert each["arrived"] == each["done"] + each["late"] > 0
        assert each["failures"] == []
        assert 0 < each["p50_ms"] <= each["p99_ms"]
        assert each["prefill_cores"] > 0 and each["decode_cores"] > 0
        assert each["prefill_resident_mib"] > 1 and each["network_mb_per_s"] > 0
    assert sum(each["checked"] for each in report["stages"]) > 0
    assert report["verdict"] in result.stdout
    assert ("knee" in report["verdict"]) or report["limit"]
    assert mooncake("advise", str(path)).returncode == 2, "it has its own verdict"
    drawn = (
        pytest.importorskip("matplotlib", reason="matplotlib is not installed")
        and tmp_path / "x.png"
    )
    from mooncake.replay.chart import draw

    draw(report, drawn)
    assert drawn.read_bytes().startswith(b"\x89PNG")


@pytest.mark.alone
def test_a_wrong_byte_in_a_ramp_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(CORRUPT.replace("number == 5", "True"))
    environment = engine_environment()
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), environment["PYTHONPATH"]])
    result = subprocess.run(
        [*MODULE, "replay", *SMALL, "--ramp", "40", "--ramp-seconds", "0.5"],
        capture_output=True, text=True, timeout=60, env=environment,
    )  # fmt: skip
    assert result.returncode == 1, result
    assert "wrong bytes in 1 of its pages" in result.stderr and "FAILED" in result.stdout


# -- advise


def test_advice_from_a_report(reported: tuple[dict[str, Any], str, Path]) -> None:
    _, _, path = reported
    result = mooncake("advise", str(path), "--json")
    assert result.returncode == 0, result
    advices = {tuple(each["subject"].split(", ")): each for each in json.loads(result.stdout)}
    assert len(advices) == 6
    bad = advices["ours", "page size 1", "fifo", "pass 2"]
    assert bad["limit"] in (
        "run length", "cost per block", "cost per call", "link", "CPU", "registration",
    )  # fmt: skip
    # Which it is depends on the machine: transfers of a second in all are moved here.
    assert 0.99 < sum(bad["shares"].values()) < 1.01
    if bad["limit"] == "run length":
        whats = [change["what"] for change in bad["changes"]]
        assert whats[0].startswith("allocator runs") and "page size 16" in whats
        assert all(change["time_factor"] < 1 for change in bad["changes"])
    text = mooncake("advise", str(path))
    assert "limited by" in text.stdout and text.returncode == 0


def test_advice_from_counters(tmp_path: Path) -> None:
    import dataclasses

    import mooncake as package

    with package.Engine("127.0.0.1") as here, package.Engine("127.0.0.1") as there:
        source, target = bytearray(64 << 10), bytearray(64 << 10)
        a, b = here.register(source), there.register(target)
        segment = here.open_segment(there.session)
        for _ in range(3):
            places = list(range(0, 64 << 10, 128))
            segment.write(
                [a.address + at for at in places], [b.address + at for at in places], [64] * 512
            )
        (advice,) = package.advise(here.stats())
        path = tmp_path / "stats.json"
        path.write_text(json.dumps(dataclasses.asdict(here.stats())))
    assert "64" in advice.evidence
    assert advice.changes
    result = mooncake("advise", "--stats", str(path))
    assert result.returncode == 0, result
    assert result.stdout.strip()


@pytest.mark.parametrize(
    ("content", "arguments", "said"),
    [
        (None, ["FILE"], "cannot be read"),
        ("{", ["FILE"], "cannot be read"),
        ("{}", ["FILE"], "is not a report"),
        ('{"schema": "mooncake-replay/999", "passes": []}', ["FILE"], "this version reads"),
        ('{"schema": "mooncake-replay/1", "passes": [{"pass": 1}]}', ["FILE"], "damaged"),
        ('{"schema": "mooncake-replay/1"}', ["--stats", "FILE"], "is not counters"),
        ("{}", [], "give either"),
    ],
)
def test_what_advise_refuses(
    tmp_path: Path, content: str | None, arguments: list[str], said: str
) -> None:
    path = tmp_path / "file.json"
    if content is not None:
        path.write_text(content)
    result = mooncake("advise", *(str(path) if each == "FILE" else each for each in arguments))
    assert result.returncode == 2, result
    assert said in result.stderr
    assert "Traceback" not in result.stderr
