"""A process of the benchmark that answers commands: mover.py on one of the hosts."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cells import BenchError

MOVER = Path(__file__).with_name("mover.py")


class Process:
    """mover.py. What it and its libraries print is in the log."""

    def __init__(self, python: Path, prefix: Sequence[str], log: Path, variable: str = "") -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MC_", "PYTHON"))}
        name, _, value = variable.partition("=")
        more = {name: value} if name else {}
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [*prefix, str(python), "-u", str(MOVER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**kept, "MC_FORCE_HCA": "1", "MC_LOCAL": "0", **more},
            )
        self.log = log
        self.answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.answers.put(line)
        self.answers.put("")

    def call(self, op: str, timeout: float = 60.0, **arguments: Any) -> dict[str, Any]:
        """Raises BenchError. After a call that was not answered in time the process is of no use:
        the answer to the next one would be this one's."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"op": op, **arguments}) + "\n")
            self.process.stdin.flush()
            line = self.answers.get(timeout=timeout)
        except queue.Empty:
            self.close()
            raise BenchError(f"{op}: no answer within {timeout:.0f} s, see {self.log}") from None
        except OSError as error:
            raise BenchError(f"{op}: {error}, see {self.log}") from error
        if not line:
            raise BenchError(f"{op}: the process has ended, see {self.log}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise BenchError(f"{op}: {answer['error']}")
        return answer

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
