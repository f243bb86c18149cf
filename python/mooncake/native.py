"""The native API: an engine and what belongs to it.

    with Engine("10.0.0.1") as engine, engine.register(pool) as memory:
        with engine.open_segment("10.0.0.2:15321") as segment:
            segment.write(memory[0], remote_address, 4096)

Times are seconds, lengths bytes, addresses absolute. Failures are exceptions of
MooncakeError. Every object may be used from several threads at once.
"""

from __future__ import annotations

import ctypes
import json
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from . import _ffi, _memory
from ._arguments import integer, milliseconds, text
from ._batch import Batch, BatchState, BatchStatus, Op, Quiet
from ._buffers import Region, region
from ._errors import NotFound, QueueFull, StaleHandle
from ._handles import Handle
from ._memory import Memory
from ._segment import RemoteBuffer, Segment

__all__ = [
    "Batch",
    "BatchState",
    "BatchStatus",
    "Engine",
    "EngineStats",
    "Memory",
    "Notification",
    "Op",
    "Quiet",
    "RemoteBuffer",
    "Segment",
    "local_topology",
    "rdma_ports",
]


class Notification(NamedTuple):
    """Two strings that a peer left here."""

    name: str
    message: str


@dataclass(frozen=True)
class EngineStats:
    """Counters of an engine since it was opened; memories to peers_local also go down."""

    batches: int  # submitted
    batches_failed: int  # of them, ended in failure, cancelled and expired ones included
    blocks: int  # submitted
    runs: int  # contiguous runs that the blocks were merged to
    bytes_written: int  # confirmed bytes of this engine's own writes
    bytes_read: int  # confirmed bytes of this engine's own reads
    served_written: int  # bytes that peers wrote into this engine's memory, not over rdma
    served_read: int  # bytes that peers read from this engine's memory, not over rdma
    served_rejected: int  # requests of peers that were refused, not over rdma
    connections_opened: int  # data connections opened by this engine
    retries: int  # slices sent again after a broken connection
    batches_self: int  # moved within this process
    bytes_self: int  # confirmed bytes of them
    batches_local: int  # moved in memory, with other processes of this host
    bytes_local: int  # confirmed bytes of them
    bytes_packed: int  # of bytes_local, those that went through shared memory
    local_refused: int  # times a peer on this host had to be reached over the network
    memories: int  # registered now
    batches_open: int  # batches not closed yet
    connections: int  # incoming data connections now, of this process too; rdma: both ways
    peers_local: int  # peers that this engine reaches in memory now
    messages: int  # sent for its own batches: requests, slots of shared memory, system calls
    batch_ns: int  # time of all batches that have ended, from submit to end
    batches_rdma: int  # batches moved over rdma
    bytes_rdma: int  # confirmed bytes of them


class Engine(Handle):
    """One process's endpoint for transfers: it listens before the constructor returns.

    name is the host that peers reach this process at, an IPv4 or IPv6 address or a host
    name; a port in it is ignored. protocol is "tcp", "rdma", or None: rdma where it can be
    used, else tcp. "rdma" that cannot be used is one line in the log, and tcp; with MC_FORCE_HCA
    in the environment it is an error that names the device and what to do. devices are
    RDMA devices, comma separated, "" for all: the first that can be used is, see
    rdma_ports(). rpc_port 0 picks a port of MC_MIN_RPC_PORT..MC_MAX_RPC_PORT. The MC_*
    variables are read here.
    Blocks for milliseconds. Raises InvalidArgument, DeviceError (no free port), Unsupported
    (metadata store, protocol), LibraryError, ForkedError; with MC_FORCE_HCA also DeviceError (no
    device, no permission, port down, no address), InvalidArgument (no device or port of that
    name) and Unsupported (no libibverbs).

    close() fails the batches in flight, stops serving peers, waits until nothing in this
    process touches registered memory (at most a few seconds), and closes the engine's
    memories, segments and batches.
    """

    _kind = "engine"

    def __init__(
        self,
        name: str,
        *,
        metadata: str = "P2PHANDSHAKE",
        protocol: str | None = None,
        devices: str = "",
        rpc_port: int = 0,
    ) -> None:
        port = integer(rpc_port, "rpc_port")
        if port > 0xFFFF:
            raise _ffi.error("MC_EINVAL", f"rpc_port must be at most 65535, not {port}")
        options = _ffi.EngineOptions(
            struct_size=ctypes.sizeof(_ffi.EngineOptions),
            metadata=text(metadata, "metadata"),
            protocol=None if protocol is None else text(protocol, "protocol"),
            devices=text(devices, "devices"),
            rpc_port=port,
        )
        out = ctypes.c_uint64()
        _ffi.lib().mc_engine_open(text(name, "name"), ctypes.byref(options), ctypes.byref(out))
        super().__init__(out.value)
        self.name = name
        # Handles of the memories registered now: their pins end with the engine.
        self._memories: set[int] = set()

    @property
    def session(self) -> str:
        """The name that peers open this engine by, "<host>:<port>"."""
        return _text_of(
            lambda out, size, length: _ffi.lib().mc_engine_session(self.handle, out, size, length)
        )

    @property
    def rpc_port(self) -> int:
        """The port of the handshake listener."""
        out = ctypes.c_uint16()
        _ffi.lib().mc_engine_rpc_port(self.handle, ctypes.byref(out))
        return out.value

    def stats(self) -> EngineStats:
        """The counters now. Does not block."""
        raw = _ffi.EngineStats()
        _ffi.lib().mc_engine_stats(self.handle, ctypes.byref(raw))
        return EngineStats(**{name: getattr(raw, name) for name, *_ in raw._fields_})

    def register(
        self, memory: Any, length: int | None = None, *, location: str = "*", owner: object = None
    ) -> Memory:
        """Make memory usable for this engine's batches, and open to every peer, at once.

        memory is an address, with its length, or an object that has memory: bytearray,
        memoryview, mmap, array, ctypes array, numpy array, torch tensor or storage. An
        object is kept in place until the registration ends; for an address, owner is kept
        alive as long. Read-only memory can be read by peers and be the source of writes. location
        names where the memory lives, such as "cpu:0".
        Does not block on the network. Raises TypeError, InvalidArgument (empty, not
        contiguous), Overlap, NotRegistered (not mapped), Unsupported (GPU memory), QueueFull,
        DeviceError (also: the limit of locked memory is too low for the RDMA device).
        """
        where = text(location, "location")
        held = region(memory, length, owner=owner)
        out = ctypes.c_uint64()
        try:
            _ffi.lib().mc_register(self.handle, held.address, held.length, where, ctypes.byref(out))
        except BaseException:
            held.release()
            raise
        return self._adopt(out.value, held)

    def register_many(
        self, memories: Iterable[Any], *, location: str = "*", owner: object = None
    ) -> list[Memory]:
        """register() several, all or none; peers learn of them at once. An element is an
        object that has memory, or a pair (address, length). The text of an exception
        names the index at fault."""
        where = text(location, "location")
        held: list[Region] = []
        try:
            for memory in memories:
                pair = memory if isinstance(memory, tuple) else (memory, None)
                held.append(region(*pair, owner=owner))
            addresses = array("Q", [each.address for each in held])
            lengths = array("Q", [each.length for each in held])
            handles = array("Q", bytes(8 * len(held)))
            _ffi.lib().mc_register_batch(
                self.handle, _at(addresses), _at(lengths), len(held), where, _at(handles)
            )
        except BaseException:
            for each in held:
                each.release()
            raise
        return [self._adopt(handle, each) for handle, each in zip(handles, held, strict=True)]

    def deregister_many(self, memories: Iterable[Memory]) -> None:
        """Close several memories; peers learn of it at once. Blocks as Memory.close()."""
        handles = array("Q", [handle for handle in (each._take() for each in memories) if handle])
        if not handles:
            return
        try:
            _ffi.lib().mc_deregister_batch(_at(handles), len(handles))
        except StaleHandle:
            pass  # closing the engine deregistered some; the others are done
        self._forget(handles)

    def _adopt(self, handle: int, held: Region) -> Memory:
        _memory.pin(handle, held)
        self._memories.add(handle)
        if self.closed:  # by another thread, which may not have seen this one
            self._forget([handle])
        return Memory(self, handle, held.address, held.length)

    def _forget(self, handles: Iterable[int]) -> None:
        for handle in handles:
            self._memories.discard(handle)
            _memory.unpin(handle)

    def open_segment(self, session: str) -> Segment:
        """Find the peer "<host>:<port>" and read which memory it has registered. The
        engine's own session may be opened. Blocks for a connection and one message
        (MC_HANDSHAKE_CONNECT_TIMEOUT). Raises InvalidArgument (no or bad port), NotFound
        (the host name does not resolve), PeerUnreachable, Unsupported (no transport in common)."""
        out = ctypes.c_uint64()
        _ffi.lib().mc_segment_open(self.handle, text(session, "session"), ctypes.byref(out))
        return Segment(self, out.value, session)

    def probe(self, peer: str, timeout: float = 1.0) -> None:
        """Return if the peer "<host>:<port>" is alive. Blocks at most timeout seconds.
        Raises InvalidArgument, NotFound, PeerUnreachable."""
        _ffi.lib().mc_probe(self.handle, text(peer, "peer"), milliseconds(timeout, "timeout"))

    def fence(self, peer: str, timeout: float = 5.0) -> None:
        """Make sure that batches which the peer "<host>:<port>" has started so far can write
        no more bytes here; they fail there with Fenced, its later ones work. Call it before
        pages are reused that a failed peer may still be writing. Blocks at most timeout
        seconds. Raises InvalidArgument, NotFound, WaitTimeout."""
        _ffi.lib().mc_fence(self.handle, text(peer, "peer"), milliseconds(timeout, "timeout"))

    def notify(self, peer: str, name: str, message: str) -> None:
        """Leave a notification with the peer "<host>:<port>". Blocks for one message. Raises
        InvalidArgument, NotFound, PeerUnreachable (also when the peer's list is full)."""
        _ffi.lib().mc_notify_send(
            self.handle, text(peer, "peer"), text(name, "name"), text(message, "message")
        )

    def notifications(self) -> list[Notification]:
        """Take all notifications that peers left here, oldest first. Never blocks."""
        taken: list[Notification] = []
        sizes = [256, 4096]
        while True:
            try:
                taken.append(self._take_notification(sizes))
            except NotFound:
                return taken
            except QueueFull:
                pass  # sizes were raised to what the next one needs

    def _take_notification(self, sizes: list[int]) -> Notification:
        name, message = (ctypes.create_string_buffer(size) for size in sizes)
        lengths = (ctypes.c_uint64(), ctypes.c_uint64())
        try:
            _ffi.lib().mc_notify_take(
                self.handle,
                name,
                sizes[0],
                ctypes.byref(lengths[0]),
                message,
                sizes[1],
                ctypes.byref(lengths[1]),
            )
        finally:
            sizes[:] = [
                max(size, length.value + 1) for size, length in zip(sizes, lengths, strict=True)
            ]
        return Notification(
            *(_decoded(*pair) for pair in zip((name, message), lengths, strict=True))
        )

    def _release(self, handle: int) -> None:
        _ffi.lib().mc_engine_close(handle)
        self._forget(list(self._memories))

    def __repr__(self) -> str:
        return f"<mooncake.Engine {self.name}, {self._handle:#x}>"


def local_topology(devices: str = "") -> dict[str, Any]:
    """This host's memory locations and the RDMA devices near each,
    {"cpu:0": [[preferred...], [others...]]}. devices, comma separated, limits the
    devices; "" for all. Raises InvalidArgument."""
    topology: dict[str, Any] = json.loads(local_topology_text(devices))
    return topology


def local_topology_text(devices: str = "") -> str:
    """local_topology() as JSON text."""
    limit = text(devices, "devices")
    return _text_of(
        lambda out, size, length: _ffi.lib().mc_local_topology(limit, out, size, length)
    )


def rdma_ports(devices: str = "") -> dict[str, Any]:
    """How an engine with these devices, comma separated, and the MC_* variables of now sees
    the RDMA ports of this host. "" for the devices of MC_TE_FILTERS, else all.

    {"ports": [...], "why": ""}: each port with "device", "port", "state", "mtu", "link_layer",
    "lid", "rate_gbps" (0 if unknown), "pcie", "gids", "chosen", "used" and "error". "pcie" is None
    if unknown, else "width" and "max_width" in lanes, "speed" and "max_speed" in GT/s a lane, and
    "gbps", what that carries each way at most. "gids" are those that are set, the best first, with
    "index", "address", "type", "interface" and the "reason" for its place. "chosen" is the index
    of the one that peers are told, or None. "used" marks the one port that the engine uses.
    "error" says why a port cannot be used and what to do. A host without RDMA has no ports,
    and "why" says what is missing. Opens each device for a moment.
    """
    limit = text(devices, "devices")
    ports: dict[str, Any] = json.loads(
        _text_of(lambda out, size, length: _ffi.lib().mc_rdma_ports(limit, out, size, length))
    )
    return ports


def _text_of(call: Callable[[Any, int, Any], int]) -> str:
    """The text that a function writes to a buffer, however long it is."""
    size = 1024
    while True:
        out, length = ctypes.create_string_buffer(size), ctypes.c_uint64()
        try:
            call(out, size, ctypes.byref(length))
            return _decoded(out, length)
        except QueueFull:
            size = max(2 * size, length.value + 1)


def _decoded(buffer: ctypes.Array[ctypes.c_char], length: ctypes.c_uint64) -> str:
    return buffer.raw[: length.value].decode("utf-8", "replace")


def _at(values: array[int]) -> int:
    return values.buffer_info()[0]
