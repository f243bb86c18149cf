"""The tests' end of programs/peer.py: an engine in a process of its own."""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kit import PROGRAMS, engine_environment, freeze, thaw


class PeerError(Exception):
    """A command failed in the peer; kind is the class of its exception."""

    def __init__(self, kind: str, text: str, quiet: str | None) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.quiet = quiet


class Peer:
    """A process with one native engine, which does what it is told.

    Every call has a deadline. close() ends the process, whatever its state.
    """

    STARTS = 30.0  # seconds, at most

    def __init__(
        self,
        host: str = "127.0.0.1",
        rpc_port: int = 0,
        *,
        prefix: Sequence[str] = (),
        log: Path | None = None,
        **env: str,
    ) -> None:
        """prefix is a command that runs the peer, such as unshare; log gets its log."""
        with contextlib.ExitStack() as files:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-u", str(PROGRAMS / "peer.py"), host, str(rpc_port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=files.enter_context(log.open("w")) if log else None,
                text=True,
                env=engine_environment(**env),
            )
        self.pid = self.process.pid
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.session: str = self.receive(self.STARTS)["session"]
        except BaseException:
            self.close()
            raise

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._answers.put(line)
        self._answers.put(None)

    def send(self, op: str, **arguments: Any) -> None:
        """Send a command and return at once; receive() takes the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"op": op, **arguments}) + "\n")
        self.process.stdin.flush()

    def receive(self, timeout: float = 20.0) -> dict[str, Any]:
        """The answer to the oldest command that has none yet. Raises PeerError."""
        try:
            line = self._answers.get(timeout=timeout)
        except queue.Empty:
            raise AssertionError(f"the peer has not answered within {timeout} s") from None
        if line is None:
            raise AssertionError(f"the peer has ended with {self.process.wait(10)}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"], answer["text"], answer["quiet"])
        return answer

    def call(self, op: str, *, timeout: float = 20.0, **arguments: Any) -> dict[str, Any]:
        self.send(op, **arguments)
        return self.receive(timeout)

    def memory(self, name: str, size: int, seed: int | None = None, **more: Any) -> int:
        """Map and register pages in the peer; their address."""
        address: int = self.call("memory", name=name, size=size, seed=seed, **more)["address"]
        return address

    def sha(self, name: str) -> str:
        digest: str = self.call("sha", name=name)["sha"]
        return digest

    def count(self, name: str, value: int) -> int:
        """How many bytes of the memory have this value."""
        number: int = self.call("count", name=name, value=value)["count"]
        return number

    def strange(self, name: str, seed: int) -> int:
        """How many bytes of the memory are neither 0 nor those of the pattern."""
        number: int = self.call("strange", name=name, seed=seed)["count"]
        return number

    def freeze(self) -> None:
        freeze(self.pid)

    def thaw(self) -> None:
        thaw(self.pid)

    def kill(self) -> None:
        """End the process with SIGKILL, and wait until it is gone."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(10)
        self._reader.join(10)
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()
