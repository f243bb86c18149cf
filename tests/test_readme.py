"""What README.md shows is true: its Python runs as it stands, and what it names is there."""

from __future__ import annotations

import re

import pytest
from kit import REPOSITORY, python

README = REPOSITORY / "README.md"


def blocks() -> list[str]:
    """The blocks fenced as Python."""
    return re.findall(r"^```python\n(.*?)^```$", README.read_text(), flags=re.M | re.S)


def test_there_are_examples() -> None:
    assert len(blocks()) >= 2
    assert any("TransferEngine" in block for block in blocks())


@pytest.mark.parametrize("number", range(len(blocks())))
def test_example_runs_as_written(number: int) -> None:
    result = python(blocks()[number])
    # Where the example asks for RDMA, this line says that there is none.
    lines = [line for line in result.stderr.splitlines() if "rdma was asked for" not in line]
    assert (result.returncode, lines) == (0, []), result


def test_files_that_it_names_exist() -> None:
    """Of what stands in backquotes, all that looks like a path."""
    named = re.findall(r"`([\w./-]+/[\w.-]+\.(?:go|py|h|md|c|cpp|sh))`", README.read_text())
    assert named
    assert [path for path in named if not (REPOSITORY / path).exists()] == []


def test_make_targets_that_it_names_exist() -> None:
    named = set(re.findall(r"(?:^    |`|&& )make ([a-z]+)", README.read_text(), flags=re.M))
    assert named
    targets = re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), flags=re.M)
    assert named <= set(targets)
