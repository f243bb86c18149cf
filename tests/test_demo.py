"""`mooncake demo`, from outside: what it prints, writes and answers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kit import engine_environment, skip_or_fail, wait_until, within

MODULE = [sys.executable, "-m", "mooncake"]
SMALL = ["--memory", "48", "--requests", "6", "--max-tokens", "200"]


def mooncake(*arguments: str, command: list[str] = MODULE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=engine_environment(),
    )


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return mooncake("demo", *arguments)


def figures(path: Path) -> list[dict[str, Any]]:
    models: list[dict[str, Any]] = json.loads(path.read_text())["models"]
    return models


def rows(output: str) -> list[dict[str, str]]:
    """The table's lines by heading."""
    lines = output.splitlines()
    (rule,) = [number for number, line in enumerate(lines) if line and set(line) == {"-"}]
    headings = lines[rule - 1].split()
    # A model's title may have spaces: it is all that is left of the other cells.
    cells = [line.rsplit(maxsplit=len(headings) - 1) for line in lines[rule + 1 :]]
    return [dict(zip(headings, row, strict=True)) for row in cells]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.jsonl"
    lengths = [100, 40, 1, 333, 17]
    path.write_text(
        "".join(json.dumps({"timestamp": 0, "input_length": n}) + "\n" for n in lengths)
    )
    return path


def test_both_models_table_and_json(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    result = demo(*SMALL, "--json", str(out))
    assert result.returncode == 0, result
    assert "Traceback" not in result.stderr
    table = rows(result.stdout)
    assert [row["model"] for row in table] == ["Llama-3-8B", "DeepSeek-V3 MLA"]
    for row, model, buffers in zip(table, figures(out), (64, 61), strict=True):
        assert row["result"] == "verified"
        assert model["failures"] == [] and model["verified"] is True
        assert int(row["requests"]) == model["requests"] == 6
        assert int(row["tokens"].replace(",", "")) == model["tokens"] > 0
        assert int(row["blocks"].replace(",", "")) == model["blocks"]
        assert model["blocks"] % buffers == 0
        assert model["bytes"] == model["blocks"] * model["block_bytes"]
        assert 0 < model["runs"] <= model["blocks"]
        assert model["gigabytes_per_second"] > 0
        assert float(row["GB/s"]) == pytest.approx(model["gigabytes_per_second"], abs=0.006)
        assert 0 < model["p50_ms"] <= model["p99_ms"]


def test_the_console_script() -> None:
    script = Path(sys.executable).with_name("mooncake")
    if not script.exists():
        skip_or_fail("installed", f"the package is not installed beside {sys.executable}")
    command = [str(script)]
    assert mooncake("version", command=command).returncode == 0
    result = mooncake("demo", *SMALL, "--model", "llama3-8b", command=command)
    assert result.returncode == 0, result
    assert rows(result.stdout)[0]["result"] == "verified"


@pytest.mark.parametrize(
    "options",
    [["--page-size", "1"], ["--page-size", "64"], ["--concurrency", "5"], ["--verify", "none"]],
    ids=lambda options: " ".join(options),
)
def test_options(tmp_path: Path, options: list[str]) -> None:
    out = tmp_path / "figures.json"
    result = demo(*SMALL, "--model", "deepseek-v3", *options, "--json", str(out))
    assert result.returncode == 0, result
    (model,) = figures(out)
    assert model["requests"] == 6 and model["failures"] == []
    assert model["verified"] is ("none" not in options)
    if "--page-size" in options:
        assert model["block_bytes"] == 1152 * int(options[1])


def test_a_seed_gives_the_same_requests(tmp_path: Path) -> None:
    found = []
    for seed in ("1", "1", "2"):
        out = tmp_path / "figures.json"
        result = demo(*SMALL[:4], "--model", "llama3-8b", "--seed", seed, "--json", str(out))
        assert result.returncode == 0, result
        found.append({key: figures(out)[0][key] for key in ("tokens", "blocks", "bytes")})
    assert found[0] == found[1] != found[2]


def test_a_trace_gives_the_requests(trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    result = demo("--trace", str(trace), "--memory", "200", "--model", "llama3-8b", "--page-size",
                  "1", "--concurrency", "1", "--json", str(out))  # fmt: skip
    assert result.returncode == 0, result
    (model,) = figures(out)
    assert model["requests"] == 5
    assert model["tokens"] == 100 + 40 + 1 + 333 + 17
    assert model["blocks"] == model["tokens"] * 64


BAD_LINES = ["{", "[1, 2]", "{}", '{"input_length": "x"}', '{"input_length": -1}', "\x00\x01"]


@pytest.mark.parametrize("bad", BAD_LINES)
def test_bad_lines_stop_or_are_skipped(trace: Path, tmp_path: Path, bad: str) -> None:
    lines = trace.read_text().splitlines()
    trace.write_text("\n".join([*lines[:2], bad, *lines[2:]]) + "\n")
    stopped = demo("--trace", str(trace), "--model", "llama3-8b", "--memory", "64")
    assert stopped.returncode == 2
    assert f"{trace}, line 3" in stopped.stderr and "--on-bad-line" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    out = tmp_path / "figures.json"
    skipped = demo("--trace", str(trace), "--model", "llama3-8b", "--memory", "64", "--on-bad-line",
                   "skip", "--json", str(out))  # fmt: skip
    assert skipped.returncode == 0, skipped
    assert "line 3" in skipped.stderr
    assert figures(out)[0]["requests"] == 5


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--requests", "0"], "--requests"),
        (["--requests", "x"], "--requests"),
        (["--memory", "-5"], "--memory"),
        (["--memory", "1", "--page-size", "4096"], "--memory"),
        (["--page-size", "0"], "--page-size"),
        (["--concurrency", "0"], "--concurrency"),
        (["--model", "gpt-2"], "--model"),
        (["--protocol", "udp"], "--protocol"),
        (["--verify", "maybe"], "--verify"),
        (["--on-bad-line", "ignore"], "--on-bad-line"),
        (["--seed", "one"], "--seed"),
        (["--trace", "/nonexistent/trace.jsonl"], "/nonexistent/trace.jsonl"),
        (["--trace", "/proc"], "/proc"),
        (["--no-such-option"], "--no-such-option"),
    ],
)
def test_bad_arguments(arguments: list[str], word: str) -> None:
    result = demo(*arguments)
    assert result.returncode == 2, result
    assert word in result.stderr
    assert "Traceback" not in result.stderr


def test_a_json_file_that_cannot_be_written() -> None:
    result = demo(*SMALL, "--model", "llama3-8b", "--json", "/nonexistent/figures.json")
    assert result.returncode in (1, 2), result
    assert "/nonexistent/figures.json" in result.stderr
    assert "Traceback" not in result.stderr


def children(pid: int) -> list[int]:
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except FileNotFoundError:
        return []
    return [int(child) for child in found.split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def long_demo() -> Any:
    """A demo that would run for minutes, in a process group of its own."""
    process = subprocess.Popen(
        [*MODULE, "demo", "--memory", "64", "--requests", "100000", "--max-tokens", "100"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=engine_environment(),
        start_new_session=True,
    )
    try:
        wait_until(lambda: children(process.pid), "the decode process runs", 20)
        assert process.stdout is not None
        assert within(20, process.stdout.readline)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=10)


@pytest.mark.parametrize("to", ["group", "parent"])
def test_ctrl_c_ends_it_and_its_child(long_demo: Any, to: str) -> None:
    """A terminal sends it to both processes, `kill -INT` to one."""
    decode = children(long_demo.pid)
    (os.killpg if to == "group" else os.kill)(long_demo.pid, signal.SIGINT)
    _, stderr = long_demo.communicate(timeout=20)
    assert long_demo.returncode == 130, stderr
    assert "interrupted" in stderr
    assert "Traceback" not in stderr
    wait_until(lambda: not any(map(alive, decode)), "the decode process is gone")


def test_the_decode_process_ends_with_its_parent(long_demo: Any) -> None:
    decode = children(long_demo.pid)
    assert decode
    long_demo.kill()
    wait_until(lambda: not any(map(alive, decode)), "the decode process is gone", 20)


def test_a_decode_process_that_dies_is_a_failure(long_demo: Any) -> None:
    (decode,) = children(long_demo.pid)
    os.kill(decode, signal.SIGKILL)
    _, stderr = long_demo.communicate(timeout=60)
    assert long_demo.returncode == 1, stderr
    assert "Traceback" not in stderr
    assert "mooncake demo:" in stderr
