"""The whole C ABI of libmooncake.so, and how it is loaded.

Types, constants and prototypes stand in the order of mooncake.h, which is the
manual; a test compares the two. Nothing else in the package describes the ABI.

lib() loads the library on first use, never at import: a Go runtime does not
survive fork(), and processes that import this package may fork later.
"""

from __future__ import annotations

import ctypes
import os
import threading
from ctypes import (
    POINTER,
    Structure,
    c_char,
    c_char_p,
    c_double,
    c_int,
    c_int32,
    c_int64,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
)
from pathlib import Path
from typing import Any

from . import __version__
from ._errors import EXCEPTIONS, InternalError, LibraryError, MooncakeError

STATUS: dict[str, int] = {
    "MC_OK": 0,
    "MC_EINVAL": -1,
    "MC_EHANDLE": -2,
    "MC_ENOTFOUND": -3,
    "MC_EADDR": -4,
    "MC_EOVERLAP": -5,
    "MC_EFULL": -6,
    "MC_ETIMEDOUT": -7,
    "MC_EDEADLINE": -8,
    "MC_ECANCELED": -9,
    "MC_EPEER": -10,
    "MC_ERESTARTED": -11,
    "MC_EREJECTED": -12,
    "MC_EFENCED": -13,
    "MC_EDEVICE": -14,
    "MC_EUNSUPPORTED": -15,
    "MC_EFORKED": -16,
    "MC_EINTERNAL": -17,
    "MC_ENOPAGES": -18,
    "MC_EPAGE": -19,
}

MC_READ = 0
MC_WRITE = 1

MC_BATCH_RUNNING = 0
MC_BATCH_DONE = 1
MC_BATCH_FAILED = 2

MC_QUIET_NONE = 0
MC_QUIET_BOTH = 1
MC_QUIET_LOCAL = 2

MC_FLAG_UNCONFIRMED = 1

MC_PAGES_RUNS = 0
MC_PAGES_FIFO = 1
MC_PAGES_SORTED = 2

ANYONE = 2**64 - 1  # MC_ANYONE, which is no constant of an enum


class BatchStatus(Structure):
    """mc_batch_status_t"""

    _fields_ = [
        ("state", c_uint32),
        ("quiet", c_uint32),
        ("error", c_int32),
        ("flags", c_uint32),
        ("blocks", c_uint64),
        ("runs", c_uint64),
        ("bytes", c_uint64),
        ("bytes_done", c_uint64),
        ("duration_ns", c_uint64),
        ("joined_local", c_uint64),
        ("joined_remote", c_uint64),
    ]


class Layer(Structure):
    """mc_layer_t"""

    _fields_ = [
        ("local_base", c_uint64),
        ("remote_base", c_uint64),
        ("local_stride", c_uint64),
        ("remote_stride", c_uint64),
        ("length", c_uint64),
    ]


class PageGroup(Structure):
    """mc_page_group_t"""

    _fields_ = [
        ("local_pages", c_void_p),
        ("remote_pages", c_void_p),
        ("page_count", c_uint64),
        ("local_width", c_uint32),
        ("remote_width", c_uint32),
        ("layers", c_void_p),  # of Layer
        ("layer_count", c_uint64),
    ]


class EngineOptions(Structure):
    """mc_engine_options_t"""

    _fields_ = [
        ("struct_size", c_uint64),
        ("metadata", c_char_p),
        ("protocol", c_char_p),
        ("devices", c_char_p),
        ("rpc_port", c_uint32),
        ("reserved", c_uint32),
    ]


class EngineStats(Structure):
    """mc_engine_stats_t"""

    _fields_ = [
        ("batches", c_uint64),
        ("batches_failed", c_uint64),
        ("blocks", c_uint64),
        ("runs", c_uint64),
        ("bytes_written", c_uint64),
        ("bytes_read", c_uint64),
        ("served_written", c_uint64),
        ("served_read", c_uint64),
        ("served_rejected", c_uint64),
        ("connections_opened", c_uint64),
        ("retries", c_uint64),
        ("batches_self", c_uint64),
        ("bytes_self", c_uint64),
        ("batches_local", c_uint64),
        ("bytes_local", c_uint64),
        ("bytes_packed", c_uint64),
        ("local_refused", c_uint64),
        ("memories", c_uint64),
        ("batches_open", c_uint64),
        ("connections", c_uint64),
        ("peers_local", c_uint64),
        ("messages", c_uint64),
        ("batch_ns", c_uint64),
        ("batches_rdma", c_uint64),
        ("bytes_rdma", c_uint64),
    ]


class PagesStats(Structure):
    """mc_pages_stats_t"""

    _fields_ = [
        ("pages", c_uint64),
        ("pages_free", c_uint64),
        ("pages_reserved", c_uint64),
        ("pages_allocated", c_uint64),
        ("requests", c_uint64),
        ("runs_allocated", c_uint64),
        ("runs_free", c_uint64),
        ("longest_free", c_uint64),
        ("fragmentation", c_double),
        ("histogram", c_uint64 * 64),
    ]


engine_t = c_uint64
memory_t = c_uint64
segment_t = c_uint64
batch_t = c_uint64
pages_t = c_uint64

# const uint64_t *: an address, so that arrays are passed without a cast.
u64_array = c_void_p
i64_array = c_void_p
out_text = POINTER(c_char)
out_u64 = POINTER(c_uint64)

# name: (restype, argtypes). A restype of c_int is a status.
PROTOTYPES: dict[str, tuple[Any, list[Any]]] = {
    "mc_version": (c_char_p, []),
    "mc_last_error": (c_char_p, []),
    "mc_status_name": (c_char_p, [c_int]),
    "mc_local_topology": (c_int, [c_char_p, out_text, c_uint64, out_u64]),
    "mc_rdma_ports": (c_int, [c_char_p, out_text, c_uint64, out_u64]),
    "mc_engine_open": (c_int, [c_char_p, POINTER(EngineOptions), POINTER(engine_t)]),
    "mc_engine_close": (c_int, [engine_t]),
    "mc_engine_rpc_port": (c_int, [engine_t, POINTER(c_uint16)]),
    "mc_engine_session": (c_int, [engine_t, out_text, c_uint64, out_u64]),
    "mc_engine_stats": (c_int, [engine_t, POINTER(EngineStats)]),
    "mc_register": (c_int, [engine_t, c_uint64, c_uint64, c_char_p, POINTER(memory_t)]),
    "mc_register_batch": (c_int, [engine_t, u64_array, u64_array, c_uint64, c_char_p, u64_array]),
    "mc_deregister": (c_int, [memory_t]),
    "mc_deregister_batch": (c_int, [u64_array, c_uint64]),
    "mc_segment_open": (c_int, [engine_t, c_char_p, POINTER(segment_t)]),
    "mc_segment_buffer": (c_int, [segment_t, c_uint64, out_u64, out_u64]),
    "mc_segment_stale": (c_int, [segment_t, POINTER(c_int32)]),
    "mc_segment_connect": (c_int, [segment_t, c_int64]),
    "mc_segment_close": (c_int, [segment_t]),
    "mc_submit": (
        c_int,
        [segment_t, c_uint32, u64_array, u64_array, u64_array, c_uint64, c_int64, POINTER(batch_t)],
    ),
    "mc_transfer": (
        c_int,
        [
            segment_t,
            c_uint32,
            u64_array,
            u64_array,
            u64_array,
            c_uint64,
            c_int64,
            c_int64,
            POINTER(BatchStatus),
            POINTER(batch_t),
        ],
    ),
    "mc_submit_pages": (
        c_int,
        [segment_t, c_uint32, POINTER(PageGroup), c_uint64, c_int64, POINTER(batch_t)],
    ),
    "mc_transfer_pages": (
        c_int,
        [
            segment_t,
            c_uint32,
            POINTER(PageGroup),
            c_uint64,
            c_int64,
            c_int64,
            POINTER(BatchStatus),
            POINTER(batch_t),
        ],
    ),
    "mc_batch_open": (c_int, [segment_t, c_uint32, c_int64, POINTER(batch_t)]),
    "mc_batch_add": (c_int, [batch_t, u64_array, u64_array, u64_array, c_uint64]),
    "mc_batch_seal": (c_int, [batch_t]),
    "mc_poll": (c_int, [batch_t, POINTER(BatchStatus)]),
    "mc_wait": (c_int, [batch_t, c_int64, POINTER(BatchStatus)]),
    "mc_cancel": (c_int, [batch_t]),
    "mc_batch_fd": (c_int, [batch_t, POINTER(c_int32)]),
    "mc_batch_close": (c_int, [batch_t]),
    "mc_probe": (c_int, [engine_t, c_char_p, c_int64]),
    "mc_fence": (c_int, [engine_t, c_char_p, c_int64]),
    "mc_notify_send": (c_int, [engine_t, c_char_p, c_char_p, c_char_p]),
    "mc_notify_take": (
        c_int,
        [engine_t, out_text, c_uint64, out_u64, out_text, c_uint64, out_u64],
    ),
    "mc_pages_create": (c_int, [c_uint64, c_uint64, c_uint32, c_uint32, POINTER(pages_t)]),
    "mc_pages_destroy": (c_int, [pages_t]),
    "mc_pages_alloc": (c_int, [pages_t, c_uint64, c_uint64, c_uint64, i64_array, c_uint64]),
    "mc_pages_grow": (c_int, [pages_t, c_uint64, c_uint64, i64_array, c_uint64]),
    "mc_pages_grow_batch": (
        c_int,
        [pages_t, u64_array, u64_array, c_uint64, i64_array, c_uint64, out_u64],
    ),
    "mc_pages_reserve": (c_int, [pages_t, c_uint64, c_uint64, out_u64]),
    "mc_pages_free": (c_int, [pages_t, c_uint64, i64_array, c_uint64]),
    "mc_pages_release": (c_int, [pages_t, c_uint64, out_u64]),
    "mc_pages_runs": (c_int, [pages_t, c_uint64, u64_array, c_uint64, out_u64]),
    "mc_pages_stats": (c_int, [pages_t, POINTER(PagesStats)]),
}

_library: Any = None
# The process that loaded the library before this one was forked off it; 0 if none.
_forked_from = 0
# Held while the library is loaded, so that it is loaded once.
_loading = threading.Lock()

_BY_STATUS = {STATUS[name]: exception for name, exception in EXCEPTIONS.items()}
_TIMED_OUT = STATUS["MC_ETIMEDOUT"]
# Functions that return MC_ETIMEDOUT instead of raising it: they are called in short
# quanta, so running out of one is no error yet.
_WAITS = ("mc_transfer", "mc_transfer_pages", "mc_wait")


def lib() -> Any:
    """The loaded library, as a ctypes.CDLL with every prototype set.

    Its functions free the GIL while they run, and raise the exception of a negative
    status (the MC_ETIMEDOUT of mc_wait and of the two mc_transfer excepted, which they return). The
    first call loads the library, from MOONCAKE_LIBRARY if that is set, else from the package
    directory.
    Raises LibraryError, and ForkedError in a forked child.
    """
    return _library if _library is not None else _load()


def is_forked() -> bool:
    """Whether this process was forked off one that had loaded the library."""
    return _forked_from != 0


def _load() -> Any:
    global _library
    if _forked_from:
        raise error(
            "MC_EFORKED",
            f"libmooncake.so was loaded in process {_forked_from}, and process {os.getpid()} was "
            'forked off it: use "spawn" to start processes, or create engines after the fork only',
        )
    with _loading:
        if _library is None:
            _library = _open(library_path())
    return _library


def library_path() -> Path:
    """Where lib() looks for the library."""
    named = os.environ.get("MOONCAKE_LIBRARY")
    return Path(named) if named else Path(__file__).with_name("libmooncake.so")


def _open(path: Path) -> Any:
    if not path.exists():
        named = bool(os.environ.get("MOONCAKE_LIBRARY"))
        remedy = "correct MOONCAKE_LIBRARY" if named else "run `make lib`, or install the wheel"
        raise _library_error(f"{path} does not exist: {remedy}")
    try:
        library = ctypes.CDLL(str(path))
        _set_prototypes(library)
    except OSError as failure:
        raise _library_error(
            f"{path} cannot be loaded: {failure}{_remedy(str(failure))}"
        ) from failure
    except AttributeError as failure:
        raise _library_error(
            f"{path} is not the library of this package: {failure}: run `make lib` again"
        ) from failure
    version = library.mc_version().decode()
    if version != __version__:
        raise _library_error(
            f"{path} has version {version}, and this package {__version__}: run `make lib` again"
        )
    return library


def _remedy(text: str) -> str:
    """What to do about an error text of the dynamic loader; "" if unknown."""
    if "static TLS" in text:
        return (
            ": too many libraries with static thread-local storage were loaded before; create the "
            "first engine earlier, or start Python with LD_PRELOAD naming this file"
        )
    if "musl" in text or "ld-linux" in text or "Error relocating" in text:
        return ": the library needs glibc; use a glibc-based image, or build it on this system"
    if "GLIBC_" in text:
        return ": this system's glibc is older than the build machine's; run `make lib` here"
    if any(words in text for words in ("wrong ELF class", "invalid ELF header", "file too short")):
        return ": the file is broken, or was built for another machine; run `make lib` here"
    return ""


def _library_error(text: str) -> LibraryError:
    return LibraryError(text, status=STATUS["MC_EUNSUPPORTED"])


def _set_prototypes(library: Any) -> None:
    for name, (restype, argtypes) in PROTOTYPES.items():
        function = getattr(library, name)
        function.restype = restype
        function.argtypes = argtypes
        if restype is c_int:
            function.errcheck = _check_wait if name in _WAITS else _check


def _check(status: int, function: Any, arguments: Any) -> int:
    if status < 0:
        raise error_of(status)
    return status


def _check_wait(status: int, function: Any, arguments: Any) -> int:
    return status if status == _TIMED_OUT else _check(status, function, arguments)


def error_of(status: int) -> MooncakeError:
    """The exception for a negative status that a call on this thread just returned."""
    exception = _BY_STATUS.get(status, InternalError)
    return exception(last_error() or f"status {status}", status=status)


def error(name: str, text: str) -> MooncakeError:
    """The exception of a status by its name, for a failure found before the library is called."""
    return EXCEPTIONS[name](text, status=STATUS[name])


def last_error() -> str:
    """The text of the calling thread's last failed call."""
    text: bytes = lib().mc_last_error()
    return text.decode("utf-8", "replace")


def _after_fork_in_child() -> None:
    """Refuse the library in a child, where its threads do not exist.

    Setting the loaded library aside makes every later lib() come here through _load, so
    the check costs the parent nothing. A parent that was loading it when another of
    its threads forked counts as well.
    """
    global _library, _forked_from, _loading
    if _library is not None or _loading.locked():
        _forked_from = os.getppid()
    _library = None
    _loading = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
