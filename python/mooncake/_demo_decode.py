"""The demo's decode process: serves its pool, and checks what arrives in it.

It is started by _demo_channel and answers each line on stdin, a JSON object with op and
call, with one on stdout. It ends at the end of stdin, so it does not outlive its parent.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, TextIO

from ._demo_models import MODELS, DemoError
from ._demo_pool import Pool
from ._errors import MooncakeError
from .engine import TransferEngine


class Decode:
    """The pool and the engine that serves it; a method per op."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._pool = Pool(
            MODELS[config["model"]], config["pages"], config["page_tokens"], config["seed"] + 1
        )
        self._check = bool(config["check"])
        self._pool.poison(list(range(self._pool.pages)))
        self._engine = TransferEngine()
        if self._engine.initialize(config["host"], "P2PHANDSHAKE", config["protocol"], "") != 0:
            raise DemoError("the decode engine cannot be opened; the reason is in the log")
        addresses, lengths = self._pool.addresses, self._pool.lengths
        if self._engine.batch_register_memory(addresses, lengths) != 0:
            raise DemoError("the decode pool cannot be registered; the reason is in the log")
        self.hello = {
            "session": f"{config['host']}:{self._engine.get_rpc_port()}",
            "addresses": addresses,
        }

    def reserve(self, count: int) -> dict[str, Any]:
        """Free pages for a request, all poison."""
        pages = self._pool.take(count)
        touched = self._pool.touched(pages) if self._check else 0
        return {"pages": pages, "touched": touched}

    def verify(self, pages: list[int], digests: list[str] | None) -> dict[str, Any]:
        """Compare a request's pages with the sender's hashes, poison them and free them."""
        wrong: list[int] = []
        if digests is not None:
            pairs = zip(self._pool.digests(pages), digests, strict=True)
            wrong = [buffer for buffer, (here, there) in enumerate(pairs) if here != there]
        if self._check:
            self._pool.poison(pages)
        self._pool.give(pages)
        return {"wrong": wrong}

    def finish(self) -> dict[str, Any]:
        """Look at the whole pool: every page is free now, so all of it must be poison."""
        return {"touched": self._pool.touched(range(self._pool.pages)) if self._check else 0}

    def close(self) -> None:
        """End the registration, before the pool is unmapped."""
        self._engine.batch_unregister_memory(self._pool.addresses)


def _serve(decode: Decode, lines: TextIO, answers: TextIO) -> None:
    ops: dict[str, Callable[..., dict[str, Any]]] = {
        "reserve": decode.reserve,
        "verify": decode.verify,
        "finish": decode.finish,
    }
    for line in lines:
        request = json.loads(line)
        call = request.pop("call")
        try:
            answer = ops[request.pop("op")](**request)
        except DemoError as error:
            answer = {"error": str(error)}
        print(json.dumps({"call": call, **answer}), file=answers, flush=True)


def main() -> int:
    # Ctrl-C reaches the whole process group; the parent decides what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What a library prints must not come between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        return _run(answers)
    except BrokenPipeError:
        # The parent is gone: nobody is left to tell, and what is still buffered goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), answers.fileno())
        return 1


def _run(answers: TextIO) -> int:
    try:
        decode = Decode(json.loads(sys.argv[1]))
    except (DemoError, MooncakeError, OSError) as error:
        print(json.dumps({"call": 0, "error": str(error)}), file=answers, flush=True)
        return 1
    try:
        print(json.dumps({"call": 0, **decode.hello}), file=answers, flush=True)
        _serve(decode, sys.stdin, answers)
    finally:
        decode.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
