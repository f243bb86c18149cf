"""Our engine in the pytest process, through upstream's API, and its memory."""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


class Running:
    """A call that runs in a thread of its own, so that no test hangs with it."""

    def __init__(self, call: Callable[..., Any], *args: Any) -> None:
        self._outcome: list[tuple[Any, BaseException | None]] = []
        self.thread = threading.Thread(target=self._run, args=(call, args), daemon=True)
        self.thread.start()

    def _run(self, call: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            self._outcome.append((call(*args), None))
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


def within(timeout: float, call: Callable[..., T], *args: Any) -> T:
    """Make the call; fail the test if it takes longer."""
    result: T = Running(call, *args).result(timeout)
    return result


def wait_until(condition: Callable[[], bool], what: str, timeout: float = 10.0) -> None:
    """Poll until the condition holds; AssertionError, naming it, after timeout."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what}")
        time.sleep(0.002)


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Set variables while an engine is created, which is when it reads them."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class Memory:
    """Mapped pages with their address; not registered by themselves."""

    def __init__(self, data: bytes) -> None:
        self.size = len(data)
        self.pages = mmap.mmap(-1, self.size)
        self.pages[:] = data
        first = ctypes.c_char.from_buffer(self.pages)
        self.address = ctypes.addressof(first)
        del first

    def bytes(self, offset: int = 0, length: int | None = None) -> bytes:
        return self.pages[offset : self.size if length is None else offset + length]

    def close(self) -> None:
        self.pages.close()


class OurEngine:
    """A TransferEngine with deadlines on every blocking call.

    deadline bounds a transfer from outside: a call that exceeds it fails the test.
    """

    deadline = 60.0

    def __init__(self, host: str = "127.0.0.1", **env: str) -> None:
        from mooncake import engine as module

        self.module = module
        with environment(MC_FORCE_TCP="1", **env):
            self.engine = module.TransferEngine()
            status = within(10, self.engine.initialize, host, "P2PHANDSHAKE", "tcp", "")
        assert status == 0, f"initialize answered {status}"
        self.session = f"{host}:{self.engine.get_rpc_port()}"

    def close(self) -> None:
        close = getattr(self.engine, "close", None)
        if close is not None:
            within(15, close)

    @contextmanager
    def memory(self, data: bytes, register: bool = True) -> Iterator[Memory]:
        """Pages that hold data, registered while the block runs."""
        memory = Memory(data)
        if register:
            assert self.engine.register_memory(memory.address, memory.size) == 0
        try:
            yield memory
        finally:
            if register:
                assert within(40, self.engine.unregister_memory, memory.address) == 0
            memory.close()

    def start_transfer(
        self, opcode: str, target: str, local: list[int], remote: list[int], length: list[int]
    ) -> Running:
        call = getattr(self.engine, f"batch_transfer_sync_{opcode}")
        return Running(call, target, local, remote, length)

    def transfer(
        self, opcode: str, target: str, local: list[int], remote: list[int], length: list[int]
    ) -> int:
        """One blocking batch, "write" or "read"; its return value."""
        rc: int = self.start_transfer(opcode, target, local, remote, length).result(self.deadline)
        return rc

    def transfer_with_notify(
        self,
        target: str,
        local: list[int],
        remote: list[int],
        length: list[int],
        name: str,
        message: str,
    ) -> int:
        note = self.module.TransferNotify(name, message)
        opcode = self.module.TransferOpcode.Write
        return within(
            self.deadline,
            self.engine.batch_transfer_sync,
            target,
            local,
            remote,
            length,
            opcode,
            note,
        )
