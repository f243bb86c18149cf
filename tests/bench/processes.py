"""The benchmark's two processes a contender, seen from the script."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, TextIO

HERE = Path(__file__).resolve().parent
TICKS = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """A process of the benchmark answered with an error, or not at all."""


class Process:
    """A driver under some Python. Every call has a deadline."""

    def __init__(self, python: str, script: str, env: dict[str, str], log: TextIO) -> None:
        # PYTHONPATH may lead to our package, which upstream's Python must not find.
        foreign = ("MC_",) if python == sys.executable else ("MC_", "PYTHON")
        clean = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        clean["PYTHONDONTWRITEBYTECODE"] = "1"
        self.name = Path(log.name).stem
        self.process = subprocess.Popen(
            [python, "-u", str(HERE / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**clean, **env},
            text=True,
        )
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def call(self, op: str, timeout: float = 120.0, **arguments: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"op": op, **arguments}) + "\n")
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

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
