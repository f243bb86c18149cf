"""Puts the run-keeping pool and page groups to work inside sglang. docs/sglang.md has the whole.

Opt-in: MC_SGLANG=1 in the environment of a server, in all of whose processes sglang then
calls plugin() by itself; or install() in a process of one's own. Releases of sglang that
are not known are refused, and so is one whose functions are not as its release has them.
"""

from __future__ import annotations

import logging
import os

from ..._errors import MooncakeError
from ..._ffi import error
from ._patches import Applied
from ._versions import KNOWN

__all__ = ["KNOWN", "install", "installed", "plugin", "uninstall"]

PARTS = ("pages", "groups")
VARIABLE = "MC_SGLANG"

logger = logging.getLogger("mooncake")

_applied: Applied | None = None
_parts: tuple[str, ...] = ()


def install(*parts: str) -> None:
    """Patch sglang in this process, before it makes its pools.

    parts are "pages", the allocator, and "groups", the transfers; none means both. Calling it
    again with the same parts does nothing. Raises Unsupported, and nothing is patched,
    when sglang is not one of KNOWN or is not as that release is, and InvalidArgument for an
    unknown part or other parts than those installed.
    """
    global _applied, _parts
    wanted = _checked(parts or PARTS)
    if _applied is not None:
        if wanted != _parts:
            raise error(
                "MC_EINVAL", f"{', '.join(_parts)} installed already: call uninstall() first"
            )
        return
    # Only now: they need numpy, which the rest of this package does without.
    from ._points import group_patches, page_patches
    from ._versions import known_version

    version = known_version()
    patches = page_patches() if "pages" in wanted else []
    if "groups" in wanted:
        patches += group_patches(version)
    applied = Applied()
    applied.apply(patches)
    _applied, _parts = applied, wanted
    logger.info("sglang %s: %s installed", version, " and ".join(wanted))


def installed() -> tuple[str, ...]:
    """The parts that are installed in this process."""
    return _parts


def uninstall() -> None:
    """Put back what install() replaced. Pools that were made meanwhile keep their allocator."""
    global _applied, _parts
    if _applied is not None:
        _applied.undo()
    _applied, _parts = None, ()


def plugin() -> None:
    """What sglang calls when it loads its plugins, in every process of a server.

    It does nothing unless MC_SGLANG is set: 1, or the parts wanted, separated by commas; 0 is
    as if unset. When that cannot be done it ends the process and says why: sglang only
    logs the exceptions of plugins, and a server that silently runs without is worse.
    """
    try:
        parts = parts_of(os.environ.get(VARIABLE, ""))
        if parts:
            install(*parts)
    except MooncakeError as failure:
        raise SystemExit(f"mooncake: {VARIABLE}={os.environ[VARIABLE]}: {failure}") from failure


def parts_of(value: str) -> tuple[str, ...]:
    """The parts that a value of MC_SGLANG asks for. Raises InvalidArgument."""
    given = [part.strip() for part in value.lower().split(",") if part.strip()]
    if given in ([], ["0"], ["off"]):
        return ()
    if given in (["1"], ["on"]):
        return PARTS
    return _checked(given)


def _checked(parts: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """parts in the order of PARTS, each once."""
    for part in parts:
        if part not in PARTS:
            raise error("MC_EINVAL", f"{part!r} is no part: give {' or '.join(PARTS)}")
    return tuple(part for part in PARTS if part in parts)
