"""The drop-in engine's calls that ask peers and the host."""

from __future__ import annotations

from ._compat_arguments import TransferNotify, text_or_none
from ._compat_base import EngineBase
from ._errors import MooncakeError, NotFound, PeerUnreachable
from .native import local_topology_text

# Upstream's error numbers that callers know.
_DNS = -101
_SOCKET = -102

_PROBE_TIMEOUT = 1.0  # seconds: sglang probes its failed peers one after the other


class HostCalls(EngineBase):
    """Probes, notifications, and what is known about peers and this host."""

    def get_first_buffer_address(self, segment_name: str) -> int:
        """The address of the first memory that the peer has registered; 0 if it has none or
        cannot be asked."""
        name = text_or_none(segment_name, "segment_name")
        opened = self._ready("get_first_buffer_address")
        if opened is None or name is None:
            return 0
        try:
            # Opened anew each time: what the peer has registered may have changed.
            with opened.engine.open_segment(name) as segment:
                buffers = segment.buffers()
        except MooncakeError as error:
            self._log.failure("get_first_buffer_address", error, name)
            return 0
        return buffers[0].address if buffers else 0

    def send_probe(self, peer_server_name: str) -> int:
        """0 if the peer answers; -101 if its host is unknown, -102 if it cannot be
        reached, else -1. Takes about a second at most."""
        name = text_or_none(peer_server_name, "peer_server_name")
        opened = self._ready("send_probe")
        if opened is None or name is None:
            return -1
        try:
            opened.engine.probe(name, _PROBE_TIMEOUT)
            return 0
        except MooncakeError as error:
            self._log.failure("send_probe", error, name)
            return (
                _DNS
                if isinstance(error, NotFound)
                else (_SOCKET if isinstance(error, PeerUnreachable) else -1)
            )

    def get_notifies(self) -> list[TransferNotify]:
        """Take all notifications that peers left here, oldest first."""
        opened = self._ready("get_notifies")
        if opened is None:
            return []
        return [TransferNotify(*each) for each in opened.engine.notifications()]

    def get_local_topology(self, device_name: str | None = None) -> str:
        """This host's memory locations and the RDMA devices near each, as JSON. Needs no
        initialize(). Raises InvalidArgument for a malformed device_name."""
        return local_topology_text(text_or_none(device_name, "device_name") or "")

    def warmup_efa_segment(self, segment_name: str) -> int:
        """0: there is nothing to warm up without EFA."""
        return 0
