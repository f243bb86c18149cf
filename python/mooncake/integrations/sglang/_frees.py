"""Pages on their way back to the pool: freed by sglang, their numbers not yet on the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ._arrays import Arrays, Numbers


class _Freed(NamedTuple):
    numbers: Callable[[], Numbers]  # waits for them
    size: int


class Frees:
    """What was freed since the pool was last asked for pages.

    A call only starts the copy of its tensor to the host. The first allocation after it
    waits for the copies, which are done by then. Between begin_group() and end_group()
    nothing counts as free yet.
    """

    def __init__(self, arrays: Arrays, page_size: int) -> None:
        self._arrays = arrays
        self._page_size = page_size
        self._pages: list[_Freed] = []
        self._slots: list[list[_Freed]] = []  # to become pages, those of a list together
        self._group: tuple[list[_Freed], list[_Freed]] | None = None

    def pages(self, numbers: Any) -> None:
        """Free these pages, each named once."""
        if len(numbers):
            pages = self._pages if self._group is None else self._group[0]
            pages.append(self._begin(numbers))

    def slots(self, numbers: Any) -> None:
        """Free the pages that these slots lie in. Several slots, also of several calls of a
        group, may lie in one page."""
        if self._page_size == 1:
            self.pages(numbers)
        elif len(numbers):
            freed = self._begin(numbers)
            if self._group is None:
                self._slots.append([freed])
            else:
                self._group[1].append(freed)

    def _begin(self, numbers: Any) -> _Freed:
        return _Freed(self._arrays.begin(numbers), len(numbers))

    def begin_group(self) -> None:
        assert self._group is None, "free groups cannot be nested"
        self._group = [], []

    def end_group(self) -> None:
        if self._group is not None:
            (pages, slots), self._group = self._group, None
            self._pages += pages
            if slots:
                self._slots.append(slots)

    @property
    def count(self) -> int:
        """Pages that are free and not yet in the pool. Waits if slots were freed: how many
        pages they lie in is known on the host only."""
        self._settle()
        return sum(freed.size for freed in self._pages)

    def take(self) -> list[Numbers]:
        """The numbers of these pages, which are then the caller's. Waits for the copies."""
        self._settle()
        freed, self._pages = self._pages, []
        return [one.numbers() for one in freed]

    def _settle(self) -> None:
        for slots in self._slots:
            numbers = np.concatenate([freed.numbers() for freed in slots])
            self._pages.append(_known(np.unique(numbers // self._page_size)))
        self._slots.clear()


def _known(pages: Numbers) -> _Freed:
    return _Freed(lambda: pages, len(pages))
