"""Outcomes, as over any transport; see conformance.py."""

from __future__ import annotations

import test_transfer_outcomes
from conformance import tests_of

globals().update(tests_of(test_transfer_outcomes))
