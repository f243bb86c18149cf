"""An engine that has nothing to do takes next to no time of a processor."""

from __future__ import annotations

import time

from hosts import measured
from link import Link
from mooncake import Op

ALLOWED = 0.01


def test_an_idle_engine_sleeps(link: Link) -> None:
    """Several times are looked at: on a busy machine the emulation counts time that another
    process had."""
    side = link.side(1 << 20)
    side.move(Op.WRITE, [0], [0], [side.size])
    least = 1.0
    for _ in range(6):
        before, began = time.process_time(), time.monotonic()
        time.sleep(1.0)
        least = min(least, (time.process_time() - before) / (time.monotonic() - began))
        if least < ALLOWED:
            break
    measured(f"idle engine: {least:.2%} of a processor, emulated")
    assert least < ALLOWED
