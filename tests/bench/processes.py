"""One process of a contender, seen from the benchmark."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

TICKS = os.sysconf("SC_CLK_TCK")
FOREIGN = ("MC_", "UCX_", "NIXL_")


class BenchError(Exception):
    """A process of the benchmark answered with an error, or not at all."""


def clean_environment(more: Mapping[str, str], python: bool) -> dict[str, str]:
    """Ours without what changes a contender's behaviour. PYTHONPATH may lead to our package,
    which another Python must not find."""
    foreign = FOREIGN if python else (*FOREIGN, "PYTHON")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    return {**kept, "PYTHONDONTWRITEBYTECODE": "1", **more}


class Process:
    """A driver. Every call has a deadline. Ctrl-C does not reach it: its owner ends it."""

    def __init__(self, command: Sequence[str], env: dict[str, str], log: TextIO) -> None:
        self.name = Path(log.name).stem
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=env,
                text=True,
                start_new_session=True,
            )
        except OSError as error:
            raise BenchError(f"{self.name}: cannot start {command[0]}: {error.strerror}") from error
        self._answers: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def call(self, *words: object, timeout: float = 60.0) -> dict[str, Any]:
        op = str(words[0])
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(" ".join(map(str, words)) + "\n")
            self.process.stdin.flush()
            line = self._answers.get(timeout=timeout)
        except queue.Empty:
            raise BenchError(f"{self.name}: {op}: no answer within {timeout:.0f} s") from None
        except OSError as error:
            raise BenchError(f"{self.name}: {op}: {error}") from error
        if not line:
            raise BenchError(f"{self.name}: {op}: the process ended")
        answer: dict[str, Any] = json.loads(line)
        if not answer.pop("ok"):
            raise BenchError(f"{self.name}: {op}: {answer['error']}")
        return answer

    def cpu_seconds(self) -> float:
        """User and system time of all threads so far."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        user, system = stat.rsplit(")", 1)[1].split()[11:13]
        return (int(user) + int(system)) / TICKS

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self._reader.join(10)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass  # a command that it never read
