"""From import to exit: closing, collecting, forking, spawning, leaving."""

from __future__ import annotations

import ctypes
import gc
import math
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mooncake as m
import pytest
from kit import clean, ended, engine_environment, expect_line, python, start_python, within
from stage import Stage

# What the programs below begin with: an engine that is its own peer, with 64 KiB.
LOOPBACK = """
import ctypes, mmap, os, signal, sys, threading, time
import mooncake
engine = mooncake.Engine("127.0.0.1")
memory = engine.register(mmap.mmap(-1, 1 << 16))
segment = engine.open_segment(engine.session)
def move():
    segment.write(memory[0], memory[1 << 15], 1 << 15, deadline=10)
move()
"""

# A batch in flight to a peer that never reads: a listener of the program's own would answer
# nothing, so the peer is a frozen process, whose session is the first argument.
IN_FLIGHT = """
import math, mmap, os, signal, sys, threading, time
import mooncake
session, remote = sys.argv[1], int(sys.argv[2])
engine = mooncake.Engine("127.0.0.1")
memory = engine.register(mmap.mmap(-1, 64 << 20))
segment = engine.open_segment(session)
segment.write(memory[0], remote, 64)
print("connected", flush=True)
sys.stdin.readline()
batch = segment.submit(mooncake.Op.WRITE, memory[0], remote, 64 << 20, deadline=math.inf)
"""


def test_with_closes() -> None:
    with m.Engine("127.0.0.1") as engine, engine.register(bytearray(64)) as memory:
        with engine.open_segment(engine.session) as segment:
            with segment.submit(m.Op.WRITE, memory[0], memory[32], 32) as batch:
                batch.wait()
    for thing in (engine, memory, segment, batch):
        assert thing.closed
        thing.close()
        assert "0x0>" in repr(thing)


def test_close_from_many_threads_at_once() -> None:
    engine = m.Engine("127.0.0.1")
    memory = engine.register(bytearray(64))
    with ThreadPoolExecutor(8) as pool:
        for thing in (memory, engine):
            for result in [pool.submit(thing.close) for _ in range(32)]:
                result.result(10)


def test_close_while_in_flight(stage: Stage) -> None:
    stage.peer.freeze()
    batch = stage.submit(deadline=math.inf)
    within(10, stage.engine.close)
    assert stage.engine.closed
    with pytest.raises(m.StaleHandle):
        batch.poll()
    batch.close()
    stage.memory.close()


def test_engines_come_and_go_without_leaking() -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    def threads() -> int:
        return len(os.listdir("/proc/self/task"))

    counts = []
    for _ in range(40):
        with m.Engine("127.0.0.1") as engine:
            memory = engine.register(bytearray(1 << 12))
            engine.open_segment(engine.session).write(memory[0], memory[100], 100)
            gc.collect()
        counts.append((descriptors(), threads()))
    assert max(counts[-10:])[0] <= counts[9][0] + 2, counts
    assert max(t for _, t in counts[-10:]) <= counts[9][1] + 8, counts


@pytest.mark.parametrize("kind", ["Engine", "Memory", "Segment", "Batch"])
def test_what_is_collected_open_is_a_resource_warning(engine: Any, kind: str) -> None:
    memory = engine.register(bytearray(64))
    segment = engine.open_segment(engine.session)
    things: dict[str, Callable[[], Any]] = {
        "Engine": lambda: m.Engine("127.0.0.1"),
        "Memory": lambda: engine.register(bytearray(64)),
        "Segment": lambda: engine.open_segment(engine.session),
        "Batch": lambda: segment.submit(m.Op.WRITE, memory[0], memory[32], 32),
    }
    thing = things[kind]()
    text = repr(thing)
    with pytest.warns(ResourceWarning) as caught:
        del thing
        gc.collect()
    assert text in str(caught[0].message)
    with warnings.catch_warnings(record=True) as none:
        warnings.simplefilter("always")
        with things[kind]():
            pass
        gc.collect()
    assert none == []


def test_memory_that_is_collected_stays_where_it_is(open_engine: Callable[..., Any]) -> None:
    """The library goes on serving it, so Python must not free it."""
    engine, peer = open_engine(), open_engine()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        address = peer.register(bytearray(b"x" * 100_000)).address
        gc.collect()
    here = engine.register(bytearray(100_000))
    engine.open_segment(peer.session).read(here.address, address, 100_000)
    assert ctypes.string_at(here.address, 100_000) == b"x" * 100_000


IMPORT = """
import os, sys
def threads():
    return len(os.listdir("/proc/self/task"))
before = threads()
import mooncake, mooncake.engine
from mooncake.engine import TransferEngine, TransferOpcode, TransferNotify
from mooncake import Engine, Op, MooncakeError
assert threads() == before == 1, threads()
maps = open("/proc/self/maps").read()
assert "libmooncake" not in maps
TransferEngine()
assert "libmooncake" in open("/proc/self/maps").read()
heavy = {"numpy", "torch", "asyncio", "multiprocessing"} & set(sys.modules)
assert not heavy, heavy
"""


def test_import_loads_nothing() -> None:
    clean(python(IMPORT))


@pytest.mark.parametrize(
    "program", ["", "engine.close()", "sys.exit(0)", "del engine; move = None"]
)
def test_exit_is_clean(program: str) -> None:
    clean(python(LOOPBACK + program))


def test_exit_of_a_drop_in_without_close_is_clean() -> None:
    clean(
        python("""
import mmap
from mooncake.engine import TransferEngine
engine = TransferEngine()
assert engine.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", "") == 0
buffer = engine.allocate_managed_buffer(8192)
to = f"127.0.0.1:{engine.get_rpc_port()}"
assert engine.transfer_sync_write(to, buffer, buffer + 4096, 4096) == 0
assert engine.transfer_submit_write(to, buffer, buffer + 4096, 4096) > 0
""")
    )


def test_sys_exit_in_the_middle_keeps_its_code() -> None:
    result = python(LOOPBACK + "batch = segment.submit(1, memory[0], memory[99], 9)\nsys.exit(7)")
    assert (result.returncode, result.stderr) == (7, "")


def test_an_exception_is_printed_and_nothing_else() -> None:
    result = python(LOOPBACK + "1 / 0")
    assert result.returncode == 1
    assert result.stderr.rstrip().endswith("ZeroDivisionError: division by zero")
    assert "goroutine" not in result.stderr


ENDINGS = {
    "falling off the end": "",
    "sys.exit": "sys.exit()",
    "waiting daemon thread": "threading.Thread(target=batch.wait, daemon=True).start()\nmove = 1",
    "many waiting daemon threads": (
        "for i in range(8): threading.Thread(target=batch.wait, daemon=True).start()"
    ),
    "sys.exit in a thread": "t = threading.Thread(target=sys.exit)\nt.start()\nt.join()",
    "os._exit in a thread": (
        "threading.Thread(target=lambda: os._exit(0)).start()\ntime.sleep(30)\nos._exit(9)"
    ),
    "closing": "engine.close()",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_exit_with_transfers_in_flight_is_clean(stage: Stage, ending: str) -> None:
    session, remote = stage.peer.session, str(stage.remote)
    with ended(start_python(IN_FLIGHT + ENDINGS[ending], session, remote)) as process:
        assert expect_line(process) == "connected"
        stage.peer.freeze()
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert within(10, process.wait) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


FORK = (
    LOOPBACK
    + """
from mooncake.engine import TransferEngine
drop_in = TransferEngine()
assert drop_in.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", "") == 0
batch = segment.submit(mooncake.Op.WRITE, memory[0], memory[32768], 32768)
calls = [
    lambda: mooncake.Engine("127.0.0.1"),
    lambda: engine.session,
    lambda: engine.register(bytearray(8)),
    lambda: engine.open_segment("127.0.0.1:15000"),
    move,
    engine.stats,
    batch.wait,
    batch.poll,
    TransferEngine,
    lambda: drop_in.get_rpc_port(),
    lambda: drop_in.register_memory(4096, 4096),
    lambda: drop_in.transfer_sync_write("127.0.0.1:15000", 4096, 4096, 8),
    lambda: mooncake.local_topology(),
    lambda: mooncake.rdma_ports(),
    segment.connect,
]
sys.stdout.flush()
pid = os.fork()
if pid == 0:
    signal.alarm(10)
    for number, call in enumerate(calls):
        try:
            call()
        except mooncake.ForkedError as error:
            assert "fork" in str(error), error
        else:
            print("call", number, "did not raise", flush=True)
            os._exit(1)
    for thing in (batch, segment, memory, engine):
        thing.close()
    sys.exit(0)
_, status = os.waitpid(pid, 0)
assert status == 0, status
for _ in range(100):
    move()
batch.wait()
"""
)


def test_fork_while_an_engine_is_open() -> None:
    clean(python(FORK))


RAW_FORK = (
    LOOPBACK
    + """
from mooncake import _ffi
library = ctypes.CDLL(str(_ffi.library_path()))
library.mc_last_error.restype = ctypes.c_char_p
pid = os.fork()
if pid == 0:
    signal.alarm(10)
    out = ctypes.c_uint64()
    for status in (
        library.mc_engine_open(b"127.0.0.1", None, ctypes.byref(out)),
        library.mc_poll(ctypes.c_uint64(5), None),
        library.mc_wait(ctypes.c_uint64(5), ctypes.c_int64(-1), None),
    ):
        if status != -16:
            os._exit(1)
    os._exit(0 if b"fork" in library.mc_last_error() else 2)
_, status = os.waitpid(pid, 0)
assert status == 0, status
move()
"""
)


def test_fork_below_the_package() -> None:
    """A C caller in a forked child gets MC_EFORKED too."""
    clean(python(RAW_FORK))


def test_fork_before_the_library_is_loaded() -> None:
    clean(
        python(
            "import os, mooncake\npid = os.fork()\n"
            + LOOPBACK
            + """
move()
if pid:
    assert os.waitpid(pid, 0)[1] == 0
"""
        )
    )


def test_fork_while_other_threads_transfer() -> None:
    clean(
        python(
            LOOPBACK
            + """
stop = threading.Event()
def work():
    while not stop.is_set():
        move()
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads: thread.start()
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
stop.set()
for thread in threads: thread.join()
"""
        )
    )


SPAWN = """
import mmap, multiprocessing, sys
import mooncake

def child(session, address):
    with mooncake.Engine("127.0.0.1") as engine:
        memory = engine.register(bytearray(b"spawned!"))
        engine.open_segment(session).write(memory[0], address, 8)

if __name__ == "__main__":
    data = bytearray(8)
    with mooncake.Engine("127.0.0.1") as engine, engine.register(data) as memory:
        context = multiprocessing.get_context(sys.argv[1])
        process = context.Process(target=child, args=(engine.session, memory.address))
        process.start()
        process.join(20)
        assert process.exitcode == 0, process.exitcode
        assert data == b"spawned!", data
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_multiprocessing(tmp_path: Path, method: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(SPAWN)
    clean(
        subprocess.run(
            [sys.executable, str(program), method],
            capture_output=True,
            text=True,
            timeout=40,
            env=engine_environment(),
        )
    )


def test_subprocess_from_a_process_with_an_engine() -> None:
    clean(
        python(
            LOOPBACK
            + """
import subprocess
for how in ({}, {"close_fds": False}, {"preexec_fn": lambda: None}, {"start_new_session": True}):
    done = subprocess.run(["sh", "-c", "echo $((6 * 7))"], capture_output=True, text=True, **how)
    assert (done.returncode, done.stdout) == (0, "42\\n"), (how, done)
    move()
inherited = subprocess.run(["ls", "-l", "/proc/self/fd"], capture_output=True, text=True,
                           close_fds=False).stdout
assert "socket:" not in inherited, inherited
assert os.system("exit 3") >> 8 == 3
move()
"""
        )
    )
