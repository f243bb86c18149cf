"""Page groups: the same bytes as the block list that they mean, and no others."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from board import FORMS, SIZE, Board, dense, random_plan
from kit import POISON, Pages, within

from mooncake import Engine, Layer, Op, PageGroup
from mooncake._pages import groups_of


@pytest.mark.parametrize("op", Op)
def test_random_groups_are_their_block_list(board: Board, op: Op) -> None:
    order = np.random.default_rng(int(op))
    source, destination = board.sides(op)
    moved = 0
    for _ in range(60):
        count = int(order.integers(0, 4))
        plans = [
            random_plan(order, i * SIZE // count, (i + 1) * SIZE // count) for i in range(count)
        ]
        blocks = [block for plan in plans for block in plan.blocks()]
        wanted = np.full(SIZE, POISON, dtype=np.uint8)
        for a, b, n in blocks:
            wanted[b : b + n] = source.array[a : a + n]
        names = [str(order.choice(list(FORMS))) for _ in plans]
        groups = [
            plan.group(op, board, FORMS[name]) for plan, name in zip(plans, names, strict=True)
        ]
        destination.fill(POISON)
        status = board.move(op, *groups)
        assert np.array_equal(destination.array, wanted), (plans, names)
        assert (status.blocks, status.bytes) == (len(blocks), sum(n for *_, n in blocks))
        assert status.bytes_done == status.bytes
        # And so does the block list.
        destination.fill(POISON)
        local, remote = source.address, destination.address
        here, there = [local + a for a, _, _ in blocks], [remote + b for _, b, _ in blocks]
        if op is Op.WRITE:
            board.segment.write(here, there, [n for *_, n in blocks])
        else:
            board.segment.read(there, here, [n for *_, n in blocks])
        assert np.array_equal(destination.array, wanted)
        moved += len(blocks)
    assert moved > 2000


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_page_list(board: Board, form: str) -> None:
    pages = FORMS[form]([5, 6, 7, 2, 99])
    board.there.fill(POISON)
    status = within(10, board.segment.write_pages, dense(board, pages))
    assert (status.blocks, status.runs, status.bytes) == (10, 6, 10 * 512)
    for k in (0, 1):
        for page in (5, 6, 7, 2, 99):
            at = (k * 100 + page) * 512
            assert board.there.bytes(at, 512) == board.here.bytes(at, 512)
    assert int((board.there.array != POISON).sum()) <= 10 * 512


class Tensor:
    """As much of a torch tensor on the CPU as its numbers take."""

    def __init__(self, data: np.ndarray, device: str = "cpu") -> None:
        self._data, self._device = data, device

    def numpy(self) -> np.ndarray:
        if self._device != "cpu":
            raise TypeError("can't convert a tensor of a GPU to numpy")
        return self._data

    def tolist(self) -> list[int]:
        listed: list[int] = self._data.tolist()
        return listed

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Any:
        return Tensor(self._data[index])


@pytest.mark.parametrize("kind", [np.int32, np.int64])
@pytest.mark.parametrize("wrap", [lambda v: v, Tensor, memoryview])
def test_arrays_are_read_where_they_are(board: Board, kind: Any, wrap: Callable[..., Any]) -> None:
    pages = np.arange(4, dtype=kind)
    group = dense(board, wrap(pages))
    layers = np.array(group.layers, dtype=np.uint64)
    (given,) = groups_of(PageGroup(group.local_pages, pages, layers)).array
    assert given.local_pages == given.remote_pages == pages.ctypes.data
    assert given.local_width == given.remote_width == pages.itemsize
    assert (given.page_count, given.layer_count) == (4, 2)
    assert given.layers == layers.ctypes.data
    assert board.move(Op.WRITE, group).blocks == 8


@pytest.mark.parametrize("layers", [list, tuple, np.array, lambda v: np.array(v, dtype=np.int64),
                                    lambda v: [list(each) for each in v],
                                    lambda v: np.array(v)[:, ::-1][:, ::-1],
                                    lambda v: Tensor(np.array(v), "cuda:0"),
                                    lambda v: Tensor(np.array(v))])  # fmt: skip
def test_every_form_of_layers(board: Board, layers: Callable[..., Any]) -> None:
    group = dense(board, Tensor(np.arange(3), "cuda:0"))
    group = dataclasses.replace(group, layers=layers(group.layers))
    assert board.move(Op.WRITE, group).bytes == 6 * 512
    assert board.there.bytes(0, 3 * 512) == board.here.bytes(0, 3 * 512)


def test_nothing_to_move(board: Board) -> None:
    group = dense(board)
    for groups in ([], [dense(board, [])], [dataclasses.replace(group, layers=[])],
                   PageGroup([0], [0], [Layer(1, 1, 1, 1, 0)])):  # fmt: skip
        assert within(10, board.segment.write_pages, groups).bytes == 0
    assert board.engine.stats().batches_open == 0


def test_submitted_pages_may_be_changed_at_once(board: Board) -> None:
    pages = np.arange(90, dtype=np.int32)
    layers = np.array(dense(board).layers, dtype=np.uint64)
    wanted = board.here.bytes(0, 90 * 512)
    with board.segment.submit_pages(
        Op.WRITE, PageGroup(pages, pages, layers), deadline=math.inf
    ) as batch:
        pages[:], layers[:] = -1, 0
        assert within(10, batch.wait).blocks == 180
    assert board.there.bytes(0, 90 * 512) == wanted


def test_many_pages_of_many_layers(open_engine: Callable[..., Engine]) -> None:
    """More than are checked together, shuffled on one side, in one blocking call."""
    pages, layers, size = 20_000, 6, 64
    board = Board(open_engine)
    cache, pool = Pages(pages * layers * size, 5), Pages(pages * layers * size)
    board.engine.register(cache.map)
    board.peer.register(pool.map)
    there = np.random.default_rng(1).permutation(pages).astype(np.int32)
    starts = range(0, layers * pages * size, pages * size)
    group = PageGroup(
        range(pages),
        there,
        [Layer(cache.address + at, pool.address + at, size, size, size) for at in starts],
    )
    status = within(60, board.segment.write_pages, group)
    assert status.blocks == pages * layers
    shape = (layers, pages, size)
    assert np.array_equal(pool.array.reshape(shape)[:, there], cache.array.reshape(shape))
