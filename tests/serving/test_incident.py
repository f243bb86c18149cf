"""The load of the incident on a decode server at page size 1, an eighth of it: how long the
runs are that prompts are written to."""

from __future__ import annotations

import random
from typing import Any

import pytest
from stage_sglang import Request, Server, Sglang

from mooncake.integrations.sglang import install, uninstall

SCALE = 8
REQUESTS, RUNNING, POOL, OUTPUT = 1000 // SCALE, 256 // SCALE, 400_000 // SCALE, 512


def passes(server: Server, answers: int) -> list[float]:
    """The mean run of a prompt's slots in each of three passes, in tokens. Requests may give
    as many tokens as answers, and give OUTPUT."""
    rng = random.Random(5)
    means = []
    for _ in range(3):
        waiting = [rng.randrange(200, 2001) for _ in range(REQUESTS)]
        running: list[Request] = []
        tokens = runs = steps = 0
        while waiting or running:
            # One at a time, as fast as they end: what begins together would end together.
            owed = sum(req.last - req.length for req in running)
            fits = waiting and waiting[-1] + OUTPUT + owed <= server.allocator.available_size()
            if fits and len(running) < RUNNING and steps % (OUTPUT // RUNNING) == 0:
                req = Request(waiting.pop(), answers)
                req.last = len(req.origin_input_ids) + OUTPUT
                slots = server.arrive(req)
                tokens += len(slots)
                runs += 1 + int((slots[1:] != slots[:-1] + 1).sum())
                running.append(req)
            steps += 1
            server.decode(running)
            server.allocator.free_group_begin()
            for req in [req for req in running if req.length == req.last]:
                running.remove(req)
                server.finish(req)
            server.allocator.free_group_end()
        means.append(tokens / runs)
    assert server.allocator.available_size() == POOL
    return means


@pytest.mark.timeout(300)
def test_runs_stay_long(sglang: Sglang, torch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = {}
    for name, need_sort in (("list", False), ("sorted", True)):
        server = Server(sglang, POOL, 1, decode=True, need_sort=need_sort)
        found[name] = passes(server, OUTPUT)
    install("pages")
    try:
        for name, answers in (("runs", OUTPUT), ("runs, max_new_tokens 32768", 32768)):
            found[name] = passes(Server(sglang, POOL, 1, decode=True), answers)
    finally:
        uninstall()
    with capsys.disabled():
        print(f"\n{sglang}: mean run in tokens, passes 1 to 3")
        for name, means in found.items():
            print(f"  {name:28}", *(f"{mean:8.1f}" for mean in means))
    for name, means in found.items():
        if name.startswith("runs"):
            assert min(means) > 500 and means[2] > 0.9 * means[0]
            assert means[2] > 20 * found["sorted"][2] and means[2] > 300 * found["list"][2]
