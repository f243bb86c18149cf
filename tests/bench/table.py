"""The results as Markdown, aligned, so that it can be read here and pasted into a page."""

from __future__ import annotations

import statistics

from contenders import COPY, LIMITS_OF_LOCAL, LIMITS_OF_MEMORY, PINGPONG, Contender
from plan import Cell, named
from results import Results

ByRow = dict[str, tuple[str, ...]]

OTHERS: dict[str, ByRow] = {
    # column: which contender it is in the rows of each transport
    "upstream": {"tcp": ("upstream",), "local": ("upstream",)},
    "NIXL": {"tcp": ("nixl tcp",), "local": ("nixl local",)},
    "UCX": {"tcp": ("ucx tcp",), "local": ("ucx shm",)},
    "bare stream": {"tcp": (PINGPONG,)},
    "CMA": {"local": ("cma", "cma xN")},
    "packed": {"local": ("packed",)},
    "memcpy": {"local": LIMITS_OF_MEMORY, "process": LIMITS_OF_MEMORY},
}
RATIOS: dict[str, ByRow] = {
    "ours / upstream": OTHERS["upstream"],
    "ours / NIXL": OTHERS["NIXL"],
    # Not local: what ucx_perftest does there is no walk over pages, see perftest.py.
    "ours / UCX": {"tcp": ("ucx tcp",)},
    "ours / limit": {"tcp": (PINGPONG,), "local": LIMITS_OF_LOCAL},
    "ours / memcpy": OTHERS["memcpy"],
}
ROWS = ("tcp", "local", "process")


def throughput(results: Results) -> str:
    head = ["block", "pattern", "op", "transport", "ours GB/s", "blocks/s", "CPU s/GiB"]
    rows = [[*head, *OTHERS, *RATIOS]]
    for cell in results.cells:
        for way in ROWS:
            name = f"ours {way}"
            cells = [ours(results, cell, name), blocks(results, cell, name),
                     number(results.cpu(cell, name), ".2f")]  # fmt: skip
            cells += [other(results, cell, by_row.get(way)) for by_row in OTHERS.values()]
            cells += [ratio(results, cell, name, by_row.get(way)) for by_row in RATIOS.values()]
            rows.append([named(cell.size), cell.pattern, cell.op, way, *cells])
    return aligned(rows, text_columns=4)


def ours(results: Results, cell: Cell, name: str) -> str:
    speed = number(results.speed(cell, name), ".3f") or lacking(results, name)
    used = results.strayed.get((cell, name))
    return f"{speed} via {used}" if used else speed


def blocks(results: Results, cell: Cell, name: str) -> str:
    return number(results.blocks(cell, name), ",.0f")


def other(results: Results, cell: Cell, names: tuple[str, ...] | None) -> str:
    """GB/s (CPU s/GiB) of the best of the names."""
    if names is None:
        return "-"
    best = results.best(cell, names)
    if best is None:
        return lacking(results, *names)
    used = results.strayed.get((cell, best))
    text = f"{results.speed(cell, best):.3f} ({results.cpu(cell, best):.2f})"
    return f"{text} via {used}" if used else text


def ratio(results: Results, cell: Cell, name: str, names: tuple[str, ...] | None) -> str:
    """Of ours to the best of the names, round by round."""
    best = results.best(cell, names or ())
    value = results.ratio(cell, name, best) if best else None
    return times(value) if value is not None else "-"


def lacking(results: Results, *names: str) -> str:
    """Why there is no figure."""
    if any(name in results.failed for name in names):
        return "failed"
    return "not run" if any(name in results.absent for name in names) else "-"


def latency(results: Results, contenders: list[Contender]) -> str:
    rows = [["one 4 KiB blocking write", "P50 us", "P99 us", "/ socket ping-pong", "/ memcpy"]]
    for contender in contenders:
        found = results.latency(contender.name)
        if found is None:
            if contender.name in results.failed or contender.name in results.absent:
                rows.append([contender.name, lacking(results, contender.name), "", "", ""])
            continue
        over = [results.latency_ratio(contender.name, limit) for limit in (PINGPONG, COPY)]
        rows.append([label(contender), f"{found[0]:.2f}", f"{found[1]:.2f}",
                     *(times(value) if value is not None else "-" for value in over)])  # fmt: skip
    return aligned(rows, text_columns=1)


def label(contender: Contender) -> str:
    if contender.name == PINGPONG:
        return "socket ping-pong"
    if contender.name.startswith("ours") and not contender.name.endswith(" C"):
        return f"{contender.name} Python"
    return contender.name


def details(results: Results) -> str:
    """A line for each cell and contender, with the spread of the rounds."""
    rows = [["block", "pattern", "op", "contender", "GB/s", "low", "high", "blocks/s",
             "CPU s/GiB", "used"]]  # fmt: skip
    for cell, speeds in results.cells.items():
        for name, samples in speeds.items():
            values = [sample.gb_per_second for sample in samples.values()]
            rows.append([
                named(cell.size), cell.pattern, cell.op, name, f"{statistics.median(values):.3f}",
                f"{min(values):.3f}", f"{max(values):.3f}", blocks(results, cell, name),
                number(results.cpu(cell, name), ".2f"), results.strayed.get((cell, name), ""),
            ])  # fmt: skip
    return aligned(rows, text_columns=4)


def legend(results: Results, contenders: list[Contender]) -> str:
    lines = [
        f"- {label(each)}: {each.meaning}" + version(results, each.name) for each in contenders
    ]
    for title, reasons in (("not run", results.absent), ("failed", results.failed)):
        lines += [f"- **{title}: {name}**: {reason}" for name, reason in reasons.items()]
    return "\n".join(lines)


def version(results: Results, name: str) -> str:
    about = results.about.get(name)
    return f" ({about})" if about else ""


def number(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"


def times(value: float) -> str:
    return f"{value:.0f}x" if value >= 100 else f"{value:.1f}x" if value >= 10 else f"{value:.2f}x"


def aligned(rows: list[list[str]], text_columns: int) -> str:
    """A Markdown table; columns after the first text_columns are right aligned."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]

    def line(cells: list[str]) -> str:
        padded = [
            cell.ljust(width) if at < text_columns else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * w if at < text_columns else "-" * (w - 1) + ":" for at, w in enumerate(widths)]
    return "\n".join([line(rows[0]), line(rule), *map(line, rows[1:])])
