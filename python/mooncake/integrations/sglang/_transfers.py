"""Hands page groups to the engine where sglang expands pages into blocks.

sglang's own functions still choose which buffer goes to which, and check that they may:
they are run once for a single page 0, whose blocks are the layers, and what they would
send is noted instead of sent. The layers and the real page lists are then one group.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np

from ... import Layer, PageGroup

logger = logging.getLogger("mooncake")

Call = Callable[..., Any]
Block = tuple[int, int, int]  # source, destination, length

_PAGE_0 = np.zeros(1, dtype=np.int32)


class _Noting:
    """A KV manager that notes blocks instead of sending them, and is its own engine."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self.blocks: list[list[Block]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)

    def _transfer_data(self, session: str, blocks: list[Block]) -> int:
        self.blocks.append(blocks)
        return 0

    @property
    def engine(self) -> _Noting:
        return self

    def batch_transfer_sync(
        self, session: str, sources: list[int], destinations: list[int], lengths: list[int]
    ) -> int:
        return self._transfer_data(session, list(zip(sources, destinations, lengths, strict=True)))


class _AtOnce:
    """An executor that runs what it is given before it returns."""

    def submit(self, call: Call, *args: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(call(*args))
        return done


def for_pages(original: Call) -> Call:
    """_send_kvcache_generic: pages of MHA or MLA layers, and of state that is paged."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    def send(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = signature.bind(self, *args, **kwargs)
        given = call.arguments
        local, remote = given["prefill_data_indices"], given["dst_data_indices"]
        engine = _engine_of(self)
        if (
            engine is None
            or given.get("dst_device_data_indices") is not None  # two lists of pages at once
            or not 0 < len(local) == len(remote)
        ):
            return original(self, *args, **kwargs)
        given["self"] = noting = _Noting(self)
        given["prefill_data_indices"] = given["dst_data_indices"] = _PAGE_0
        status = original(*call.args, **call.kwargs)
        if status != 0:
            return status
        if not noting.blocks:
            return original(self, *args, **kwargs)  # what it sends it sends in another way
        layers = [Layer(a, b, n, n, n) for blocks in noting.blocks for a, b, n in blocks]
        return _send(engine, given["mooncake_session_id"], PageGroup(local, remote, layers))

    return send


def for_slices(original: Call) -> Call:
    """send_kvcache_slice: of every token some heads, when the two sides' TP sizes differ."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    def send(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = signature.bind(self, *args, **kwargs)
        given = call.arguments
        local, remote = given["prefill_kv_indices"], given["dst_kv_indices"]
        size = self.kv_args.page_size
        strides = self.kv_args.kv_item_lens[0], given["dst_kv_item_len"]  # of pages
        engine = _engine_of(self)
        if (
            engine is None
            or not 0 < len(local) == len(remote)
            or any(stride % size for stride in strides)
        ):
            return original(self, *args, **kwargs)
        given["self"] = noting = _Noting(self)
        given["prefill_kv_indices"] = given["dst_kv_indices"] = _PAGE_0
        given["executor"] = _AtOnce()
        status = original(*call.args, **call.kwargs)
        if status != 0:
            return status
        if not noting.blocks:
            return original(self, *args, **kwargs)  # what it sends it sends in another way
        here, there = (stride // size for stride in strides)
        # A layer's blocks are the tokens of page 0, so its first says where tokens begin.
        layers = [
            Layer(a, b, here, there, n) for a, b, n in (blocks[0] for blocks in noting.blocks)
        ]
        group = PageGroup(_tokens(local, size), _tokens(remote, size), layers)
        return _send(engine, given["mooncake_session_id"], group)

    return send


def _engine_of(manager: Any) -> Any:
    """The drop-in engine of a KV manager; None if it has another, or memory of its own kind."""
    if getattr(manager, "enable_custom_mem_pool", False):
        return None
    engine = getattr(manager.engine, "engine", None)
    return engine if hasattr(engine, "transfer_pages_sync_write") else None


def _send(engine: Any, session: str, group: PageGroup) -> int:
    """0, or -1: as sglang's wrapper of the engine does, no exception gets out, for it would
    end the thread that sends."""
    try:
        status: int = engine.transfer_pages_sync_write(session, [group])
    except Exception:
        logger.exception("sglang: page group to %s", session)
        return -1
    return status


def _tokens(pages: Any, page_size: int) -> Any:
    """The numbers of all tokens of pages, as pages of one token."""
    if page_size == 1:
        return pages
    first = np.asarray(pages, dtype=np.int64)[:, None] * page_size
    return (first + np.arange(page_size)).reshape(-1)
