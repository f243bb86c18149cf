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

    Contiguous 64-bit integer buffers (array, numpy) are used where they are, without a
    copy; what else there is is copied. Raises TypeError.
    """
    if isinstance(value, (list, tuple)):
        return _packed(value, name)
    if isinstance(value, (str, bytes, bytearray)):
        raise TypeError(f"{name} must be a sequence of integers, not {type(value).__name__}")
    try:
        view = memoryview(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        view = None
    if view is not None:
        return _viewed(value, view, name)
    if hasattr(value, "tolist"):  # a tensor: its elements are objects, a list's are not
        return _packed(value.tolist(), name)
    if isinstance(value, Mapping) or not (
        hasattr(value, "__len__") and hasattr(value, "__getitem__")
    ):
        raise TypeError(f"{name} must be a sequence of integers, not {type(value).__name__}")
    return _packed(value, name)


def integers(value: object, name: str) -> list[int]:
    """value, any sequence of integers, as a list. Raises TypeError."""
    packed = words(value, name)
    return list((ctypes.c_uint64 * packed.size).from_address(packed.address))


def _viewed(value: Any, view: memoryview, name: str) -> Words:
    if view.ndim != 1:
        raise TypeError(f"{name} must have one dimension, not {view.ndim}")
    kind = view.format.lstrip("@=<" if sys.byteorder == "little" else "@=>!")
    if view.itemsize == 8 and view.c_contiguous and kind in ("Q", "L", "N", "P"):
        return Words(address_of_view(view), len(view), view)
    if (
        view.itemsize == 8
        and view.c_contiguous
        and kind in ("q", "l", "n")
        and hasattr(value, "min")
    ):
        # numpy's own minimum: 1 ns an element, against 20 for a conversion.
        if len(view) and value.min() < 0:
            raise TypeError(f"{name} must hold integers between 0 and 2**64-1, not {value.min()}")
        return Words(address_of_view(view), len(view), view)
    return _packed(value.tolist() if hasattr(value, "tolist") else list(value), name)


def _packed(values: Any, name: str) -> Words:
    try:
        packed = array("Q", values)
    except (TypeError, OverflowError):
        raise TypeError(_first_wrong(values, name)) from None
    return Words(*packed.buffer_info(), packed)


def _first_wrong(values: Any, name: str) -> str:
    """Text that names the first element that is no unsigned 64-bit integer."""
    if not hasattr(values, "__len__"):
        return f"{name} must be a sequence of integers, not {type(values).__name__}"
    for index, value in enumerate(values):
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
