"""The targets of the design for tcp, local and latency, held against a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from contenders import LIMITS_OF_LOCAL, LIMITS_OF_MEMORY, LOCAL, PINGPONG, TCP
from plan import Cell
from results import Results, median_of, rounds_of_both
from table import aligned

KIB, MIB = 1 << 10, 1 << 20
MEMCPY_FROM = 256 * KIB


@dataclass(frozen=True)
class Verdict:
    """value None: the run has not measured it, and why not is note."""

    what: str
    target: float
    value: float | None
    at_most: bool = False
    note: str = ""

    @property
    def outcome(self) -> str:
        if self.value is None:
            return "not measured"
        met = self.value <= self.target if self.at_most else self.value >= self.target
        return "met" if met else "MISSED"


def verdicts(results: Results) -> list[Verdict]:
    return [*of_tcp(results), *of_local(results), *of_latency(results)]


def report(found: Iterable[Verdict]) -> str:
    rows = [["target", "wanted", "measured", "outcome"]]
    for each in found:
        sign = "<=" if each.at_most else ">="
        value = "" if each.value is None else f"{each.value:.2f}"
        outcome = f"{each.outcome}: {each.note}" if each.note else each.outcome
        rows.append([each.what, f"{sign} {each.target:g}", value, outcome])
    return aligned(rows, text_columns=1)


def of_tcp(results: Results) -> Iterator[Verdict]:
    name = f"ours {TCP}"
    for size, factor in ((512, 60), (4 * KIB, 12)):
        cell = Cell(size, "scattered", "write")
        yield against(results, cell, name, ("upstream",), factor)
        whole = Cell(MIB, "scattered", "write")
        pairs = rounds_of_both(
            results.cells.get(cell, {}).get(name, {}), results.cells.get(whole, {}).get(name, {})
        )
        value = median_of(a.gb_per_second / b.gb_per_second for a, b in pairs)
        yield Verdict(f"tcp, {cell}, over our own 1 MiB", 0.5, value)
    for cell in results.cells:
        if cell.size >= MIB:
            yield against(results, cell, name, (PINGPONG,), 0.95)


def of_local(results: Results) -> Iterator[Verdict]:
    name = f"ours {LOCAL}"
    for cell in results.cells:
        yield against(results, cell, name, LIMITS_OF_LOCAL, 0.95)
        if cell.size >= MEMCPY_FROM:
            yield against(results, cell, name, LIMITS_OF_MEMORY, 0.85)


def against(
    results: Results, cell: Cell, name: str, names: tuple[str, ...], target: float
) -> Verdict:
    """Ours over the best of the names: the one with the best median, round by round."""
    best = results.best(cell, names)
    transport = name.removeprefix("ours ")
    what = f"{transport}, {cell}, over {best or ' or '.join(names)}"
    used = results.strayed.get((cell, name))
    if used:
        return Verdict(what, target, None, note=f"{name} used {used}")
    return Verdict(what, target, results.ratio(cell, name, best) if best else None)


def of_latency(results: Results) -> Iterator[Verdict]:
    for name, words, factor in (("ours tcp C", "C", 1.3), ("ours tcp", "Python", 1.6)):
        what = f"tcp, P50 of one 4 KiB blocking write from {words}, over a socket ping-pong"
        yield Verdict(what, factor, results.latency_ratio(name, PINGPONG), at_most=True)
