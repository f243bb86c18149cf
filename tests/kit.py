"""What the tests share: deadlines, memory with known bytes, variables, child processes."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import functools
import hashlib
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import mooncake
import numpy as np

T = TypeVar("T")

REPOSITORY = Path(__file__).resolve().parents[1]
PROGRAMS = Path(__file__).with_name("programs")
HEADER = REPOSITORY / "capi" / "mooncake.h"
POISON = 0xA5


def skip_or_fail(feature: str, reason: str) -> None:
    """Skip the test, or fail it when MC_REQUIRE, a comma separated list, has the feature."""
    import pytest  # here: peers need it not, and it is most of what they would import

    required = os.environ.get("MC_REQUIRE", "").replace(" ", "").split(",")
    if feature in required:
        pytest.fail(f"MC_REQUIRE contains {feature}, but {reason}")
    pytest.skip(reason)


class Running:
    """A call in a thread of its own, so that a test cannot hang with it."""

    def __init__(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._outcome: list[tuple[Any, BaseException | None]] = []
        self.thread = threading.Thread(target=self._run, args=(call, args, kwargs), daemon=True)
        self.thread.start()

    def _run(self, call: Callable[..., Any], args: Any, kwargs: Any) -> None:
        try:
            self._outcome.append((call(*args, **kwargs), None))
        except BaseException as error:
            self._outcome.append((None, error))

    @property
    def alive(self) -> bool:
        return self.thread.is_alive()

    def result(self, timeout: float) -> Any:
        """What the call returned or raised; AssertionError if it has not within timeout."""
        self.thread.join(timeout)
        if not self._outcome:
            faulthandler.dump_traceback()
            raise AssertionError(f"the call has not returned within {timeout} s")
        value, error = self._outcome[0]
        if error is not None:
            raise error
        return value


def within(timeout: float, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Make the call; fail the test if it takes longer."""
    result: T = Running(call, *args, **kwargs).result(timeout)
    return result


def wait_until(condition: Callable[[], object], what: str, timeout: float = 10.0) -> None:
    """Poll until the condition holds; AssertionError, naming it, after timeout."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what}")
        time.sleep(0.002)


def stays(condition: Callable[[], object], what: str, seconds: float = 0.15) -> None:
    """Watch that the condition holds all the time. For what must not happen there is
    nothing to wait for."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert condition(), f"did not stay so: {what}"
        time.sleep(0.005)


def wait_for_more(counter: Callable[[], int], what: str, timeout: float = 10.0) -> None:
    """Poll until the counter is above what it is now."""
    before = counter()
    wait_until(lambda: counter() > before, what, timeout)


@contextlib.contextmanager
def environment(**variables: str | None) -> Iterator[None]:
    """Set variables (None: unset) while an engine is created, which is when it reads them."""
    before = {name: os.environ.get(name) for name in variables}
    try:
        _set(variables)
        yield
    finally:
        _set(before)


def _set(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@functools.lru_cache(maxsize=2)
def pattern(size: int, seed: int) -> np.ndarray:
    """size bytes that no other seed, and no shift, gives; none of them is POISON."""
    data = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    data[data == POISON] = 0
    data.flags.writeable = False
    return data


class Pages:
    """Mapped pages with their address, as a numpy array of bytes. Not registered.

    A page on either side belongs to the mapping and to nobody else: the kernel likes to put
    mappings side by side, and two that are registered and adjoin are one range to a peer.
    """

    def __init__(self, size: int, seed: int | None = None) -> None:
        self.size = size
        margin = mmap.PAGESIZE
        self.map = memoryview(mmap.mmap(-1, margin + size + margin))[margin : margin + size]
        self.array = np.frombuffer(self.map, dtype=np.uint8)
        self.address = int(self.array.ctypes.data)
        if seed is not None:
            self.array[:] = pattern(size, seed)

    def fill(self, value: int) -> None:
        self.array[:] = value

    def bytes(self, offset: int = 0, length: int | None = None) -> bytes:
        return self.array[offset : self.size if length is None else offset + length].tobytes()

    def sha(self) -> str:
        return hashlib.sha256(self.array.data).hexdigest()


# Ports below those that the kernel gives away by itself, and above the engine's own: each
# worker of pytest-xdist has a range, so that no test takes a port another has just found free.
_WORKER_PORTS = 1500
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_next_port = os.getpid() % _WORKER_PORTS


def free_port(neighbours: int = 1) -> int:
    """The first of so many ports side by side that nobody listens on now, on any address."""
    global _next_port
    for _ in range(_WORKER_PORTS):
        begin = _next_port % (_WORKER_PORTS - neighbours)
        port = 20000 + _worker % 8 * _WORKER_PORTS + begin
        _next_port = begin + neighbours
        try:
            with contextlib.ExitStack() as stack:
                for number in range(port, port + neighbours):
                    stack.enter_context(socket.create_server(("", number)))
                return port
        except OSError:
            continue
    raise AssertionError(f"no {neighbours} free ports side by side")


def engine_environment(**more: str) -> dict[str, str]:
    """A child's environment: this one without MC_* variables, and with some of its own.

    Engines on one host move bytes in memory; so that tests are about tcp, they are told not
    to, unless the test itself is.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MC_")}
    package = str(Path(mooncake.__file__ or "").parents[1])
    kept["PYTHONPATH"] = os.pathsep.join([package, *filter(None, [kept.get("PYTHONPATH")])])
    if forced := os.environ.get("MC_FORCE_HCA"):
        kept["MC_FORCE_HCA"] = forced  # the tests are about rdma
    return {**kept, "MC_LOCAL": os.environ.get("MC_LOCAL", "0"), **more}


def python(
    source: str, *args: str, timeout: float = 30.0, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a Python program given as text until it ends; AssertionError after timeout."""
    try:
        return subprocess.run(
            [sys.executable, "-c", source, *args],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=engine_environment(**env),
        )
    except subprocess.TimeoutExpired as expired:
        raise AssertionError(
            f"the program has not ended within {timeout} s\n{expired.stdout!r}\n{expired.stderr!r}"
        ) from None


def start_python(source: str, *args: str, **env: str) -> subprocess.Popen[str]:
    """Start a Python program given as text, with pipes. Use it in a with block of ended()."""
    return subprocess.Popen(
        [sys.executable, "-u", "-c", source, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=engine_environment(**env),
    )


@contextlib.contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """Kill the process at the end of the block if it still runs, and close its pipes."""
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.communicate(timeout=10)


def expect_line(process: subprocess.Popen[str], timeout: float = 20.0) -> str:
    """The next line that the process prints."""
    assert process.stdout is not None
    line = within(timeout, process.stdout.readline)
    if not line:
        _, stderr = process.communicate(timeout=10)
        raise AssertionError(f"the program ended with {process.returncode}: {stderr}")
    return line.strip()


def clean(result: subprocess.CompletedProcess[str]) -> None:
    """Assert that a program ended with 0 and nothing on standard error."""
    assert result.returncode == 0, (result.returncode, result.stdout, result.stderr)
    assert result.stderr == "", result.stderr


def state_of(pid: int) -> str:
    """The kernel's letter for a process: R, S, T (stopped) and so on."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def freeze(pid: int) -> None:
    """Stop a process with SIGSTOP; returns when it stands."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: state_of(pid) == "T", "the process is stopped")


def thaw(pid: int) -> None:
    os.kill(pid, signal.SIGCONT)


def map_at(address: int, size: int) -> int:
    """Map zeroed pages at exactly this address. Raises OSError if that is taken."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    fixed_no_replace = 0x100000
    got = libc.mmap(
        address, size, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | fixed_no_replace, -1, 0
    )
    if got != address:
        raise OSError(ctypes.get_errno(), f"mmap at {address:#x} gave {got}")
    return address
