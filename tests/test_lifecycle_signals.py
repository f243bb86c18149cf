"""Signals in a process that has loaded the library: Python's behaviour is unchanged."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest
from kit import clean, ended, expect_line, python, start_python, within
from stage import Stage
from test_lifecycle import IN_FLIGHT, LOOPBACK

# Interrupts the program as soon as a batch is open, and keeps when that was.
INTERRUPTER = """
at = []
def interrupt(number=signal.SIGINT):
    def run():
        while not engine.stats().batches_open:
            time.sleep(0.002)
        time.sleep(0.05)  # into the wait, and a little on
        at.append(time.monotonic())
        os.kill(os.getpid(), number)
    threading.Thread(target=run).start()
"""


@pytest.fixture(autouse=True)
def as_from_a_terminal() -> Iterator[None]:
    """Under nohup SIGHUP is ignored, and processes started here would inherit that."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def in_flight(stage: Stage, program: str) -> Any:
    """Run IN_FLIGHT, with the peer frozen, and then a program; (code, stdout, stderr)."""
    source = IN_FLIGHT.replace("batch = ", INTERRUPTER + "\nbatch = ") + program
    with ended(start_python(source, stage.peer.session, str(stage.remote))) as process:
        assert expect_line(process) == "connected"
        stage.peer.freeze()
        stdout, stderr = within(20, process.communicate, "\n")
        return process.returncode, stdout, stderr


WAIT = """
interrupt()
try:
    batch.wait()
except KeyboardInterrupt:
    took = time.monotonic() - at[0]
    assert took < 0.5, took
    assert not batch.done, "the interrupt stops the waiting only"
    batch.close()
    assert engine.stats().batches_open == 0
    print("interrupted", flush=True)
"""

WRITE = """
batch.close()
interrupt()
try:
    segment.write(memory[0], remote, 64 << 20)
except KeyboardInterrupt:
    took = time.monotonic() - at[0]
    assert took < 2, took
    assert engine.stats().batches_open == 0, "it is quiet before the exception goes on"
    print("interrupted", flush=True)
"""


@pytest.mark.alone
@pytest.mark.parametrize("program", [WAIT, WRITE], ids=["wait", "write"])
def test_ctrl_c_in_a_wait(stage: Stage, program: str) -> None:
    code, stdout, stderr = in_flight(stage, program)
    assert (code, stdout.strip(), stderr) == (0, "interrupted", "")


def test_ctrl_c_ends_a_program_as_usual(stage: Stage) -> None:
    code, _, stderr = in_flight(stage, "interrupt()\nbatch.wait()")
    assert code == -signal.SIGINT
    assert stderr.rstrip().endswith("KeyboardInterrupt")
    assert "goroutine" not in stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGKILL])
def test_deadly_signals_kill(stage: Stage, number: signal.Signals) -> None:
    code, _, stderr = in_flight(stage, f"interrupt({int(number)})\nbatch.wait()")
    assert (code, stderr) == (-number, "")


def test_a_python_handler_for_sigterm_runs_in_a_wait(stage: Stage) -> None:
    code, stdout, stderr = in_flight(
        stage,
        """
def handler(number, frame):
    print("handled", number, flush=True)
    sys.exit(3)
signal.signal(signal.SIGTERM, handler)
interrupt(signal.SIGTERM)
batch.wait()
""",
    )
    assert (code, stdout.strip(), stderr) == (3, "handled 15", "")


def test_handlers_run_while_threads_wait(stage: Stage) -> None:
    code, stdout, stderr = in_flight(
        stage,
        """
seen = []
signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
signal.signal(signal.SIGCHLD, lambda number, frame: seen.append(number))
for _ in range(4):
    threading.Thread(target=batch.wait, daemon=True).start()
end = time.monotonic() + 10
for expected in range(1, 51):
    os.kill(os.getpid(), signal.SIGUSR1 if expected % 2 else signal.SIGCHLD)
    while len(seen) < expected and time.monotonic() < end:
        try:
            batch.wait(0.001)
        except mooncake.WaitTimeout:
            pass
print(len(seen), flush=True)
""",
    )
    assert (code, stdout.strip(), stderr) == (0, "50", "")


CRASH = {
    "before": "import faulthandler\nfaulthandler.enable()\n" + LOOPBACK,
    "after": LOOPBACK + "import faulthandler\nfaulthandler.enable()\n",
    "both": "import faulthandler\nfaulthandler.enable()\n" + LOOPBACK + "faulthandler.enable()\n",
}
FAULTS = {
    "SIGSEGV": "ctypes.string_at(0)",
    "SIGSEGV in a thread": (
        "t = threading.Thread(target=ctypes.string_at, args=(0,))\nt.start()\nt.join()"
    ),
    "SIGABRT": "os.abort()",
    "SIGBUS": """
import tempfile
file = tempfile.TemporaryFile()
file.truncate(4096)
mapped = mmap.mmap(file.fileno(), 4096)
file.truncate(0)
mapped[0]
""",
    "SIGFPE": "os.kill(os.getpid(), signal.SIGFPE); time.sleep(5)",
}


@pytest.mark.parametrize("when", CRASH)
@pytest.mark.parametrize("fault", FAULTS)
def test_faulthandler_dumps_and_the_process_dies(when: str, fault: str) -> None:
    result = python(CRASH[when] + "move()\n" + FAULTS[fault])
    number = signal.Signals[fault.split()[0]]
    assert result.returncode == -number, result
    assert "Fatal Python error" in result.stderr
    assert 'File "<string>"' in result.stderr or "ctypes" in result.stderr


@pytest.mark.parametrize("fault", ["SIGSEGV", "SIGBUS", "SIGABRT"])
def test_without_faulthandler_faults_kill_as_before(fault: str) -> None:
    result = python(LOOPBACK + "move()\n" + FAULTS[fault])
    assert result.returncode == -signal.Signals[fault], result


WILD_POINTER = """
from mooncake import _ffi
out = ctypes.c_uint64()
for _ in range(3):
    try:
        _ffi.lib().mc_submit(segment.handle, 1, 1 << 44, 1 << 44, 1 << 44, 1, 0, ctypes.byref(out))
    except mooncake.InvalidArgument:
        print("refused")
move()
"""
# Access is taken away instead of the mapping: other threads would soon map something of
# theirs into the hole, and the peer would write to that.
UNMAPPED = """
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
for size in (64, 1 << 20):
    gone = libc.mmap(None, ctypes.c_size_t(1 << 20), 3, 0x22, -1, ctypes.c_long(0))
    with engine.register(gone, 1 << 20), engine.register(bytearray(1 << 20)) as here:
        assert libc.mprotect(gone, 1 << 20, 0) == 0
        for op, local, remote in ((1, here[0], gone), (0, here[0], gone), (1, gone, here[0])):
            try:
                with segment.submit(op, local, remote, size, deadline=5) as batch:
                    batch.wait()
            except mooncake.MooncakeError as error:
                print("refused")
move()
"""


@pytest.mark.parametrize("program", [WILD_POINTER, UNMAPPED], ids=["wild pointer", "unmapped"])
def test_faults_that_the_library_answers_end_nothing(program: str) -> None:
    """Bad pointers, and memory that was taken away while it was registered, are errors."""
    for start in (LOOPBACK, CRASH["before"]):
        result = python(start + program)
        clean(result)
        assert result.stdout.split() == ["refused"] * (3 if program is WILD_POINTER else 6)


def test_a_faulthandler_enabled_later_takes_these_faults_for_fatal() -> None:
    """It comes before the library's handler then, and passes on a signal, not the fault. So the
    process dies as it would without the library, and with a traceback."""
    result = python(CRASH["after"] + WILD_POINTER)
    assert result.returncode in (-signal.SIGSEGV, -signal.SIGABRT)
    assert "Fatal Python error: Segmentation fault" in result.stderr
    assert 'File "<string>"' in result.stderr


def test_dump_traceback_later() -> None:
    result = python(
        LOOPBACK
        + """
import faulthandler
faulthandler.dump_traceback_later(0.1, exit=False)
time.sleep(0.4)
faulthandler.cancel_dump_traceback_later()
move()
faulthandler.register(signal.SIGUSR2)
os.kill(os.getpid(), signal.SIGUSR2)
move()
"""
    )
    assert result.returncode == 0
    assert "Timeout (0:00:00.1" in result.stderr
    assert result.stderr.count("most recent call first") >= 2


def test_set_wakeup_fd() -> None:
    clean(
        python(
            LOOPBACK
            + """
import select, socket
ours, theirs = socket.socketpair()
ours.setblocking(False)
theirs.setblocking(False)
signal.set_wakeup_fd(theirs.fileno())
signal.signal(signal.SIGUSR1, lambda number, frame: None)
move()
os.kill(os.getpid(), signal.SIGUSR1)
assert select.select([ours], [], [], 10)[0], "no byte"
assert ours.recv(10) == bytes([signal.SIGUSR1])
assert not select.select([ours], [], [], 0.1)[0], "bytes of signals that Python has no handler for"
signal.set_wakeup_fd(-1)
"""
        )
    )


def test_asyncio_signal_handlers() -> None:
    clean(
        python(
            LOOPBACK
            + """
import asyncio
async def main():
    seen = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, seen.set)
    with segment.submit(mooncake.Op.WRITE, memory[0], memory[32768], 32768) as batch:
        await batch
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(seen.wait(), 10)
asyncio.run(main())
"""
        )
    )


BROKEN_PIPE = """
r, w = os.pipe()
os.close(r)
try:
    os.write(w, b"x")
except BrokenPipeError:
    print("broken")
import socket
a, b = socket.socketpair()
b.close()
try:
    a.send(b"x")
except BrokenPipeError:
    print("broken")
t = threading.Thread(target=move)
t.start()
t.join()
"""


def test_broken_pipes_are_exceptions() -> None:
    result = python(LOOPBACK + BROKEN_PIPE)
    clean(result)
    assert result.stdout.split() == ["broken"] * 2


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_default_action_of_sigpipe_kills(when: str) -> None:
    """What command line programs set so that `program | head` ends quietly."""
    default = "import signal\nsignal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
    source = default + LOOPBACK if when == "before" else LOOPBACK + default
    result = python(source + BROKEN_PIPE)
    assert (result.returncode, result.stdout, result.stderr) == (-signal.SIGPIPE, "", "")


def test_ignored_signals_stay_ignored() -> None:
    ignored = (
        "for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.signal(s, signal.SIG_IGN)"
    )
    clean(
        python(
            "import signal\n"
            + ignored
            + "\n"
            + LOOPBACK
            + """
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGURG, signal.SIGWINCH):
    os.kill(os.getpid(), number)
move()
"""
        )
    )


def test_handlers_set_before_the_library_is_loaded_stay() -> None:
    clean(
        python(
            """
import signal
seen = []
numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2,
           signal.SIGCHLD, signal.SIGALRM, signal.SIGWINCH, signal.SIGPIPE, signal.SIGQUIT]
for number in numbers:
    signal.signal(number, lambda n, frame: seen.append(n))
"""
            + LOOPBACK
            + """
for number in numbers:
    os.kill(os.getpid(), number)
    move()
assert seen == numbers, seen
"""
        )
    )
