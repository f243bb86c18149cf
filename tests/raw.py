"""The C ABI without the package's error handling: functions answer their status."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_uint64
from typing import Any

from mooncake import _ffi

NAMES = {number: name for name, number in _ffi.STATUS.items()}


def _load() -> Any:
    _ffi.lib()
    library = ctypes.CDLL(str(_ffi.library_path()))
    for name, (restype, argtypes) in _ffi.PROTOTYPES.items():
        function = getattr(library, name)
        function.restype = restype
        function.argtypes = argtypes
    return library


c = _load()


def text() -> str:
    """The calling thread's last error."""
    error: bytes = c.mc_last_error()
    return error.decode()


def array(*values: int) -> Any:
    return (c_uint64 * max(1, len(values)))(*values)


def opened(host: bytes = b"127.0.0.1") -> int:
    out = c_uint64()
    assert c.mc_engine_open(host, None, byref(out)) == 0, text()
    return out.value


def session(engine: int) -> bytes:
    buffer, length = ctypes.create_string_buffer(300), c_uint64()
    assert c.mc_engine_session(engine, buffer, 300, byref(length)) == 0
    assert len(buffer.value) == length.value
    return buffer.value


def stats(engine: int) -> Any:
    out = _ffi.EngineStats()
    assert c.mc_engine_stats(engine, byref(out)) == 0
    return out
