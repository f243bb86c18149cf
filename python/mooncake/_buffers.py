"""Memory of Python objects: where it is, how long, and what keeps it there.

Accepted are raw addresses, objects with the buffer protocol (bytearray, mmap, array,
numpy, ctypes arrays; bytes and other read-only ones too), and objects that look like
torch's: data_ptr() with numel() and element_size(), or with nbytes.
"""

from __future__ import annotations

import ctypes
import operator
from typing import Any

from . import _ffi


class Region:
    """length bytes at address, kept where they are until release()."""

    __slots__ = ("_owner", "_view", "address", "length")

    def __init__(
        self, address: int, length: int, view: memoryview | None = None, owner: object = None
    ) -> None:
        self.address = address
        self.length = length
        self._view = view
        self._owner = owner

    def release(self) -> None:
        """Let the exporting object go: it may be resized, closed and freed again."""
        if self._view is not None:
            self._view.release()
        self._view = None
        self._owner = None


def region(memory: Any, length: int | None = None, *, owner: object = None) -> Region:
    """The memory of an object, or of length bytes at an address.

    length may shorten an object. owner is kept alive with the region: give the object
    that a raw address belongs to. An object with the buffer protocol is pinned: a
    bytearray refuses to be resized, an mmap to be closed, until release().
    Raises TypeError, InvalidArgument (not contiguous, too short, no length for an address) and
    Unsupported (memory of a GPU).
    """
    _refuse_device(memory)
    if hasattr(memory, "data_ptr"):
        return _shortened(
            Region(memory.data_ptr(), _torch_bytes(memory), None, (memory, owner)), length
        )
    try:
        view = memoryview(memory)
    except (TypeError, ValueError):
        view = None
    if view is not None:
        if not view.contiguous:
            view.release()
            raise _ffi.error("MC_EINVAL", "memory must be contiguous: register the whole array")
        return _shortened(Region(address_of_view(view), view.nbytes, view, owner), length)
    if hasattr(memory, "__array_interface__"):  # numpy types without a buffer format
        return _shortened(_numpy_region(memory, owner), length)
    return _raw_region(memory, length, owner)


def _raw_region(memory: object, length: int | None, owner: object) -> Region:
    try:
        address = operator.index(memory)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"memory must be an address, a buffer or a tensor, not {type(memory).__name__}"
        ) from None
    if length is None:
        raise _ffi.error("MC_EINVAL", "length must be given with an address")
    return Region(_unsigned(address, "address"), _unsigned(length, "length"), None, owner)


def _shortened(whole: Region, length: int | None) -> Region:
    if length is None:
        return whole
    if _unsigned(length, "length") > whole.length:
        available = whole.length
        whole.release()
        raise _ffi.error("MC_EINVAL", f"length is {length}, and memory has {available} bytes")
    whole.length = length
    return whole


def _unsigned(value: object, name: str) -> int:
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}") from None
    if not 0 <= number < 2**64:
        raise _ffi.error("MC_EINVAL", f"{name} must be between 0 and 2**64-1, not {number}")
    return number


def _refuse_device(memory: object) -> None:
    # is_cuda first: torch raises when it is asked for the interface of some tensors.
    on_gpu = getattr(memory, "is_cuda", False) is True or hasattr(
        memory, "__cuda_array_interface__"
    )
    kind = getattr(getattr(memory, "device", None), "type", "cpu")
    if on_gpu or (isinstance(kind, str) and kind != "cpu"):
        raise _ffi.error(
            "MC_EUNSUPPORTED",
            "memory is on a GPU, and this build moves host memory only: copy it there first",
        )


def _torch_bytes(memory: Any) -> int:
    if hasattr(memory, "is_contiguous") and not memory.is_contiguous():
        raise _ffi.error(
            "MC_EINVAL", "memory must be a contiguous tensor: register its untyped_storage()"
        )
    if hasattr(memory, "numel") and hasattr(memory, "element_size"):
        return int(memory.numel()) * int(memory.element_size())
    size = getattr(memory, "nbytes", None)
    if size is None:
        raise TypeError(f"memory of type {type(memory).__name__} has a data_ptr() but no size")
    return int(size() if callable(size) else size)


def _numpy_region(memory: Any, owner: object) -> Region:
    interface = memory.__array_interface__
    if interface.get("strides") is not None:
        raise _ffi.error("MC_EINVAL", "memory must be contiguous: register the whole array")
    return Region(interface["data"][0], int(memory.nbytes), None, (memory, owner))


class _PyBuffer(ctypes.Structure):
    """CPython's Py_buffer. obj is a reference that PyBuffer_Release drops."""

    _fields_ = [
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    ]


# Prototypes of our own: the attributes of ctypes.pythonapi are shared with every
# other module, which may set other types there.
_get_buffer = ctypes.PYFUNCTYPE(
    ctypes.c_int, ctypes.py_object, ctypes.POINTER(_PyBuffer), ctypes.c_int
)(("PyObject_GetBuffer", ctypes.pythonapi))
_release_buffer = ctypes.PYFUNCTYPE(None, ctypes.POINTER(_PyBuffer))(
    ("PyBuffer_Release", ctypes.pythonapi)
)
_ANY_CONTIGUOUS = 0x98  # PyBUF_ANY_CONTIGUOUS


def address_of_view(view: memoryview) -> int:
    """The address of a contiguous view's first byte, valid while the view is held.

    ctypes' from_buffer is five times as fast, but refuses read-only memory and
    arrays of another order, which may be registered too.
    """
    if view.c_contiguous and not view.readonly and view.nbytes:
        return ctypes.addressof(ctypes.c_char.from_buffer(view))
    buffer = _PyBuffer()
    _get_buffer(view, ctypes.byref(buffer), _ANY_CONTIGUOUS)
    address = buffer.buf or 0
    _release_buffer(ctypes.byref(buffer))
    return int(address)
