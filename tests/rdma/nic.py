"""The software NIC as tests set it, and two processes that are joined by it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from kit import POISON, Pages, within
from mooncake import Op
from peers import Peer

DEVICE = "mlx5_0"  # which engines use unless told otherwise
MIB = 1 << 20


class Nic:
    """Changes settings of tests/softnic/README.md while engines are open."""

    def __init__(self) -> None:
        folder = os.environ["LD_LIBRARY_PATH"].split(":")[0]
        self._program = Path(folder) / "softnicctl"
        self._defaults: dict[str, str] = {}

    def set(self, device: str = DEVICE, **settings: str | int) -> None:
        defaults = {"port": "up", "mode": "copy", "gids": "v2at3"}
        for name in settings:
            self._defaults[f"{device} {name}"] = defaults.get(name, "0")
        self._control(device, *(f"{name}={value}" for name, value in settings.items()))

    def restore(self) -> None:
        for key, value in self._defaults.items():
            device, name = key.split()
            try:
                self._control(device, f"{name}={value}")
            except subprocess.CalledProcessError:
                pass  # nobody uses it any more, so the settings are gone, too
        self._defaults.clear()

    def _control(self, device: str, *entries: str) -> None:
        subprocess.run(
            [self._program, "set", device, *entries], check=True, capture_output=True, timeout=10
        )


class StillPeer(Peer):
    """A peer that takes the NIC's port to a standstill with it."""

    _nic: Nic | None = None

    def freeze(self) -> None:
        super().freeze()
        self._nic = Nic()
        self._nic.set(freeze=1)

    def thaw(self) -> None:
        self._go_on()
        super().thaw()

    def kill(self) -> None:
        super().kill()
        self._go_on()

    def close(self) -> None:
        super().close()
        self._go_on()

    def _go_on(self) -> None:
        if self._nic is not None:
            self._nic.restore()


class Link:
    """SIZE registered bytes on either side; here a pattern, and POISON in the peer's."""

    SIZE = 8 * MIB

    def __init__(self, engine: Any, peer: Peer, pages: Callable[..., Pages]) -> None:
        self.engine, self.peer = engine, peer
        self.pages = pages(self.SIZE, 1)
        self.memory = engine.register(self.pages.map)
        self.remote = peer.memory("kv", self.SIZE)
        peer.call("fill", name="kv", value=POISON)
        self.segment = engine.open_segment(peer.session)

    def blocks(self, size: int, seed: int = 1) -> np.ndarray:
        """Offsets of every second block of a size, in random order."""
        order = np.random.default_rng(seed).permutation(self.SIZE // size // 2)
        return order.astype(np.uint64) * (2 * size)

    def move(self, op: Op, size: int, deadline: float = 20.0) -> Any:
        """Move these blocks, and wait."""
        at = self.blocks(size)
        call = self.segment.write if op is Op.WRITE else self.segment.read
        return within(30, call, self.pages.address + at, self.remote + at, size, deadline=deadline)

    def submit(self, op: Op, size: int = 512, deadline: float | None = None) -> Any:
        at = self.blocks(size)
        return self.segment.submit(
            op, self.pages.address + at, self.remote + at, size, deadline=deadline
        )

    def works(self) -> None:
        """A few bytes there and back."""
        self.segment.write(self.pages.address, self.remote, 4096, deadline=10)
        self.segment.read(self.pages.address + 4096, self.remote, 4096, deadline=10)
        assert self.pages.bytes(4096, 4096) == self.pages.bytes(0, 4096)
