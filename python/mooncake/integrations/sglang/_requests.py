"""Tells the allocator whose tokens it is asked for.

At page size 1 sglang asks for a number of slots and says no more, and for pages it gives
lengths only. Around the calls that know the requests these wrappers put what they know,
so that each request grows in place, and a step of decoding is one call of the pool's.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from ._allocator import RunAllocator
from ._pool import Asking

Call = Callable[..., Any]

# The allocator behind each of sglang's request tables, to be told when a row is given back.
_allocators: weakref.WeakKeyDictionary[Any, RunAllocator] = weakref.WeakKeyDictionary()


def for_extend(original: Call) -> Call:
    """alloc_for_extend: the next chunk of every request's prompt."""

    @functools.wraps(original)
    def alloc_for_extend(batch: Any) -> Any:
        allocator = _ours(batch.tree_cache.token_to_kv_pool_allocator, batch.req_to_token_pool)
        if allocator is None:
            return original(batch)
        # Rows are given out within the call, so they are looked up when the slots are.
        with allocator.asking(
            lambda: Asking(
                [req.kv.req_pool_idx for req in batch.reqs],
                batch.extend_lens,
                [
                    _expected(req, before + more)
                    for req, before, more in zip(
                        batch.reqs, batch.prefix_lens, batch.extend_lens, strict=True
                    )
                ],
            )
        ):
            return original(batch)

    return alloc_for_extend


def for_decode(original: Call) -> Call:
    """alloc_for_decode: token_per_req tokens more for every row of a running batch."""

    @functools.wraps(original)
    def alloc_for_decode(batch: Any, token_per_req: int) -> Any:
        allocator = _ours(batch.tree_cache.token_to_kv_pool_allocator, batch.req_to_token_pool)
        if allocator is None:
            return original(batch, token_per_req)
        rows = batch.req_pool_indices_cpu.tolist()
        with allocator.asking(lambda: Asking(rows, [token_per_req] * len(rows))):
            return original(batch, token_per_req)

    return alloc_for_decode


def for_speculation(original: Call) -> Call:
    """alloc_for_spec_decode: up to a length for every request."""

    @functools.wraps(original)
    def alloc_for_spec_decode(
        tree_cache: Any, req_to_token_pool: Any, *, reqs: Any, **rest: Any
    ) -> Any:
        allocator = _ours(tree_cache.token_to_kv_pool_allocator, req_to_token_pool)
        if allocator is None:
            return original(tree_cache, req_to_token_pool, reqs=reqs, **rest)
        tokens = (rest["nxt_kv_lens_cpu"] - rest["cur_kv_lens_cpu"]).tolist()
        with allocator.asking(lambda: Asking([req.kv.req_pool_idx for req in reqs], tokens)):
            return original(tree_cache, req_to_token_pool, reqs=reqs, **rest)

    return alloc_for_spec_decode


def for_arrival(original: Call) -> Call:
    """alloc_for_decode_prealloc: the pages on a decode server that a prefill server is to
    write a prompt to."""

    @functools.wraps(original)
    def alloc_for_decode_prealloc(allocator: Any, *, req: Any, **rest: Any) -> Any:
        ours = _ours(allocator, rest.get("req_to_token_pool"))
        if ours is None:
            return original(allocator, req=req, **rest)
        room = _expected(req, rest["fill_len"])
        with ours.asking(lambda: Asking([req.kv.req_pool_idx], [rest["delta_len"]], [room])):
            return original(allocator, req=req, **rest)

    return alloc_for_decode_prealloc


def ends_rows(original: Call) -> Call:
    """ReqToTokenPool.free_rows: these rows' requests have ended."""

    @functools.wraps(original)
    def free_rows(self: Any, indices: list[int]) -> Any:
        result = original(self, indices)
        _end(self, indices)
        return result

    return free_rows


def ends_request(original: Call) -> Call:
    """DecodeReqToTokenPool.free, which frees a row by itself."""

    @functools.wraps(original)
    def free(self: Any, req: Any) -> Any:
        row = req.kv.req_pool_idx
        result = original(self, req)
        _end(self, [row])
        return result

    return free


def _ours(allocator: Any, table: Any) -> RunAllocator | None:
    """The allocator if it is one of this package's, and remembers that table's rows are its."""
    if not isinstance(allocator, RunAllocator):
        return None
    if table is not None and _allocators.get(table) is not allocator:
        _allocators[table] = allocator
    return allocator


def _end(table: Any, rows: Iterable[int]) -> None:
    allocator = _allocators.get(table)
    if allocator is not None:
        for row in rows:
            allocator.end(row)


def _expected(req: Any, tokens: int) -> int:
    """How many tokens a request that has that many will still want, at most."""
    longest: int = len(req.origin_input_ids) + (req.sampling_params.max_new_tokens or 0)
    return max(0, longest - tokens)
