"""The rounds of the benchmark: every contender in every cell, in turn."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cells import CELLS, SCATTERED, BenchError, Cell, Sample


class Contender(Protocol):
    name: str
    scatters: bool  # it can write scattered blocks
    compares: bool  # all bytes are compared before a measurement

    def measure(self, cell: Cell, seconds: float) -> Sample: ...
    def close(self) -> None: ...


@dataclass
class Rounds:
    """What each contender has done in each round; None where it failed."""

    contenders: Sequence[Contender]
    cells: Sequence[Cell] = tuple(CELLS)
    absent: dict[str, str] = field(default_factory=dict)  # by name, with the reason
    done: int = 0
    samples: dict[Cell, dict[str, list[Sample | None]]] = field(init=False)

    def __post_init__(self) -> None:
        self.samples = {cell: {} for cell in self.cells}

    def run(self, rounds: int, seconds: float, until: float) -> None:
        """The last round is the one that goes on at this time."""
        for number in range(1, rounds + 1):
            began = time.monotonic()
            self.round(seconds)
            now = time.monotonic()
            print(f"round {number} of {rounds} took {now - began:.0f} s", flush=True)
            if now > until and number < rounds:
                print("the time is up: there will be no further round", flush=True)
                break

    def round(self, seconds: float) -> None:
        for cell in self.cells:
            for each in self.contenders:
                if each.scatters or cell.layout != SCATTERED:
                    self.one(each, cell, seconds)
        self.done += 1

    def one(self, contender: Contender, cell: Cell, seconds: float) -> None:
        """Whoever fails twice in a row is absent from then on."""
        name = contender.name
        found = self.samples[cell].setdefault(name, [])
        found.append(None)
        if name in self.absent:
            return
        for attempt in (1, 2):
            try:
                found[-1] = contender.measure(cell, seconds)
                return
            except BenchError as error:
                said = f"{cell.size} B {cell.layout}: {error}"
                print(f"{name}, {said}", flush=True)
                if attempt == 2:
                    self.absent[name] = said
