"""Page groups through the drop-in engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from kit import POISON, Pages, within

from mooncake import Layer, PageGroup

SIZE = 64 * 256


@pytest.fixture
def link(drop_in: Callable[..., Any], pages: Callable[..., Pages]) -> tuple[Any, str, Pages, Pages]:
    here, there = drop_in(), drop_in()
    local, remote = pages(SIZE, 1), pages(SIZE)
    remote.fill(POISON)
    assert here.register_memory(local.address, SIZE) == 0
    assert there.register_memory(remote.address, SIZE) == 0
    return here, f"127.0.0.1:{there.get_rpc_port()}", local, remote


def group(local: Pages, remote: Pages, here: Any, there: Any) -> PageGroup:
    return PageGroup(here, there, [Layer(local.address, remote.address, 256, 256, 256)])


def test_both_ways(link: tuple[Any, str, Pages, Pages]) -> None:
    engine, session, local, remote = link
    pairs = [(3, 60), (4, 61), (9, 2)]
    pages = np.array(pairs, dtype=np.int32)
    one = group(local, remote, pages[:, 0].copy(), pages[:, 1].copy())
    assert within(10, engine.transfer_pages_sync_write, session, [one]) == 0
    for here, there in pairs:
        assert remote.bytes(there * 256, 256) == local.bytes(here * 256, 256)
    assert int((remote.array != POISON).sum()) == 3 * 256
    local.fill(0)
    assert within(10, engine.transfer_pages_sync_read, session, one) == 0
    for here, there in pairs:
        assert remote.bytes(there * 256, 256) == local.bytes(here * 256, 256)
    assert int((local.array != 0).sum()) > 700


def test_numbers_for_failures(
    link: tuple[Any, str, Pages, Pages], caplog: pytest.LogCaptureFixture
) -> None:
    engine, session, local, remote = link
    good = group(local, remote, [1], [1])
    assert engine.transfer_pages_sync_write(session, []) == 0
    assert engine.transfer_pages_sync_write(session, group(local, remote, [], [])) == 0
    for target, groups, text in (
        (session, group(local, remote, [1], [64]), "page"),
        (session, group(local, remote, [1, 2], [1]), "one length, not 2 and 1"),
        (None, good, "target_hostname is None"),
        ("127.0.0.1:1", good, "127.0.0.1:1"),
    ):
        caplog.clear()
        assert within(20, engine.transfer_pages_sync_write, target, groups) == -1
        assert text in caplog.text
    assert remote.bytes() == bytes([POISON]) * SIZE
    with pytest.raises(TypeError, match="groups must be"):
        engine.transfer_pages_sync_write(session, 5)
    assert within(10, engine.transfer_pages_sync_write, session, good) == 0


def test_before_initialize(caplog: pytest.LogCaptureFixture) -> None:
    from mooncake.engine import TransferEngine

    assert TransferEngine().transfer_pages_sync_write("127.0.0.1:1", []) == -1
    assert "initialize" in caplog.text
