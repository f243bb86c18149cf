"""sglang's releases under test, each from its own sources; see sources.py.

MC_REQUIRE containing sglang or torch turns the skips for want of them into failures.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest
import sources
from kit import skip_or_fail
from stage_sglang import Sglang

from mooncake.integrations.sglang import KNOWN, uninstall


@pytest.fixture(scope="module", params=KNOWN)
def sglang(request: pytest.FixtureRequest) -> Iterator[Sglang]:
    """One release of sglang, imported anew for each module of tests."""
    version = request.param
    if not (sources.WHEELS / version).is_dir():
        skip_or_fail("sglang", f"sglang {version} is not there: `make sglang` fetches it")
    with sources.sglang(version):
        yield Sglang(version)


@pytest.fixture(scope="module")
def torch() -> Any:
    if importlib.util.find_spec("torch") is None:
        skip_or_fail("torch", "this Python has no torch: `make sglang` brings one")
    return importlib.import_module("torch")


@pytest.fixture
def patched(sglang: Sglang) -> Iterator[Sglang]:
    """The release with the integration in it."""
    from mooncake.integrations.sglang import install

    install()
    yield sglang
    uninstall()
