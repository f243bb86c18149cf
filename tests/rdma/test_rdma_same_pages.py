"""Page groups, as over any transport; see conformance.py."""

from __future__ import annotations

import test_pages
import test_pages_errors
from conformance import tests_of

globals().update(tests_of(test_pages, test_pages_errors))
