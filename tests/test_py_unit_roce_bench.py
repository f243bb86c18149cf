"""The RoCE lab's benchmark, without its hosts: cells, rounds in which someone fails, figures."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from kit import REPOSITORY

sys.path.append(str(REPOSITORY / "tests" / "roce" / "bench"))

import figures
from cells import CALL, CELLS, MEMORY, BenchError, Cell, Sample, offsets, sample
from rounds import Rounds
from write_bw import WriteBandwidth

MIB = 1 << 20


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.size}-{cell.layout}")
def test_blocks_do_not_overlap_and_scattered_ones_do_not_adjoin(cell: Cell) -> None:
    size = cell.size
    for each in offsets(cell):
        ordered = sorted(each)
        assert len(each) == cell.blocks and ordered[-1] + size <= MEMORY
        assert all(b - a >= size for a, b in zip(ordered, ordered[1:], strict=False))
    here, there = offsets(cell)
    both = zip(here, here[1:], there, there[1:], strict=False)
    adjoining = sum(b - a == size and d - c == size for a, b, c, d in both)
    assert adjoining == (cell.blocks - 1 if cell.layout == "contiguous" else 0)
    if cell.layout == "contiguous":
        assert cell.blocks * size == CALL


def test_bytes_that_went_another_way_are_no_sample() -> None:
    assert sample(5.0, MIB, MIB + 9, 3).retries == 3
    with pytest.raises(BenchError, match="not rdma"):
        sample(5.0, MIB, 4096, 0)


class Scripted:
    """A contender whose measurements end as they are told: a speed, or None for a failure."""

    scatters = compares = True

    def __init__(self, name: str, *script: float | None) -> None:
        self.name, self.script = name, list(script)

    def measure(self, cell: Cell, seconds: float) -> Sample:
        speed = self.script.pop(0) if self.script else 1.0
        if speed is None:
            raise BenchError("refused")
        return Sample(speed, 1.0, 0)

    def close(self) -> None: ...


def test_a_second_failure_in_a_row_makes_absent() -> None:
    lucky, unlucky = Scripted("lucky", None, 2.0), Scripted("unlucky", 3.0, None, None)
    rounds = Rounds([lucky, unlucky])
    rounds.run(2, 0.0, until=float("inf"))
    first, second = CELLS[:2]
    assert rounds.absent == {"unlucky": f"{second.size} B {second.layout}: refused"}
    assert rounds.samples[first]["lucky"] == [Sample(2.0, 1.0, 0), Sample(1.0, 1.0, 0)]
    assert rounds.samples[first]["unlucky"] == [Sample(3.0, 1.0, 0), None]
    assert rounds.samples[second]["unlucky"] == [None, None], "its place in each round is kept"
    rows = figures.figures(rounds.samples)
    assert rows[0]["samples"]["unlucky"] == [3.0, None]
    assert "unlucky" not in rows[1]["samples"], "it has no figure there"


class Choosy(WriteBandwidth):
    """As fast as it has requests in flight; with several queue pairs it works once."""

    def __init__(self) -> None:
        super().__init__(Path())
        self.ran: list[tuple[int, int]] = []

    def run(self, size: int, choice: tuple[int, int], amount: int) -> Sample:
        self.ran.append(choice)
        if choice[0] > 1 and self.ran.count(choice) > 1:
            raise BenchError("Failed status 9")
        return Sample(float(choice[0] * choice[1]), 1.0, 0)


def test_what_fails_leaves_its_place_to_the_next_best() -> None:
    one, cell = Choosy(), Cell(4096, "contiguous")
    assert one.measure(cell, 0.5).speed == 128.0
    assert one.ran[6:] == [(4, 128), (2, 128), (1, 128)]
    assert one.options() == {4096: "-q 1 -t 128"}
    one.ran.clear()
    one.measure(cell, 0.5)
    assert one.ran == [(1, 128)], "the choices are tried once"


def test_no_round_begins_after_the_time() -> None:
    rounds = Rounds([Scripted("one")])
    rounds.run(7, 0.0, until=0.0)
    assert rounds.done == 1


def test_who_does_not_scatter_has_no_scattered_cell() -> None:
    one = Scripted("ib_write_bw")
    one.scatters = False  # type: ignore[misc]
    rounds = Rounds([one])
    rounds.run(1, 0.0, until=0.0)
    assert {cell.layout for cell, found in rounds.samples.items() if found} == {"contiguous"}


def test_the_table() -> None:
    speeds = {"ours": [10.0, 30.0], "upstream": [5.0, 10.0], "ib_write_bw": [4.0, None]}
    samples = {CELLS[0]: {name: [one and Sample(one, 1.5, 2) for one in each]
                          for name, each in speeds.items()}}  # fmt: skip
    rows = figures.figures(samples)
    assert figures.over_best(rows[0]) == pytest.approx(2.5)
    lines = [line.split() for line in figures.table(rows, 2).splitlines()[-3:]]
    assert lines[0] == ["512", "contiguous", "ours", "20.0", "1.50", "4", "2.50x"]
    assert lines[2] == ["512", "contiguous", "ib_write_bw", "4.0", "1.50", "2"]
    alone = figures.figures({CELLS[0]: {"ours": samples[CELLS[0]]["ours"]}})
    assert figures.over_best(alone[0]) is None, "nobody to be compared with"
