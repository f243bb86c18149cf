"""As much of a scheduler as sglang's allocation needs: batches, requests, its tables and pools."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import sources


class Sglang:
    """The modules of a release, with what they need of modules that are stand-ins."""

    def __init__(self, version: str) -> None:
        self.version = version
        self._prepare()

    def __repr__(self) -> str:
        return f"sglang {self.version}"

    def module(self, name: str) -> Any:
        return importlib.import_module(f"sglang.srt.{name}")

    def _prepare(self) -> None:
        def no(*given: Any) -> bool:
            return False

        utils = self.module("utils")
        for name in ("is_cpu", "is_cuda", "is_hip", "is_npu", "is_xpu", "is_cuda_alike"):
            setattr(utils, name, no)
        utils.support_triton = utils.get_bool_env_var = no
        utils.next_power_of_2 = lambda n: n
        self.module("utils.common").is_pin_memory_available = no
        try:
            import torch
        except ImportError:
            return
        utils.async_h2d = self.module("utils.common").async_h2d = torch.tensor
        naming = {"torch": torch, "Optional": None}
        utils.get_num_new_pages = sources.function_of(
            self.version, "sglang.srt.utils.common", "get_num_new_pages", **naming
        )
        self.module("platforms").current_platform.capabilities.supports_triton = False
        self.module("runtime_context").attention_backends = lambda: ("torch_native",) * 2
        self.module("mem_cache.allocator.page_interleave").page_interleave_shard_size = lambda a: 1
        paged = self.module("mem_cache.allocator.paged")
        # 0.5.21 has no other way than its Triton kernels. The same arithmetic in torch is its
        # own for one of them, and the next release's for the other.
        later = sources.function_of(
            "0.5.22", "sglang.srt.mem_cache.allocator.paged", "alloc_decode_naive", **naming
        )

        def padded(free: Any) -> Any:  # the kernels read on where there are too few, unpunished
            return torch.cat((free, free.new_zeros(4096)))

        def extend(prefix, seq, last, free, out, _power, size):  # type: ignore[no-untyped-def]
            paged.alloc_extend_naive(prefix, seq, last, padded(free), out, size, "cpu")

        def decode(seq, last, free, out, _power, size):  # type: ignore[no-untyped-def]
            later(seq, last, padded(free), out, size, int(((seq - 1) % size == 0).sum()))

        if self.version == "0.5.21":
            paged.alloc_extend_kernel, paged.alloc_decode_kernel = Kernel(extend), Kernel(decode)

    def allocator(self, size: int, page_size: int, need_sort: bool) -> Any:
        """What sglang makes for a pool of that size, patched or not."""
        import torch

        made = self.module("mem_cache.kv_cache_configurator")
        more = {"dtype": torch.bfloat16, "device": "cpu", "kvcache": None, "need_sort": need_sort}
        if page_size == 1:
            return made.TokenToKVPoolAllocator(size, **more)
        return made.PagedTokenToKVPoolAllocator(size, page_size=page_size, **more)


class Kernel:
    """A Triton kernel: called with a grid first."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def __getitem__(self, grid: Any) -> Any:
        return self._run


class Kv:
    """What a request holds: sglang's record of it."""

    def __init__(self) -> None:
        self.req_pool_idx: int | None = None
        self.kv_allocated_len = self.kv_committed_len = 0

    @property
    def holds_kv(self) -> bool:
        return self.req_pool_idx is not None


class Request:
    def __init__(self, prompt: int, output: int) -> None:
        self.kv = Kv()
        self.origin_input_ids = [0] * prompt
        self.sampling_params = SimpleNamespace(max_new_tokens=output)
        self.length, self.last = 0, prompt + output  # tokens that it has; that it ends with
        self.prefix_len = 0
        self.prefix_indices: Any = None  # as 0.5.21 has it


class Server:
    """sglang's allocation over a table and an allocator, as a scheduler calls it."""

    def __init__(
        self, sglang: Sglang, size: int, page_size: int, *, decode: bool, need_sort: bool = True
    ) -> None:
        self.sglang = sglang
        self.allocator = sglang.allocator(size, page_size, need_sort)
        if decode:  # a server that prompts arrive at from another
            table = sglang.module("disaggregation.decode").DecodeReqToTokenPool
            self.table = table(64, 4096, "cpu", False, pre_alloc_size=64)
        else:
            self.table = sglang.module("mem_cache.memory_pool").ReqToTokenPool(
                128, 4096, "cpu", False
            )
        self.cache = SimpleNamespace(
            token_to_kv_pool_allocator=self.allocator,
            page_size=page_size,
            maybe_hand_to_session=lambda req: None,
            pretty_print=lambda: None,
        )

    def extend(self, reqs: list[Request], chunks: list[int]) -> Any:
        import torch

        for req in reqs:
            req.prefix_len = req.length
            row = self.table.req_to_token[req.kv.req_pool_idx or 0]
            req.prefix_indices = row[: req.length].to(torch.int64)
        before = torch.tensor([req.length for req in reqs])
        seq_lens = before + torch.tensor(chunks)
        batch = self._batch(reqs, seq_lens)
        batch.prefix_lens, batch.extend_lens = before.tolist(), chunks
        batch.extend_num_tokens = sum(chunks)
        slots, rows, _ = self.sglang.module("mem_cache.allocation").alloc_for_extend(batch)
        assert rows.tolist() == [req.kv.req_pool_idx for req in reqs]
        for req, chunk in zip(reqs, chunks, strict=True):
            req.length += chunk
        return slots

    def arrive(self, req: Request) -> Any:
        """The prompt of a request that another server is to write."""
        assert self.table.alloc([req]) is not None
        req.length = len(req.origin_input_ids)
        slots = self.sglang.module("disaggregation.decode").alloc_for_decode_prealloc(
            self.allocator,
            req=req,
            fill_len=req.length,
            delta_len=req.length,
            prefix_len=0,
            total_prefix_len=0,
            prefix_indices=None,
            uses_swa_tail=False,
            swa_tail_len=0,
            req_to_token_pool=self.table,
        )
        self.table.write((req.kv.req_pool_idx, slice(0, req.length)), slots)
        return slots

    def decode(self, reqs: list[Request]) -> Any:
        import torch

        batch = self._batch(reqs, torch.tensor([req.length for req in reqs]))
        slots = self.sglang.module("mem_cache.allocation").alloc_for_decode(batch, 1)
        for req in reqs:
            req.length += 1
        return slots

    def finish(self, req: Request) -> None:
        """Free what a request has, and its row."""
        self.allocator.free_segment(self.slots(req), start_pos=0)
        self.table.free(req)

    def slots(self, req: Request) -> Any:
        return self.table.req_to_token[req.kv.req_pool_idx, : req.length]

    def _batch(self, reqs: list[Request], seq_lens: Any) -> Any:
        import torch

        rows = [req.kv.req_pool_idx for req in reqs]
        known = torch.tensor(rows) if None not in rows else None
        return SimpleNamespace(
            reqs=reqs,
            tree_cache=self.cache,
            req_to_token_pool=self.table,
            device="cpu",
            seq_lens=seq_lens,
            seq_lens_cpu=seq_lens,
            req_pool_indices=known,
            req_pool_indices_cpu=known,
            model_config=SimpleNamespace(is_encoder_decoder=False),
            hisparse_coordinator=None,
            maybe_evict_swa=lambda: None,
            is_dllm=lambda: False,
        )
