"""A pool of KV-cache pages: memory, contents and free pages."""

from __future__ import annotations

import hashlib
import mmap
import random
from collections import deque
from collections.abc import Iterable, Iterator

from ._buffers import region
from ._demo_models import DemoError, Model

_POISON = 0xA5
_TAPE_BYTES = 4 << 20


def busy_order(pages: int, seed: int) -> list[int]:
    """Pages in the order in which a busy server's free list hands them out.

    A request takes a stretch of pages for its prompt and then one at a time, in turn with the
    others that run, and gives all back at its end: after that the list is a mix of
    stretches and of pages whose neighbours are far away.
    """
    rng = random.Random(seed)
    order: list[int] = []
    running: list[list[int]] = [[] for _ in range(32)]
    page = 0
    while page < pages:
        held = running[rng.randrange(len(running))]
        end = min(pages, page + (1 if held else rng.randint(1, 32)))
        held += range(page, end)
        page = end
        if rng.random() < 1 / 32:
            order += held
            held.clear()
    for held in running:
        order += held
    return order


class Pool:
    """Pages of a model's KV cache: page p is one stretch of each buffer. One thread at a time
    may take and give pages; different pages may be used by different threads."""

    def __init__(self, model: Model, pages: int, page_tokens: int, seed: int) -> None:
        self.pages = pages
        self.page_bytes = page_tokens * model.row_bytes
        self._maps = [mmap.mmap(-1, pages * self.page_bytes) for _ in range(model.buffers)]
        self._views = [memoryview(each) for each in self._maps]
        self._regions = [region(each) for each in self._maps]  # keep the addresses valid
        self._free = deque(busy_order(pages, seed))
        self._poison = bytes([_POISON]) * self.page_bytes
        self._tape = b""  # made by the first fill(): only one side needs it
        self._seed = seed

    @property
    def addresses(self) -> list[int]:
        """Where each buffer begins."""
        return [each.address for each in self._regions]

    @property
    def lengths(self) -> list[int]:
        """Bytes of each buffer."""
        return [each.length for each in self._regions]

    def take(self, count: int) -> list[int]:
        """The next free pages. Raises DemoError if there are fewer."""
        if count > len(self._free):
            raise DemoError(f"{count} pages wanted, {len(self._free)} of {self.pages} are free")
        return [self._free.popleft() for _ in range(count)]

    def give(self, pages: Iterable[int]) -> None:
        """Put pages at the end of the free list."""
        self._free.extend(pages)

    def block_addresses(self, bases: Iterable[int], pages: list[int]) -> list[int]:
        """The address of every (buffer, page), for buffers that begin at bases."""
        offsets = [page * self.page_bytes for page in pages]
        return [base + offset for base in bases for offset in offsets]

    def fill(self, pages: list[int], seed: str) -> None:
        """Write contents to pages that differ from page to page and seed to seed."""
        if not self._tape:
            self._tape = random.Random(self._seed).randbytes(_TAPE_BYTES + self.page_bytes)
        places = random.Random(seed).choices(range(_TAPE_BYTES), k=len(pages) * len(self._views))
        tape = memoryview(self._tape)
        for (view, start), place in zip(self._blocks(pages), places, strict=True):
            view[start : start + self.page_bytes] = tape[place : place + self.page_bytes]

    def digests(self, pages: list[int]) -> list[str]:
        """For each buffer the hash of these pages, in this order."""
        found = []
        for view in self._views:
            digest = hashlib.blake2b(digest_size=16)
            for page in pages:
                start = page * self.page_bytes
                digest.update(view[start : start + self.page_bytes])
            found.append(digest.hexdigest())
        return found

    def poison(self, pages: list[int]) -> None:
        """Overwrite pages with what no request has."""
        for view, start in self._blocks(pages):
            view[start : start + self.page_bytes] = self._poison

    def touched(self, pages: Iterable[int]) -> int:
        """How many of (buffer, page) do not hold poison any more."""
        return sum(
            bytes(view[start : start + self.page_bytes]) != self._poison
            for view, start in self._blocks(pages)
        )

    def _blocks(self, pages: Iterable[int]) -> Iterator[tuple[memoryview, int]]:
        starts = [page * self.page_bytes for page in pages]
        for view in self._views:
            for start in starts:
                yield view, start
