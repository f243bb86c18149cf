"""The drop-in engine's life: from initialize() on. Its calls are in _compat_*_calls.py."""

from __future__ import annotations

import threading
import weakref
from typing import NamedTuple

from . import _ffi
from ._compat_arguments import invalid, text_or_none
from ._compat_log import FailureLog, logger
from ._compat_memory import MemoryTable
from ._compat_transfers import Transfers
from ._errors import ForkedError, MooncakeError
from ._managed import ManagedBuffers
from ._sessions import Sessions
from .native import Engine

_NOT_READY = "call initialize() first, and see that it returns 0"


class Opened(NamedTuple):
    """What an initialized TransferEngine consists of."""

    engine: Engine
    transfers: Transfers
    memories: MemoryTable  # registered by the caller
    mappings: MemoryTable  # of the managed buffers
    managed: ManagedBuffers


class EngineBase:
    """What every group of calls needs: the opened engine, or a reason why there is none."""

    def __init__(self) -> None:
        _ffi.lib()
        self._log = FailureLog()
        self._lock = threading.Lock()  # held by initialize
        self._opened: Opened | None = None

    def initialize(
        self,
        local_hostname: str | None,
        metadata_server: str | None,
        protocol: str | None,
        device_name: str | None,
    ) -> int:
        """Open the engine: it listens when this returns 0. -1 on failure, and if it is
        open already.

        local_hostname is the host that peers reach this process at; a port in it is ignored.
        metadata_server must be "P2PHANDSHAKE". protocol is "rdma", "tcp", or None: rdma if it
        can be used. "rdma" that cannot is one line in the log, and tcp; with MC_FORCE_HCA in
        the environment -1. device_name is a comma separated list, or "" or None: the first
        device that can be used is.
        """
        try:
            with self._lock:
                self._open(
                    text_or_none(local_hostname, "local_hostname"),
                    text_or_none(metadata_server, "metadata_server"),
                    text_or_none(protocol, "protocol"),
                    text_or_none(device_name, "device_name"),
                )
            return 0
        except ForkedError:
            raise
        except MooncakeError as error:
            logger.error("initialize: %s: %s", type(error).__name__, error)
            return -1

    def initialize_ext(
        self,
        local_hostname: str | None,
        metadata_server: str | None,
        protocol: str | None,
        device_name: str | None,
        metadata_type: str | None,
    ) -> int:
        """As initialize(); metadata_type is the scheme of a metadata store, of which there
        is none besides "P2PHANDSHAKE"."""
        text_or_none(metadata_type, "metadata_type")
        return self.initialize(local_hostname, metadata_server, protocol, device_name)

    def _open(
        self, host: str | None, metadata: str | None, protocol: str | None, devices: str | None
    ) -> None:
        if self._opened is not None:
            raise invalid("the engine is initialized already: create another TransferEngine")
        if host is None:
            raise invalid("local_hostname is None: give the address that peers reach this host at")
        if metadata != "P2PHANDSHAKE":
            raise _ffi.error(
                "MC_EUNSUPPORTED",
                f'metadata_server {metadata!r} is not supported: use "P2PHANDSHAKE"',
            )
        if protocol not in (None, "", "tcp", "rdma"):
            raise _ffi.error(
                "MC_EUNSUPPORTED", f'protocol {protocol!r} is not supported: use "rdma" or "tcp"'
            )
        names = ",".join(name.strip() for name in (devices or "").split(",") if name.strip())
        engine = Engine(host, metadata=metadata, protocol=protocol or None, devices=names)
        mappings = MemoryTable(engine)
        self._opened = Opened(
            engine,
            Transfers(engine, Sessions(engine), self._log),
            MemoryTable(engine),
            mappings,
            ManagedBuffers(engine, mappings),
        )
        # Not at exit: the process ends well without, and peers need not be waited for.
        weakref.finalize(self, engine.close).atexit = False

    def _ready(self, method: str) -> Opened | None:
        """What a call needs; None, with a line in the log, before initialize()."""
        if self._opened is None:
            self._log.failure(method, _NOT_READY)
        elif _ffi.is_forked():
            _ffi.lib()  # raises
        return self._opened

    def _need(self, method: str) -> Opened:
        """_ready() for calls that have no value for a failure. Raises RuntimeError."""
        if self._opened is None:
            raise RuntimeError(f"{method}: {_NOT_READY}")
        return self._opened

    def get_rpc_port(self) -> int:
        """The port that peers open this engine at, as "<host>:<port>". Raises RuntimeError
        before initialize()."""
        return self._need("get_rpc_port").engine.rpc_port

    def get_engine(self) -> Engine:
        """The native engine behind this one. Raises RuntimeError before initialize()."""
        return self._need("get_engine").engine

    def get_engine_ptr(self) -> int:
        """The native engine's handle, mc_engine_t in C. Raises RuntimeError before initialize()."""
        return self._need("get_engine_ptr").engine.handle
