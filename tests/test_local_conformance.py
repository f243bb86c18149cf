"""What transfers promise does not depend on the transport: the same tests, in memory."""

from __future__ import annotations

import pytest
import test_pages
import test_transfer
import test_transfer_pieces

WAYS = ["on", "packed", "cma"]


@pytest.fixture(autouse=True, params=WAYS)
def default_variables(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setenv("MC_LOCAL", request.param)


# Its fixtures, too: those that do not come from conftest.py.
for module in (test_pages, test_transfer, test_transfer_pieces):
    for name, thing in vars(module).items():
        if name.startswith("test_") or name == "pair":
            globals()[name] = thing
