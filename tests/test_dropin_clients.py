"""The calls that sglang and vLLM make, in their order and shape, through the module only."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from kit import Pages, within
from peers import Peer

LAYERS = 64  # buffers of a rank: K and V of 32 layers
TOKENS = 512  # slots of a buffer
ROW = 256  # bytes of a token in a buffer
AUX_ROWS = [64, 64, 64, 64, 512, 512, 64, 128, 64, 64]  # 1600 bytes in all


@pytest.fixture
def engine_class() -> Any:
    """The class as a client gets it: by name, after a look whether it is there."""
    assert importlib.util.find_spec("mooncake.engine") is not None
    return importlib.import_module("mooncake.engine").TransferEngine


class Rank:
    """What sglang's MooncakeTransferEngine wrapper keeps, and how it calls."""

    def __init__(self, engine_class: Any, protocol: str) -> None:
        self.engine = engine_class()
        if self.engine.initialize("127.0.0.1", "P2PHANDSHAKE", protocol, "") != 0:
            raise RuntimeError("Mooncake Transfer Engine initialization failed.")
        self.session_id = f"127.0.0.1:{self.engine.get_rpc_port()}"

    def batch_register(self, pointers: list[int], lengths: list[int]) -> int:
        try:
            result: int = self.engine.batch_register_memory(pointers, lengths)
        except Exception:
            result = -1
        return result

    def transfer(self, session: str, ours: Any, theirs: Any, lengths: Any) -> int:
        try:
            result: int = self.engine.batch_transfer_sync_write(session, ours, theirs, lengths)
        except Exception:
            result = -1
        return result

    def close(self) -> None:
        within(20, self.engine.get_engine().close)


def groups(ours: np.ndarray, theirs: np.ndarray) -> list[tuple[int, int, int]]:
    """Runs in which both sides' indices grow by one: (our first, their first, length)."""
    cuts = np.where((np.diff(ours) != 1) | (np.diff(theirs) != 1))[0] + 1
    parts = zip(np.split(ours, cuts), np.split(theirs, cuts), strict=True)
    return [(int(a[0]), int(b[0]), len(a)) for a, b in parts]


@pytest.fixture
def prefill(engine_class: Any) -> Iterator[Rank]:
    rank = Rank(engine_class, "rdma")
    yield rank
    rank.close()


def page_runs(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Page indices of a request, in runs of a few, as int32."""
    random = np.random.default_rng(seed)
    runs = random.permutation(TOKENS // 4)[: count // 4]
    ours = (runs[:, None] * 4 + np.arange(4)).reshape(-1)
    theirs = np.where(random.random(count) < 0.9, ours, np.roll(ours, 1))
    theirs = np.unique(theirs)
    return ours[: len(theirs)].astype(np.int32), theirs.astype(np.int32)


def test_sglang_prefill_and_decode(prefill: Rank, peer: Peer, pages: Callable[..., Pages]) -> None:
    """One registration of 64 KV buffers and the aux tensors; for each chunk one call with
    an entry for each layer and run; then one aux call of 10 entries."""
    buffer = TOKENS * ROW
    aux = sum(AUX_ROWS) * 8
    ours = pages(LAYERS * buffer + aux, 1)
    pointers = [ours.address + i * buffer for i in range(LAYERS)]
    assert (
        prefill.batch_register([*pointers, pointers[-1] + buffer], [*[buffer] * LAYERS, aux]) == 0
    )
    assert prefill.batch_register(pointers[:1], [buffer]) == -7, "again"
    theirs = peer.memory("kv", ours.size)
    expected = np.zeros(ours.size, dtype=np.uint8)
    for chunk in range(4):
        a, b = page_runs(chunk, 200)
        entries = [
            (layer * buffer + i * ROW, layer * buffer + j * ROW, n * ROW)
            for layer in range(LAYERS)
            for i, j, n in groups(a, b)
        ]
        assert len(entries) > 1000
        for i, j, n in entries:
            expected[j : j + n] = ours.array[i : i + n]
        lists = zip(*((ours.address + i, theirs + j, n) for i, j, n in entries), strict=True)
        assert prefill.transfer(peer.session, *map(list, lists)) == 0
    at = LAYERS * buffer + np.concatenate([[0], np.cumsum(np.array(AUX_ROWS) * 8)[:-1]])
    ours_aux = [int(o + 3 * row) for o, row in zip(at, AUX_ROWS, strict=True)]
    theirs_aux = [int(o + 5 * row) for o, row in zip(at, AUX_ROWS, strict=True)]
    for i, j, n in zip(ours_aux, theirs_aux, AUX_ROWS, strict=True):
        expected[j : j + n] = ours.array[i : i + n]
    local, remote = [ours.address + i for i in ours_aux], [theirs + j for j in theirs_aux]
    assert prefill.transfer(peer.session, local, remote, AUX_ROWS) == 0
    ours.array[:] = expected
    assert peer.sha("kv") == ours.sha()


def test_sglang_session_is_blacklisted_and_probed(
    prefill: Rank, start_peer: Callable[..., Peer], pages: Callable[..., Pages]
) -> None:
    memory = pages(4096, 1)
    assert prefill.engine.register_memory(memory.address, 4096) == 0
    decode = start_peer()
    remote = decode.memory("kv", 4096)
    assert prefill.transfer(decode.session, [memory.address], [remote], [4096]) == 0
    probe = getattr(prefill.engine, "send_probe", None)
    assert probe is not None and probe(decode.session) == 0
    assert int(decode.session.rsplit(":", 1)[1]) > 0
    decode.kill()
    assert prefill.transfer(decode.session, [memory.address], [remote], [4096]) != 0
    assert probe(decode.session) != 0
    back = start_peer(rpc_port=int(decode.session.rsplit(":", 1)[1]))
    remote = back.memory("kv", 4096)
    assert probe(back.session) == 0
    assert prefill.transfer(back.session, [memory.address], [remote], [4096]) == 0
    assert back.sha("kv") == memory.sha()


def test_sglang_registers_while_it_transfers(
    prefill: Rank, peer: Peer, pages: Callable[..., Pages]
) -> None:
    """Encoder embeddings: register, send, deregister for each request, beside the KV calls."""
    kv, images = pages(1 << 20, 1), pages(1 << 20, 2)
    assert prefill.batch_register([kv.address], [kv.size]) == 0
    theirs, embeddings = peer.memory("kv", kv.size), peer.memory("embeddings", images.size)
    blocks = range(0, kv.size, 1024)
    a, b = [kv.address + o for o in blocks], [theirs + o for o in reversed(blocks)]

    def image(i: int) -> Any:
        at, size = images.address + i * 8192, 8192
        return (
            prefill.engine.register_memory(at, size)
            or prefill.engine.transfer_sync_write(peer.session, at, embeddings + i * size, size)
            or prefill.engine.unregister_memory(at)
        )

    with ThreadPoolExecutor(5) as pool:
        calls = [
            pool.submit(prefill.transfer, peer.session, a, b, [1024] * len(a)) for _ in range(20)
        ]
        calls += [pool.submit(image, i) for i in range(images.size // 8192)]
        assert {call.result(60) for call in calls} == {0}
    assert peer.sha("embeddings") == images.sha()


def test_sglang_remote_weights(prefill: Rank, peer: Peer, pages: Callable[..., Pages]) -> None:
    """One read with an entry for each parameter, of very different sizes; empty reads too."""
    sizes = [4, 12, 4096, 1 << 20, 3 << 20, 2, 6] * 30
    total = sum(sizes)
    ours = pages(total)
    theirs = peer.memory("weights", total, seed=7)
    assert prefill.engine.register_memory(ours.address, total) == 0
    at = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    read = prefill.engine.batch_transfer_sync_read
    assert read(peer.session, [], [], []) == 0
    assert read(
        peer.session, (ours.address + at).tolist(), (theirs + at).tolist(), sizes
    ) == 0  # fmt: skip
    assert ours.sha() == peer.sha("weights")


def test_vllm_connector(engine_class: Any, peer: Peer, pages: Callable[..., Pages]) -> None:
    """A producer: registration once, then ten sender threads, each with all the requests that
    became ready together, halves of blocks that never coalesce."""
    producer = Rank(engine_class, "rdma")
    blocks, half, layers = 128, 2048, 16
    size = layers * blocks * 2 * half
    ours = pages(size, 5)
    theirs = peer.memory("kv", size)
    layer = blocks * 2 * half
    registered = producer.engine.batch_register_memory(
        [ours.address + i * layer for i in range(layers)], [layer] * layers
    )
    if registered != 0:
        raise RuntimeError("Mooncake batch memory registration failed.")
    expected = np.zeros(size, dtype=np.uint8)
    order = np.random.default_rng(4).permutation(blocks)

    def send(number: int) -> int:
        ready = order[number::10]
        src, dst = [], []
        for i in range(layers):
            for block in ready.tolist():
                for part in (0, 1):
                    src.append(ours.address + i * layer + block * 2 * half + part * half)
                    dst.append(theirs + i * layer + (blocks - 1 - block) * 2 * half + part * half)
        return producer.transfer(peer.session, src, dst, [half] * len(src))

    with ThreadPoolExecutor(10, thread_name_prefix="vllm-mooncake-sender") as pool:
        assert list(pool.map(send, range(10))) == [0] * 10
    shape = (layers, blocks, 2 * half)
    expected[:] = ours.array.reshape(shape)[:, ::-1].reshape(-1)
    ours.array[:] = expected
    assert peer.sha("kv") == ours.sha()
    producer.close()
