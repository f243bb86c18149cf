"""What the benchmark is doing, on stderr."""

from __future__ import annotations

import sys
import time


class Progress:
    """On a terminal one line that the next one overwrites; elsewhere plain lines, fewer."""

    def __init__(self, steps: int) -> None:
        self.steps, self.done = steps, 0
        self.began = time.monotonic()
        self.terminal = sys.stderr.isatty()

    def step(self) -> None:
        """One of so many rounds is done."""
        self.done += 1

    def now(self, text: str) -> None:
        """What is being done: seen on a terminal only."""
        if self.terminal:
            print(f"\r\033[K{self.left()}{text}", end="", file=sys.stderr, flush=True)

    def line(self, text: str) -> None:
        """Something that should stay."""
        start = "\r\033[K" if self.terminal else ""
        print(f"{start}bench: {text}", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self.terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def left(self) -> str:
        """The time that is left, judged by the rounds so far."""
        if self.done == 0:
            return ""
        seconds = (time.monotonic() - self.began) * (self.steps - self.done) / self.done
        return f"[{seconds / 60:.0f} min left] " if seconds > 90 else f"[{seconds:.0f} s left] "
