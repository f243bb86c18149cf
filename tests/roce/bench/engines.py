"""An engine on each host, ours or upstream's, and the counters that say what it did."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cells import MEMORY, BenchError, Cell, Sample, offsets, sample
from process import Process

REPOSITORY = Path(__file__).resolve().parents[3]
ON2 = ("on2", "run")
DEVICE, RAIL2 = "rxe0", "192.0.2.2"
POISON = 0xA5


class Counters:
    """What this host's rail and its NIC have done since this was made."""

    def __init__(self) -> None:
        self.began = self.read()

    @staticmethod
    def read() -> tuple[int, int]:
        paths = (
            "/sys/class/net/rail0/statistics/tx_bytes",
            f"/sys/class/infiniband/{DEVICE}/ports/1/hw_counters/completer_retry_err",
        )
        sent, retries = (int(Path(path).read_text()) for path in paths)
        return sent, retries

    def sample(self, speed: float, moved: int) -> Sample:
        sent, retries = (now - then for now, then in zip(self.read(), self.began, strict=True))
        return sample(speed, moved, sent, retries)


class Engines:
    """An engine on each host, that writes from here to there."""

    scatters = compares = True

    def __init__(self, name: str, python: Path, out: Path, variable: str = "") -> None:
        """variable: one more of the engines' environment, NAME=VALUE."""
        if not python.exists():
            raise BenchError(f"{python} does not exist")
        self.name = name
        self.wanted: dict[Cell, str] = {}
        plain = re.sub(r"\W+", "-", name)
        self.here, self.there = (
            Process(python, prefix, out / f"bench-{plain}{host}.log", variable)
            for host, prefix in ((1, ()), (2, ON2))
        )
        hosts = (os.environ["ROCE_HOST1"], os.environ["ROCE_HOST2"])
        try:
            started = [
                process.call("start", 90, host=host, device=DEVICE, size=MEMORY)
                for process, host in zip((self.here, self.there), hosts, strict=True)
            ]
        except BenchError:
            self.close()
            raise
        self.target = {key: started[1][key] for key in ("session", "address")}

    def measure(self, cell: Cell, seconds: float) -> Sample:
        self.aim(cell, *offsets(cell))
        counters = Counters()
        found = self.here.call("write", seconds=seconds)
        return counters.sample(found["bytes"] / found["seconds"] / 1e6, found["bytes"])

    def aim(self, cell: Cell, local: Sequence[int], remote: Sequence[int]) -> None:
        """Set the blocks of the next measurement, and check that all of their bytes arrive and
        no others."""
        blocks: dict[str, Any] = {"local": local, "remote": remote, "size": cell.size}
        self.here.call("aim", **self.target, **blocks)
        self.there.call("fill", value=POISON)
        self.here.call("write", seconds=0)
        if cell not in self.wanted:
            self.wanted[cell] = self.here.call("expected", fill=POISON, **blocks)["sha"]
        if self.there.call("sha")["sha"] != self.wanted[cell]:
            raise BenchError("wrong bytes have arrived")

    def close(self) -> None:
        for process in (self.here, self.there):
            process.close()
