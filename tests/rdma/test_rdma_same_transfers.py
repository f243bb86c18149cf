"""Transfers, as over any transport; see conformance.py."""

from __future__ import annotations

import test_transfer
import test_transfer_pieces
from conformance import tests_of

globals().update(tests_of(test_transfer, test_transfer_pieces))
