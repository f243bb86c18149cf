"""KV memory of one process: buffers with pages, contents, and the comparing of them.

Standard library only; numpy, where this interpreter has it, makes it faster.
"""

from __future__ import annotations

import ctypes
import mmap
import random
from array import array
from collections.abc import Sequence
from typing import Any

numpy: Any
try:
    import numpy
except ImportError:
    numpy = None

_TAPE_BYTES = 4 << 20
_SAMPLES = 16


class Memory:
    """buffers of tokens x row_bytes each. What a request has at a token of a buffer follows
    from the three, so that a byte in the wrong place is seen, and a stale one too.

    tape_tokens is the length of the longest request, in whole pages.
    """

    def __init__(self, buffers: int, row_bytes: int, tokens: int, tape_tokens: int, seed: int):
        self.buffers, self.row_bytes, self.tokens = buffers, row_bytes, tokens
        size = tokens * row_bytes
        self.maps = [mmap.mmap(-1, size) for _ in range(buffers)]
        exports = [(ctypes.c_char * size).from_buffer(each) for each in self.maps]
        self.addresses = [ctypes.addressof(each) for each in exports]
        self._exports = exports  # keep the addresses valid
        self.length = size
        # Bits of no meaning: a page equals another one, or itself shifted, never.
        self._tape = random.Random(seed).randbytes(_TAPE_BYTES + tape_tokens * row_bytes)
        self._touch()
        if numpy is not None:
            self._arrays = [numpy.frombuffer(each, dtype=numpy.uint8) for each in self.maps]
            self._tape_array = numpy.frombuffer(self._tape, dtype=numpy.uint8)
        else:
            self._views = [memoryview(each) for each in self.maps]
            self._tape_view = memoryview(self._tape)

    def _touch(self) -> None:
        """Have every page of the kernel's now: the first pass would pay for them else."""
        poison = b"\xa5" * (1 << 20)
        for each in self.maps:
            for at in range(0, self.length, len(poison)):
                each[at : at + len(poison)] = poison[: self.length - at]

    def _place(self, number: int, buffer: int) -> int:
        """Where on the tape the contents of a request's buffer begin."""
        return (number * 0x9E3779B1 + buffer * 0x85EBCA77) % _TAPE_BYTES

    def fill(self, number: int, pages: Sequence[int], page_size: int) -> None:
        """Write a request's contents to its pages."""
        size = page_size * self.row_bytes
        if numpy is not None:
            where = numpy.asarray(pages)
            for buffer, memory in enumerate(self._arrays):
                at = self._place(number, buffer)
                content = self._tape_array[at : at + len(pages) * size]
                memory.reshape(-1, size)[where] = content.reshape(-1, size)
            return
        for first, start, count in runs_of(pages):
            for buffer, view in enumerate(self._views):
                at = self._place(number, buffer) + first * size
                view[start * size : (start + count) * size] = self._tape_view[
                    at : at + count * size
                ]

    def wrong(self, number: int, pages: Sequence[int], page_size: int, sample: bool) -> int:
        """How many (page, buffer) do not hold what the request has there. sample: look at a few
        of the pages in every buffer only, the first and the last among them."""
        size = page_size * self.row_bytes
        chosen = range(len(pages))
        if sample and len(pages) > _SAMPLES:
            rng = random.Random(number)
            chosen = sorted({0, len(pages) - 1, *rng.sample(chosen, _SAMPLES - 2)})  # type: ignore[assignment]
        if numpy is not None:
            return self._wrong_arrays(number, pages, size, chosen)
        found = 0
        for buffer, view in enumerate(self._views):
            begin = self._place(number, buffer)
            for index in chosen:
                at, page = begin + index * size, pages[index] * size
                found += view[page : page + size] != self._tape_view[at : at + size]
        return found

    def _wrong_arrays(self, number: int, pages: Sequence[int], size: int, chosen: Any) -> int:
        where = numpy.asarray(pages)
        index = None
        if len(chosen) != len(pages):
            index = numpy.asarray(chosen)
            where = where[index]
        found = 0
        for buffer, memory in enumerate(self._arrays):
            at = self._place(number, buffer)
            content = self._tape_array[at : at + len(pages) * size].reshape(-1, size)
            here = memory.reshape(-1, size)[where]
            there = content if index is None else content[index]
            if not numpy.array_equal(here, there):
                found += int((here != there).any(axis=1).sum())
        return found

    def poison(self, pages: Sequence[int], page_size: int) -> None:
        """Overwrite pages with what no request has."""
        size = page_size * self.row_bytes
        row = b"\xa5" * size
        for each in self.maps:
            for page in pages:
                each[page * size : (page + 1) * size] = row


def runs_of(
    pages: Sequence[int], beside: Sequence[int] | None = None
) -> list[tuple[int, int, int]]:
    """(index, first page, count) of each stretch that is consecutive in pages, and in beside."""
    other = pages if beside is None else beside
    found = []
    begin = 0
    for at in range(1, len(pages) + 1):
        if at == len(pages) or pages[at] != pages[at - 1] + 1 or other[at] != other[at - 1] + 1:
            found.append((begin, pages[begin], at - begin))
            begin = at
    return found


def blocks_of(
    sources: Sequence[int],
    targets: Sequence[int],
    size: int,
    here: Sequence[int],
    there: Sequence[int],
    merge: bool,
) -> tuple[array[int], array[int], array[int]]:
    """The block list of one request: addresses here, there, and lengths; buffer by buffer.

    here and there are where the buffers begin. merge: one block for each stretch of pages that is
    consecutive on both sides, as sglang makes them; else one for each page.
    """
    if numpy is not None:
        return _block_arrays(sources, targets, size, here, there, merge)
    if merge:
        runs = runs_of(sources, targets)
        froms = [page * size for _, page, _ in runs]
        tos = [targets[index] * size for index, _, _ in runs]
        lengths = [count * size for _, _, count in runs]
    else:
        froms, tos = [page * size for page in sources], [page * size for page in targets]
        lengths = [size] * len(froms)
    local = array("Q", [base + offset for base in here for offset in froms])
    remote = array("Q", [base + offset for base in there for offset in tos])
    return local, remote, array("Q", lengths) * len(here)


def _block_arrays(
    sources: Any, targets: Any, size: int, here: Any, there: Any, merge: bool
) -> tuple[array[int], array[int], array[int]]:
    froms = numpy.asarray(sources, dtype=numpy.uint64)
    tos = numpy.asarray(targets, dtype=numpy.uint64)
    lengths = numpy.full(len(froms), size, dtype=numpy.uint64)
    if merge and len(froms):
        breaks = numpy.flatnonzero((numpy.diff(froms) != 1) | (numpy.diff(tos) != 1)) + 1
        begins = numpy.concatenate(([0], breaks))
        ends = numpy.concatenate((breaks, [len(froms)]))
        froms, tos = froms[begins], tos[begins]
        lengths = ((ends - begins) * size).astype(numpy.uint64)
    blocks = []
    for bases, offsets in ((here, froms * size), (there, tos * size)):
        grid = numpy.add.outer(numpy.asarray(bases, dtype=numpy.uint64), offsets)
        blocks.append(array("Q", grid.tobytes()))
    return blocks[0], blocks[1], array("Q", numpy.tile(lengths, len(here)).tobytes())
