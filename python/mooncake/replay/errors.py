"""What ends a replay."""

from __future__ import annotations

from .._demo_models import DemoError


class ReplayError(DemoError):
    """The replay cannot go on; the text is for the user."""


class UsageError(ReplayError):
    """An option or an input file is wrong: nothing has been run."""
