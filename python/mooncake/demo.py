"""The demo: a prefill process writes requests' KV pages into a decode process.

This process plays prefill: for each request it fills scattered pages of its pool, asks
decode for as many, and makes one batch_transfer_sync_write with an entry for every
(buffer, page), as sglang does. Decode, a process of its own, compares hashes of what arrived
with the sender's, and looks for bytes that arrived anywhere else.
"""

from __future__ import annotations

import argparse
import json
import queue
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ._demo_channel import Channel
from ._demo_models import MODELS, DemoError, Lengths, Model, fitted, from_trace, generated
from ._demo_pool import Pool
from ._demo_report import Progress, Result, table
from ._errors import MooncakeError
from .engine import TransferEngine

_HOST = "127.0.0.1"


class _Run:
    """One model's requests, from a prefill pool here to the decode process."""

    def __init__(
        self, options: argparse.Namespace, model: Model, pages: int, lengths: Lengths
    ) -> None:
        self._options = options
        self._check = options.verify == "full"
        self._pool = Pool(model, pages, options.page_size, options.seed)
        self._lock = threading.Lock()  # guards the pool's free pages, result and _error
        self._requests: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        for request in enumerate(lengths.tokens):
            self._requests.put(request)
        self._error: Exception | None = None
        self.result = Result(model.name, model.title, lengths.note, verified=self._check)
        self.result.block_bytes = self._pool.page_bytes
        self._engine = TransferEngine()
        if self._engine.initialize(_HOST, "P2PHANDSHAKE", options.protocol, "") != 0:
            raise DemoError("the prefill engine cannot be opened; the reason is in the log")
        if self._engine.batch_register_memory(self._pool.addresses, self._pool.lengths) != 0:
            raise DemoError("the prefill pool cannot be registered; the reason is in the log")

    def run(self, channel: Channel, progress: Progress) -> None:
        """Move all requests. Raises DemoError when it cannot go on."""
        hello = channel.hello()
        workers = [
            threading.Thread(target=self._work, args=(channel, hello, progress), daemon=True)
            for _ in range(self._options.concurrency)
        ]
        for worker in workers:
            worker.start()
        try:
            for worker in workers:
                worker.join()
        except KeyboardInterrupt:
            with self._lock:
                self._error = DemoError("interrupted")
            channel.close(kill=True)  # fails what the workers wait for
            for worker in workers:
                worker.join()
            raise
        if self._error is not None:
            raise self._error
        touched = channel.call("finish")["touched"]
        if touched:
            self.result.failures.append(f"{touched} blocks of free pages were written to")
        self.result.runs = self._engine.get_engine().stats().runs

    def close(self) -> None:
        """End the registration, before the pool is unmapped."""
        self._engine.batch_unregister_memory(self._pool.addresses)

    def _work(self, channel: Channel, hello: dict[str, Any], progress: Progress) -> None:
        try:
            while self._error is None:
                number, tokens = self._requests.get_nowait()
                progress.step(self._serve(channel, hello, number, tokens))
        except queue.Empty:
            return
        except (DemoError, MooncakeError, OSError) as error:
            with self._lock:
                self._error = self._error or error

    def _serve(self, channel: Channel, hello: dict[str, Any], number: int, tokens: int) -> int:
        """Move one request; returns its bytes."""
        count = -(-tokens // self._options.page_size)
        with self._lock:
            pages = self._pool.take(count)
        self._pool.fill(pages, f"{self._options.seed}/{number}")
        digests = self._pool.digests(pages) if self._check else None
        reserved = channel.call("reserve", count=count)
        local = self._pool.block_addresses(self._pool.addresses, pages)
        remote = self._pool.block_addresses(hello["addresses"], reserved["pages"])
        sizes = [self._pool.page_bytes] * len(local)
        begin = time.monotonic()
        status = self._engine.batch_transfer_sync_write(hello["session"], local, remote, sizes)
        end = time.monotonic()
        if status != 0:
            raise DemoError(f"request {number}: the transfer failed; the reason is in the log")
        verdict = channel.call("verify", pages=reserved["pages"], digests=digests)
        with self._lock:
            self._pool.give(pages)
            self._note(number, reserved["touched"], verdict["wrong"])
            self.result.tokens += tokens
            self.result.blocks += len(local)
            self.result.bytes += sum(sizes)
            self.result.transfers.append((begin, end))
        return sum(sizes)

    def _note(self, number: int, touched: int, wrong: list[int]) -> None:
        if touched:
            self.result.failures.append(
                f"request {number}: {touched} blocks were written to before it had them"
            )
        if wrong:
            self.result.failures.append(f"request {number}: wrong bytes in buffers {wrong}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The demo's options."""
    add = parser.add_argument
    add("--model", choices=[*MODELS, "both"], default="both", help="shape of the KV cache")
    add(
        "--memory",
        type=_positive,
        default=512,
        metavar="MIB",
        help="KV pool of each of the two processes; it sets how many tokens there are (512)",
    )
    add("--requests", type=_positive, default=32, metavar="N", help="requests per model (32)")
    add("--page-size", type=_positive, default=16, metavar="TOKENS", help="tokens per page (16)")
    add("--trace", type=Path, metavar="FILE", help="JSONL with an input_length per line")
    add(
        "--on-bad-line",
        choices=["stop", "skip"],
        default="stop",
        help="what to do about a malformed line of the trace (stop)",
    )
    add("--max-tokens", type=_positive, metavar="N", help="cut longer requests first")
    add("--seed", type=int, default=1, help="of lengths, pages and contents (1)")
    add("--concurrency", type=_positive, default=2, metavar="N", help="requests at once (2)")
    add("--protocol", choices=["tcp", "rdma"], default="tcp", help="how bytes travel (tcp)")
    add(
        "--verify",
        choices=["full", "none"],
        default="full",
        help="full: hash all that arrives, and look for bytes elsewhere; none: for timing only",
    )
    add("--json", type=Path, metavar="FILE", help="write the figures there too")


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return number


def run(options: argparse.Namespace) -> int:
    """Run the demo: 0 if every byte arrived, 1 if not, 2 for a bad trace or option,
    130 after Ctrl-C."""
    try:
        asked = _requests(options)
        models = list(MODELS.values()) if options.model == "both" else [MODELS[options.model]]
        plans = [_plan(options, model, asked) for model in models]
    except DemoError as error:
        print(f"mooncake demo: {error}", file=sys.stderr)
        return 2
    try:
        results = [_run_model(options, *plan) for plan in plans]
        print(table(results))
        if options.json is not None:
            figures = {"models": [result.as_json() for result in results]}
            options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    except (DemoError, MooncakeError, OSError) as error:
        print(f"mooncake demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nmooncake demo: interrupted", file=sys.stderr)
        return 130
    failures = [f"{result.title}: {text}" for result in results for text in result.failures]
    for failure in failures:
        print(f"mooncake demo: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _requests(options: argparse.Namespace) -> list[int]:
    if options.trace is None:
        return generated(options.requests, options.seed)
    skip = _print_skipped if options.on_bad_line == "skip" else None
    return from_trace(options.trace, options.requests, skip)


def _print_skipped(reason: str) -> None:
    print(f"mooncake demo: {reason}: skipped", file=sys.stderr)


def _plan(
    options: argparse.Namespace, model: Model, asked: list[int]
) -> tuple[Model, int, Lengths]:
    """How many pages the pools have, and the lengths of the requests."""
    page_bytes = options.page_size * model.token_bytes
    pages = (options.memory << 20) // page_bytes
    each = pages // options.concurrency
    if not each:
        least = -(-page_bytes * options.concurrency >> 20)
        raise DemoError(
            f"--memory {options.memory} is too little for {options.concurrency} requests of one "
            f"page of {model.title}: give at least {least + 1}, or a smaller --page-size"
        )
    return model, pages, fitted(asked, each * options.page_size, options.max_tokens)


def _run_model(options: argparse.Namespace, model: Model, pages: int, lengths: Lengths) -> Result:
    print(_description(options, model, pages, lengths), flush=True)
    config = {
        "model": model.name,
        "pages": pages,
        "page_tokens": options.page_size,
        "seed": options.seed,
        "check": options.verify == "full",
        "host": _HOST,
        "protocol": options.protocol,
    }
    progress = Progress(model.title, len(lengths.tokens), sys.stderr)
    with Channel(config) as channel:
        run = _Run(options, model, pages, lengths)
        try:
            run.run(channel, progress)
        finally:
            progress.end()
            run.close()
    return run.result


def _description(options: argparse.Namespace, model: Model, pages: int, lengths: Lengths) -> str:
    """What is about to be moved, and how it was scaled."""
    tokens = pages * options.page_size
    note = f" ({lengths.note})" if lengths.note else ""
    return (
        f"{model.title}: {model.buffers} buffers of {model.row_bytes:,} B a token, all layers; "
        f"pools scaled to {tokens:,} tokens ({tokens * model.token_bytes >> 20} MiB) in each "
        f"process; scattered pages of {options.page_size} tokens; {len(lengths.tokens)} requests "
        f"of {min(lengths.tokens):,} to {max(lengths.tokens):,} tokens{note}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """python -m mooncake.demo"""
    parser = argparse.ArgumentParser(prog="mooncake demo", description=__doc__)
    add_arguments(parser)
    return run(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
