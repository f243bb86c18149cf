"""Page groups that are wrong: an exception that names the group, and no byte moved."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from board import Board, dense
from kit import POISON, within

from mooncake import InvalidArgument, NotRegistered, Op, PageGroup


def changed(group: PageGroup, index: int, **fields: int) -> PageGroup:
    layers = list(group.layers)
    layers[index] = layers[index]._replace(**fields)
    return dataclasses.replace(group, layers=layers)


# What is wrong with the second group, which exception says so, and its words.
WRONG: dict[str, tuple[Callable[[Board], Any], type[Exception], str]] = {
    "mismatch": (
        lambda b: PageGroup([1, 2], [1], dense(b).layers),
        InvalidArgument,
        "group 1: local_pages and remote_pages must have one length, not 2 and 1",
    ),
    "negative list": (
        lambda b: dense(b, [0, -3]),
        InvalidArgument,
        "local page 1 of the list is -3",
    ),
    "negative int32": (
        lambda b: dense(b, np.array([0, 1, -1], dtype=np.int32)),
        InvalidArgument,
        "group 1: local page 2 of the list is -1",
    ),
    "negative int16": (
        lambda b: dense(b, np.array([0, -1], dtype=np.int16)),
        InvalidArgument,
        "group 1: local page 1 of the list is -1",
    ),
    "past the end": (
        lambda b: dense(b, [0, 1, 10_000]),
        NotRegistered,
        "group 1, layer 0, page 2: local",
    ),
    "in the gap": (lambda b: dense(b, [0, 293]), NotRegistered, "group 1, layer 0, page 1: local"),
    "far away": (
        lambda b: dense(b, [2**63 - 1]),
        InvalidArgument,
        "group 1, layer 0, page 0: local",
    ),
    "remote": (
        lambda b: changed(dense(b), 1, remote_base=8),
        NotRegistered,
        "group 1, layer 1, page 0: remote",
    ),
    "local base": (
        lambda b: changed(dense(b), 0, local_base=0),
        NotRegistered,
        "group 1, layer 0, page 0: local",
    ),
    "stride": (
        lambda b: changed(dense(b), 1, remote_stride=511),
        InvalidArgument,
        "group 1, layer 1: length 512 is more than the remote stride 511",
    ),
    "length": (
        lambda b: changed(dense(b), 1, length=1 << 62, remote_stride=1 << 62),
        InvalidArgument,
        "length",
    ),
    "no group": (lambda b: 5, TypeError, r"groups\[1\] must be a PageGroup, not int"),
    "a string": (lambda b: dense(b, "123"), TypeError, "group 1: local_pages must be a sequence"),
    "a number": (
        lambda b: dense(b, 3),
        TypeError,
        "group 1: local_pages must be a sequence of integers, not int",
    ),
    "a float": (
        lambda b: dense(b, [0, 1.5]),
        TypeError,
        r"group 1: local_pages\[1\] must be an integer",
    ),
    "floats": (
        lambda b: dense(b, np.array([1.0])),
        TypeError,
        "group 1: local_pages must be integers, not float64",
    ),
    "too large": (
        lambda b: dense(b, [2**63]),
        TypeError,
        r"local_pages\[0\] must be between 0 and 2\*\*63-1",
    ),
    "two dimensions": (
        lambda b: dense(b, np.zeros((2, 2), dtype=np.int32)),
        TypeError,
        "one dimension",
    ),
    "no layers": (
        lambda b: dataclasses.replace(dense(b), layers=7),
        TypeError,
        "group 1: layers must be",
    ),
    "a short layer": (
        lambda b: dataclasses.replace(dense(b), layers=[(1, 2, 3, 4)]),
        TypeError,
        r"group 1: layers\[0\] must have 5 numbers .*, not 4",
    ),
    "no layer": (
        lambda b: dataclasses.replace(dense(b), layers=[1, 2, 3, 4, 5]),
        TypeError,
        r"group 1: layers\[0\] must be a Layer or five integers, not int",
    ),
    "a negative length": (
        lambda b: changed(dense(b), 1, length=-1),
        TypeError,
        r"group 1: layers\[1\].length must be between",
    ),
    "a flat array": (
        lambda b: dataclasses.replace(dense(b), layers=np.zeros(10, np.uint64)),
        TypeError,
        r"group 1: layers must be an array of shape \(n, 5\), not \(10,\)",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_group_moves_nothing(board: Board, name: str) -> None:
    wrong, kind, words = WRONG[name]
    board.there.fill(POISON)
    groups = [dense(board), wrong(board)]
    for call in (board.segment.write_pages, lambda g: board.segment.submit_pages(Op.WRITE, g)):
        with pytest.raises(kind, match=words):
            within(10, call, groups)
    assert bool((board.there.array == POISON).all())
    assert board.engine.stats().batches_open == 0


def test_wrong_calls(board: Board) -> None:
    with pytest.raises(InvalidArgument, match="op must be"):
        board.segment.submit_pages(7, dense(board))
    with pytest.raises(
        TypeError, match="groups must be a PageGroup or a sequence of them, not int"
    ):
        board.segment.write_pages(5)
    with pytest.raises(InvalidArgument, match="deadline"):
        board.segment.write_pages(dense(board), deadline=-1)
