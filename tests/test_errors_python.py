"""The native API's exceptions: each status reaches its own, and the text helps."""

from __future__ import annotations

import math
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mooncake as m
import numpy as np
import pytest
from kit import Pages, environment, free_port, python, within
from mooncake import _errors, _ffi
from stage import Stage

PAGE = 4096


def raises(kind: type[m.MooncakeError], builtin: type[BaseException], match: str) -> Any:
    assert issubclass(kind, builtin)
    return pytest.raises(kind, match=match)


def test_the_exception_of_every_status_that_can_be_had_alone(
    engine: Any, open_engine: Callable[..., Any], pages: Callable[..., Pages]
) -> None:
    memory = pages(4 * PAGE)
    registered = engine.register(memory.address, PAGE)
    other = open_engine()
    theirs = other.register(pages(PAGE).map)
    segment = engine.open_segment(other.session)
    with raises(m.InvalidArgument, ValueError, "length of range 0"):
        engine.register(memory.address + PAGE, 0)
    with raises(m.Overlap, ValueError, "0x"):
        engine.register(memory.map)
    with raises(m.NotRegistered, ValueError, "not mapped"):
        engine.register(PAGE, PAGE)
    with raises(m.NotRegistered, ValueError, "block 0: local"):
        segment.write(memory.address + PAGE, theirs.address, 8)
    with raises(m.NotRegistered, ValueError, "block 0: remote"):
        segment.write(registered.address, theirs.address + PAGE, 8)
    with raises(m.NotFound, LookupError, "no-such-host"):
        engine.open_segment("no-such-host.invalid:15000")
    with raises(m.PeerUnreachable, ConnectionError, "refused"):
        engine.open_segment(f"127.0.0.1:{free_port()}")
    with raises(m.Unsupported, NotImplementedError, "P2PHANDSHAKE"):
        open_engine(metadata="redis://127.0.0.1")
    with raises(m.Unsupported, NotImplementedError, "protocol"):
        open_engine(protocol="carrier pigeon")
    with raises(m.DeviceError, OSError, "listener"):
        open_engine(rpc_port=other.rpc_port)
    with raises(m.QueueFull, RuntimeError, "MC_HANDSHAKE_MAX_LENGTH"):
        many = pages(40_000)
        engine.register_many([(many.address + 2 * i, 1) for i in range(20_000)])
    segment.close()
    with raises(m.StaleHandle, RuntimeError, "segment is closed"):
        segment.write(registered.address, theirs.address, 8)
    assert engine.stats().memories == 1


def test_no_free_port(open_engine: Callable[..., Any]) -> None:
    with environment(MC_MIN_RPC_PORT="17311", MC_MAX_RPC_PORT="17311"):
        with raises(m.DeviceError, OSError, "17311"):
            open_engine()


def test_the_exceptions_of_a_batch_carry_its_status(stage: Stage) -> None:
    stage.peer.freeze()
    for end, kind, builtin in (
        (lambda b: b.cancel(), m.Cancelled, RuntimeError),
        (lambda b: None, m.DeadlineExceeded, TimeoutError),
    ):
        with stage.submit(deadline=0.2) as batch:
            with raises(m.WaitTimeout, TimeoutError, "it goes on") as timeout:
                batch.wait(0.01)
            end(batch)
            with raises(kind, builtin, "bytes confirmed") as failed:
                within(5, batch.wait)
        for error in (timeout.value, failed.value):
            assert error.status == _ffi.STATUS[status_name(type(error))]
            assert error.batch_status.bytes == stage.pages.size
        # The second one never had a connection, so it is quiet at the peer as well.
        assert failed.value.quiet is failed.value.batch_status.quiet is not m.Quiet.NONE
    stage.peer.kill()
    with raises(m.PeerUnreachable, ConnectionError, "refused"):
        within(5, stage.segment.write, stage.pages.address, stage.remote, 8)


def status_name(kind: type[m.MooncakeError]) -> str:
    (name,) = [name for name, each in _errors.EXCEPTIONS.items() if each is kind]
    return name


def test_unknown_statuses_are_internal_errors() -> None:
    error = _ffi.error_of(-99)
    assert type(error) is m.InternalError
    assert error.status == -99


class CudaArray:
    """As much of a cupy array as tells that it is one."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"data": (PAGE, False), "shape": (4,), "typestr": "<f4"}


class CudaTensor:
    class Device:
        type = "cuda"

    device = Device()
    is_cuda = True

    def data_ptr(self) -> int:
        return 0x7F00_0000_0000

    def numel(self) -> int:
        return 1024

    def element_size(self) -> int:
        return 2

    def is_contiguous(self) -> bool:
        return True


class OtherDevice(CudaTensor):
    class Device:
        type = "npu"

    device = Device()  # type: ignore[assignment]
    is_cuda = False


@pytest.mark.parametrize("kind", [CudaArray, CudaTensor, OtherDevice])
def test_gpu_memory_is_refused(engine: Any, kind: Any) -> None:
    with raises(m.Unsupported, NotImplementedError, "GPU"):
        engine.register(kind())
    with raises(m.Unsupported, NotImplementedError, "GPU"):
        engine.register_many([bytearray(8), kind()])
    assert engine.stats().memories == 0


class Strided(CudaTensor):
    class Device:
        type = "cpu"

    device = Device()  # type: ignore[assignment]
    is_cuda = False

    def is_contiguous(self) -> bool:
        return False


class Sizeless:
    def data_ptr(self) -> int:
        return PAGE


@pytest.mark.parametrize(
    ("memory", "length", "kind", "match"),
    [
        (PAGE, None, m.InvalidArgument, "length"),
        (-1, 8, m.InvalidArgument, "address"),
        (2**64, 8, m.InvalidArgument, "address"),
        (PAGE, -8, m.InvalidArgument, "length"),
        (PAGE, "8", TypeError, "length"),
        (0, 8, m.InvalidArgument, "address"),
        (2**64 - 8, 16, m.InvalidArgument, "wraps"),
        ("text", None, TypeError, "memory"),
        (None, None, TypeError, "memory"),
        (1.5, 8, TypeError, "memory"),
        (bytearray(), None, m.InvalidArgument, "length"),
        (bytearray(8), 9, m.InvalidArgument, "length"),
        (bytearray(8), 0, m.InvalidArgument, "length"),
        (np.zeros((8, 8))[:, ::2], None, m.InvalidArgument, "contiguous"),
        (memoryview(bytearray(8))[::2], None, m.InvalidArgument, "contiguous"),
        (Strided(), None, m.InvalidArgument, "contiguous"),
        (Sizeless(), None, TypeError, "size"),
    ],
)
def test_what_cannot_be_registered(
    engine: Any, memory: Any, length: Any, kind: Any, match: str
) -> None:
    with pytest.raises(kind, match=match):
        engine.register(memory, length)
    assert engine.stats().memories == 0


def test_register_many_is_all_or_none(engine: Any) -> None:
    data = bytearray(100)
    for wrong in ((PAGE, PAGE), bytearray(), "text", (0, 5), data):
        with pytest.raises((m.MooncakeError, TypeError)):
            engine.register_many([data, wrong])
        assert engine.stats().memories == 0
        data.append(1)  # it is not pinned any more
        data.pop()
    assert engine.register_many([]) == []


@pytest.mark.parametrize(
    ("arguments", "kind", "match"),
    [
        ((5,), TypeError, "name"),
        ((None,), TypeError, "name"),
        (("",), m.InvalidArgument, "name"),
        (("a\0b",), m.InvalidArgument, "name"),
        (("\ud800",), m.InvalidArgument, "name"),
        (("bad name",), m.InvalidArgument, "name"),
    ],
)
def test_engine_names(arguments: Any, kind: Any, match: str) -> None:
    with pytest.raises(kind, match=match):
        m.Engine(*arguments)


@pytest.mark.parametrize(
    ("options", "kind", "match"),
    [
        ({"rpc_port": -1}, TypeError, "rpc_port"),
        ({"rpc_port": 65536}, m.InvalidArgument, "rpc_port"),
        ({"rpc_port": "1"}, TypeError, "rpc_port"),
        ({"metadata": None}, TypeError, "metadata"),
        ({"protocol": 5}, TypeError, "protocol"),
        ({"devices": ["mlx5_0"]}, TypeError, "devices"),
        ({"device": ""}, TypeError, "device"),
    ],
)
def test_engine_options(options: Any, kind: Any, match: str) -> None:
    with pytest.raises(kind, match=match):
        m.Engine("127.0.0.1", **options)


def test_arguments_of_transfers(engine: Any) -> None:
    memory = engine.register(bytearray(64))
    segment = engine.open_segment(engine.session)
    a = memory.address
    for op, local, remote, lengths, kind, match in (
        (5, a, a, 8, m.InvalidArgument, "op"),
        ("write", a, a, 8, m.InvalidArgument, "op"),
        (1, "x", a, 8, TypeError, "local"),
        (1, a, [1.5], 8, TypeError, "remote"),
        (1, a, a, None, TypeError, "lengths"),
        (1, [a, -1], [a, a], 8, TypeError, r"local\[1\]"),
        (1, [a], [a, a], [8], m.InvalidArgument, "1, 2 and 1"),
        (1, [a], [a], [8, 8], m.InvalidArgument, "1, 1 and 2"),
        (1, np.zeros((2, 2), dtype=np.uint64), a, 8, TypeError, "dimension"),
        (1, a, a, 2**64 - 1, m.InvalidArgument, "wraps"),
    ):
        with pytest.raises(kind, match=match):
            segment.submit(op, local, remote, lengths)
    for deadline, kind in ((0, m.InvalidArgument), (-1, m.InvalidArgument),
                           (math.nan, m.InvalidArgument), ("1", TypeError)):  # fmt: skip
        with pytest.raises(kind, match="deadline"):
            segment.write(a, a + 8, 8, deadline=deadline)
    with segment.submit(1, a, a + 8, 8) as batch:
        for timeout, kind in (
            (math.nan, m.InvalidArgument),
            (-5, m.InvalidArgument),
            ("1", TypeError),
            (True, TypeError),
        ):
            with pytest.raises(kind, match="timeout"):
                batch.wait(timeout)
        assert batch.wait(1e300).bytes_done == 8
        assert batch.wait(0).bytes_done == 8, "a done batch is done, whatever the time"
    for timeout in (0, -1, math.nan):
        with pytest.raises(m.InvalidArgument, match="timeout"):
            engine.probe(engine.session, timeout)
        with pytest.raises(m.InvalidArgument, match="timeout"):
            engine.fence(engine.session, timeout)
    for offset in (-1, 65):
        with pytest.raises(IndexError, match="offset"):
            memory[offset]
    assert engine.stats().batches_open == 0


def test_closed_objects(open_engine: Callable[..., Any]) -> None:
    engine = open_engine()
    memory = engine.register(bytearray(64))
    segment = engine.open_segment(engine.session)
    batch = segment.submit(m.Op.WRITE, memory[0], memory[8], 8)
    engine.close()
    for call in (
        lambda: engine.session,
        lambda: engine.rpc_port,
        engine.stats,
        lambda: engine.register(bytearray(8)),
        lambda: engine.register_many([bytearray(8)]),
        lambda: engine.open_segment("127.0.0.1:15000"),
        lambda: engine.probe("127.0.0.1:15000"),
        lambda: engine.fence("127.0.0.1:15000"),
        lambda: engine.notify("127.0.0.1:15000", "n", "m"),
        engine.notifications,
        segment.buffers,
        lambda: segment.stale,
        lambda: segment.write(1, 1, 1),
        batch.poll,
        batch.wait,
        batch.cancel,
        batch.fileno,
    ):
        with pytest.raises(m.StaleHandle):
            call()
    for thing in (batch, segment, memory, engine):
        thing.close()
        assert thing.closed


def test_a_listener_that_never_answers_is_given_up(open_engine: Callable[..., Any]) -> None:
    with environment(MC_HANDSHAKE_CONNECT_TIMEOUT="1"):
        engine = open_engine()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        name = f"127.0.0.1:{silent.getsockname()[1]}"
        with raises(m.PeerUnreachable, ConnectionError, name):
            within(8, engine.open_segment, name)
        with raises(m.PeerUnreachable, ConnectionError, name):
            within(3, engine.probe, name, 0.3)


def test_notifications(engine: Any, open_engine: Callable[..., Any]) -> None:
    other = open_engine()
    engine.notify(other.session, "", "")
    engine.notify(other.session, "n" * 10_000, "m" * 100_000)
    engine.notify(other.session, "last", "☃")
    empty, long, last = other.notifications()
    assert (empty.name, len(long.name), len(long.message)) == ("", 10_000, 100_000)
    assert last == ("last", "☃")
    with pytest.raises(m.InvalidArgument, match="message"):
        engine.notify(other.session, "n", "a\0b")
    with pytest.raises(TypeError, match="name"):
        engine.notify(other.session, 5, "m")
    with pytest.raises(m.InvalidArgument, match="MC_HANDSHAKE_MAX_LENGTH"):
        engine.notify(other.session, "n", "m" * (1 << 20))


OPEN = """
import mooncake
try:
    mooncake.Engine("127.0.0.1")
except ImportError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, ["does not exist", "MOONCAKE_LIBRARY"]), (b"text", ["cannot be loaded", "make lib"])],
)
def test_a_missing_library_says_what_to_do(tmp_path: Path, content: Any, words: list[str]) -> None:
    path = tmp_path / "libmooncake.so"
    if content is not None:
        path.write_bytes(content)
    result = python(OPEN, MOONCAKE_LIBRARY=str(path))
    assert result.stdout.startswith("LibraryError"), result
    for word in [str(path), *words]:
        assert word in result.stdout


def test_another_library_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "other.c"
    source.write_text("int other(void) { return 0; }")
    library = tmp_path / "libother.so"
    compiler = os.environ.get("CC", "gcc")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    result = python(OPEN, MOONCAKE_LIBRARY=str(library))
    assert result.stdout.startswith("LibraryError"), result
    assert "not the library of this package" in result.stdout
