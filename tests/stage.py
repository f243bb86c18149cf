"""An engine here and one in a peer process, with memory between which transfers take a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kit import Pages
from peers import Peer

MIB = 1 << 20
SIZE = 64 * MIB  # more than all socket buffers and windows hold: a frozen peer blocks it
SEED = 1


class Stage:
    """SIZE registered bytes on either side: pattern(SIZE, SEED) here, zeros at the peer."""

    def __init__(self, engine: Any, peer: Peer, pages: Callable[..., Pages]) -> None:
        self.engine, self.peer = engine, peer
        self.pages = pages(SIZE, SEED)
        self.memory = engine.register(self.pages.map)
        self.remote = peer.memory("kv", SIZE)
        self.segment = engine.open_segment(peer.session)
        # So that a connection exists, and what follows is about transfers only.
        self.segment.write(self.memory[0], self.remote, 64)

    def submit(self, op: int = 1, deadline: float | None = None) -> Any:
        """Start to move everything as one block; a write unless told otherwise."""
        return self.segment.submit(op, self.pages.address, self.remote, SIZE, deadline=deadline)
