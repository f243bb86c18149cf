"""The tests' end of upstream_peer.py: a subprocess that answers commands."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("upstream_peer.py")


class PeerError(RuntimeError):
    """The peer answered a command with an error."""


class PeerGone(RuntimeError):
    """The peer ended, or did not answer within the deadline."""


class UpstreamPeer:
    """A running upstream engine. Every call has a deadline; one thread at a time.

    log receives what upstream prints. close() ends the process, whatever its state.
    """

    def __init__(self, python: Path, log: Path, prefix: Sequence[str] = ()) -> None:
        """prefix is a command that runs the peer, such as one that does so on another host."""
        self.log = log
        self._log = log.open("wb")
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("MC_", "PYTHON"))}
        self.process = subprocess.Popen(
            [*prefix, str(python), "-u", str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environ,
            text=True,
            encoding="utf-8",
        )
        self.session = ""
        self.broken = False  # it missed a deadline: answers may be out of step
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._answers.put(line)
        self._answers.put(None)

    def send(self, op: str, **arguments: Any) -> None:
        """Send a command and return at once; receive() takes the answer."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"op": op, **arguments}) + "\n")
            self.process.stdin.flush()
        except OSError as error:
            raise PeerGone(f"cannot send {op}: {error}; see {self.log}") from error

    def receive(self, timeout: float = 30.0) -> dict[str, Any]:
        try:
            line = self._answers.get(timeout=timeout)
        except queue.Empty:
            self.broken = True
            raise PeerGone(f"no answer within {timeout} s; see {self.log}") from None
        if line is None:
            self._answers.put(None)
            status = self.process.wait(5)
            raise PeerGone(f"the peer ended with {status}; see {self.log}\n{self.tail()}")
        answer: dict[str, Any] = json.loads(line)
        if not answer.pop("ok"):
            raise PeerError(f"{answer['type']}: {answer['error']}")
        return answer

    def call(self, op: str, timeout: float = 30.0, **arguments: Any) -> dict[str, Any]:
        self.send(op, **arguments)
        return self.receive(timeout)

    def start(self, host: str, env: dict[str, str], **more: Any) -> dict[str, Any]:
        answer = self.call("start", 90.0, host=host, env=env, **more)
        self.session = answer["session"]
        return answer

    def tail(self, lines: int = 20) -> str:
        self._log.flush()
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    # -- shorthands that give the result itself

    def alloc(self, name: str, size: int, register: bool = True, **fill: int) -> int:
        """Map memory in the peer and register all of it; its address."""
        address: int = self.call("alloc", name=name, size=size, **fill)["address"]
        if register:
            rc = self.call("register", address=address, size=size)["rc"]
            if rc != 0:
                raise PeerError(f"register_memory answered {rc}")
        return address

    def free(self, name: str, unregister: bool = True) -> None:
        self.call("free", name=name, unregister=unregister)

    def sha256(self, name: str, offset: int = 0, length: int | None = None) -> str:
        answer = self.call("read_memory", name=name, offset=offset, length=length)
        return str(answer["sha256"])

    def bytes(self, name: str, offset: int, length: int) -> bytes:
        answer = self.call("read_memory", name=name, offset=offset, length=length, form="hex")
        return bytes.fromhex(answer["hex"])

    def transfer(
        self,
        opcode: str,
        target: str,
        local: list[int],
        remote: list[int],
        length: list[int],
        timeout: float = 60.0,
        notify: list[str] | None = None,
    ) -> int:
        """A blocking batch from the peer's engine; its return value."""
        answer = self.call(
            "transfer",
            timeout,
            opcode=opcode,
            target=target,
            local=local,
            remote=remote,
            length=length,
            notify=notify,
        )
        return int(answer["rc"])

    # -- the process

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> None:
        """Freeze the process (SIGSTOP) and return once the kernel says it is stopped."""
        self.process.send_signal(signal.SIGSTOP)
        stat = Path(f"/proc/{self.process.pid}/stat")
        deadline = time.monotonic() + 5
        while stat.read_text().rsplit(")", 1)[1].split()[0] != "T":
            if time.monotonic() > deadline:
                raise PeerGone("the peer did not stop within 5 s")
            time.sleep(0.001)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        if self.process.poll() is None:
            try:
                self.process.send_signal(signal.SIGCONT)
                self.call("exit", 5.0)
                self.process.wait(5)
            except (PeerGone, PeerError, subprocess.TimeoutExpired):
                self.process.kill()
                self.process.wait(10)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    pass  # unsent input of a peer that was killed
        self._reader.join(5)
        self._log.close()
