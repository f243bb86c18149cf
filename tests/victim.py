"""An engine to attack, and a good client that must be served all the while."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from kit import Pages
from peers import Peer
from wire import descriptor, port_of

SIZE = 1 << 16
GOOD_WITHIN = 1.0  # seconds, for a good client while an attack goes on, on a busy machine


class Victim:
    """An engine in a process of its own, with memory, and a good client of it here."""

    def __init__(self, engine: Any, peer: Peer, pages: Callable[..., Pages]) -> None:
        self.peer, self.engine = peer, engine
        self.address = peer.memory("victim", SIZE, seed=1)
        self.space = peer.memory("space", SIZE)
        self.control = port_of(peer.session)
        self.data = int(descriptor(peer.session)["tcp_data_port"])
        self.local = pages(SIZE, 2)
        engine.register(self.local.map)
        self.sha = peer.sha("victim")
        self.serves()

    def serves(self) -> None:
        """Assert that a good client is served soon: old connections, and new ones."""
        began = time.monotonic()
        self.engine.probe(self.peer.session, GOOD_WITHIN)
        with self.engine.open_segment(self.peer.session) as segment:
            segment.write(self.local.address, self.space, 4096, deadline=5)
            segment.read(self.local.address + 8192, self.space, 4096, deadline=5)
        took = time.monotonic() - began
        assert took < GOOD_WITHIN, f"the good client had to wait for {took:.2f} s"
        assert self.local.bytes(8192, 4096) == self.local.bytes(0, 4096)

    def unharmed(self) -> None:
        self.serves()
        assert self.peer.process.poll() is None
        assert self.peer.sha("victim") == self.sha


@contextlib.contextmanager
def running_victim() -> Iterator[Victim]:
    from mooncake import Engine

    peer = Peer()
    memory: list[Pages] = []

    def pages(size: int, seed: int) -> Pages:
        memory.append(Pages(size, seed))
        return memory[-1]

    try:
        with Engine("127.0.0.1") as engine:
            yield Victim(engine, peer, pages)
    finally:
        peer.close()
