"""mooncake.engine.TransferEngine: peers that die and come back, variables, threads."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kit import (
    Pages,
    clean,
    environment,
    free_port,
    pattern,
    python,
    skip_or_fail,
    wait_until,
    within,
)
from mooncake.engine import TransferEngine
from peers import Peer

SIZE = 1 << 16


@pytest.fixture
def one(drop_in: Callable[..., Any]) -> Any:
    return drop_in()


@pytest.fixture
def source(one: Any, pages: Callable[..., Pages]) -> Pages:
    memory = pages(SIZE, 1)
    assert one.register_memory(memory.address, SIZE) == 0
    return memory


def test_a_restarted_peer_is_found_again_without_help(
    one: Any, source: Pages, start_peer: Callable[..., Peer]
) -> None:
    """Both of the peer's ports come from a range of two, so it has the same session again."""
    low = free_port(neighbours=2)
    ports = {"MC_MIN_RPC_PORT": str(low), "MC_MAX_RPC_PORT": str(low + 1)}
    old = start_peer(**ports)
    remote = old.memory("kv", SIZE, at=0x6200_0000_0000)
    assert one.transfer_sync_write(old.session, source.address, remote, SIZE) == 0
    for _ in range(3):
        old.kill()
        new = start_peer(**ports)
        if new.session != old.session:  # the two ports may have changed places
            new.kill()
            new = start_peer(rpc_port=int(old.session.rsplit(":")[-1]), **ports)
        assert new.session == old.session
        assert new.memory("kv", SIZE, at=0x6200_0000_0000) == remote
        assert within(5, one.transfer_sync_write, new.session, source.address, remote, SIZE) == 0
        assert new.sha("kv") == source.sha()
        old = new


def test_a_dead_peer_fails_fast_and_is_found_when_it_is_back(
    one: Any, source: Pages, start_peer: Callable[..., Peer]
) -> None:
    port = free_port()
    old = start_peer(rpc_port=port)
    remote = old.memory("kv", SIZE)
    assert one.transfer_sync_write(old.session, source.address, remote, SIZE) == 0
    old.kill()
    for call in (
        lambda: one.transfer_sync_write(old.session, source.address, remote, SIZE),
        lambda: one.batch_transfer_sync_read(old.session, [source.address], [remote], [8]),
        lambda: one.send_probe(old.session),
    ):
        began = time.monotonic()
        assert within(5, call) < 0
        assert time.monotonic() - began < 3
    assert one.transfer_submit_write(old.session, source.address, remote, 8) == 0
    assert one.get_first_buffer_address(old.session) == 0
    new = start_peer(rpc_port=port)
    remote = new.memory("kv", SIZE)
    assert within(2, one.send_probe, new.session) == 0
    assert one.transfer_sync_write(new.session, source.address, remote, SIZE) == 0
    assert new.sha("kv") == source.sha()


def test_peer_killed_while_a_call_waits(one: Any, pages: Callable[..., Pages], peer: Peer) -> None:
    big = pages(64 << 20, 2)
    assert one.register_memory(big.address, big.size) == 0
    remote = peer.memory("kv", big.size)
    assert one.transfer_sync_write(peer.session, big.address, remote, 64) == 0
    peer.freeze()
    number = one.transfer_submit_write(peer.session, big.address, remote, big.size)
    assert number > 0 and one.transfer_check_status(number) == 0
    began = time.monotonic()
    peer.kill()
    assert within(5, one.get_batch_transfer_status, [number]) == -1
    assert time.monotonic() - began < 3


def test_failures_go_to_the_log_and_do_not_flood_it(
    one: Any, source: Pages, caplog: pytest.LogCaptureFixture
) -> None:
    to = f"127.0.0.1:{free_port()}"
    with caplog.at_level(logging.WARNING, "mooncake"):
        for _ in range(50):
            assert one.transfer_sync_write(to, source.address, 4096, 8) == -1
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1, lines
    assert to in lines[0] and "transfer_sync_write" in lines[0]


def test_variables_set_after_import_are_seen(drop_in: Callable[..., Any]) -> None:
    """os.environ is written through to the C library, which the engine asks."""
    low = free_port(neighbours=2)
    with environment(MC_MIN_RPC_PORT=str(low), MC_MAX_RPC_PORT=str(low + 1)):
        assert drop_in().get_rpc_port() in (low, low + 1)
    assert 15000 <= drop_in().get_rpc_port() <= 17000


FORCED = """
import os, sys
from mooncake.engine import TransferEngine
if sys.argv[1:]:
    os.environ["MC_FORCE_TCP"] = sys.argv[1]
engine = TransferEngine()
assert engine.initialize("127.0.0.1", "P2PHANDSHAKE", "rdma", "") == 0
buffer = engine.allocate_managed_buffer(8192)
to = f"127.0.0.1:{engine.get_rpc_port()}"
assert engine.transfer_sync_write(to, buffer, buffer + 4096, 4096) == 0
"""


@pytest.mark.parametrize("value", ["1", "true", ""])
def test_force_tcp_wins_over_rdma(value: str) -> None:
    """Whatever its value, and though it was set after the import. Without it the engine says
    that it falls back."""
    clean(python(FORCED, value))
    without = python(FORCED)
    assert without.returncode == 0, without
    if Path("/sys/class/infiniband").exists():
        skip_or_fail("no-rdma", "this host has RDMA devices: there may be no fall-back to see")
    assert without.stderr.count("rdma was asked for") == 1
    assert len(without.stderr.splitlines()) == 1


def test_the_transfer_timeout_is_honoured(
    drop_in: Callable[..., Any], pages: Callable[..., Pages], peer: Peer
) -> None:
    with environment(MC_TRANSFER_TIMEOUT="5"):
        e = drop_in()
    big = pages(64 << 20)
    assert e.register_memory(big.address, big.size) == 0
    remote = peer.memory("kv", big.size)
    assert e.transfer_sync_write(peer.session, big.address, remote, 64) == 0
    peer.freeze()
    number = e.transfer_submit_write(peer.session, big.address, remote, big.size)
    began = time.monotonic()
    assert within(15, e.transfer_sync_write, peer.session, big.address, remote, big.size) == -1
    assert 5 <= time.monotonic() - began < 9
    wait_until(lambda: e.batch_transfer_poll([number]) != [1], "the other has ended, too")
    assert e.transfer_check_status(number) == -2, "out of time"


def test_sixteen_threads(drop_in: Callable[..., Any], pages: Callable[..., Pages]) -> None:
    one, other = drop_in(), drop_in()
    to = f"127.0.0.1:{other.get_rpc_port()}"
    threads, rounds, block = 16, 25, 4096
    here, there = pages(threads * SIZE, 3), pages(threads * SIZE)
    assert one.register_memory(here.address, here.size) == 0
    assert other.register_memory(there.address, there.size) == 0
    failures: list[object] = []
    start = threading.Barrier(threads)

    def work(number: int) -> None:
        mine = range(number * SIZE, (number + 1) * SIZE, block)
        a, b = [here.address + o for o in mine], [there.address + o for o in reversed(mine)]
        start.wait(10)
        for turn in range(rounds):
            small = one.transfer_sync_read(to, a[0], b[-1], 8) if turn else 0
            if one.batch_transfer_sync_write(to, a, b, [block] * len(a)) or small:
                failures.append((number, turn))

    workers = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert not worker.is_alive()
    assert failures == []
    shape = (threads, SIZE // block, block)
    assert (there.array.reshape(shape) == here.array.reshape(shape)[:, ::-1]).all()
    assert one.get_engine().stats().batches_open == 0


def test_first_use_of_a_session_by_many_threads(
    drop_in: Callable[..., Any], source: Pages, one: Any, pages: Callable[..., Pages]
) -> None:
    other = drop_in()
    to = f"127.0.0.1:{other.get_rpc_port()}"
    there = pages(SIZE)
    assert other.register_memory(there.address, SIZE) == 0
    results: list[int] = []
    start = threading.Barrier(16)

    def work() -> None:
        start.wait(10)
        results.append(one.transfer_sync_write(to, source.address, there.address, SIZE))

    workers = [threading.Thread(target=work) for _ in range(16)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(20)
    assert results == [0] * 16
    assert there.sha() == source.sha()


def test_loopback_to_itself(one: Any, source: Pages) -> None:
    to = f"127.0.0.1:{one.get_rpc_port()}"
    half = SIZE // 2
    data = pattern(SIZE, 1).tobytes()
    assert one.transfer_sync_write(to, source.address, source.address + half, half) == 0
    assert source.bytes() == data[:half] * 2
    assert one.transfer_sync_read(to, source.address, source.address + half + 8, 8) == 0
    assert source.bytes(0, 8) == data[8:16]


def test_several_engines_in_a_process(drop_in: Callable[..., Any]) -> None:
    engines = [drop_in() for _ in range(8)]
    assert len({e.get_rpc_port() for e in engines}) == 8
    memory = [Pages(SIZE, seed) for seed in range(8)]
    for e, m in zip(engines, memory, strict=True):
        assert e.register_memory(m.address, SIZE) == 0
    # The same memory may be registered with several engines.
    assert engines[0].register_memory(memory[1].address, SIZE) == 0
    for i, e in enumerate(engines[:-1]):
        to = f"127.0.0.1:{engines[i + 1].get_rpc_port()}"
        assert e.transfer_sync_write(to, memory[i].address, memory[i + 1].address, SIZE) == 0
    assert len({m.sha() for m in memory}) == 1


def test_an_engine_that_is_collected_is_closed(drop_in: Callable[..., Any]) -> None:
    e = TransferEngine()
    assert e.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", "") == 0
    native, to = e.get_engine(), f"127.0.0.1:{e.get_rpc_port()}"
    prober = drop_in()
    assert prober.send_probe(to) == 0
    del e
    gc.collect()
    assert native.closed
    assert prober.send_probe(to) == -102
