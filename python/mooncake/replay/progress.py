"""What a replay is doing: a bar by rich on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from .measure import PassResult
from .run import Progress


def progress(plain: bool, out: TextIO = sys.stderr) -> Progress:
    """The one for out; says so when rich would be nicer and is not there."""
    if plain or not out.isatty():
        return Plain(out)
    try:
        return Rich(out)
    except ImportError:
        print(
            "mooncake replay: plain progress: rich is not installed ('mooncake-go[bench]')",
            file=out,
        )
        return Plain(out)


def _figures(result: PassResult) -> str:
    return (
        f"{result.goodput:,.0f} MB/s, mean run {result.mean_run:,.1f} tokens, "
        f"{result.bytes / 2**20:,.0f} MiB"
    )


class Plain:
    """A line at every quarter of a long pass, and one at the end of each."""

    _SILENCE = 5.0  # seconds

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._title, self._total, self._done = "", 1, 0
        self._said = 0.0

    def begin(self, title: str, total: int) -> None:
        self._title, self._total, self._done = title, total, 0
        self._said = time.monotonic()

    def step(self, requests: int, result: PassResult) -> None:
        before, self._done = self._done, self._done + requests
        quarter = self._done * 4 // self._total > before * 4 // self._total
        if quarter and self._done < self._total and time.monotonic() > self._said + self._SILENCE:
            self._said = time.monotonic()
            self._line(f"{self._title}: {self._done:,}/{self._total:,}, {_figures(result)}")

    def end(self, result: PassResult) -> None:
        self._line(f"{self._title}, {result.way.engine}: {_figures(result)}")

    def _line(self, text: str) -> None:
        print(text, file=self._out, flush=True)


class Rich:
    """A bar with the figures so far. Raises ImportError without rich."""

    def __init__(self, out: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self._console = Console(file=out)
        self._bars: Any = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task: Any = None
        self._title = ""

    def begin(self, title: str, total: int) -> None:
        self._title = title
        self._bars.start()
        self._task = self._bars.add_task(title, total=total, figures="")

    def step(self, requests: int, result: PassResult) -> None:
        self._bars.update(self._task, advance=requests, figures=_figures(result))

    def end(self, result: PassResult) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._bars.stop()
            self._task = None
        self._console.print(
            f"{self._title}, {result.way.engine}: {_figures(result)}", highlight=False
        )
