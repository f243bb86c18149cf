"""mooncake.engine.TransferEngine: registration, managed buffers, byte helpers."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from typing import Any

import pytest
from kit import Pages, pattern

PAGE = 4096


@pytest.fixture
def one(drop_in: Callable[..., Any]) -> Any:
    return drop_in()


@pytest.fixture
def memory(pages: Callable[..., Pages]) -> Pages:
    return pages(16 * PAGE)


def registered(engine: Any) -> int:
    count: int = engine.get_engine().stats().memories
    return count


def test_register_and_unregister(one: Any, memory: Pages) -> None:
    a = memory.address
    assert one.register_memory(a, PAGE) == 0
    assert one.register_memory(buffer_addr=a + PAGE, capacity=PAGE, location="cpu:0") == 0
    assert registered(one) == 2
    assert one.unregister_memory(a) == 0
    assert one.unregister_memory(a) == -3
    assert one.unregister_memory(a + 1) == -3
    assert one.unregister_memory(0) == -3
    assert one.register_memory(a, 2 * PAGE) == -7
    assert one.unregister_memory(buffer_addr=a + PAGE) == 0
    assert one.register_memory(a, 2 * PAGE) == 0, "the same address again"
    assert one.unregister_memory(a) == 0
    assert registered(one) == 0


def test_what_cannot_be_registered(one: Any, memory: Pages) -> None:
    a = memory.address
    for address, length in (
        (a, 0),
        (0, PAGE),
        (0, 0),
        (2**64 - 1, 2),
        (a, 2**64 - 1),
        (PAGE, PAGE),
    ):
        assert one.register_memory(address, length) == -1, (address, length)
        assert one.batch_register_memory([a, address], [PAGE, length]) in (-1, -7)
        assert registered(one) == 0


@pytest.mark.parametrize("shift", [-PAGE, 0, 1, PAGE])
@pytest.mark.parametrize("length", [1, PAGE, 4 * PAGE])
def test_overlaps(one: Any, memory: Pages, shift: int, length: int) -> None:
    start = memory.address + 4 * PAGE
    assert one.register_memory(start, 2 * PAGE) == 0
    begin = start + shift
    touches = begin < start + 2 * PAGE and begin + length > start
    assert one.register_memory(begin, length) == (-7 if touches else 0)
    assert registered(one) == (1 if touches else 2)


def test_a_batch_is_registered_whole_or_not_at_all(one: Any, memory: Pages) -> None:
    a = memory.address
    assert one.register_memory(a + 8 * PAGE, PAGE) == 0
    overlapping = [
        ([a, a + PAGE // 2], [PAGE, PAGE]),  # each other
        ([a, a], [PAGE, PAGE]),
        ([a, a + PAGE, a + 8 * PAGE], [PAGE] * 3),  # what is registered
        ([a, a + 7 * PAGE], [PAGE, 2 * PAGE]),
    ]
    for addresses, lengths in overlapping:
        assert one.batch_register_memory(addresses, lengths) == -7
        assert registered(one) == 1
    assert one.batch_register_memory([a, a + PAGE], [PAGE, 0]) == -1
    assert registered(one) == 1
    assert one.batch_register_memory([a, a + PAGE], [PAGE, PAGE]) == 0, "neighbours are fine"
    assert registered(one) == 3


def test_batch_unregister_ends_what_it_knows(one: Any, memory: Pages) -> None:
    starts = [memory.address + i * PAGE for i in range(4)]
    assert one.batch_register_memory(starts, [PAGE] * 4) == 0
    assert one.batch_unregister_memory([starts[0], 12345, starts[2]]) == -3
    assert registered(one) == 2
    assert one.batch_unregister_memory([starts[1], starts[1]]) == -3
    assert registered(one) == 1
    assert one.batch_unregister_memory(starts[3:]) == 0
    assert registered(one) == 0


def test_several_hundred_regions(one: Any, pages: Callable[..., Pages]) -> None:
    many = pages(600 * PAGE)
    starts = [many.address + i * PAGE for i in range(600)]
    assert one.batch_register_memory(starts, [PAGE] * 600) == 0
    assert registered(one) == 600
    assert one.batch_unregister_memory(starts) == 0


def test_a_failed_registration_is_an_error_in_the_log(
    one: Any, memory: Pages, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "mooncake"):
        assert one.register_memory(memory.address, 0) == -1
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert f"{memory.address:#x}" in record.getMessage()


def test_registering_does_not_touch_the_memory(one: Any) -> None:
    big = Pages(1 << 30)  # mapped, and without a page until somebody writes

    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * PAGE

    before = resident()
    assert one.register_memory(big.address, big.size) == 0
    assert one.unregister_memory(big.address) == 0
    assert resident() - before < 64 << 20


@pytest.mark.parametrize("length", [1, 100, 8192, 8193, 1 << 20, (256 << 20) + 1])
def test_managed_buffers(one: Any, length: int) -> None:
    address = one.allocate_managed_buffer(length)
    assert address > 0
    data = pattern(min(length, 100), 1).tobytes()
    assert one.write_bytes_to_buffer(address + length - len(data), data, len(data)) == 0
    assert one.read_bytes_from_buffer(address + length - len(data), len(data)) == data
    assert one.free_managed_buffer(address + 1, length) == -1
    assert one.free_managed_buffer(address, length * 2 + 8192 if length < 1 << 28 else 8192) == -1
    assert one.free_managed_buffer(address, length) == 0
    assert one.free_managed_buffer(address, length) == -1


def test_managed_buffers_are_disjoint_and_reused(one: Any) -> None:
    sizes = [8192, 100, 65536, 8192, 1 << 20, 30000] * 5
    found = sorted((one.allocate_managed_buffer(size), size) for size in sizes)
    for (start, size), (after, _) in itertools.pairwise(found):
        assert start + size <= after
    mappings = registered(one)
    for start, size in found:
        assert one.free_managed_buffer(start, size) == 0
    again = {one.allocate_managed_buffer(size) for size in sizes}
    assert len(again) == len(sizes)
    assert registered(one) == mappings


def test_managed_buffers_that_cannot_be(one: Any) -> None:
    assert one.allocate_managed_buffer(2**62) == 0
    assert one.allocate_managed_buffer(2**63) == 0
    assert one.allocate_managed_buffer(2**64 - 1) == 0
    assert one.free_managed_buffer(0, 1) == -1


def test_managed_buffers_are_transferred(drop_in: Callable[..., Any], one: Any) -> None:
    other = drop_in()
    to = f"127.0.0.1:{other.get_rpc_port()}"
    source, target = one.allocate_managed_buffer(1000), other.allocate_managed_buffer(1000)
    assert one.write_bytes_to_buffer(source, "Grüße", 7) == 0
    assert one.transfer_sync_write(to, source, target, 7) == 0
    assert other.read_bytes_from_buffer(target, 7) == "Grüße".encode()
    first = one.get_first_buffer_address(to)
    assert first <= target < first + (64 << 20)


def test_byte_helpers_refuse_what_is_not_registered(one: Any, memory: Pages) -> None:
    a = memory.address
    assert one.register_memory(a, PAGE) == 0
    assert one.write_bytes_to_buffer(a, b"0123456789", 10) == 0
    assert one.read_bytes_from_buffer(source_address=a + 2, length=3) == b"234"
    assert one.write_bytes_to_buffer(dest_address=a, src=b"abc", length=2) == 0
    assert memory.bytes(0, 4) == b"ab23"
    assert one.write_bytes_to_buffer(a, b"abc", 4) == -1, "more than there is"
    assert one.read_bytes_from_buffer(a, 0) == b""
    for length in (PAGE + 1, 2**63, 2**64 - 1):
        with pytest.raises(ValueError, match="not registered"):
            one.read_bytes_from_buffer(a, length)
    for address, length in ((a + PAGE - 1, 2), (a - 1, 2), (0, 1), (2**64 - 1, 2)):
        assert one.write_bytes_to_buffer(address, b"xx", length) == -1
        with pytest.raises(ValueError, match="not registered"):
            one.read_bytes_from_buffer(address, length)
    assert memory.bytes(PAGE - 1, 3) == bytes(3)


def test_get_first_buffer_address(drop_in: Callable[..., Any], one: Any, memory: Pages) -> None:
    to = f"127.0.0.1:{one.get_rpc_port()}"
    asker = drop_in()
    assert asker.get_first_buffer_address(to) == 0
    assert one.register_memory(memory.address + PAGE, PAGE) == 0
    assert asker.get_first_buffer_address(to) == memory.address + PAGE
    assert one.get_first_buffer_address(to) == memory.address + PAGE
    assert one.unregister_memory(memory.address + PAGE) == 0
    assert asker.get_first_buffer_address(to) == 0
