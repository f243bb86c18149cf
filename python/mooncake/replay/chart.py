"""Goodput and mean run over time, as a picture. Imported only where matplotlib is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot, ticker

# One colour for each configuration, the allocator in the line's style.
_COLOURS = ("#c0392b", "#2c6fbb", "#3a923a", "#b07aa1", "#e08a1e", "#555555", "#17a2a2", "#8c6d31")
_STYLES = {"fifo": "--", "sorted": ":", "runs": "-"}
_MARKERS = {"ours": "o", "upstream": "s"}


def draw(report: dict[str, Any], path: Path) -> None:
    """Write the picture of a report, in the format that path's ending names."""
    if "stages" in report:
        return _draw_ramp(report, path)
    figure, panels = pyplot.subplots(2, 1, figsize=(11, 7.5), sharex=True, layout="constrained")
    passes = report["passes"]
    ways = sorted({(p["engine"], p["page_size"], p["allocator"]) for p in passes})
    last = max(p["pass"] for p in passes)
    for number, way in enumerate(ways):
        engine, size, kind = way
        style = {
            "color": _COLOURS[number % len(_COLOURS)],
            "linestyle": _STYLES[kind],
            "marker": _MARKERS.get(engine, "^"),
            "markersize": 3,
            "label": f"{engine}, page {size}, {kind}",
        }
        for panel, key in zip(panels, ("goodput_mb_per_s", "mean_run_tokens"), strict=True):
            xs, ys = _line(passes, way, key)
            panel.plot(xs, ys, **style)
    for panel, title in zip(panels, ("goodput, MB/s", "mean contiguous run, tokens"), strict=True):
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
        panel.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
        panel.yaxis.set_minor_locator(ticker.NullLocator())
        panel.set_title(title, fontsize=10, loc="left")
        panel.grid(True, color="#e5e5e5")
        for edge in range(2, last + 1):
            panel.axvline(edge, color="#999999", linewidth=0.8)
    panels[1].set_xlim(1, last + 1)
    panels[1].set_xticks(
        [n + 0.5 for n in range(1, last + 1)], [f"pass {n}" for n in range(1, last + 1)]
    )
    panels[1].tick_params(axis="x", length=0)
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=min(4, len(ways)),
        fontsize=9,
        frameon=False,
    )
    figure.suptitle(_caption(report), fontsize=10)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _line(
    passes: list[dict[str, Any]], way: tuple[Any, ...], key: str
) -> tuple[list[float], list[float]]:
    """The values of a configuration over what it had moved by then, in passes."""
    xs: list[float] = []
    ys: list[float] = []
    for each in sorted(passes, key=lambda p: int(p["pass"])):
        if (each["engine"], each["page_size"], each["allocator"]) != way:
            continue
        series = each["series"]
        for point in series:
            xs.append(each["pass"] + point["moved"])
            ys.append(point[key])
    return xs, ys


def _caption(report: dict[str, Any]) -> str:
    load, shape, transfer = report["load"], report["shape"], report["transfer"]
    source = load["trace"] or f"{load['input']} tokens in, {load['output']} out"
    return (
        f"{load['requests']:,} requests a pass, {source}; {load['running']} running, pool "
        f"{load['pool_tokens']:,} tokens\n{shape['model']}, {shape['buffers']} buffers of "
        f"{shape['row_bytes']:,} B a token, over {transfer['transport']}, api {transfer['api']}"
    )


def _draw_ramp(report: dict[str, Any], path: Path) -> None:
    figure, panels = pyplot.subplots(3, 1, figsize=(10, 9), sharex=True, layout="constrained")
    stages = report["stages"]
    rates = [stage["offered_per_s"] for stage in stages]
    panels[0].plot(rates, [stage["goodput_mb_per_s"] for stage in stages], "o-", color=_COLOURS[1])
    panels[0].set_title("goodput, MB/s", fontsize=10, loc="left")
    for key, colour in (("p50_ms", _COLOURS[2]), ("p99_ms", _COLOURS[0])):
        panels[1].plot(
            rates, [stage[key] for stage in stages], "o-", color=colour, label=key[:3].upper()
        )
    panels[1].set_yscale("log")
    panels[1].yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
    panels[1].set_title("from arrival to the last byte, ms", fontsize=10, loc="left")
    panels[1].legend(frameon=False)
    for key, colour in (("prefill_cores", _COLOURS[4]), ("decode_cores", _COLOURS[3])):
        panels[2].plot(rates, [stage[key] for stage in stages], "o-", color=colour, label=key[:-6])
    total = [stage["machine_share"] * report["machine"]["cores"] for stage in stages]
    panels[2].plot(rates, total, "o-", color=_COLOURS[5], label="all programs")
    panels[2].axhline(
        report["machine"]["cores"], color="#999999", linestyle="--", label="cores there are"
    )
    panels[2].set_title("cores in use", fontsize=10, loc="left")
    panels[2].legend(frameon=False)
    for panel in panels:
        panel.grid(True, color="#e5e5e5")
        if report["knee_per_s"] is not None:
            panel.axvline(report["knee_per_s"], color="#c0392b", linewidth=0.8)
    panels[2].set_xlabel("requests a second offered; the red line is the knee")
    figure.suptitle(_caption(report), fontsize=10)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
