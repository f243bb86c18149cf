"""What transfers promise does not depend on the transport: the tests in test_rdma_same_*.py
are those of ../, over rdma."""

from __future__ import annotations

from types import ModuleType
from typing import Any

# What they look at is otherwise here.
NOT_SO = {
    "test_two_processes": "the process that serves does not see what moves: it cannot count it",
    "test_the_first_bytes_do_not_wait_for_the_conversion": "bytes are counted when a batch ends",
}


def tests_of(*modules: ModuleType) -> dict[str, Any]:
    """The tests by name, and their fixtures: those that do not come from conftest.py."""
    return {
        name: thing
        for module in modules
        for name, thing in vars(module).items()
        if name not in NOT_SO
        and (name.startswith("test_") or type(thing).__name__ == "FixtureFunctionDefinition")
    }
