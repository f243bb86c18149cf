"""A control channel: calls to a process that was started for them, over its stdin and stdout."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ._demo_models import DemoError

_ANSWER_TIMEOUT = 120.0  # seconds: far beyond hashing the largest request
_EXIT_TIMEOUT = 5.0


def with_package(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment in which a child finds this package."""
    package = str(Path(__file__).parent.parent)
    paths = [package, *environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {**environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


class Channel:
    """A running process: the demo's decode process, or what command starts, called name in
    errors. config is its last argument; timeout is how long an answer may take, in seconds. call()
    may be used from several threads. Leaving the with block ends the process, whatever its
    state."""

    def __init__(
        self,
        config: dict[str, Any],
        command: Sequence[str] = (sys.executable, "-m", "mooncake._demo_decode"),
        env: Mapping[str, str] | None = None,
        name: str = "decode",
        timeout: float = _ANSWER_TIMEOUT,
    ) -> None:
        self._name = name
        self._timeout = timeout
        self._process = subprocess.Popen(
            [*command, json.dumps(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=with_package(os.environ) if env is None else dict(env),
            text=True,
            encoding="utf-8",
        )
        self._lock = threading.Lock()  # guards _waiting, _gone and the order of lines
        self._first: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._waiting = {0: self._first}  # by call
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

    @property
    def pid(self) -> int:
        return self._process.pid

    def signal(self, number: int) -> None:
        """Send a signal; none to a process that has ended."""
        self._process.send_signal(number)

    def hello(self) -> dict[str, Any]:
        """What the process says first. Raises DemoError."""
        return self._answer(self._first, "the start")

    def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        """The answer to an op. Blocks. Raises DemoError if the process says so, is gone, or
        does not answer."""
        call = next(self._calls)
        answer: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        line = json.dumps({"op": op, "call": call, **arguments}) + "\n"
        assert self._process.stdin is not None
        with self._lock:
            if self._gone:
                raise DemoError(f"the {self._name} process is gone")
            self._waiting[call] = answer
            try:
                self._process.stdin.write(line)
                self._process.stdin.flush()
            except (OSError, ValueError) as error:  # ValueError: close() closed it
                raise DemoError(f"the {self._name} process is gone") from error
        return self._answer(answer, op)

    def _answer(self, answers: queue.SimpleQueue[dict[str, Any]], what: str) -> dict[str, Any]:
        try:
            answer = answers.get(timeout=self._timeout)
        except queue.Empty:
            raise DemoError(f"the {self._name} process does not answer {what}") from None
        if "error" in answer:
            raise DemoError(f"{self._name} process: {answer['error']}")
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
