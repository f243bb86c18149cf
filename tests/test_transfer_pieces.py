"""Long calls, whose lists are converted while their first blocks move: still one batch."""

from __future__ import annotations

import array
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from kit import Pages, within
from peers import Peer
from stage import SIZE, Stage

from mooncake import (
    InvalidArgument,
    NotRegistered,
    Op,
    Quiet,
)
from mooncake._blocks import TOGETHER

COUNT = TOGETHER + 5000
BLOCK = 1024


class Scattered:
    """COUNT blocks in another order on each side, and what the peer holds afterwards."""

    def __init__(self, stage: Stage) -> None:
        order = np.random.default_rng(7)
        self.here = order.permutation(SIZE // BLOCK)[:COUNT]
        self.there = order.permutation(SIZE // BLOCK)[:COUNT]
        self.local = (stage.pages.address + self.here * BLOCK).astype(np.uint64)
        self.remote = (stage.remote + self.there * BLOCK).astype(np.uint64)
        wanted = np.zeros((SIZE // BLOCK, BLOCK), dtype=np.uint8)
        # What the peer has from the stage's first write.
        wanted.reshape(-1)[:64] = stage.pages.array[:64]
        wanted[self.there] = stage.pages.array.reshape(-1, BLOCK)[self.here]
        self.wanted = wanted.reshape(-1)

    def arrived(self, stage: Stage) -> bool:
        """Reads everything back, in one block."""
        back = stage.pages.array
        stage.segment.read(stage.pages.address, stage.remote, SIZE)
        return bool(np.array_equal(back, self.wanted))


def as_list(values: Any) -> list[int]:
    return [int(value) for value in values]


FORMS = {
    "lists": (as_list, as_list, [BLOCK] * COUNT),
    "tuples and one number": (tuple, as_list, BLOCK),
    "arrays and one number": (np.asarray, lambda v: array.array("Q", as_list(v)), BLOCK),
    "mixed": (as_list, lambda v: v.astype(np.int64), np.full(COUNT, BLOCK, dtype=np.int32)),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_long_write_is_one_batch(stage: Stage, form: str) -> None:
    blocks = Scattered(stage)
    local, remote, lengths = FORMS[form]
    status = within(60, stage.segment.write, local(blocks.local), remote(blocks.remote), lengths)
    assert (status.blocks, status.bytes) == (COUNT, COUNT * BLOCK)
    assert status.bytes_done == status.bytes
    assert blocks.arrived(stage)


def test_a_long_submit_is_one_batch(stage: Stage) -> None:
    blocks = Scattered(stage)
    with stage.segment.submit(
        Op.WRITE, as_list(blocks.local), as_list(blocks.remote), BLOCK
    ) as batch:
        assert within(60, batch.wait).blocks == COUNT
    assert blocks.arrived(stage)


def test_a_bad_element_late_in_a_list(stage: Stage) -> None:
    """The error names it, and nothing of the call goes on."""
    blocks = Scattered(stage)
    for bad in (-1, "x", 1.5):
        local: list[Any] = as_list(blocks.local)
        local[COUNT - 2] = bad
        with pytest.raises(TypeError, match=rf"^local\[{COUNT - 2}\] "):
            stage.segment.write(local, as_list(blocks.remote), BLOCK)
        assert stage.engine.stats().batches_open == 0
    within(10, stage.memory.close)  # nothing uses it


@pytest.mark.parametrize("form", FORMS)
def test_a_bad_block_late_in_a_call(stage: Stage, form: str) -> None:
    blocks = Scattered(stage)
    local, remote, lengths = FORMS[form]
    blocks.local[COUNT - 2] = 4096
    with pytest.raises(NotRegistered, match=f"block {COUNT - 2}: local") as caught:
        stage.segment.write(local(blocks.local), remote(blocks.remote), lengths)
    assert caught.value.quiet is Quiet.BOTH
    status = caught.value.batch_status
    assert status is not None and status.bytes_done < COUNT * BLOCK
    assert stage.engine.stats().batches_open == 0
    within(10, stage.memory.close)


class Shrinking(list[int]):
    """A list that another thread has shortened by the time it is read."""

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(index)[:10]


def test_a_list_that_changes_meanwhile(stage: Stage) -> None:
    blocks = Scattered(stage)
    with pytest.raises(InvalidArgument, match="remote was changed"):
        stage.segment.write(blocks.local, Shrinking(as_list(blocks.remote)), BLOCK)
    assert stage.engine.stats().batches_open == 0


def test_different_lengths(stage: Stage) -> None:
    with pytest.raises(InvalidArgument, match=f"{COUNT}, {COUNT} and 3"):
        stage.segment.write([0] * COUNT, [0] * COUNT, [1, 2, 3])


def test_the_first_bytes_do_not_wait_for_the_conversion(stage: Stage) -> None:
    """The call is still being converted when bytes have arrived."""
    seen: list[int] = []

    class Watched(list[int]):
        def __getitem__(self, index: Any) -> Any:
            until = time.monotonic() + 20
            while index.start >= TOGETHER and not seen and time.monotonic() < until:
                written = stage.engine.stats().bytes_written
                if written > before:
                    seen.append(written)
            return super().__getitem__(index)

    blocks = Scattered(stage)
    before = stage.engine.stats().bytes_written
    stage.segment.write(Watched(as_list(blocks.local)), blocks.remote, BLOCK, deadline=math.inf)
    assert seen
    assert blocks.arrived(stage)


def test_the_drop_in(drop_in: Callable[..., Any], peer: Peer, pages: Callable[..., Pages]) -> None:
    engine = drop_in()
    mine, there = pages(SIZE, 3), peer.memory("kv", SIZE)
    assert engine.register_memory(mine.address, SIZE) == 0
    local = list(range(mine.address, mine.address + COUNT * BLOCK, BLOCK))
    remote = list(range(there, there + COUNT * BLOCK, BLOCK))
    sizes = [BLOCK] * COUNT
    assert engine.batch_transfer_sync_write(peer.session, local, remote, sizes) == 0
    number = engine.batch_transfer_async_write(peer.session, local, remote, sizes)
    assert number > 0 and engine.get_batch_transfer_status([number]) == 0
    assert engine.batch_transfer_sync_write(peer.session, local, remote, sizes[1:]) == -1
    assert engine.batch_transfer_sync_write(peer.session, local, [*remote[:-1], 1], sizes) == -1
    wrong: list[Any] = [*remote[:-1], "x"]
    with pytest.raises(TypeError, match=rf"^peer_buffer_addresses\[{COUNT - 1}\] "):
        engine.batch_transfer_sync_write(peer.session, local, wrong, sizes)
    mine.fill(0)
    assert engine.batch_transfer_sync_read(peer.session, local, remote, sizes) == 0
    assert mine.bytes(0, COUNT * BLOCK) == pages(SIZE, 3).bytes(0, COUNT * BLOCK)
    assert engine.get_engine().stats().batches_open == 0
