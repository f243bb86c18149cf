"""The releases of sglang that the patches were written against, and which one is here."""

from __future__ import annotations

from importlib import metadata

from ..._ffi import error

KNOWN = ("0.5.21", "0.5.22", "0.5.23")


def known_version() -> str:
    """The installed sglang's version, one of KNOWN. Raises Unsupported, which names them."""
    try:
        found = metadata.version("sglang")
    except metadata.PackageNotFoundError:
        raise error("MC_EUNSUPPORTED", "sglang is not installed in this environment") from None
    release = found.partition("+")[0]  # without the tag of a local build
    if release not in KNOWN:
        raise error(
            "MC_EUNSUPPORTED",
            f"sglang {found} is not one that this release knows ({', '.join(KNOWN)}): install one "
            "of those, or run without MC_SGLANG",
        )
    return release
