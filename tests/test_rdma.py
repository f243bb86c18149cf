"""What is in rdma/, each file in a process that has a software NIC.

The dynamic loader reads LD_LIBRARY_PATH when a process starts, and other tests are about
hosts without RDMA, so this process has no NIC. To run some of them alone:

    tests/softnic/build.sh build/softnic
    LD_LIBRARY_PATH=$PWD/build/softnic SOFTNIC_DIR=/dev/shm/mine python -m pytest tests/rdma -k ...
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import softnics
from kit import REPOSITORY, skip_or_fail

FOLDER = Path(__file__).with_name("rdma")
LIBRARY = REPOSITORY / "build" / "softnic"
# An idle engine and how soon calls end are measured; peers confirm in time.
ALONE = {"test_rdma_life.py", "test_rdma_same_outcomes.py"}
FILES = [
    pytest.param(name, marks=pytest.mark.alone if name in ALONE else [])
    for name in sorted(path.name for path in FOLDER.glob("test_*.py"))
]


@pytest.fixture(scope="session")
def softnic() -> None:
    """Build the software NIC."""
    if reason := softnics.unavailable():
        skip_or_fail("softnic", reason)
    softnics.build(LIBRARY)


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """Where the processes of one software NIC meet, in memory if there is a place for that."""
    memory = Path("/dev/shm")
    folder = memory / f"mooncake-softnic-{os.getpid()}" if memory.is_dir() else tmp_path / "nic"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(600, method="thread")
@pytest.mark.parametrize("file", FILES)
def test_over_the_software_nic(
    softnic: None, shared: Path, file: str, pytestconfig: pytest.Config
) -> None:
    options = ["-q", "-ra", "--timeout=60", "-p", "no:cacheprovider"]
    if pytestconfig.getoption("--long"):
        options += ["--long", "--timeout=300"]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", FOLDER / file, *options],
        capture_output=True,
        text=True,
        timeout=590,
        env={**os.environ, "LD_LIBRARY_PATH": str(LIBRARY), "SOFTNIC_DIR": str(shared)},
    )
    print(result.stdout, result.stderr)
    assert result.returncode == 0
