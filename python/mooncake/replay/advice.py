"""The words that advice is given in."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Change:
    """Something to do, and what it should bring."""

    what: str
    # The time of transfers then, against now, by the model; None: unknown.
    time_factor: float | None
    because: str
    allocator: str | None = None  # what it sets, where a replay can measure it
    page_size: int | None = None
    measured: float | None = None  # the factor in this very report
    bound: bool = False  # the factor is the best that can be hoped for

    @property
    def text(self) -> str:
        said = self.what
        if self.time_factor is not None:
            upto = "at best " if self.bound else ""
            said += f": {upto}{1 / self.time_factor:.1f} times as fast by the model"
        if self.measured is not None:
            said += f", {1 / self.measured:.1f} times as measured here"
        return f"{said} ({self.because})" if self.because else said


@dataclass
class Advice:
    """What limits one configuration, or one engine."""

    subject: str
    # run length, cost per block, cost per call, link, CPU, registration, or nothing
    limit: str
    evidence: str
    shares: dict[str, float]  # of the time by the model, {} where it is not known
    changes: list[Change] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        lines = [f"{self.subject}: limited by {self.limit}", f"  {self.evidence}"]
        lines += [f"  change: {change.text}" for change in self.changes]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "text": self.text}
