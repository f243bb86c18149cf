"""The `mooncake` command."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence

from . import __version__

_DEMO = "move KV pages between two processes here, and verify them"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, 1 (failed), 2 (usage) or 130 (Ctrl-C)."""
    options = _parser().parse_args(arguments)
    from ._errors import MooncakeError

    try:
        status: int = options.run(options)
        return status
    except MooncakeError as error:
        print(f"mooncake {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mooncake", description="Moves KV-cache pages between LLM servers."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    version = commands.add_parser("version", help="versions of the package and its library")
    version.add_argument("--json", action="store_true", help="print JSON")
    version.set_defaults(run=_version)

    from . import demo

    shown = commands.add_parser("demo", help=_DEMO, description=demo.__doc__)
    demo.add_arguments(shown)
    shown.set_defaults(run=demo.run)

    from .replay import command as replay

    replayed = commands.add_parser("replay", help=replay.HELP, description=replay.DESCRIPTION)
    replay.add_arguments(replayed)
    replayed.set_defaults(run=replay.run)

    from .replay import advise_command as advise

    advised = commands.add_parser("advise", help=advise.HELP, description=advise.HELP)
    advise.add_arguments(advised)
    advised.set_defaults(run=advise.run)

    probe = commands.add_parser(
        "probe", help="ask a peer whether it is alive", description="Exit status 0: it is; 1: not."
    )
    probe.add_argument("peer", metavar="HOST:PORT", help="the peer's session")
    probe.add_argument(
        "--timeout", type=_seconds, default=1.0, metavar="SECONDS", help="give up then (1)"
    )
    probe.add_argument("--json", action="store_true", help="print JSON")
    probe.set_defaults(run=_probe)

    topology = commands.add_parser(
        "topology",
        help="memory locations of this host and the RDMA devices near each, or its RDMA ports",
        description="Memory locations of this host and the RDMA devices near each. With --rdma "
        "its RDMA ports as an engine sees them with the MC_* variables that are set: what is wrong "
        "with a port and what to do, the addresses of the others, and which one is used. Then exit "
        "status 1 means that there is none to use.",
    )
    topology.add_argument(
        "--rdma", action="store_true", help="RDMA ports and their addresses, and what is wrong"
    )
    topology.add_argument(
        "--devices", default="", metavar="LIST", help="these devices only, comma separated"
    )
    topology.add_argument("--json", action="store_true", help="print JSON")
    topology.set_defaults(run=_topology)
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def _version(options: argparse.Namespace) -> int:
    from . import _ffi

    versions = {
        "package": __version__,
        "library": _ffi.lib().mc_version().decode(),
        "path": str(_ffi.library_path()),
    }
    if options.json:
        print(json.dumps(versions))
    else:
        print(
            f"mooncake {versions['package']}, library {versions['library']} at {versions['path']}"
        )
    return 0


def _probe(options: argparse.Namespace) -> int:
    from ._errors import MooncakeError
    from .native import Engine

    error = ""
    with Engine("localhost") as engine:
        begin = time.monotonic()
        try:
            engine.probe(options.peer, options.timeout)
        except MooncakeError as failure:
            error = str(failure)
        took = time.monotonic() - begin
    if options.json:
        answer = {"peer": options.peer, "alive": not error, "seconds": round(took, 6)}
        print(json.dumps({**answer, "error": error} if error else answer))
    elif error:
        print(f"mooncake probe: {options.peer}: {error}", file=sys.stderr)
    else:
        print(f"{options.peer} is alive: answered in {took * 1000:.1f} ms")
    return 1 if error else 0


def _topology(options: argparse.Namespace) -> int:
    from ._ports import report, usable
    from .native import local_topology, local_topology_text, rdma_ports

    if options.rdma:
        ports = rdma_ports(options.devices)
        print(json.dumps(ports) if options.json else report(ports))
        return 0 if usable(ports) else 1
    if options.json:
        print(local_topology_text(options.devices))
        return 0
    for location, (preferred, others) in local_topology(options.devices).items():
        near, far = ", ".join(preferred) or "none", ", ".join(others) or "none"
        print(f"{location}: near {near}; others {far}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
