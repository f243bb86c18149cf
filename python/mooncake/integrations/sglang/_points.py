"""Where sglang is patched, for each release: docs/sglang.md says why."""

from __future__ import annotations

from typing import Any

from . import _requests, _transfers
from ._allocator import RunAllocator
from ._patches import Patch, Target

_SRT = "sglang.srt."
_CACHE = _SRT + "mem_cache."
_MANAGER = _SRT + "disaggregation.mooncake.conn:MooncakeKVManager."

_TOKEN = ("size", "dtype", "device", "kvcache", "need_sort")
_PAGED = ("size", "page_size", *_TOKEN[1:])
_EXTEND = (
    "self", "prefix_lens", "prefix_lens_cpu", "seq_lens", "seq_lens_cpu", "last_loc",
    "extend_num_tokens", "num_new_pages",
)  # fmt: skip
# What RunAllocator replaces, and with which parameters sglang calls it.
_METHODS = {
    "clear": ("self",),
    "available_size": ("self",),
    "alloc": ("self", "need_size"),
    "free": ("self", "free_index"),
    "free_segment": ("self", "free_index", "start_pos"),
    "free_page_ids": ("self", "page_ids"),
    "free_group_begin": ("self",),
    "free_group_end": ("self",),
    "merge_and_sort_free": ("self",),
    "get_all_free_pages": ("self",),
}
_SEND = (
    "self", "mooncake_session_id", "src_data_ptrs", "dst_data_ptrs", "item_lens",
    "prefill_data_indices", "dst_data_indices", "executor", "state_type", "force_flat",
    "src_layer_ids", "dst_layer_ids", "dst_device_data_indices", "dst_device_data_ptrs",
)  # fmt: skip
_SEND_CHECKED = (*_SEND, "dst_item_lens", "bootstrap_room")  # since 0.5.22
_SLICE = (
    "self", "mooncake_session_id", "prefill_kv_indices", "dst_kv_ptrs", "dst_kv_indices",
    "dst_tp_rank", "dst_attn_tp_size", "dst_kv_item_len", "executor", "dst_layer_ids",
)  # fmt: skip
_SPECULATION = (
    "tree_cache", "req_to_token_pool", "reqs", "req_pool_indices", "cur_kv_lens",
    "cur_kv_lens_cpu", "nxt_kv_lens", "nxt_kv_lens_cpu", "num_needed_tokens", "batch",
)  # fmt: skip
_ARRIVAL = (
    "allocator", "req", "fill_len", "delta_len", "prefix_len", "total_prefix_len",
    "prefix_indices", "uses_swa_tail", "swa_tail_len", "req_to_token_pool",
)  # fmt: skip


def on_runs(base: Any) -> type[RunAllocator]:
    """sglang's allocator class with its pages in a run-keeping pool."""
    return type(f"Run{base.__name__}", (RunAllocator, base), {"__module__": __name__})


def page_patches() -> list[Patch]:
    """The allocators where sglang makes its plain pools, and who tells them of requests."""
    looked_at = [
        Target(f"{_CACHE}allocator.{module}:{name}.{method}", parameters)
        for module, name in (
            ("token", "TokenToKVPoolAllocator"),
            ("paged", "PagedTokenToKVPoolAllocator"),
        )
        for method, parameters in _METHODS.items()
    ] + [
        Target(f"{_CACHE}allocator.paged:PagedTokenToKVPoolAllocator.alloc_extend", _EXTEND),
        Target(
            f"{_CACHE}allocator.paged:PagedTokenToKVPoolAllocator.alloc_decode",
            ("self", "seq_lens", "seq_lens_cpu", "last_loc"),
        ),
    ]
    made = f"{_CACHE}kv_cache_configurator:"
    allocation = f"{_CACHE}allocation:"
    return [
        *(Patch(target) for target in looked_at),
        Patch(Target(made + "TokenToKVPoolAllocator", _TOKEN), on_runs),
        Patch(Target(made + "PagedTokenToKVPoolAllocator", _PAGED), on_runs),
        Patch(Target(allocation + "alloc_for_extend", ("batch",)), _requests.for_extend),
        Patch(
            Target(allocation + "alloc_for_decode", ("batch", "token_per_req")),
            _requests.for_decode,
        ),
        Patch(
            Target(allocation + "alloc_for_spec_decode", _SPECULATION), _requests.for_speculation
        ),
        Patch(
            Target(f"{_SRT}disaggregation.decode:alloc_for_decode_prealloc", _ARRIVAL),
            _requests.for_arrival,
        ),
        Patch(
            Target(f"{_CACHE}memory_pool:ReqToTokenPool.free_rows", ("self", "indices")),
            _requests.ends_rows,
        ),
        Patch(
            Target(f"{_SRT}disaggregation.decode:DecodeReqToTokenPool.free", ("self", "req")),
            _requests.ends_request,
        ),
    ]


def group_patches(version: str) -> list[Patch]:
    """The two functions that expand pages into blocks."""
    send = _SEND if version == "0.5.21" else _SEND_CHECKED
    return [
        Patch(Target(_MANAGER + "_send_kvcache_generic", send), _transfers.for_pages),
        Patch(Target(_MANAGER + "send_kvcache_slice", _SLICE), _transfers.for_slices),
    ]
