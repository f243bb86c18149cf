"""The results as a picture: throughput over block size, and latencies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.ticker
from contenders import Contender
from plan import Cell, named
from results import Results
from table import OTHERS, ROWS, label

matplotlib.use("Agg")

from matplotlib import pyplot

# Of a kind one colour wherever it appears; limits are grey.
STYLES: dict[str, dict[str, Any]] = {
    "ours": {"color": "#c0392b", "marker": "o", "linewidth": 2.4, "zorder": 5},
    "upstream": {"color": "#2c6fbb", "marker": "s"},
    "NIXL": {"color": "#3a923a", "marker": "^"},
    "UCX": {"color": "#b07aa1", "marker": "v"},
    "bare stream": {"color": "#555555", "linestyle": "--"},
    "CMA": {"color": "#555555", "linestyle": "--"},
    "packed": {"color": "#888888", "linestyle": ":"},
    "memcpy": {"color": "#aaaaaa", "linestyle": "-."},
}

LABELS = {name: name for name in STYLES} | {"UCX": "ucx_perftest (one hot buffer)"}


def draw(results: Results, contenders: list[Contender], path: Path) -> None:
    """Write the picture to path, in the format that its ending names."""
    series = sorted({(cell.op, cell.pattern) for cell in results.cells}, reverse=True)
    rows = max(len(series), 1) if results.cells else 0
    latencies = [c for c in contenders if results.latency(c.name) is not None]
    total = rows + bool(latencies)
    if total == 0:
        return
    heights = [3.4] * rows + ([0.7 + 0.27 * len(latencies)] if latencies else [])
    figure = pyplot.figure(figsize=(12, sum(heights)), layout="constrained")
    grid = figure.add_gridspec(total, len(ROWS), height_ratios=heights)
    first = None
    for at, (op, pattern) in enumerate(series if rows else []):
        for column, way in enumerate(ROWS):
            # One scale for all, so that panels can be compared.
            panel = figure.add_subplot(grid[at, column], sharey=first)
            first = first or panel
            throughput(panel, results, way, op, pattern)
    if first is not None:
        found = {line.get_label(): line for panel in figure.axes for line in panel.lines}
        figure.legend(
            [found[name] for name in LABELS.values() if name in found],
            [name for name in LABELS.values() if name in found],
            loc="outside upper center", ncols=len(LABELS), fontsize=8, frameon=False,
        )  # fmt: skip
    if latencies:
        bars(figure.add_subplot(grid[rows, :]), results, latencies)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def throughput(panel: Any, results: Results, way: str, op: str, pattern: str) -> None:
    """GB/s over block size, one line for each column of the table."""
    cells = sorted(
        (cell for cell in results.cells if (cell.op, cell.pattern) == (op, pattern)),
        key=lambda cell: cell.size,
    )
    line(panel, "ours", [(cell, speed_of_ours(results, cell, way)) for cell in cells])
    for column, by_row in OTHERS.items():
        names = by_row.get(way)
        if names:
            line(panel, column, [(cell, speed_of(results, cell, names)) for cell in cells])
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set_xticks([cell.size for cell in cells], [named(cell.size) for cell in cells])
    panel.minorticks_off()
    panel.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    where = "within one process" if way == "process" else way
    panel.set_title(f"{where}: {pattern} {op}s, GB/s", fontsize=10)
    panel.grid(True, color="#e5e5e5")
    panel.tick_params(labelsize=8)


def line(panel: Any, name: str, points: list[tuple[Cell, float | None]]) -> None:
    found = [(cell.size, speed) for cell, speed in points if speed is not None]
    if found:
        sizes, speeds = zip(*found, strict=True)
        panel.plot(sizes, speeds, label=LABELS[name], **STYLES[name])


def speed_of_ours(results: Results, cell: Cell, way: str) -> float | None:
    """None also where another transport was used: the line stands for this one."""
    name = f"ours {way}"
    return None if (cell, name) in results.strayed else results.speed(cell, name)


def speed_of(results: Results, cell: Cell, names: tuple[str, ...]) -> float | None:
    best = results.best(cell, names)
    return results.speed(cell, best) if best else None


def bars(panel: Any, results: Results, contenders: list[Contender]) -> None:
    """P50 as a bar, P99 as a tick beyond it."""
    places = range(len(contenders))
    found = [results.latency(each.name) or (0.0, 0.0) for each in contenders]
    colours = [colour(each) for each in contenders]
    panel.barh(places, [p50 for p50, _ in found], color=colours, height=0.7)
    panel.plot([p99 for _, p99 in found], places, "|", color="black", markersize=9)
    for place, (p50, p99) in zip(places, found, strict=True):
        panel.text(
            max(p50, p99) * 1.08, place, f"{short(p50)} / {short(p99)}", va="center", fontsize=7
        )
    panel.set_yticks(places, [label(each) for each in contenders], fontsize=8)
    panel.invert_yaxis()
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    panel.set_xlim(right=max(p99 for _, p99 in found) * 3)
    panel.set_title("one 4 KiB blocking write, microseconds: P50 (bar) and P99 (tick)", fontsize=10)
    panel.grid(True, axis="x", color="#e5e5e5")
    panel.set_axisbelow(True)


def short(value: float) -> str:
    """Three digits, never an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def colour(contender: Contender) -> str:
    kind = {"nixl": "NIXL", "ucx": "UCX"}.get(contender.name.split()[0], contender.name.split()[0])
    style = STYLES.get(kind, STYLES["CMA"])
    return str(style["color"])
