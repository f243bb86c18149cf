"""The text about RDMA ports."""

from __future__ import annotations

from typing import Any

import pytest
from mooncake._ports import report

PORT: dict[str, Any] = {
    "device": "mlx5_0", "port": 1, "state": "active", "mtu": 4096, "link_layer": "InfiniBand",
    "lid": 7, "rate_gbps": 200, "pcie": None, "gids": [], "chosen": None, "used": True, "error": "",
}  # fmt: skip


@pytest.mark.parametrize(
    ("link", "line"),
    [
        ((16, 16, 32, 32, 504.1), "PCIe x16, 32 GT/s"),
        ((8, 16, 32, 32, 252.1), "PCIe x8, 32 GT/s (the device can x16, 32 GT/s)"),
        (
            (16, 16, 8, 16, 126.0),
            "PCIe x16, 8 GT/s (the device can x16, 16 GT/s): carries at most 126 Gb/s, "
            "less than the port; try another slot",
        ),
    ],
)
def test_the_slot_of_a_device(link: tuple[float, ...], line: str) -> None:
    names = ("width", "max_width", "speed", "max_speed", "gbps")
    text = report({"ports": [{**PORT, "pcie": dict(zip(names, link, strict=True))}], "why": ""})
    head = "mlx5_0 port 1: active, InfiniBand, MTU 4096, 200 Gb/s, LID 7, used"
    assert text == f"{head}\n    {line}"


def test_a_software_device_has_no_slot() -> None:
    assert "PCIe" not in report({"ports": [PORT], "why": ""})
    text = report({"ports": [{**PORT, "rate_gbps": 0}], "why": ""})
    assert text == "mlx5_0 port 1: active, InfiniBand, MTU 4096, LID 7, used"
