"""What transfers promise does not depend on the transport: the same tests, over rdma."""

from __future__ import annotations

import test_pages
import test_pages_errors
import test_transfer
import test_transfer_batches
import test_transfer_outcomes
import test_transfer_pieces

# What they look at is otherwise here.
NOT_SO = {
    "test_two_processes": "the process that serves does not see what moves: it cannot count it",
    "test_the_first_bytes_do_not_wait_for_the_conversion": "bytes are counted when a batch ends",
}

# Their fixtures, too: those that do not come from conftest.py.
for module in (
    test_pages,
    test_pages_errors,
    test_transfer,
    test_transfer_batches,
    test_transfer_outcomes,
    test_transfer_pieces,
):
    for name, thing in vars(module).items():
        if name in NOT_SO:
            continue
        if name.startswith("test_") or type(thing).__name__ == "FixtureFunctionDefinition":
            globals()[name] = thing
