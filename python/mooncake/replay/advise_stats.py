"""Advice from the counters of a running engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .advice import Advice, Change

_NEEDED = (
    "batches", "batches_failed", "blocks", "runs", "bytes_written", "bytes_read", "batch_ns",
    "messages", "memories", "retries", "local_refused",
)  # fmt: skip

# A run of fewer bytes is mostly overhead, one of more mostly bytes, on every transport that was
# measured (docs/benchmarks.md).
_SHORT, _LONG = 4096, 65536
_MANY_MEMORIES = 2000


def from_stats(stats: Mapping[str, Any], link_mb_per_s: float | None) -> Advice:
    """See advise(). Raises ValueError when counters are missing."""
    missing = [name for name in _NEEDED if not isinstance(stats.get(name), int)]
    if missing:
        raise ValueError(
            f"not the counters of an engine: {', '.join(missing)} missing, or no number"
        )
    moved = stats["bytes_written"] + stats["bytes_read"]
    if not moved or not stats["runs"]:
        return Advice("the engine", "nothing", "it has moved no bytes of its own yet", {})
    advice = _judged(stats, moved, link_mb_per_s)
    advice.notes += _notes(stats)
    return advice


def _judged(stats: Mapping[str, Any], moved: int, link_mb_per_s: float | None) -> Advice:
    runs, batches = stats["runs"], stats["batches"]
    run_bytes, seconds = moved / runs, stats["batch_ns"] / 1e9
    facts = (
        f"{batches:,} batches, {stats['blocks']:,} blocks in {runs:,} runs of {run_bytes:,.0f} B "
        f"on average; {moved / 2**20:,.0f} MiB in {seconds:,.1f} s of batches, "
        f"{1e6 * seconds / runs:,.2f} us a run, {moved / seconds / 1e6:,.0f} MB/s"
        if seconds
        else f"{runs:,} runs of {run_bytes:,.0f} B"
    )  # fmt: skip
    if run_bytes < _SHORT:
        if runs / batches < 4:
            return Advice("the engine", "cost per call", facts, {}, [
                Change("larger batches: one for each request, not one for each block or layer",
                       None, "a batch has few blocks, and short ones"),
            ])  # fmt: skip
        advice = Advice("the engine", "run length", facts, {})
        for size in (16, 64) if run_bytes < _SHORT / 4 else (16,):
            factor, bound = _at(size, run_bytes, moved, seconds, link_mb_per_s)
            advice.changes.append(
                Change(f"runs {size} times as long (page size {size} where it is 1)",
                       factor, f"runs of {size * run_bytes:,.0f} B", bound=bound)
            )  # fmt: skip
        advice.changes.append(
            Change(
                "allocator runs (mooncake.PagePool)", None, "one run for each request and buffer"
            )
        )
        return advice
    if run_bytes < _LONG:
        return Advice("the engine", "cost per block", facts, {}, [
            Change("pages of more tokens, or buffers that lie side by side", None,
                   f"runs of {_LONG >> 10} KiB and more cost little beyond their bytes"),
        ])  # fmt: skip
    return Advice("the engine", "link", facts, {}, [
        Change("more lanes (MC_TCP_LANES_PER_PEER), more cores, or a faster link",
               None, "runs are long: what counts is bytes"),
    ])  # fmt: skip


def _at(
    times: int, run_bytes: float, moved: int, seconds: float, link_mb_per_s: float | None
) -> tuple[float | None, bool]:
    """The factor if runs were so many times as long, and whether it is only a bound."""
    if not seconds:
        return None, True
    if link_mb_per_s is None:
        return 1 / times, True
    by_bytes = moved / (link_mb_per_s * 1e6)
    by_runs = max(0.0, seconds - by_bytes)
    return min(1.0, (by_bytes + by_runs / times) / seconds), False


def _notes(stats: Mapping[str, Any]) -> list[str]:
    found = []
    if stats["local_refused"]:
        found.append(
            f"{stats['local_refused']:,} times a peer on this host had to be reached over tcp: "
            "the log at MC_LOG_LEVEL=INFO says why"
        )
    if stats["retries"]:
        found.append(f"{stats['retries']:,} slices were sent again after a broken connection")
    if stats["batches_failed"]:
        found.append(f"{stats['batches_failed']:,} of {stats['batches']:,} batches failed")
    if stats["memories"] > _MANY_MEMORIES:
        found.append(
            f"{stats['memories']:,} memories are registered: peers read all of them when they "
            "open this engine; few large ones are better"
        )
    return found
