"""The same calls to sglang's own allocators and to ours, through sglang's own functions."""

from __future__ import annotations

import random
from typing import Any

import pytest
from stage_sglang import Request, Server, Sglang

from mooncake.integrations.sglang import install, uninstall

SIZE = 2048


def pair(sglang: Sglang, page_size: int, need_sort: bool, decode: bool) -> list[Server]:
    """A server as sglang has it, and one with our allocator."""
    kind = {"decode": decode, "need_sort": need_sort}
    theirs = Server(sglang, SIZE, page_size, **kind)
    install("pages")
    return [theirs, Server(sglang, SIZE, page_size, **kind)]


@pytest.fixture(autouse=True)
def back() -> Any:
    yield
    uninstall()


def check(server: Server, running: list[Request], page_size: int) -> None:
    """No slot is used twice or reserved, and a request's tokens fill its pages in order."""
    slots: list[int] = []
    pages: list[int] = []
    for req in running:
        own = server.slots(req).tolist()
        slots += own
        pages += {slot // page_size for slot in own}
        for position, slot in enumerate(own):
            assert slot % page_size == position % page_size
            assert position % page_size == 0 or slot == own[position - 1] + 1
    assert len(slots) == len(set(slots)) and len(pages) == len(set(pages))
    assert not slots or (page_size <= min(slots) and max(slots) < SIZE + page_size)
    free = server.allocator.get_all_free_pages().tolist()
    assert sorted(free + pages) == list(range(1, SIZE // page_size + 1))


@pytest.mark.parametrize("decode", [False, True], ids=["both", "decode"])
@pytest.mark.parametrize("need_sort", [False, True])
@pytest.mark.parametrize("page_size", [1, 4, 16])
def test_same_answers_as_sglangs_own(
    sglang: Sglang, torch: Any, page_size: int, need_sort: bool, decode: bool
) -> None:
    servers = pair(sglang, page_size, need_sort, decode)
    assert type(servers[0].allocator).__name__ in sglang.module("mem_cache.allocator").__all__
    assert type(servers[1].allocator).__name__.startswith("Run")
    rng = random.Random(page_size)
    running: list[list[Request]] = [[], []]
    refused = 0
    for step in range(300):
        choice = rng.random()
        shapes = [(rng.randrange(1, 300), rng.randrange(1, 80)) for _ in range(rng.randrange(1, 4))]
        chosen = rng.sample(range(len(running[0])), len(running[0]) // 3)
        grouped = rng.random() < 0.5
        outcomes = []
        for server, reqs in zip(servers, running, strict=True):
            if choice < 0.35:
                some = [Request(*shape) for shape in shapes]
                if decode:
                    outcomes.append([start(server, req, reqs) for req in some])
                else:
                    outcomes.append(extend(server, some, [n for n, _ in shapes], reqs))
            elif choice < 0.45 and not decode and reqs:  # the next chunk of some
                some = [reqs[i] for i in chosen] or reqs[:1]
                outcomes.append(extend(server, some, [1 + i % 37 for i in range(len(some))], []))
            elif choice < 0.85 and reqs:
                outcomes.append(step_of(server, reqs))
            elif reqs:
                if grouped:
                    server.allocator.free_group_begin()
                before = server.allocator.available_size()
                for i in sorted(chosen, reverse=True):
                    server.finish(reqs.pop(i))
                if grouped:
                    assert server.allocator.available_size() == before
                    server.allocator.free_group_end()
                outcomes.append(None)
            else:
                outcomes.append(None)
        assert outcomes[0] == outcomes[1], step
        refused += outcomes[0] is False
        sizes = [server.allocator.available_size() for server in servers]
        assert sizes[0] == sizes[1], step
        if step % 10 == 0:
            check(servers[1], running[1], page_size)
    assert decode or refused, "the pool never ran out"
    for server, reqs in zip(servers, running, strict=True):
        for req in reqs:
            server.finish(req)
        assert server.allocator.available_size() == SIZE
        assert sorted(server.allocator.get_all_free_pages().tolist()) == list(
            range(1, SIZE // page_size + 1)
        )


def extend(server: Server, some: list[Request], chunks: list[int], reqs: list[Request]) -> Any:
    """How many slots, or False: sglang gives up the whole batch then, and so do we."""
    rows = [req.kv.req_pool_idx for req in some]
    try:
        slots = server.extend(some, chunks)
    except RuntimeError:
        for req, row in zip(some, rows, strict=True):
            if row is None:
                server.table.free(req)
        return False
    assert slots.dtype.is_floating_point is False and slots.element_size() == 8
    reqs += some
    return len(slots)


def start(server: Server, req: Request, reqs: list[Request]) -> Any:
    if server.allocator.available_size() < len(req.origin_input_ids) + 16:
        return "full"
    reqs.append(req)
    return len(server.arrive(req))


def step_of(server: Server, reqs: list[Request]) -> Any:
    try:
        return len(server.decode(reqs))
    except RuntimeError:
        return False


def test_a_request_grows_in_place(patched: Sglang, torch: Any) -> None:
    server = Server(patched, SIZE, 1, decode=False)
    reqs = [Request(100, 50), Request(60, 50), Request(30, 50)]
    server.extend(reqs, [60, 60, 30])
    server.extend(reqs[:1], [40])  # the rest of a prompt that came in chunks
    for _ in range(50):
        server.decode(reqs)
    for req in reqs:
        own = server.slots(req)
        assert torch.equal(own, torch.arange(int(own[0]), int(own[0]) + req.length))


def test_a_row_that_is_given_back_keeps_no_room(patched: Sglang, torch: Any) -> None:
    for decode in (False, True):
        server = Server(patched, SIZE, 1, decode=decode)
        req = Request(100, 1000)
        if decode:
            server.arrive(req)
        else:
            server.extend([req], [100])
        pool = server.allocator._pages._pool
        assert pool.stats().pages_reserved == 1000
        cached = server.slots(req).clone()
        server.table.free(req)  # its tokens stay, as those in the prefix cache do
        assert pool.stats().pages_reserved == 0
        assert server.allocator.available_size() == SIZE - 100
        server.allocator.free(cached)
        assert server.allocator.available_size() == SIZE


def test_speculation_grows_requests_too(
    patched: Sglang, torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(patched, SIZE, 1, decode=False)
    reqs = [Request(40, 60), Request(50, 60)]
    server.extend(reqs, [40, 50])
    allocation = patched.module("mem_cache.allocation")
    got: list[Any] = []
    monkeypatch.setattr(
        allocation, "assign_req_to_token_pool_func", lambda *given: got.append(given[4])
    )
    lengths = torch.tensor([40, 50])
    allocation.alloc_for_spec_decode(
        server.cache,
        server.table,
        reqs=reqs,
        req_pool_indices=torch.tensor([req.kv.req_pool_idx for req in reqs]),
        cur_kv_lens=lengths,
        cur_kv_lens_cpu=lengths,
        nxt_kv_lens=lengths + 8,
        nxt_kv_lens_cpu=lengths + 8,
        num_needed_tokens=16,
    )
    last = [int(server.slots(req)[-1]) for req in reqs]
    assert got[0].tolist() == [end + i for end in last for i in range(1, 9)]
