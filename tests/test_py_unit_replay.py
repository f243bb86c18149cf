"""The replay's parts, without processes: loads, shapes, schedulers, memory, model and advice."""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mooncake.replay import kv, pair
from mooncake.replay import run as replay_run
from mooncake.replay.advise import advise
from mooncake.replay.errors import UsageError
from mooncake.replay.load import Bad, Request, from_trace, generated, lengths_of
from mooncake.replay.measure import Point, percentile, thinned
from mooncake.replay.model import Costs, costs_of
from mooncake.replay.options import add_arguments, plan_of
from mooncake.replay.pools import count_runs
from mooncake.replay.schedule import Capacity, Scheduler
from mooncake.replay.shapes import SHAPES, scaled, shape_of


def plan(*arguments: str, said: list[str] | None = None) -> Any:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return plan_of(parser.parse_args(arguments), (said if said is not None else []).append)


# -- loads


def test_lengths() -> None:
    rng = random.Random(1)
    assert {lengths_of("7", "--input").draw(rng) for _ in range(9)} == {7}
    drawn = [lengths_of("5-9", "--input").draw(rng) for _ in range(200)]
    assert set(drawn) == {5, 6, 7, 8, 9}
    some = lengths_of("lognormal:100:1.0:500", "--input")
    drawn = [some.draw(rng) for _ in range(500)]
    assert 1 <= min(drawn) < 60 and max(drawn) == 500
    assert sorted(drawn)[250] == pytest.approx(100, rel=0.25)


@pytest.mark.parametrize(
    "text",
    ["", "0", "-3", "9-3", "0-5", "1.5", "lognormal:0:1:9", "lognormal:9:9:99",
     "lognormal:9:1:3", "x",
     "99999999999"],
)  # fmt: skip
def test_lengths_that_make_no_sense(text: str) -> None:
    with pytest.raises(UsageError, match="--input"):
        lengths_of(text, "--input")


def test_a_rate_spreads_arrivals() -> None:
    length = lengths_of("9", "--input")
    at_once = generated(50, length, length, 0, random.Random(1))
    assert {request.arrival for request in at_once} == {0}
    spread = generated(500, length, length, 10, random.Random(1))
    arrivals = [request.arrival for request in spread]
    assert arrivals == sorted(arrivals) and arrivals[-1] == pytest.approx(50, rel=0.2)


def trace(folder: Path, *lines: str) -> Path:
    path = folder / "trace.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_trace_counts_time_from_its_first_request(tmp_path: Path) -> None:
    path = trace(
        tmp_path,
        '{"timestamp": 5000, "input_length": 10, "output_length": 0}',
        "",
        '{"timestamp": 9000, "input_length": 20, "output_length": 7, "hash_ids": [1, 2]}',
    )
    found = from_trace(path, 10, 2.0, 100, Bad(True, print))
    assert found == [Request(0, 10, 1), Request(2.0, 20, 7)], "an output has one token at least"
    assert len(from_trace(path, 1, 1.0, 100, Bad(True, print))) == 1


def test_many_bad_lines_are_counted_not_all_shown(tmp_path: Path) -> None:
    good = '{"timestamp": 1, "input_length": 10, "output_length": 5}'
    said: list[str] = []
    bad = Bad(False, said.append)
    found = from_trace(trace(tmp_path, good, *["["] * 100, good), 10, 1.0, 100, bad)
    assert len(found) == 2 and bad.count == 100
    assert len(said) == 21 and "80 more bad lines" in said[-1]
    with pytest.raises(UsageError, match="no request that can be used"):
        from_trace(trace(tmp_path, "["), 10, 1.0, 100, Bad(False, said.append))


# -- shapes


def test_shapes_and_their_scale() -> None:
    full = SHAPES["qwen-32b-tp8"]
    assert shape_of("qwen-32b-tp8") is full and full.token_bytes == 64 * 2 * 256
    assert shape_of("3x2x64").buffers == 6
    for text in ("3x2", "0x2x64", "gpt", "3x2x64x1"):
        with pytest.raises(UsageError, match="--model"):
            shape_of(text)
    whole = scaled(full, 1000, 1 << 40, None, None)
    assert whole.shape == full and whole.statement == ""
    fits = scaled(full, 1000, 1000 * full.token_bytes // 4, None, None)
    assert fits.shape.layers == 16 and "16 of 64 layers" in fits.statement
    small = scaled(full, 1000, 1 << 40, 64, 32)
    assert small.shape.layers == 1 and "8 times smaller" in small.statement
    with pytest.raises(UsageError, match="--memory allows"):
        scaled(full, 1000, 100, None, None)


def test_defaults_are_the_incident() -> None:
    found = plan()
    (capacity,) = found.capacities
    assert (len(found.requests), len(found.requests[0])) == (3, 1000)
    assert (capacity.page_size, capacity.allocator, capacity.running) == (1, "fifo", 256)
    assert capacity.pool_tokens == 400_000
    assert all(200 <= r.input <= 2000 and r.output == 512 for r in found.requests[0])
    assert plan("--load-scale", "10").capacities[0].pool_tokens == 40_000


@pytest.mark.parametrize(
    "text", ["", "5,3", "5,5", "0", "x", "1:2", "10:0.5:3", "1:1.1:1000", "5,-1"]
)
def test_rates_of_a_ramp_that_make_no_sense(text: str) -> None:
    with pytest.raises(UsageError, match="--ramp"):
        plan("--load-scale", "10", "--ramp", text)


def test_rates_of_a_ramp() -> None:
    assert plan("--load-scale", "10", "--ramp", "5,10.5").rates == [5, 10.5]
    assert plan("--load-scale", "10", "--ramp", "10:2:3").rates == [10, 20, 40]
    with pytest.raises(UsageError, match="one configuration"):
        plan("--load-scale", "10", "--ramp", "5", "--page-size", "1,2")


# -- schedulers


class List:
    """A pool that gives the lowest pages, and notices what it must not be asked."""

    def __init__(self, pages: int) -> None:
        self.free, self.held = list(range(pages)), dict[int, list[int]]()
        self.closed = False

    def alloc(self, request: int, count: int, *, room: int = 0) -> Sequence[int]:
        assert request not in self.held and count <= len(self.free)
        self.held[request], self.free = self.free[:count], self.free[count:]
        return self.held[request]

    def grow_batch(self, requests: Sequence[int], counts: Sequence[int]) -> None:
        assert sum(counts) <= len(self.free), "a decode step ran out of pages"
        for request, count in zip(requests, counts, strict=True):
            self.held[request] += self.free[:count]
            self.free = self.free[count:]

    def release(self, request: int) -> None:
        self.free = sorted(self.free + self.held.pop(request))

    def close(self) -> None:
        self.closed = True


def scheduler(size: int = 4, pool: int = 400, prefill: int = 80, running: int = 5) -> Any:
    pools: list[List] = []

    def opened(kind: str, pages: int) -> List:
        pools.append(List(pages))
        return pools[-1]

    made = Scheduler(Capacity(size, "fifo", pool, prefill, running, 0.1, 2), opened)
    return made, pools


@pytest.mark.parametrize("size", [1, 4, 16])
def test_a_pass_serves_every_request_and_leaves_nothing(size: int) -> None:
    made, (decode, prefill) = scheduler(size)
    rng = random.Random(size)
    requests = [Request(0, rng.randint(1, 60), rng.randint(1, 30)) for _ in range(80)]
    seen: list[int] = []
    for wave in made.run(requests, 100):
        assert made.running <= 5
        assert sum(len(job.source) for job in wave) <= 80 // size
        for job in wave:
            seen.append(job.number)
            assert len(job.target) == len(job.source) == -(-job.request.input // size)
    assert seen == list(range(100, 180))
    assert not decode.held and not prefill.held and len(decode.free) == 400 // size
    assert made.admission_waits > 0, "the load was to be more than fits at once"
    made.close()
    assert decode.closed and prefill.closed


def test_the_same_load_gives_the_same_pages() -> None:
    rng = random.Random(3)
    requests = [Request(i / 5, rng.randint(1, 60), rng.randint(1, 30)) for i in range(40)]
    runs = []
    for _ in range(2):
        made, _ = scheduler()
        jobs = [job for wave in made.run(requests, 0) for job in wave]
        runs.append([(list(job.source), list(job.target), job.admitted) for job in jobs])
    assert runs[0] == runs[1]


def test_requests_are_not_admitted_before_they_arrive() -> None:
    made, _ = scheduler()
    requests = [Request(0, 8, 2), Request(50, 8, 2), Request(50.05, 8, 2)]
    admitted = [job.admitted for wave in made.run(requests, 0) for job in wave]
    assert admitted[0] == 0 and 49.9 <= admitted[1] <= 50.1 and admitted[2] <= 50.2


def test_a_held_request_gets_no_tokens() -> None:
    made, (decode, _) = scheduler(1)
    assert made.admit(7, Request(0, 10, 3), held=True) is not None
    for _ in range(5):
        assert made.step() == []
    assert len(decode.held[7]) == 10
    made.begin(7)
    assert [made.step() for _ in range(3)] == [[], [], [7]]


# -- memory and block lists, with numpy and without


@pytest.mark.parametrize("plain", [False, True], ids=["numpy", "plain"])
def test_contents_and_block_lists(plain: bool) -> None:
    """In a process of its own, since numpy cannot be taken away from this one."""
    code = "import sys\n" + ("sys.modules['numpy'] = None\n" if plain else "") + CODE
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert result.stdout.split() == [str(plain), "ok"], result


CODE = """
from mooncake.replay import kv, pair
from mooncake.replay import run as replay_run
print(kv.numpy is None)
memory = kv.Memory(3, 32, 64, 64, 5)
pages = [3, 4, 5, 9, 1, 0]
memory.fill(1, pages, 4)
assert memory.wrong(1, pages, 4, False) == memory.wrong(1, pages, 4, True) == 0
assert memory.wrong(2, pages, 4, False) == 18, "another request has other bytes"
assert memory.wrong(1, [4, 3, 5, 9, 1, 0], 4, False) == 6, "pages that changed places"
memory.maps[2][9 * 128 + 127] ^= 1
assert memory.wrong(1, pages, 4, False) == 1
memory.poison([0], 4)
assert memory.wrong(1, pages, 4, False) == 4
twin = kv.Memory(3, 32, 64, 64, 5)
twin.fill(1, pages, 4)
assert bytes(twin.maps[1]) [12 * 32:24 * 32] == bytes(memory.maps[1])[12 * 32:24 * 32]
here, there = [1000, 5000], [100, 900]
local, remote, lengths = kv.blocks_of([1, 2, 3, 7], [4, 5, 9, 10], 10, here, there, True)
assert list(local) == [1010, 1030, 1070, 5010, 5030, 5070], list(local)
assert list(remote) == [140, 190, 200, 940, 990, 1000], list(remote)
assert list(lengths) == [20, 10, 10] * 2, list(lengths)
local, remote, lengths = kv.blocks_of([1, 2], [4, 5], 10, here, there, False)
assert list(local) == [1010, 1020, 5010, 5020] and list(lengths) == [10] * 4
print("ok")
"""


def test_runs_are_counted() -> None:
    assert count_runs([]) == 0 and count_runs([5]) == 1 and count_runs([5, 6, 7]) == 1
    assert count_runs([1, 2, 9, 10, 3]) == 3
    assert count_runs([1, 2, 3, 4], [7, 8, 1, 2]) == 2 and count_runs([1, 3], [4, 5]) == 2
    assert kv.runs_of([1, 2, 9], [4, 5, 6]) == [(0, 1, 2), (2, 9, 1)] and kv.runs_of([]) == []


# -- figures


def test_percentiles_are_ranks() -> None:
    assert percentile([], 0.5) == 0
    assert percentile([3, 1, 2], 0.5) == 2 and percentile([3, 1, 2], 0.99) == 3


def test_thinned_points_add_up() -> None:
    points = [Point(i, 10, 1, 100, 0.5) for i in range(997)]
    found = thinned(points)
    assert len(found) <= 41
    assert sum(point.bytes for point in found) == 99_700
    assert sum(point.seconds for point in found) == pytest.approx(498.5)


# -- model and advice

COSTS = [
    {"engine": "ours", "block_bytes": 256, "blocks": 1000, "call_seconds": 1e-4,
     "scattered_seconds": 1e-4 + 1000 * (256 / 1e9 + 400e-9),
     "large_bytes": 10**7, "large_seconds": 0.0101}
]  # fmt: skip


def test_the_model_finds_its_constants_again() -> None:
    costs = costs_of(COSTS, "ours", False)
    assert costs is not None
    assert costs.link == pytest.approx(1e9) and costs.run == pytest.approx(400e-9)
    assert costs.call == pytest.approx(1e-4)
    assert costs.seconds(1, 1000, 256_000) == pytest.approx(COSTS[0]["scattered_seconds"])
    assert sum(costs.shares(3, 1000, 10**6).values()) == pytest.approx(1)
    assert costs_of(COSTS, "upstream", False) is None
    nic = Costs(0, 1e-6, 1e9, overlap=True)
    assert nic.seconds(1, 1000, 10**5) == pytest.approx(1e-3), "the longer of the two counts"


def report(**row: Any) -> dict[str, Any]:
    """A report of one pass; the defaults are limited by its bytes."""
    first = {
        "engine": "ours", "page_size": 1, "allocator": "fifo", "pass": 1, "requests": 100,
        "tokens": 100_000,
        "bytes": 100_000 * 8 * 256, "runs": 800, "mean_run_tokens": 1000.0,
        "seconds": 0.3, "build_seconds": 0.0,
        "prefill_cpu_seconds": 0.1, "decode_cpu_seconds": 0.1, **row,
    }  # fmt: skip
    return {
        "schema": "mooncake-replay/1", "calibrations": COSTS, "passes": [first],
        "engines": [{"engine": "ours", "transport": "tcp", "register_seconds": 0.001}],
        "shape": {"buffers": 8}, "machine": {"cores": 2}, "transfer": {"api": "blocks"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("row", "limit"),
    [
        ({}, "link"),
        ({"prefill_cpu_seconds": 0.3, "decode_cpu_seconds": 0.29}, "CPU"),
        ({"runs": 800_000, "mean_run_tokens": 1.0}, "run length"),
        ({"tokens": 100, "bytes": 100 * 8 * 256, "runs": 800}, "cost per call"),
        (
            {"tokens": 100, "bytes": 8 * 25600, "runs": 800, "requests": 1, "seconds": 0.1},
            "run length",
        ),
        (
            {"requests": 100_000, "bytes": 10**6, "runs": 800_000, "tokens": 100_000},
            "cost per call",
        ),
    ],
)
def test_the_limit_is_named(row: dict[str, Any], limit: str) -> None:
    (found,) = advise(report(**row))
    assert found.limit == limit, found.text
    assert found.changes and limit in found.text


def test_cost_per_block_where_runs_cannot_be_fewer() -> None:
    subject = report(requests=10, runs=1_000_000, bytes=256_000_000, tokens=1000)
    subject["shape"]["buffers"] = 100_000
    (found,) = advise(subject)
    assert found.limit == "cost per block"


def test_registration_and_lists_can_be_the_limit_too() -> None:
    subject = report(build_seconds=0.2)
    assert "page groups" in advise(subject)[0].text
    subject["engines"][0]["register_seconds"] = 5.0
    assert advise(subject)[0].limit == "registration"


def test_gains_are_those_of_the_model_and_of_the_report() -> None:
    subject = report(runs=800_000, mean_run_tokens=1.0)
    other = dict(
        subject["passes"][0], allocator="runs", runs=800, mean_run_tokens=1000.0, seconds=0.06
    )
    subject["passes"].append(other)
    found = {each.subject.split(", ")[2]: each for each in advise(subject)}
    by_allocator, *by_size = found["fifo"].changes
    size = subject["passes"][0]["bytes"]
    now = 100 * 1e-4 + size / 1e9 + 800_000 * 400e-9
    then = 100 * 1e-4 + size / 1e9 + 800 * 400e-9
    assert by_allocator.time_factor == pytest.approx(then / now)
    assert by_allocator.measured == pytest.approx(0.2)
    assert [change.page_size for change in by_size] == [16, 64]
    assert by_size[0].measured is None


COUNTERS = {
    "batches": 100, "batches_failed": 0, "blocks": 10**6, "runs": 10**6,
    "bytes_written": 256 * 10**6, "bytes_read": 0,
    "batch_ns": 10**9, "messages": 1000, "memories": 8, "retries": 0, "local_refused": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("counters", "limit"),
    [
        ({}, "run length"),
        ({"bytes_written": 0}, "nothing"),
        ({"batches": 10**6}, "cost per call"),
        ({"bytes_written": 20_000 * 10**6}, "cost per block"),
        ({"bytes_read": 100_000 * 10**6}, "link"),
    ],
)
def test_the_limit_of_counters(counters: dict[str, int], limit: str) -> None:
    (found,) = advise({**COUNTERS, **counters})
    assert found.limit == limit, found.text


def test_gains_of_counters_are_bounds_without_the_link() -> None:
    (found,) = advise(COUNTERS)
    assert found.changes[0].bound and found.changes[0].time_factor == pytest.approx(1 / 16)
    (found,) = advise(COUNTERS, link_mb_per_s=1000)
    first = found.changes[0]
    assert not first.bound and first.time_factor == pytest.approx(0.256 + 0.744 / 16)


def test_what_else_counters_tell() -> None:
    (found,) = advise(
        {**COUNTERS, "local_refused": 2, "retries": 3, "batches_failed": 4, "memories": 5000}
    )
    assert len(found.notes) == 4
    for subject in (None, 5, [], {}, {"batches": "x"}, {"schema": "else"}):
        with pytest.raises(ValueError):
            advise(subject)


# -- transports


def test_rdma_means_rdma_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MC_FORCE_TCP", "1")
    chosen = plan("--transport", "rdma", "--load-scale", "64").options
    assert chosen.protocol == "rdma"
    engine = pair.ours(chosen.transport, chosen.protocol)
    assert engine.env["MC_FORCE_HCA"] == "1" and engine.env["MC_LOCAL"] == "off"
    assert "MC_FORCE_TCP" not in engine.env
    with pytest.raises(UsageError, match="do not go together"):
        plan("--transport", "rdma", "--protocol", "tcp")


@pytest.mark.parametrize("transport", ["auto", "tcp", "local"])
def test_the_protocol_is_tcp_unless_told(transport: str) -> None:
    chosen = plan("--transport", transport, "--load-scale", "64").options
    assert chosen.protocol == "tcp"


def test_upstream_goes_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MC_GID_INDEX", "3")
    monkeypatch.setenv("MC_SLICE_SIZE", "1")
    by_nic, by_socket = (pair.upstream(Path("python"), way) for way in ("rdma", "local"))
    assert by_nic.protocol == by_nic.transport == "rdma"
    assert by_nic.env["MC_GID_INDEX"] == "3" and "MC_SLICE_SIZE" not in by_nic.env
    assert "MC_FORCE_TCP" not in by_nic.env
    assert by_socket.protocol == by_socket.transport == "tcp"
    assert by_socket.env["MC_FORCE_TCP"] == "1" and "MC_GID_INDEX" not in by_socket.env


def test_the_counters_tell_the_transport() -> None:
    assert replay_run._used({"bytes_local": 0, "bytes_rdma": 5}) == "rdma"
    assert replay_run._used({"bytes_local": 5, "bytes_rdma": 0}) == "local"
    assert replay_run._used({"messages": 7}) == "tcp"
