"""What a ramp makes of its stages: the knee, and what limits there."""

from __future__ import annotations

from typing import Any

import pytest

from mooncake.replay.process import Usage
from mooncake.replay.ramp import Ramp
from mooncake.replay.stage import Stage


def stage(rate: float, done: float = 1.0, slow: float = 0.01, **more: Any) -> Stage:
    made = Stage(rate, 10.0, 1.0, arrived=int(rate * 10), done=int(rate * 10 * done), looks=100)
    made.latencies = [slow] * 100
    made.transfers = [more.pop("transfer", 0.005)] * 100
    usages = [Usage(0.0, 0.0, 1 << 20, 0), Usage(10.0, 1.0, 1 << 20, 10**9)]
    made.prefill, made.decode = usages, usages
    for name, value in more.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("last", "knee", "limit"),
    [
        (stage(40), None, None),
        (stage(40, done=0.5, machine_share=0.95), 20, "CPU, much of which others use"),
        (stage(40, done=0.5, machine_share=0.95, driver_cores=9.0), 20, "CPU"),
        (stage(40, slow=0.5, refused=90), 20, "slots or pages of decode"),
        (stage(40, done=0.5, busy=19.0), 20, "transfers at once (--concurrency)"),
        (stage(40, done=0.5, busy=19.0, transfer=0.02), 20, "link"),
        (stage(40, done=0.5), 20, "this program, which plays the servers' schedulers"),
    ],
)
def test_the_knee_and_what_limits_there(last: Stage, knee: float | None, limit: str | None) -> None:
    found = Ramp([stage(10), stage(20), last], concurrency=2)
    assert (found.knee, found.limit) == (knee, limit)
    assert (limit or "no knee up to 40") in found.verdict
    assert found.as_json()["stages"][2]["kept_up"] is (knee is None)


def test_a_first_rate_that_is_too_high_is_no_knee() -> None:
    found = Ramp([stage(10, done=0.2)], concurrency=2)
    assert found.knee is None and "give lower ones" in found.verdict
