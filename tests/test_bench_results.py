"""What make bench makes of its samples: medians of ratios, targets, and who did the moving."""

from __future__ import annotations

import itertools
import os
import socket
import sys

import pytest
from kit import REPOSITORY

sys.path.append(str(REPOSITORY / "tests" / "bench"))

import plan
import sockets
import table
import targets
from results import Latency, Results, Sample

CELL = plan.Cell(512, "scattered", "write")


def samples(*speeds: float) -> dict[int, Sample]:
    return {n: Sample(speed, speed * 1e9 / 512, 1.0) for n, speed in enumerate(speeds)}


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    """Not the ratio of the medians, which is 1 here."""
    results = Results(cells={CELL: {"ours tcp": samples(1, 2, 8), "upstream": samples(2, 1, 2)}})
    assert results.ratio(CELL, "ours tcp", "upstream") == 2
    assert results.speed(CELL, "ours tcp") == 2


def test_rounds_that_one_of_them_lacks_do_not_count() -> None:
    results = Results(cells={CELL: {"ours tcp": samples(1, 2, 8), "upstream": samples(2)}})
    assert results.ratio(CELL, "ours tcp", "upstream") == 0.5
    assert results.ratio(CELL, "ours tcp", "nixl tcp") is None


def test_a_target_is_held_against_the_better_limit() -> None:
    speeds = {"ours local": samples(9, 9, 9), "cma": samples(5, 5, 5), "packed": samples(10, 9, 12)}
    results = Results(cells={CELL: speeds})
    verdict = next(v for v in targets.verdicts(results) if v.what.startswith("local"))
    assert "over packed" in verdict.what
    assert verdict.value == pytest.approx(0.9) and verdict.outcome == "MISSED"
    speeds["ours local"] = samples(11, 11, 11)
    verdict = next(v for v in targets.verdicts(results) if v.what.startswith("local"))
    assert verdict.outcome == "met"


def test_a_column_that_used_another_transport_says_so() -> None:
    results = Results(
        cells={CELL: {"ours local": samples(9), "cma": samples(5)}},
        strayed={(CELL, "ours local"): "tcp"},
    )
    assert "9.000 via tcp" in table.throughput(results)
    verdict = next(v for v in targets.verdicts(results) if v.what.startswith("local"))
    assert (verdict.outcome, verdict.note) == ("not measured", "ours local used tcp")


def test_latency_targets_are_upper_bounds() -> None:
    results = Results(
        latencies={
            "ours tcp C": {0: Latency(12, 20, 100)},
            "ours tcp": {0: Latency(17, 20, 100)},
            "bare stream": {0: Latency(10, 20, 100)},
        }
    )
    found = {v.what: v for v in targets.verdicts(results) if "P50" in v.what}
    assert [(v.value, v.outcome) for v in found.values()] == [(1.2, "met"), (1.7, "MISSED")]


@pytest.mark.parametrize("pattern", plan.PATTERNS)
@pytest.mark.parametrize("size", [8, 512, 4096, 65536])
def test_no_two_blocks_of_a_plan_overlap(size: int, pattern: str) -> None:
    memory = 1 << 20
    local, remote, batch = plan.offsets(plan.Cell(size, pattern, "write"), 100, memory)
    assert len(local) == len(remote) and len(local) % batch == 0
    for offsets in (local, remote):
        ordered = sorted(offsets)
        assert ordered[0] >= 0 and ordered[-1] + size <= memory
        gaps = {b - a - size for a, b in itertools.pairwise(ordered)}
        assert gaps == {0} if pattern == "contiguous" else min(gaps) > 0
    assert (local == remote) == (pattern == "contiguous")


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_bytes_received_over_tcp_are_counted(family: socket.AddressFamily) -> None:
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    try:
        listener = socket.create_server((host, 0), family=family)
    except OSError as error:
        pytest.skip(f"{host} cannot be listened at: {error}")
    with listener, socket.create_connection(listener.getsockname()[:2], timeout=10) as sender:
        receiver, _ = listener.accept()
        with receiver:
            before = sockets.tcp_received([os.getpid()])
            sender.sendall(bytes(100_000))
            left = 100_000
            while left:
                left -= len(receiver.recv(left))
            assert sockets.tcp_received([os.getpid()]) - before == 100_000
