"""The seam to the page allocators: what the scheduler asks of a pool."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Protocol


class Pool(Protocol):
    """Pages of one memory, given to requests; see mooncake.PagePool."""

    def alloc(self, request: int, count: int, *, room: int = 0) -> Sequence[int]:
        """count pages for a new request, in the order of its tokens; room tells how many more
        it may need later."""

    def grow_batch(self, requests: Sequence[int], counts: Sequence[int]) -> object:
        """counts[i] pages more for requests[i]: one decode step."""

    def release(self, request: int) -> object:
        """Take all pages of a request back."""

    def close(self) -> None:
        """Give the allocator's own memory back."""


KINDS = ("runs", "fifo", "sorted")


def open_pool(kind: str, pages: int) -> Pool:
    """A pool of the pages 0 to pages - 1, all free."""
    from mooncake import PagePool, PoolKind

    pool: Pool = PagePool(pages, kind=PoolKind[kind.upper()])
    return pool


def count_runs(pages: Sequence[int], beside: Sequence[int] | None = None) -> int:
    """Stretches that are consecutive in pages, and in beside."""
    breaks = (b != a + 1 for a, b in itertools.pairwise(pages))
    if beside is not None:
        other = (b != a + 1 for a, b in itertools.pairwise(beside))
        breaks = (a or b for a, b in zip(breaks, other, strict=True))
    return sum(breaks) + bool(pages)
