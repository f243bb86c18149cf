"""The calls that sglang makes to the allocator of its KV pool, on pages that keep runs long.

A slot is the place of one token, a page is page_size slots. Index tensors hold slots.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ._arrays import Arrays, Numbers, NumpyArrays, TorchArrays, host
from ._frees import Frees
from ._pool import MOST_ROOM, Asking, Pages


class RunAllocator:
    """Stands before sglang's allocator classes in the order of bases: what those say of
    size, page_size and device holds, and of the rest whatever is not here.

    Allocation happens on the host. Whose tokens they are is told by asking(); without it,
    and for calls that are not for requests, they are placed as nobody's.
    """

    size: int
    page_size: int
    device: Any

    def clear(self) -> None:
        """Free everything, and forget who has it. sglang's constructors call it."""
        self._arrays: Arrays = NumpyArrays() if self.device is None else TorchArrays(self.device)
        self._pages = Pages(self.size // self.page_size)
        self._frees = Frees(self._arrays, self.page_size)
        self._asking: Callable[[], Asking] | None = None

    @contextlib.contextmanager
    def asking(self, who: Callable[[], Asking]) -> Iterator[None]:
        """Whom the allocation is for that is made in this context. who is called by it."""
        self._asking = who
        try:
            yield
        finally:
            self._asking = None

    def end(self, row: int) -> None:
        """The request in a row of sglang's table has ended: what was kept free behind it is
        anybody's. Its tokens stay taken until they are freed."""
        self._pages.end(row)

    def available_size(self) -> int:
        """Tokens that can be allocated."""
        return (self._pages.free + self._frees.count) * self.page_size

    def alloc(self, need_size: int) -> Any:
        """need_size slots, of whole pages; None if there are not enough."""
        count = need_size // self.page_size
        asking = self._who()
        tokens = None if asking is None else asking.tokens
        if asking is None or tokens is None or sum(tokens) != need_size or self.page_size != 1:
            pages = self._take(np.array([count]), None)
        else:
            pages = self._take(host(tokens), asking)
        if pages is None:
            return None
        if self.page_size == 1:
            return self._arrays.tensor(pages)
        slots = pages[:, None] * self.page_size + np.arange(self.page_size)
        return self._arrays.tensor(slots.reshape(-1))

    def alloc_extend(
        self,
        prefix_lens: Any,
        prefix_lens_cpu: Any,
        seq_lens: Any,
        seq_lens_cpu: Any,
        last_loc: Any,
        extend_num_tokens: int,
        num_new_pages: int | None = None,
    ) -> Any:
        """Slots for the tokens prefix_lens[i] to below seq_lens[i] of every request i, one
        request after the other; last_loc[i] is the slot before the first. The free rest of
        the page it lies in is used first. None if there are not enough pages."""
        prefix, end = host(prefix_lens_cpu), host(seq_lens_cpu)
        size, tokens = self.page_size, end - prefix
        if extend_num_tokens != (total := int(tokens.sum())):
            raise ValueError(f"{extend_num_tokens} tokens asked for, the lengths say {total}")
        have, need = -(-prefix // size), -(-end // size)  # pages of each request
        pages = self._take(need - have, self._who())
        if pages is None:
            return None
        request = np.repeat(np.arange(len(tokens)), tokens)
        position = np.arange(extend_num_tokens) + (prefix - (np.cumsum(tokens) - tokens))[request]
        # Which of the new pages; before the request's first: in the page that it has.
        behind = position // size - have[request]
        where = behind + (np.cumsum(need - have) - (need - have))[request]
        old = behind < 0
        base = np.empty(extend_num_tokens, dtype=np.int64)
        base[~old] = pages[where[~old]] * size + position[~old] % size
        base[old] = (position - prefix[request] + 1)[old]
        return self._after_last(base, last_loc, request, old)

    def alloc_decode(self, seq_lens: Any, seq_lens_cpu: Any, last_loc: Any) -> Any:
        """A slot for the last of the seq_lens[i] tokens of every request i; last_loc[i] is
        the slot before it. None if there are not enough pages."""
        new = (host(seq_lens_cpu) - 1) % self.page_size == 0
        pages = self._take(new.astype(np.int64), self._who())
        if pages is None:
            return None
        base = np.ones(len(new), dtype=np.int64)
        base[new] = pages * self.page_size
        return self._after_last(base, last_loc, np.arange(len(new)), ~new)

    def _after_last(self, base: Numbers, last_loc: Any, request: Numbers, old: Numbers) -> Any:
        """base as a tensor, counted from the request's last slot where old."""
        if not old.any():
            return self._arrays.tensor(base)
        return self._arrays.add_last(base, last_loc, np.where(old, request, len(last_loc)))

    def _who(self) -> Asking | None:
        return None if self._asking is None else self._asking()

    def _take(self, counts: Numbers, asking: Asking | None) -> Numbers | None:
        """counts[i] pages for each request; None if there are not enough."""
        self._collect()
        if asking is None or len(asking.rows) != len(counts):
            return self._pages.take(counts, None)
        rooms = None
        if asking.rooms is not None:
            rooms = np.clip(host(asking.rooms), 0, MOST_ROOM) // self.page_size
        return self._pages.take(counts, asking.rows, rooms)

    def _collect(self) -> None:
        self._pages.give_back(self._frees.take())

    def free(self, free_index: Any) -> None:
        """Free the pages that these slots lie in, each of them once."""
        self._frees.slots(free_index)

    def free_segment(self, free_index: Any, *, start_pos: int) -> None:
        """Free the slots of consecutive tokens of one request, the first of which begins a
        page, and the rest of the last page."""
        assert start_pos % self.page_size == 0, f"segment start {start_pos} is not page-aligned"
        self._frees.pages(free_index[:: self.page_size] // self.page_size)

    def free_page_ids(self, page_ids: Any) -> None:
        """Free pages, each named once."""
        self._frees.pages(page_ids)

    def free_group_begin(self) -> None:
        """What is freed from here on is free when the group ends."""
        self._frees.begin_group()

    def free_group_end(self) -> None:
        self._frees.end_group()

    def merge_and_sort_free(self) -> None:
        """The pool is always sorted; only what was freed last is not in it yet."""
        self._collect()

    def get_all_free_pages(self) -> Any:
        """The numbers of all free pages."""
        self._collect()
        return self._arrays.tensor(self._pages.free_pages())


class HostAllocator(RunAllocator):
    """A RunAllocator with no sglang around it; index tensors are numpy arrays, or torch's
    if there is a device."""

    def __init__(self, size: int, page_size: int = 1, device: Any = None) -> None:
        self.size, self.page_size, self.device = size, page_size, device
        self.clear()
