"""The allocator of the sglang integration by itself, with numpy arrays; tests/serving has it
inside sglang."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import mooncake
from mooncake.integrations.sglang._allocator import HostAllocator
from mooncake.integrations.sglang._arrays import TorchArrays
from mooncake.integrations.sglang._frees import Frees
from mooncake.integrations.sglang._pool import MOST_ROOM, Asking


def asking(allocator: HostAllocator, *given: Any) -> Any:
    return allocator.asking(lambda: Asking(*given))


def extend(
    allocator: HostAllocator, rows: list[int], held: list[list[int]], chunks: list[int]
) -> Any:
    """Slots for chunks more tokens of requests that have held."""
    before = np.array([len(slots) for slots in held])
    last = np.array([slots[-1] if slots else -1 for slots in held])
    after = before + chunks
    with asking(allocator, rows):
        return allocator.alloc_extend(before, before, after, after, last, sum(chunks))


def test_slot_zero_is_never_given_out_and_all_others_are() -> None:
    for size, page_size in ((40, 1), (40, 8), (43, 8)):
        allocator = HostAllocator(size, page_size)
        pages = size // page_size
        assert allocator.available_size() == pages * page_size
        slots = allocator.alloc(pages * page_size)
        assert slots.dtype == np.int64
        assert sorted(slots) == list(range(page_size, (pages + 1) * page_size))
        assert allocator.alloc(page_size) is None and allocator.available_size() == 0
        allocator.clear()
        assert allocator.available_size() == pages * page_size


@pytest.mark.parametrize("page_size", [1, 2, 8])
@pytest.mark.parametrize("seed", range(5))
def test_every_token_has_a_slot_of_its_own(page_size: int, seed: int) -> None:
    """Requests of all lengths begin, go on in chunks, decode and end, by their rows or not."""
    rng = random.Random(seed)
    allocator = HostAllocator(640, page_size)
    held: dict[int, list[int]] = {}
    for _ in range(400):
        rows = rng.sample(range(1, 20), rng.randrange(1, 5))
        if rng.random() < 0.5:
            chunks = [rng.randrange(0, 40) for _ in rows]
            free = allocator.available_size()
            old = [held.get(row, []) for row in rows]
            need = sum(
                -(-(len(slots) + n) // page_size) - -(-len(slots) // page_size)
                for slots, n in zip(old, chunks, strict=True)
            )
            got = extend(allocator, rows, old, chunks)
            assert (got is None) == (need * page_size > free)
            if got is None:
                assert allocator.available_size() == free
                continue
            for row, n in zip(rows, chunks, strict=True):
                if n:
                    held.setdefault(row, []).extend(got[:n].tolist())
                got = got[n:]
        elif held and rng.random() < 0.6:
            lengths = np.array([len(slots) + 1 for slots in held.values()])
            last = np.array([slots[-1] for slots in held.values()])
            with asking(allocator, list(held) if rng.random() < 0.9 else [1, 2, 3] * 99):
                got = allocator.alloc_decode(lengths, lengths, last)
            if got is not None:
                for slots, slot in zip(held.values(), got.tolist(), strict=True):
                    slots.append(slot)
        elif held:
            row = rng.choice(list(held))
            slots = held.pop(row)
            if rng.random() < 0.5:
                allocator.free(np.array(slots))
            else:
                allocator.free_segment(np.array(slots), start_pos=0)
            allocator.end(row)
        used = [slot for slots in held.values() for slot in slots]
        assert len(used) == len(set(used))
        pages = [{slot // page_size for slot in slots} for slots in held.values()]
        taken = sum(map(len, pages))
        assert len(set().union(*pages)) == taken, "a page of two requests"
        assert allocator.available_size() == 640 - taken * page_size
        for slots in held.values():
            assert [s % page_size for s in slots] == [i % page_size for i in range(len(slots))]
    free = allocator.get_all_free_pages().tolist()
    assert sorted(free + list(set().union(*pages))) == list(range(1, 640 // page_size + 1))


def test_a_decode_step_is_one_call_of_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    allocator = HostAllocator(1000)
    with asking(allocator, [3, 5, 8], [10, 20, 30], [40, 40, 40]):
        allocator.alloc(60)
    pool, calls = allocator._pages._pool, []
    for name in ("alloc", "grow", "grow_batch"):
        original = getattr(pool, name)
        monkeypatch.setattr(
            pool, name, lambda *a, f=original, n=name, **k: calls.append(n) or f(*a, **k)
        )
    with asking(allocator, [3, 5, 8], [1, 1, 1]):
        assert allocator.alloc(3).tolist() == [11, 71, 141]
    assert calls == ["grow_batch"]


def test_a_request_that_lost_all_its_pages_begins_anew() -> None:
    allocator = HostAllocator(100)
    with asking(allocator, [1, 2], [5, 5]):
        slots = allocator.alloc(10)
    allocator.free(slots[:5])
    with asking(allocator, [1, 2], [1, 1]):
        grown = allocator.alloc(2)
    assert grown[1] == slots[9] + 1 and grown[0] not in slots[5:]
    assert allocator.available_size() == 93
    allocator.free(np.concatenate((slots[5:], grown)))
    allocator.end(1)
    allocator.end(2)
    allocator.end(99)
    assert allocator.available_size() == 100


def test_room_is_bounded_and_never_refuses() -> None:
    allocator = HostAllocator(20_000)
    with asking(allocator, [1], [10], [10**9]):
        allocator.alloc(10)
    assert allocator._pages._pool.stats().pages_reserved == MOST_ROOM
    assert len(allocator.alloc(19_990)) == 19_990


def test_groups_free_at_their_end() -> None:
    allocator = HostAllocator(64, 4)
    slots = allocator.alloc(32)
    allocator.free_group_begin()
    with pytest.raises(AssertionError, match="nested"):
        allocator.free_group_begin()
    changed = slots[:6].copy()
    allocator.free(changed)
    changed[:] = 0  # sglang frees views of a table that it goes on to write
    allocator.free(slots[6:12])  # shares a page with the first
    allocator.free_page_ids(slots[12:16:4] // 4)
    assert allocator.available_size() == 32
    allocator.free_group_end()
    assert allocator.available_size() == 48
    allocator.free_group_end()


@pytest.mark.parametrize("wrong", [[3, 3], [0], [11]], ids=["twice", "padding", "beyond"])
def test_a_free_that_would_lend_a_slot_twice_is_refused(wrong: list[int]) -> None:
    allocator = HostAllocator(10)
    allocator.alloc(6)
    allocator.free(np.array(wrong))
    allocator.free(np.array([5]))
    with pytest.raises(mooncake.MooncakeError, match=str(wrong[0])):
        allocator.alloc(1)
    assert allocator.available_size() == 5  # the good one is back
    allocator.free(np.array([5]))
    with pytest.raises(mooncake.MooncakeError, match="page 5"):
        allocator.merge_and_sort_free()


class Slow:
    """Arrays whose copies to the host end when asked for; notes the order of things."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def begin(self, tensor: Any) -> Any:
        self.log.append(f"begin {tensor}")
        return lambda: self.log.append(f"wait {tensor}") or np.array(tensor)


def test_frees_do_not_wait() -> None:
    arrays = Slow()
    frees = Frees(arrays, 4)  # type: ignore[arg-type]
    frees.pages([1, 2])
    frees.pages([7])
    assert frees.count == 3 and arrays.log == ["begin [1, 2]", "begin [7]"]
    assert [pages.tolist() for pages in frees.take()] == [[1, 2], [7]]
    assert frees.count == 0 and arrays.log[2:] == ["wait [1, 2]", "wait [7]"]
    frees.slots([16, 17, 21])  # how many pages these are is not known before
    assert arrays.log[4:] == ["begin [16, 17, 21]"]
    assert frees.count == 2 and arrays.log[5:] == ["wait [16, 17, 21]"]
    assert [pages.tolist() for pages in frees.take()] == [[4, 5]]


class Gpu:
    """The calls that TorchArrays makes to torch for a tensor on a CUDA device, in order."""

    int64 = "int64"

    def __init__(self) -> None:
        self.log: list[str] = []
        self.cuda = SimpleNamespace(
            Event=lambda: SimpleNamespace(
                record=lambda stream: self.log.append(f"record on {stream}"),
                synchronize=lambda: self.log.append("synchronize"),
            ),
            current_stream=lambda device: f"stream of {device.type}",
        )

    def empty(self, shape: int, dtype: str, pin_memory: bool) -> Any:
        assert dtype == "int64" and pin_memory
        data = np.zeros(shape, dtype=np.int64)

        def copy(tensor: Any, non_blocking: bool) -> None:
            assert non_blocking
            self.log.append("copy")
            data[:] = tensor.data

        return SimpleNamespace(copy_=copy, numpy=lambda: data)


def test_copies_from_a_gpu_are_waited_for_only_when_needed() -> None:
    """Only the order of calls: there is no GPU here."""
    arrays = object.__new__(TorchArrays)
    gpu = arrays._torch = Gpu()
    tensor = SimpleNamespace(device=SimpleNamespace(type="cuda"), shape=3, data=np.array([4, 5, 6]))
    tensor.to = lambda dtype: tensor
    numbers = arrays.begin(tensor)
    assert gpu.log == ["copy", "record on stream of cuda"]
    assert numbers().tolist() == [4, 5, 6] and gpu.log[2:] == ["synchronize"]


def test_lengths_that_do_not_add_up_are_refused() -> None:
    allocator = HostAllocator(64, 4)
    with pytest.raises(ValueError, match="9 tokens asked for, the lengths say 8"):
        allocator.alloc_extend([0], [0], [8], [8], np.array([-1]), 9)
    assert allocator.available_size() == 64
