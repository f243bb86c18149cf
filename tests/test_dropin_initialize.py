"""mooncake.engine.TransferEngine: before, during and after initialize()."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from kit import Pages, environment
from mooncake.engine import TransferEngine


def test_calls_before_initialize(pages: Callable[..., Pages]) -> None:
    e, memory = TransferEngine(), pages(4096)
    a = memory.address
    for name in ("transfer_sync_write", "transfer_sync_read"):
        assert getattr(e, name)("127.0.0.1:15000", a, a, 8) < 0
    for name in ("batch_transfer_sync_write", "batch_transfer_sync_read"):
        assert getattr(e, name)("127.0.0.1:15000", [a], [a], [8]) < 0
    assert e.batch_transfer_async_write("127.0.0.1:15000", [a], [a], [8]) == 0
    assert e.transfer_submit_write("127.0.0.1:15000", a, a, 8) == 0
    assert e.register_memory(a, 4096) < 0 and e.unregister_memory(a) < 0
    assert e.batch_register_memory([a], [4096]) < 0 and e.batch_unregister_memory([a]) < 0
    assert e.allocate_managed_buffer(100) == 0 and e.free_managed_buffer(a, 100) < 0
    assert e.write_bytes_to_buffer(a, b"x", 1) < 0
    assert e.transfer_check_status(1) == -1 and e.get_batch_transfer_status([1]) == -1
    assert e.send_probe("127.0.0.1:15000") != 0 and e.get_notifies() == []
    assert e.get_first_buffer_address("127.0.0.1:15000") == 0
    for name in ("get_rpc_port", "get_engine"):
        with pytest.raises(RuntimeError, match="initialize"):
            getattr(e, name)()
    with pytest.raises(RuntimeError, match="initialize"):
        e.read_bytes_from_buffer(a, 1)
    assert json.loads(e.get_local_topology())
    assert e.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", "") == 0
    assert e.register_memory(a, 4096) == 0 and e.unregister_memory(a) == 0
    e.get_engine().close()


@pytest.mark.parametrize(
    "arguments",
    [
        ("", "P2PHANDSHAKE", "tcp", ""),
        (None, "P2PHANDSHAKE", "tcp", ""),
        ("bad host name", "P2PHANDSHAKE", "tcp", ""),
        ("127.0.0.1", "etcd://127.0.0.1:2379", "tcp", ""),
        ("127.0.0.1", "", "tcp", ""),
        ("127.0.0.1", None, "tcp", ""),
        ("127.0.0.1", "P2PHANDSHAKE", "ascend", ""),
    ],
)
def test_a_failed_initialize_is_a_number_and_a_new_object_works(arguments: Any) -> None:
    failed = TransferEngine()
    assert failed.initialize(*arguments) < 0
    assert failed.register_memory(4096, 4096) < 0
    again = TransferEngine()
    assert again.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", "") == 0
    again.get_engine().close()


def test_no_free_port_is_a_failed_initialize() -> None:
    with environment(MC_MIN_RPC_PORT="17301", MC_MAX_RPC_PORT="17301"):
        assert TransferEngine().initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", "") < 0
    again = TransferEngine()
    assert again.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", "") == 0
    again.get_engine().close()


def test_initialize_twice_fails_and_harms_nothing(drop_in: Callable[..., Any]) -> None:
    one = drop_in()
    port = one.get_rpc_port()
    assert one.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", "") < 0
    assert one.get_rpc_port() == port
    assert one.send_probe(f"127.0.0.1:{port}") == 0


HOSTS = {
    "127.0.0.1": "127.0.0.1",
    "localhost": "localhost",
    "127.0.0.1:12345": "127.0.0.1",
    "localhost:1": "localhost",
    "::1": "[::1]",
    "[::1]": "[::1]",
    "[::1]:12345": "[::1]",
}


@pytest.mark.parametrize("host", HOSTS)
def test_initialize_host_forms(
    drop_in: Callable[..., Any], pages: Callable[..., Pages], host: str,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    if "::1" in host:
        request.getfixturevalue("ipv6")
    one, other = drop_in(host), drop_in(host, "rdma")
    a, b = pages(64, 1), pages(64)
    assert one.register_memory(a.address, 64) == other.register_memory(b.address, 64) == 0
    assert (
        one.transfer_sync_write(f"{HOSTS[host]}:{other.get_rpc_port()}", a.address, b.address, 64)
        == 0
    )
    assert b.sha() == a.sha()
    assert isinstance(one.get_rpc_port(), int) and 15000 <= one.get_rpc_port() <= 17000


@pytest.mark.parametrize("protocol", ["tcp", "rdma", "", None])
@pytest.mark.parametrize("device", ["", None, "mlx5_0", "mlx5_0, mlx5_1", " mlx5_0 ,,"])
def test_initialize_protocols_and_devices(protocol: Any, device: Any) -> None:
    e = TransferEngine()
    assert e.initialize("127.0.0.1", "P2PHANDSHAKE", protocol, device) == 0
    e.get_engine().close()


def test_initialize_ext(pages: Callable[..., Pages]) -> None:
    e = TransferEngine()
    assert e.initialize_ext("127.0.0.1", "P2PHANDSHAKE", "tcp", "", "etcd") == 0
    assert e.get_rpc_port() > 0
    e.get_engine().close()
