"""The blocks of one call: three arguments as columns of numbers for the library.

A short call's columns are converted at once. In a long one lists are converted piece by
piece, while the library moves the blocks of the pieces before.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from . import _ffi
from ._arguments import Integers, Words, integer, packed, words

# The longest call that is one piece: the library checks all of its blocks before the
# first byte moves (mc_submit).
TOGETHER = 16384
# Blocks in the first and in each later piece of a longer call. Converting three lists of
# them takes 0.05 and 0.2 ms, and handing a later one over less than 1 ns a block.
_FIRST_PIECE = 1024
_PIECE = 4096


class Column(Protocol):
    """One number for each block."""

    @property
    def size(self) -> int: ...

    def piece(self, start: int, stop: int) -> Words:
        """The numbers of blocks start to below stop, valid while the result is kept."""
        ...


class _Listed:
    """A long list or tuple, to be converted."""

    def __init__(self, values: list[int] | tuple[int, ...], name: str) -> None:
        self._values = values
        self._name = name
        self.size = len(values)

    def piece(self, start: int, stop: int) -> Words:
        some = packed(self._values[start:stop], self._name, start)
        if some.size != stop - start:
            raise _ffi.error("MC_EINVAL", f"{self._name} was changed during the call")
        return some


class _Repeated:
    """One number for every block of a long call."""

    def __init__(self, number: int, size: int) -> None:
        self._words = packed(array("Q", [number]) * _PIECE, "")
        self.size = size

    def piece(self, start: int, stop: int) -> Words:
        return self._words.piece(0, stop - start)


class Blocks(NamedTuple):
    """What one call moves."""

    local: Column
    remote: Column
    lengths: Column

    @property
    def sizes(self) -> tuple[int, int, int]:
        """The columns' lengths, which must be equal before pieces() is called."""
        return self.local.size, self.remote.size, self.lengths.size

    def whole(self) -> tuple[Words, Words, Words]:
        """The columns of a short call."""
        size = self.local.size
        return (
            self.local.piece(0, size),
            self.remote.piece(0, size),
            self.lengths.piece(0, size),
        )

    def pieces(self) -> Iterator[tuple[Words, Words, Words]]:
        """The columns of a long call, piece by piece. Raises TypeError for an element that
        is no integer, InvalidArgument for a list that has become shorter."""
        size, start, step = self.local.size, 0, _FIRST_PIECE
        while start < size:
            stop = min(start + step, size)
            yield (
                self.local.piece(start, stop),
                self.remote.piece(start, stop),
                self.lengths.piece(start, stop),
            )
            start, step = stop, _PIECE


def one_block(local: Any, remote: Any, length: Any, names: tuple[str, str, str]) -> Blocks:
    """A single block of three integers. Raises TypeError, which names the argument."""
    try:
        numbers = array("Q", (local, remote, length))
    except (TypeError, OverflowError):
        pair = zip((local, remote, length), names, strict=True)
        numbers = array("Q", [integer(value, name) for value, name in pair])
    at = numbers.buffer_info()[0]
    return Blocks(Words(at, 1, numbers), Words(at + 8, 1, numbers), Words(at + 16, 1, numbers))


def many_blocks(
    local: object, remote: object, lengths: object, names: tuple[str, str, str]
) -> Blocks:
    """Blocks of three sequences. Raises TypeError, which names the argument."""
    return Blocks(_column(local, names[0]), _column(remote, names[1]), _column(lengths, names[2]))


_NAMES = ("local", "remote", "lengths")


def blocks_of(local: Integers, remote: Integers, lengths: Integers) -> Blocks:
    """The arguments of Segment.submit(). Raises TypeError, InvalidArgument."""
    if type(local) is int and type(remote) is int and type(lengths) is int:
        return one_block(local, remote, lengths, _NAMES)
    here = _some(local, "local")
    there = _some(remote, "remote")
    sizes = _lengths(integer(lengths, "lengths"), here.size) if _is_number(lengths) else None
    blocks = Blocks(here, there, sizes or _column(lengths, "lengths"))
    if len(set(blocks.sizes)) > 1:
        raise _ffi.error(
            "MC_EINVAL",
            "local, remote and lengths must have one length, not {}, {} and {}".format(
                *blocks.sizes
            ),
        )
    return blocks


def _column(value: object, name: str) -> Column:
    if isinstance(value, (list, tuple)) and len(value) > TOGETHER:
        return _Listed(value, name)
    return words(value, name)


def _some(value: Integers, name: str) -> Column:
    return packed([integer(value, name)], name) if _is_number(value) else _column(value, name)


def _lengths(number: int, size: int) -> Column:
    if size > TOGETHER:
        return _Repeated(number, size)
    return packed(array("Q", [number]) * size, "lengths")


def _is_number(value: object) -> bool:
    # numpy's scalars have an index; so have its arrays, which are no integers.
    return isinstance(value, int) or (hasattr(value, "__index__") and not hasattr(value, "__len__"))
