"""A replay that gives the same block lists to Mooncake's wheel."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_the_same_lists_through_both(tmp_path: Path, upstream_v2: Path) -> None:
    path = tmp_path / "report.json"
    result = subprocess.run(
        [
            sys.executable, "-m", "mooncake", "replay", "--requests", "12", "--input", "60-200",
            "--output", "32", "--running", "4", "--pool-tokens", "1600",
            "--prefill-pool-tokens", "1600", "--model", "2x2x256", "--passes", "2",
            "--baseline", "upstream", "--upstream-python", str(upstream_v2),
            "--json", str(path),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result
    passes = json.loads(path.read_text())["passes"]
    assert len(passes) == 4
    for number in (1, 2):
        ours, theirs = sorted(
            (each for each in passes if each["pass"] == number), key=lambda each: each["engine"]
        )
        assert (ours["engine"], theirs["engine"]) == ("ours", "upstream")
        assert ours["failures"] == theirs["failures"] == []
        for figure in ("blocks", "runs", "bytes", "mean_run_tokens"):
            assert ours[figure] == theirs[figure]
