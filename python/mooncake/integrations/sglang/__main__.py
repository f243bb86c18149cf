"""Runs a program with the integration switched on in it and in the processes it starts:

    python -m mooncake.integrations.sglang [--parts pages,groups] -m sglang.launch_server ...
    python -m mooncake.integrations.sglang [--parts pages,groups] script.py ...

The same as MC_SGLANG=1 before the command, but what stands in the way is told first.
"""

from __future__ import annotations

import os
import runpy
import sys
from importlib.metadata import entry_points

from ..._errors import MooncakeError
from ..._ffi import error
from . import PARTS, VARIABLE, parts_of
from ._versions import known_version

GROUP, NAME = "sglang.srt.plugins", "mooncake"


def main(arguments: list[str]) -> int | str:
    """What the process ends with, unless the program ends it."""
    parts = ",".join(PARTS)
    if arguments[:1] == ["--parts"]:
        parts, arguments = "".join(arguments[1:2]), arguments[2:]
    as_module = arguments[:1] == ["-m"]
    program = arguments[1:] if as_module else arguments
    if not program or program[0].startswith("-"):
        print(__doc__)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    try:
        known_version()
        os.environ[VARIABLE] = ",".join(parts_of(parts))
        _see_that_sglang_calls_us()
    except MooncakeError as failure:
        return f"mooncake: {failure}"
    # Installed by sglang itself, in each of its processes, before it makes anything.
    sys.argv = program
    if as_module:
        runpy.run_module(program[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(program[0], run_name="__main__")
    return 0


def _see_that_sglang_calls_us() -> None:
    if not any(entry.name == NAME for entry in entry_points(group=GROUP)):
        raise error(
            "MC_EUNSUPPORTED",
            "this package is on the path but not installed, so sglang does not find its plugin: "
            "pip install it",
        )
    allowed = os.environ.get("SGLANG_PLUGINS", "")
    if allowed and NAME not in [name.strip() for name in allowed.split(",")]:
        raise error("MC_EINVAL", f"SGLANG_PLUGINS={allowed} keeps it out: add {NAME}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
