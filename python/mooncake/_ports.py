"""The RDMA ports of this host as text for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any


def report(ports: dict[str, Any]) -> str:
    """What native.rdma_ports() gave, a paragraph for each port."""
    if not ports["ports"]:
        return f"no RDMA port: {ports['why']}"
    lines: list[str] = []
    for port in ports["ports"]:
        lines += _port(port)
    if not usable(ports):
        lines.append("engines use none of them")
    return "\n".join(lines)


def usable(ports: dict[str, Any]) -> bool:
    """Whether an engine uses one of them."""
    return any(port["used"] for port in ports["ports"])


def _port(port: dict[str, Any]) -> Iterator[str]:
    facts = [port["state"]]
    if port["link_layer"]:
        facts += [port["link_layer"], f"MTU {port['mtu']}"]
    if port["rate_gbps"]:
        facts.append(f"{port['rate_gbps']:g} Gb/s")
    if port["lid"]:
        facts.append(f"LID {port['lid']}")
    if port["used"]:
        facts.append("used")
    yield f"{port['device']} port {port['port']}: {', '.join(facts)}"
    if port["pcie"]:
        yield f"    PCIe {_pcie(port['pcie'], port['rate_gbps'])}"
    if port["error"]:
        yield f"    cannot be used: {port['error']}"
    rows = [
        (
            f"GID {gid['index']}",
            gid["address"],
            gid["type"] or "unknown type",
            f"on {gid['interface']}" if gid["interface"] else "",
            gid["reason"],
            "chosen" if gid["index"] == port["chosen"] else "",
        )
        for gid in port["gids"]
    ]
    yield from _table(rows)


def _pcie(link: dict[str, Any], rate: float) -> str:
    """Lanes and speed, what the device could have instead, and whether the port has to wait."""
    text = f"x{link['width']}, {link['speed']:g} GT/s"
    if link["max_width"] > link["width"] or link["max_speed"] > link["speed"]:
        text += f" (the device can x{link['max_width']}, {link['max_speed']:g} GT/s)"
    if 0 < link["gbps"] < rate:
        text += f": carries at most {link['gbps']:.0f} Gb/s, less than the port; try another slot"
    return text


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True) if width)
        yield f"    {'  '.join(cells)}".rstrip()
