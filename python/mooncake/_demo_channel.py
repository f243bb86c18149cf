"""The demo's control channel: calls to the decode process, over its stdin and stdout."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from ._demo_models import DemoError

_ANSWER_TIMEOUT = 120.0  # seconds: far beyond hashing the largest request
_EXIT_TIMEOUT = 5.0


class Channel:
    """A running decode process. call() may be used from several threads. Leaving the
    with block ends the process, whatever its state."""

    def __init__(self, config: dict[str, Any]) -> None:
        package = str(Path(__file__).parent.parent)
        paths = [package, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mooncake._demo_decode", json.dumps(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            text=True,
            encoding="utf-8",
        )
        self._lock = threading.Lock()  # guards _waiting, _gone and the order of lines
        self._waiting: dict[int, queue.SimpleQueue[dict[str, Any]]] = {0: queue.SimpleQueue()}
        self._gone = False
        self._calls = itertools.count(1)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Channel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(kill=kind is not None)

    def hello(self) -> dict[str, Any]:
        """What the process says first. Raises DemoError."""
        return self._answer(self._waiting[0], "the start")

    def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        """The answer to an op. Blocks. Raises DemoError if the process says so, is gone, or
        does not answer."""
        call = next(self._calls)
        answer: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        line = json.dumps({"op": op, "call": call, **arguments}) + "\n"
        assert self._process.stdin is not None
        with self._lock:
            if self._gone:
                raise DemoError("the decode process is gone")
            self._waiting[call] = answer
            try:
                self._process.stdin.write(line)
                self._process.stdin.flush()
            except (OSError, ValueError) as error:  # ValueError: close() closed it
                raise DemoError("the decode process is gone") from error
        return self._answer(answer, op)

    def _answer(self, answers: queue.SimpleQueue[dict[str, Any]], what: str) -> dict[str, Any]:
        try:
            answer = answers.get(timeout=_ANSWER_TIMEOUT)
        except queue.Empty:
            raise DemoError(f"the decode process does not answer {what}") from None
        if "error" in answer:
            raise DemoError(f"decode process: {answer['error']}")
        return answer

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            with self._lock:
                waiting = self._waiting.pop(answer.pop("call"))
            waiting.put(answer)
        with self._lock:
            self._gone = True
            for waiting in self._waiting.values():
                waiting.put({"error": "it ended"})

    def close(self, *, kill: bool = False) -> None:
        """End the process: by the end of its stdin, or at once."""
        if kill:
            self._process.kill()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(_EXIT_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
