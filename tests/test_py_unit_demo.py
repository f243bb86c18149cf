"""The demo's parts, and the command line, without a library."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path

import pytest

from mooncake import cli
from mooncake._demo_models import MODELS, DemoError, fitted, from_trace, generated
from mooncake._demo_pool import Pool, busy_order
from mooncake._demo_report import Progress, Result, table


def trace(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_trace_gives_its_first_requests(tmp_path: Path) -> None:
    path = trace(
        tmp_path, '{"input_length": 5, "output_length": 1}', "", '{"input_length": 7}', "bad"
    )
    assert from_trace(path, 2, None) == [5, 7]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[1]", "not JSON object"),
        ("{}", "input_length is missing"),
        ('{"input_length": "5"}', "whole number"),
        ('{"input_length": 0}', "whole number"),
        ('{"input_length": true}', "whole number"),
        ('{"input_length": 1.5}', "whole number"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, reason: str) -> None:
    path = trace(tmp_path, '{"input_length": 5}', line, '{"input_length": 7}')
    with pytest.raises(DemoError, match=f"line 2: .*{reason}"):
        from_trace(path, 10, None)
    skipped: list[str] = []
    assert from_trace(path, 10, skipped.append) == [5, 7]
    assert len(skipped) == 1 and "line 2" in skipped[0]


def test_a_trace_without_requests_is_refused(tmp_path: Path) -> None:
    for path in (trace(tmp_path), tmp_path / "none", tmp_path):
        with pytest.raises(DemoError):
            from_trace(path, 10, None)


def test_lengths_are_cut_and_scaled() -> None:
    assert fitted([10, 20], 20, None).tokens == [10, 20]
    assert fitted([10, 20], 20, None).note == ""
    scaled = fitted([1, 100, 1000], 300, 600)
    assert scaled.tokens == [1, 50, 300]
    assert "cut at 600" in scaled.note and "divided by 2" in scaled.note
    assert generated(50, 1) == generated(50, 1) != generated(50, 2)
    assert all(32 <= length <= 4096 for length in generated(500, 3))


def test_a_busy_order_has_each_page_once_and_is_scattered() -> None:
    order = busy_order(2000, 1)
    assert sorted(order) == list(range(2000))
    runs = 1 + sum(after != before + 1 for before, after in itertools.pairwise(order))
    assert 200 < runs < 1500
    assert busy_order(1, 1) == [0]


@pytest.fixture
def pool() -> Pool:
    made = Pool(MODELS["deepseek-v3"], pages=8, page_tokens=2, seed=1)
    made.poison(list(range(8)))
    return made


def test_a_pool_gives_each_page_to_one(pool: Pool) -> None:
    pages = pool.take(5) + pool.take(3)
    assert sorted(pages) == list(range(8))
    with pytest.raises(DemoError, match="1 pages wanted"):
        pool.take(1)
    pool.give(pages[:1])
    assert pool.take(1) == pages[:1]


def test_one_wrong_byte_is_seen(pool: Pool) -> None:
    pool.fill([2, 5], "1/1")
    digests = pool.digests([2, 5])
    assert len(set(digests)) == 61 and pool.digests([5, 2]) != digests
    assert pool.touched(range(8)) == 2 * 61
    pool._views[60][6 * pool.page_bytes - 1] ^= 1
    after = pool.digests([2, 5])
    assert after[:60] == digests[:60] and after[60] != digests[60]
    pool.poison([2, 5])
    assert pool.touched(range(8)) == 0
    pool._views[3][0] ^= 1
    assert pool.touched([0]) == 1 and pool.touched([1, 2]) == 0


def test_block_addresses_go_buffer_by_buffer(pool: Pool) -> None:
    size = pool.page_bytes
    assert size == 2 * 1152
    assert pool.block_addresses([1000, 50_000], [3, 1]) == [
        1000 + 3 * size,
        1000 + size,
        50_000 + 3 * size,
        50_000 + size,
    ]
    assert pool.lengths == [8 * size] * 61


def test_rate_counts_time_once_and_percentiles_are_ranks() -> None:
    result = Result("m", "M", "", bytes=3_000_000_000)
    result.transfers = [(0.0, 1.0), (0.5, 1.5), (10.0, 11.5)]
    assert result.rate == pytest.approx(1.0)
    assert result.percentile(0.5) == pytest.approx(1000)
    assert result.percentile(0.99) == pytest.approx(1500)
    assert Result("m", "M", "").rate == 0.0
    result.failures.append("bad")
    assert "1 FAILED" in table([result])
    assert json.loads(json.dumps(result.as_json()))["requests"] == 3


def test_progress_is_a_line_for_each_quarter_without_a_terminal() -> None:
    out = io.StringIO()
    progress = Progress("M", 8, out)
    for _ in range(8):
        progress.step(1 << 20)
    progress.end()
    lines = out.getvalue().splitlines()
    assert len(lines) == 4 and "8/8 requests, 8 MiB" in lines[-1] and "\r" not in out.getvalue()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["demo", "--memory", "0"],
        ["demo", "--requests", "x"],
        ["demo", "--model", "gpt"],
        ["probe"],
        ["probe", "a:1", "--timeout", "-1"],
        ["probe", "a:1", "--timeout", "nan"],
    ],
)
def test_wrong_usage_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 2
    assert "usage: mooncake" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["version", "demo", "replay", "advise", "probe", "topology"])
def test_each_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main([command, "--help"])
    assert exit_.value.code == 0
    assert f"usage: mooncake {command}" in capsys.readouterr().out


def test_a_demo_that_cannot_fit_says_how_much_would(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "--memory", "2", "--page-size", "64"]) == 2
    assert "--memory 2 is too little" in capsys.readouterr().err


def test_a_demo_with_a_bad_trace_says_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = trace(tmp_path, "nope")
    assert cli.main(["demo", "--trace", str(path)]) == 2
    assert "line 1" in capsys.readouterr().err
