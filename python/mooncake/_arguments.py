"""Python values to the plain integers, arrays and strings that the C ABI takes.

Every check names the argument at fault. As pybind11 does for upstream's engine,
anything with __index__ is an integer, any sequence of those is an array, and a
negative number, a float or a string among them is a TypeError.
"""

from __future__ import annotations

import ctypes
import math
import operator
import sys
from array import array
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, SupportsIndex

from . import _ffi
from ._buffers import address_of_view

_U64_MAX = 2**64 - 1
_I64_MAX = 2**63 - 1


class IntegerArray(Protocol):
    """A sequence of integers: list, tuple, array, numpy array, torch tensor, range."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


Integers = SupportsIndex | IntegerArray


class Words(NamedTuple):
    """An array of uint64 in memory: size words at address, kept alive by keep."""

    address: int
    size: int
    keep: object

    def piece(self, start: int, stop: int) -> Words:
        """Elements start to below stop, where they are."""
        if stop - start == self.size:
            return self
        return Words(self.address + 8 * start, stop - start, self.keep)


def integer(value: object, name: str) -> int:
    """value as an unsigned 64-bit integer. Raises TypeError."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}") from None
    if not 0 <= number <= _U64_MAX:
        raise TypeError(f"{name} must be between 0 and 2**64-1, not {number}")
    return number


def words(value: object, name: str) -> Words:
    """value, any sequence of integers, as an array of uint64.

    Contiguous 64-bit integer buffers (array, numpy, ctypes, memoryview, a torch tensor on
    the CPU) are used where they are, without a copy; buffers of other integers are
    converted by numpy if the process has imported it; what else there is, element by
    element. Raises TypeError, which names the first element at fault.
    """
    if isinstance(value, (list, tuple)):
        return packed(value, name)
    if isinstance(value, (str, bytes, bytearray)):
        raise TypeError(f"{name} must be a sequence of integers, not {type(value).__name__}")
    try:
        view = memoryview(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        view = None
    if view is not None:
        return _viewed(value, view, name)
    if hasattr(value, "tolist"):
        return _of_tensor(value, name)
    if isinstance(value, Mapping) or not (
        hasattr(value, "__len__") and hasattr(value, "__getitem__")
    ):
        raise TypeError(f"{name} must be a sequence of integers, not {type(value).__name__}")
    return packed(value, name)


def integers(value: object, name: str) -> list[int]:
    """value, any sequence of integers, as a list. Raises TypeError."""
    numbers = words(value, name)
    return list((ctypes.c_uint64 * numbers.size).from_address(numbers.address))


# How the formats of native numbers may begin.
NATIVE = "@=<" if sys.byteorder == "little" else "@=>!"
# Where the byte with the sign is in a 64-bit integer.
_SIGN_BYTE = 7 if sys.byteorder == "little" else 0


def _viewed(value: Any, view: memoryview, name: str) -> Words:
    if view.ndim != 1:
        raise TypeError(f"{name} must have one dimension, not {view.ndim}")
    kind = view.format.lstrip(NATIVE)
    if view.itemsize == 8 and view.c_contiguous:
        if kind in ("Q", "L", "N", "P"):
            return Words(address_of_view(view), len(view), view)
        if kind in ("q", "l", "n"):
            if not _no_negative(value, view):
                raise TypeError(_first_wrong(value, name))
            return Words(address_of_view(view), len(view), view)
    numpy = sys.modules.get("numpy")  # never imported here: a process may do without
    if numpy is not None:
        wide = numpy.asarray(value)
        if wide.dtype.kind in "biu":
            if wide.dtype.kind == "i" and wide.size and wide.min() < 0:
                raise TypeError(_first_wrong(value, name))
            return _viewed_unsigned(numpy.ascontiguousarray(wide, dtype=numpy.uint64))
    return packed(value.tolist() if hasattr(value, "tolist") else list(value), name)


def _viewed_unsigned(values: Any) -> Words:
    view = memoryview(values)
    return Words(address_of_view(view), len(view), view)


def _no_negative(value: Any, view: memoryview) -> bool:
    """Whether 64-bit integers are all 0 or more, without a Python object for each."""
    if hasattr(value, "min"):  # numpy: 0.5 ns an element
        return not len(view) or bool(value.min() >= 0)
    # The bytes with the signs, 3 ns an element: none of them has its highest bit set.
    return bytes(view.cast("B")[_SIGN_BYTE::8]).isascii()


def _of_tensor(value: Any, name: str) -> Words:
    """words() of a torch tensor: where it is if numpy can show it, else copied."""
    if hasattr(value, "numpy") and "numpy" in sys.modules:
        try:
            shown = value.numpy()
        except (TypeError, RuntimeError):  # on a GPU
            shown = None
        if shown is not None:
            return words(shown, name)
    return packed(value.tolist(), name)  # its elements are objects, a list's are not


def packed(values: Any, name: str, first: int = 0) -> Words:
    """Any iterable of integers as an array of uint64; first is the index of the first one
    in the argument, for errors. Raises TypeError."""
    try:
        numbers = array("Q", values)
    except (TypeError, OverflowError):
        raise TypeError(_first_wrong(values, name, first)) from None
    return Words(*numbers.buffer_info(), numbers)


def _first_wrong(values: Any, name: str, first: int = 0) -> str:
    """Text that names the first element that is no unsigned 64-bit integer."""
    if not hasattr(values, "__len__"):
        return f"{name} must be a sequence of integers, not {type(values).__name__}"
    for index, value in enumerate(values, first):
        try:
            integer(value, f"{name}[{index}]")
        except TypeError as error:
            return str(error)
    return f"{name} must be a sequence of integers"


def text(value: object, name: str) -> bytes:
    """value, a string, as C takes it. Raises TypeError, InvalidArgument."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {type(value).__name__}")
    if "\0" in value:
        raise _ffi.error("MC_EINVAL", f"{name} must not contain a NUL character")
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise _ffi.error("MC_EINVAL", f"{name} cannot be encoded as UTF-8: {error}") from None


def milliseconds(seconds: float, name: str) -> int:
    """A positive time in seconds as whole milliseconds, rounded up. Raises
    TypeError, InvalidArgument."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {type(seconds).__name__}")
    if not seconds > 0:  # also a NaN
        raise _ffi.error("MC_EINVAL", f"{name} must be more than 0 seconds, not {seconds}")
    if seconds >= _I64_MAX // 1000:
        return _I64_MAX
    return math.ceil(seconds * 1000)
