"""Page groups: lists of page numbers and the layers that share them, as the library takes them."""

from __future__ import annotations

import ctypes
import operator
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from . import _ffi
from ._arguments import NATIVE, IntegerArray, integer
from ._buffers import address_of_view


class Layer(NamedTuple):
    """Memory that page numbers count in, such as the K cache of one layer of a model.

    Local page p is the length bytes at local_base + p * local_stride, remote page q those at
    remote_base + q * remote_stride. Addresses are absolute, strides and length are bytes.
    """

    local_base: int
    remote_base: int
    local_stride: int  # from a page to the next
    remote_stride: int
    length: int  # of a page, to be moved


@dataclass(frozen=True, eq=False)
class PageGroup:
    """One pair of page lists and the layers that share it: in every layer page
    local_pages[i] goes with page remote_pages[i].

    Page lists are sequences of integers of 0 or more. Contiguous arrays of 32- or 64-bit
    integers (numpy, array, torch on the CPU if numpy is there) are read where they are, each
    list in its own width; lists and arrays of other integers are converted.
    layers is a sequence of Layer, or of sequences of the same five integers, or an
    array of them: 64-bit integers of shape (n, 5) are read where they are.
    """

    local_pages: IntegerArray
    remote_pages: IntegerArray
    layers: Sequence[Sequence[int]] | Any


class Groups(NamedTuple):
    """The groups of one call: an array of mc_page_group_t, and what it points to."""

    array: ctypes.Array[_ffi.PageGroup]
    keep: list[object]


class _Numbers(NamedTuple):
    """size integers of width bytes at address, kept alive by keep."""

    address: int
    size: int
    width: int
    keep: object


def groups_of(groups: PageGroup | Sequence[PageGroup]) -> Groups:
    """The argument of Segment.submit_pages(). Raises TypeError, InvalidArgument."""
    if isinstance(groups, PageGroup):
        groups = (groups,)
    elif not isinstance(groups, Sequence):
        raise TypeError(
            f"groups must be a PageGroup or a sequence of them, not {type(groups).__name__}"
        )
    given = (_ffi.PageGroup * len(groups))()
    keep: list[object] = []
    for number, group in enumerate(groups):
        if not isinstance(group, PageGroup):
            raise TypeError(f"groups[{number}] must be a PageGroup, not {type(group).__name__}")
        local = _page_numbers(group.local_pages, f"group {number}: local_pages")
        remote = _page_numbers(group.remote_pages, f"group {number}: remote_pages")
        if local.size != remote.size:
            raise _ffi.error(
                "MC_EINVAL",
                f"group {number}: local_pages and remote_pages must have one length, "
                f"not {local.size} and {remote.size}",
            )
        layers = _layer_numbers(group.layers, f"group {number}: layers")
        given[number] = _ffi.PageGroup(
            local.address, remote.address, local.size, local.width, remote.width,
            layers.address, layers.size // len(Layer._fields),
        )  # fmt: skip
        keep += (local, remote, layers)
    return Groups(given, keep)


_WIDE = frozenset("qQlLnN")
_FORMATS = {4: frozenset("il"), 8: _WIDE}  # "l" has 4 or 8 bytes


def _page_numbers(value: Any, name: str) -> _Numbers:
    """value, any sequence of integers, as an array of int32 or int64. What is negative is
    left to the library to find. Raises TypeError, which names the first element at fault."""
    if not isinstance(value, (list, tuple)):
        view = _view(value, name)
        if view is not None:
            if view.ndim != 1:
                raise TypeError(f"{name} must have one dimension, not {view.ndim}")
            if view.c_contiguous and _kind(view) in _FORMATS.get(view.itemsize, ()):
                return _Numbers(address_of_view(view), len(view), view.itemsize, view)
        value = _widened(value, "int64", name) if view is not None else _plain(value)
        if isinstance(value, memoryview):
            return _Numbers(address_of_view(value), len(value), 8, value)
    try:
        numbers = array("q", value)
    except (TypeError, OverflowError):
        raise TypeError(_first_wrong_page(value, name)) from None
    return _Numbers(*numbers.buffer_info(), 8, numbers)


def _layer_numbers(value: Any, name: str) -> _Numbers:
    """value, layers in any of the accepted forms, as an array of uint64, five for each."""
    if isinstance(value, Layer):
        value = (value,)
    if not isinstance(value, (list, tuple)):
        view = _view(value, name)
        if view is not None:
            if view.ndim != 2 or view.shape is None or view.shape[1] != len(Layer._fields):
                raise TypeError(f"{name} must be an array of shape (n, 5), not {view.shape}")
            if view.itemsize != 8 or not view.c_contiguous or _kind(view) not in _WIDE:
                value = _widened(value, "uint64", name)
                view = value if isinstance(value, memoryview) else None
        if view is not None:
            return _Numbers(address_of_view(view), view.nbytes // 8, 8, view)
        value = _plain(value)
    try:
        numbers = array("Q", chain.from_iterable(value))
        if len(numbers) == 5 * len(value) and set(map(len, value)) <= {5}:
            return _Numbers(*numbers.buffer_info(), 8, numbers)
    except (TypeError, OverflowError):
        pass
    raise TypeError(_first_wrong_layer(value, name))


def _view(value: Any, name: str) -> memoryview | None:
    """The memory of an array, or of a tensor if numpy can show it; None if it has none."""
    if isinstance(value, (str, bytes, bytearray, Mapping)):
        raise TypeError(f"{name} must be a sequence, not {type(value).__name__}")
    if hasattr(value, "numpy") and "numpy" in sys.modules:
        try:
            value = value.numpy()
        except (TypeError, RuntimeError):  # on a GPU
            return None
    try:
        return memoryview(value)
    except (TypeError, ValueError):
        return None


def _kind(view: memoryview) -> str:
    return view.format.lstrip(NATIVE)


def _widened(value: Any, kind: str, name: str) -> Any:
    """An array of other integers as a view of one of kind, by numpy if the process has
    imported it, else as lists."""
    numpy = sys.modules.get("numpy")  # never imported here: a process may do without
    if numpy is not None:
        narrow = numpy.asarray(value)
        if narrow.dtype.kind not in "biu":
            raise TypeError(f"{name} must be integers, not {narrow.dtype}")
        if kind == "int64" or not narrow.size or narrow.min() >= 0:
            return memoryview(numpy.ascontiguousarray(narrow, dtype=kind))
    return _plain(value)


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def _first_wrong_page(values: Any, name: str) -> str:
    """Text that names the first element that is no page number."""
    if not hasattr(values, "__len__") or not hasattr(values, "__getitem__"):
        return f"{name} must be a sequence of integers, not {type(values).__name__}"
    for index, value in enumerate(values):
        try:
            number = operator.index(value)
        except TypeError:
            return f"{name}[{index}] must be an integer, not {type(value).__name__}"
        if not -(2**63) <= number < 2**63:
            return f"{name}[{index}] must be between 0 and 2**63-1, not {number}"
    return f"{name} must be a sequence of integers"


def _first_wrong_layer(layers: Any, name: str) -> str:
    """Text that names the first number that is wrong in layers."""
    if not hasattr(layers, "__len__") or not hasattr(layers, "__getitem__"):
        return f"{name} must be a sequence of Layer, not {type(layers).__name__}"
    for index, layer in enumerate(layers):
        if not hasattr(layer, "__len__") or not hasattr(layer, "__getitem__"):
            return f"{name}[{index}] must be a Layer or five integers, not {type(layer).__name__}"
        if len(layer) != len(Layer._fields):
            fields = ", ".join(Layer._fields)
            return f"{name}[{index}] must have 5 numbers ({fields}), not {len(layer)}"
        for field, value in zip(Layer._fields, layer, strict=True):
            try:
                integer(value, f"{name}[{index}].{field}")
            except TypeError as error:
                return str(error)
    return f"{name} must be a sequence of Layer"
