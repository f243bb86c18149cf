"""The ways in which upstream runs in these tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from upstream import UpstreamPeer

# launch(kind, host="127.0.0.1", **env): see the fixtures launch and lasting.
Launch = Callable[..., UpstreamPeer]


@dataclass(frozen=True)
class Kind:
    """A way to run upstream: which wheel, with which variables."""

    wheel: str
    env: dict[str, str] = field(default_factory=dict)

    @property
    def pooled(self) -> bool:
        """Whether the peer, as initiator, keeps connections for several requests."""
        return self.env.get("MC_TCP_ENABLE_CONNECTION_POOL") == "1"

    @property
    def confirms(self) -> bool:
        """Whether the peer, as initiator, learns what became of its writes."""
        return self.wheel == "v2" and self.env.get("MC_TCP_PROTO") != "1"


# With its default queue of 1,024 blocks upstream fails larger batches, and
# stays unusable towards that peer afterwards.
DEEP_QUEUE = {"MC_TCP_MAX_QUEUED_TRANSFERS_PER_PEER": "65535"}
POOL = {"MC_TCP_ENABLE_CONNECTION_POOL": "1", **DEEP_QUEUE}

KINDS = {
    "v2": Kind("v2", POOL),
    "v2-no-pool": Kind("v2", {"MC_TCP_ENABLE_CONNECTION_POOL": "0"}),
    "v2-as-v1": Kind("v2", {**POOL, "MC_TCP_PROTO": "1"}),
    "v1": Kind("v1"),
    "v1-keep": Kind("v1-keep"),
}
