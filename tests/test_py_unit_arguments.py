"""Python values to integers, arrays, strings and memory."""

from __future__ import annotations

import array
import ctypes
import math
import mmap
import sys
from collections import deque
from typing import Any

import pytest

from mooncake import InvalidArgument, Unsupported
from mooncake._arguments import integer, integers, milliseconds, text, words
from mooncake._buffers import address_of_view, region

np = pytest.importorskip("numpy", reason="numpy is not installed")


class Index:
    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


class Tensor:
    """Looks like a torch tensor of bytes on the CPU."""

    is_cuda = False

    def __init__(self, data: bytearray, contiguous: bool = True) -> None:
        self.data, self.contiguous = data, contiguous

    def data_ptr(self) -> int:
        return ctypes.addressof(ctypes.c_char.from_buffer(self.data))

    def numel(self) -> int:
        return len(self.data) // 2

    def element_size(self) -> int:
        return 2

    def is_contiguous(self) -> bool:
        return self.contiguous

    def tolist(self) -> list[int]:
        return list(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("an element of a tensor is a tensor")


BIG = 2**64 - 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1, 2, BIG], [1, 2, BIG]),
        ((), []),
        ([], []),
        ([Index(7), np.uint64(8), np.int32(9), True], [7, 8, 9, 1]),
        (range(3), [0, 1, 2]),
        (deque([4, 5]), [4, 5]),
        (array.array("Q", [1, BIG]), [1, BIG]),
        (array.array("i", [1, 2]), [1, 2]),
        (array.array("q", [1, 2]), [1, 2]),
        (np.array([1, BIG], dtype=np.uint64), [1, BIG]),
        (np.array([1, 2], dtype=np.int64), [1, 2]),
        (np.array([1, 2], dtype=np.int32), [1, 2]),
        (np.array([1, 2], dtype=">u8"), [1, 2]),
        (np.arange(6, dtype=np.uint64)[::2], [0, 2, 4]),
        (np.array([], dtype=np.int64), []),
        ((ctypes.c_uint64 * 2)(3, 4), [3, 4]),
        (memoryview(array.array("Q", [5])), [5]),
        (Tensor(bytearray(b"\1\2")), [1, 2]),
    ],
)
def test_words(value: object, expected: list[int]) -> None:
    assert integers(value, "x") == expected
    assert words(value, "x").size == len(expected)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ([1, -1], r"x\[1\]"),
        ([1.0], r"x\[0\]"),
        ([None], r"x\[0\]"),
        (["1"], r"x\[0\]"),
        ([2**64], r"x\[0\]"),
        ([1, [2]], r"x\[1\]"),
        ("12", "x "),
        (b"12345678", "x "),
        (bytearray(8), "x "),
        (None, "x "),
        (5, "x "),
        ({1: 2}, "x "),
        ({1, 2}, "x "),
        (iter([1]), "x "),
        (np.array([1.0]), r"x\[0\]"),
        (np.array([1, -1]), r"x\[1\]"),
        (np.array([[1, 2]], dtype=np.uint64), "x "),
        (np.array(1), "x "),
        (array.array("d", [1.0]), r"x\[0\]"),
        (array.array("q", [-1]), r"x\[0\]"),
    ],
)
def test_words_refuses(value: object, named: str) -> None:
    with pytest.raises(TypeError, match="^" + named):
        words(value, "x")


def test_words_of_a_matching_buffer_are_not_copied() -> None:
    values = np.arange(1000, dtype=np.uint64)
    assert words(values, "x").address == values.ctypes.data
    signed = np.arange(1000, dtype=np.int64)
    assert words(signed, "x").address == signed.ctypes.data
    for other in (
        array.array("q", [1, 2]),
        array.array("Q", [1, 2]),
        (ctypes.c_int64 * 2)(1, 2),
        (ctypes.c_uint64 * 2)(1, 2),
    ):
        view = memoryview(other)
        for value in (other, view):
            assert words(value, "x").address == address_of_view(view)


def test_words_without_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy is a help where the process has it, and never needed."""
    values = np.array([3, 4], dtype=np.int32)
    monkeypatch.delitem(sys.modules, "numpy")
    assert integers(values, "x") == [3, 4]
    assert integers(array.array("i", [1, 2]), "x") == [1, 2]
    with pytest.raises(TypeError, match=r"^x\[1\] "):
        words(array.array("q", [1, -1]), "x")
    with pytest.raises(TypeError, match=r"^x\[1\] "):
        words(np.array([1, -1], dtype=np.int16), "x")
    assert "numpy" not in sys.modules


class Shown:
    """Looks like a torch tensor of integers; on_gpu: that numpy cannot show."""

    def __init__(self, values: list[int], on_gpu: bool) -> None:
        self.array, self.on_gpu = np.array(values), on_gpu

    def numpy(self) -> Any:
        if self.on_gpu:
            raise TypeError("on the GPU")
        return self.array

    def tolist(self) -> list[int]:
        return list(map(int, self.array))


def test_words_of_a_tensor() -> None:
    shown = Shown([5, 6], on_gpu=False)
    assert words(shown, "x").address == shown.array.ctypes.data
    assert integers(Shown([5, 6], on_gpu=True), "x") == [5, 6]


@pytest.mark.parametrize("value", [1.0, "1", None, [1], -1, 2**64])
def test_integer_refuses(value: object) -> None:
    with pytest.raises(TypeError, match=r"^x "):
        integer(value, "x")


def test_text() -> None:
    assert text("ä", "x") == "ä".encode()
    with pytest.raises(TypeError, match=r"^x "):
        text(b"a", "x")
    for bad in ("a\0b", "\ud800"):
        with pytest.raises(InvalidArgument, match=r"^x "):
            text(bad, "x")


def test_milliseconds() -> None:
    assert milliseconds(0.0001, "x") == 1
    assert milliseconds(2, "x") == 2000
    assert milliseconds(math.inf, "x") == 2**63 - 1
    for bad in (0, -1, math.nan):
        with pytest.raises(InvalidArgument, match=r"^x "):
            milliseconds(bad, "x")
    for wrong in ("1", None, True):
        with pytest.raises(TypeError, match=r"^x "):
            milliseconds(wrong, "x")  # type: ignore[arg-type]


def test_region_pins_a_bytearray() -> None:
    memory = bytearray(100)
    held = region(memory)
    assert held.length == 100
    ctypes.memset(held.address, 7, 100)
    assert memory == b"\7" * 100
    with pytest.raises(BufferError):
        memory.append(0)
    held.release()
    memory.append(0)


def test_region_pins_a_map() -> None:
    memory = mmap.mmap(-1, 4096)
    held = region(memory)
    with pytest.raises(BufferError):
        memory.close()
    held.release()
    memory.close()


@pytest.mark.parametrize(
    ("memory", "length"),
    [
        (b"read-only", 9),
        (memoryview(b"read-only"), 9),
        (array.array("d", [1, 2]), 16),
        ((ctypes.c_uint32 * 3)(), 12),
        (np.zeros((3, 5), dtype=np.float32), 60),
        (np.asfortranarray(np.zeros((3, 5))), 120),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), 8),
        (Tensor(bytearray(10)), 10),
    ],
)
def test_region_of(memory: Any, length: int) -> None:
    held = region(memory)
    assert held.length == length
    assert held.address > 0
    if isinstance(memory, np.ndarray):
        assert held.address == memory.ctypes.data
    held.release()


def test_region_of_an_address_keeps_its_owner() -> None:
    held = region(4096, 10, owner="owner")
    assert (held.address, held.length, held._owner) == (4096, 10, "owner")


def test_region_may_be_shortened() -> None:
    assert region(bytearray(10), 4).length == 4
    memory = bytearray(10)
    with pytest.raises(InvalidArgument, match="length is 11"):
        region(memory, 11)
    memory.append(0)  # not pinned by the refusal


@pytest.mark.parametrize(
    ("memory", "length", "error"),
    [
        (5, None, InvalidArgument),
        (-5, 1, InvalidArgument),
        (5, -1, InvalidArgument),
        (2**64, 1, InvalidArgument),
        ("text", None, TypeError),
        (None, None, TypeError),
        ([1, 2], None, TypeError),
        (1.5, 1, TypeError),
        (5, 1.5, TypeError),
        (np.zeros((4, 4))[:, 1], None, InvalidArgument),
        (memoryview(b"abcdef")[::2], None, InvalidArgument),
        (Tensor(bytearray(4), contiguous=False), None, InvalidArgument),
    ],
)
def test_region_refuses(memory: object, length: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        region(memory, length)


def test_region_refuses_gpu_memory() -> None:
    class Cuda(Tensor):
        is_cuda = True

    class Interface:
        __cuda_array_interface__ = None

    class Device:
        type = "xpu"

    class Other(Tensor):
        device = Device()

    for memory in (Cuda(bytearray(4)), Interface(), Other(bytearray(4))):
        with pytest.raises(Unsupported, match="GPU"):
            region(memory)
