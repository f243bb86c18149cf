"""sglang's own transfer functions with page groups below them: the bytes are the same."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sources
from kit import POISON, Pages, within
from stage_sglang import Sglang

from mooncake.integrations.sglang import install, uninstall

PAGES = 96


class Link:
    """A prefill server's KV manager and the memory of a decode server, each with an engine."""

    def __init__(
        self, sglang: Sglang, drop_in: Callable[..., Any], pages: Callable[..., Pages], **shape: int
    ) -> None:
        self.buffers, self.page_size = shape["buffers"], shape["page_size"]
        self.here, self.there = shape["here"], shape["there"]  # bytes of a page on either side
        self.source = pages(self.buffers * PAGES * self.here, 1)
        self.target = pages(self.buffers * PAGES * self.there)
        self.engine, self.peer = drop_in(), drop_in()
        assert self.engine.register_memory(self.source.address, self.source.size) == 0
        assert self.peer.register_memory(self.target.address, self.target.size) == 0
        self.session = f"127.0.0.1:{self.peer.get_rpc_port()}"
        self.calls: list[str] = []
        self.manager = self._manager(sglang)

    def _manager(self, sglang: Sglang) -> Any:
        device = "distributed.device_communicators.mooncake_transfer_engine"
        wrapper = sglang.module(device).MooncakeTransferEngine
        held = object.__new__(wrapper)
        held.engine = Spy(self.engine, self.calls)
        manager = object.__new__(sglang.module("disaggregation.mooncake.conn").MooncakeKVManager)
        manager.__dict__.update(
            engine=held,
            attn_tp_size=2,
            pp_size=1,
            is_mla_backend=False,
            is_hybrid_mla_backend=False,
            enable_custom_mem_pool=False,
            custom_mem_pool_type=None,
            max_transfer_batch_indices=0,
            enable_deferred_decode_kv_release=False,
            state_strides_validated=set(),
            kv_args=SimpleNamespace(
                kv_data_ptrs=self.pointers(self.source, self.here),
                kv_item_lens=[self.here] * self.buffers,
                kv_layer_ids=[],
                page_size=self.page_size,
                prefill_start_layer=0,
                engine_rank=0,
                kv_head_num=4,
                total_kv_head_num=8,
            ),
        )
        return manager

    def pointers(self, memory: Pages, item: int) -> list[int]:
        return [memory.address + i * PAGES * item for i in range(self.buffers)]

    def send(self, name: str, local: Any, remote: Any, **more: Any) -> Any:
        """What the peer's memory is after a transfer, and its status."""
        self.target.fill(POISON)
        self.calls.clear()
        with concurrent.futures.ThreadPoolExecutor(2) as executor:
            status = within(
                20,
                getattr(self.manager, name),
                mooncake_session_id=self.session,
                executor=executor,
                **more,
                **self._lists(name, local, remote),
            )
        return status, self.target.bytes()

    def _lists(self, name: str, local: Any, remote: Any) -> dict[str, Any]:
        local, remote = (np.asarray(side, dtype=np.int32) for side in (local, remote))
        there = self.pointers(self.target, self.there)
        if name == "send_kvcache_slice":
            return {
                "prefill_kv_indices": local,
                "dst_kv_indices": remote,
                "dst_kv_ptrs": there,
                "dst_kv_item_len": self.there,
            }
        return {
            "src_data_ptrs": self.pointers(self.source, self.here),
            "dst_data_ptrs": there,
            "item_lens": [self.here] * self.buffers,
            "prefill_data_indices": local,
            "dst_data_indices": remote,
        }


class Spy:
    """A drop-in engine that notes which of its methods were called."""

    def __init__(self, engine: Any, calls: list[str]) -> None:
        self._engine, self._calls = engine, calls

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._engine, name)

        def call(*given: Any) -> Any:
            self._calls.append(name)
            return method(*given)

        return call


@pytest.fixture(autouse=True)
def back() -> Iterator[None]:
    yield
    uninstall()


@pytest.fixture
def link(sglang: Sglang, drop_in: Callable[..., Any], pages: Callable[..., Pages]) -> Any:
    def make(**shape: int) -> Link:
        sglang.module(
            "disaggregation.common.staging_buffer"
        ).compute_head_slice_params = sources.function_of(
            sglang.version,
            "sglang.srt.disaggregation.common.staging_buffer",
            "compute_head_slice_params",
        )
        return Link(sglang, drop_in, pages, **shape)

    return make


def page_lists(seed: int) -> list[tuple[Any, Any]]:
    """Pairs of page lists: runs on both sides, on one, on none, one page, all backwards."""
    rng = np.random.default_rng(seed)
    runs = np.arange(10, 50)
    scattered = rng.permutation(PAGES)[:40]
    return [
        (runs, runs + 20),
        (runs, scattered),
        (scattered, runs),
        (scattered, rng.permutation(PAGES)[:40]),
        ([7], [95]),
        (runs[::-1], runs[::-1]),
    ]


@pytest.mark.parametrize("mla", [False, True], ids=["mha", "mla"])
@pytest.mark.parametrize("page_size", [1, 16])
def test_pages_arrive_as_sglangs_own_blocks_do(link: Any, mla: bool, page_size: int) -> None:
    one = link(buffers=4, page_size=page_size, here=128 * page_size, there=128 * page_size)
    one.manager.is_mla_backend = mla
    for local, remote in page_lists(page_size):
        wanted = one.send("_send_kvcache_generic", local, remote)
        assert wanted[0] == 0 and one.calls == ["batch_transfer_sync_write"]
        assert sum(np.frombuffer(wanted[1], np.uint8) != POISON) > 4 * len(local) * 100
        install("groups")
        assert one.send("_send_kvcache_generic", local, remote) == wanted
        assert one.calls == ["transfer_pages_sync_write"]
        uninstall()


@pytest.mark.parametrize("page_size", [1, 4])
@pytest.mark.parametrize("ranks", [(4, 0), (4, 1), (1, 0)], ids=["4-0", "4-1", "1-0"])
def test_head_slices_arrive_too(link: Any, page_size: int, ranks: tuple[int, int]) -> None:
    """4 heads of 32 bytes a token on this side, 2 or 8 on the other."""
    size, rank = ranks
    heads = 8 // size
    one = link(buffers=4, page_size=page_size, here=128 * page_size, there=32 * heads * page_size)
    more = {"dst_tp_rank": rank, "dst_attn_tp_size": size}
    for local, remote in page_lists(3):
        wanted = one.send("send_kvcache_slice", local, remote, **more)
        assert wanted[0] == 0 and one.calls == ["batch_transfer_sync_write"] * 4
        moved = sum(np.frombuffer(wanted[1], np.uint8) != POISON)
        assert moved == 4 * len(local) * page_size * 32 * min(heads, 4)
        install("groups")
        assert one.send("send_kvcache_slice", local, remote, **more) == wanted
        assert one.calls == ["transfer_pages_sync_write"]
        uninstall()


def test_what_is_no_page_group_goes_as_before(link: Any, sglang: Sglang) -> None:
    install("groups")
    one = link(buffers=4, page_size=1, here=128, there=128)
    pages = np.arange(8)
    assert one.send("_send_kvcache_generic", [], []) == (0, bytes([POISON]) * one.target.size)
    assert one.calls == []
    with pytest.raises(ValueError, match="equal-length"):
        one.send("_send_kvcache_generic", pages, pages[:4])
    one.manager.enable_custom_mem_pool = True  # NVLink: a call for each layer, in threads
    assert one.send("_send_kvcache_generic", pages, pages)[0] == 0
    assert one.calls == ["batch_transfer_sync_write"] * 4
    one.manager.enable_custom_mem_pool = False
    one.manager.engine.engine = SimpleNamespace(  # another package's engine
        batch_transfer_sync_write=lambda *given: one.calls.append("other") or 0
    )
    assert one.send("_send_kvcache_generic", pages, pages)[0] == 0
    assert one.calls == ["other"]


def test_failures_are_sglangs_to_handle(link: Any) -> None:
    install("groups")
    one = link(buffers=4, page_size=1, here=128, there=128)
    pages = np.arange(8)
    status, memory = one.send("_send_kvcache_generic", pages, pages + PAGES * 4)
    assert status == -1 and memory == bytes([POISON]) * one.target.size
    assert one.send("_send_kvcache_generic", pages, pages)[0] == 0  # and the link still works
    one.manager.engine.engine = SimpleNamespace(transfer_pages_sync_write=None)  # raises
    assert one.send("_send_kvcache_generic", pages, pages)[0] == -1
