"""What the demo moves: KV caches of real model shape, and requests for them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path


class DemoError(Exception):
    """The demo cannot go on; the text is for the user."""


@dataclass(frozen=True)
class Model:
    """The KV cache of a model: as many buffers, each with a row per token."""

    name: str
    title: str
    buffers: int
    row_bytes: int  # per token and buffer

    @property
    def token_bytes(self) -> int:
        return self.buffers * self.row_bytes


MODELS = {
    model.name: model
    for model in (
        # 32 layers, K and V; 8 heads of 128 numbers of 2 bytes.
        Model("llama3-8b", "Llama-3-8B", 2 * 32, 8 * 128 * 2),
        # 61 layers; one latent of 512 + 64 numbers of 2 bytes.
        Model("deepseek-v3", "DeepSeek-V3 MLA", 61, (512 + 64) * 2),
    )
}


@dataclass(frozen=True)
class Lengths:
    """Tokens of each request, and what was done to make them fit."""

    tokens: list[int]
    note: str  # "" if nothing was


def generated(count: int, seed: int) -> list[int]:
    """Prompt lengths of a mixed load: most some hundreds of tokens, some thousands."""
    rng = random.Random(seed)
    return [min(4096, max(32, int(rng.lognormvariate(6.5, 0.7)))) for _ in range(count)]


def from_trace(path: Path, count: int, skip: Callable[[str], None] | None) -> list[int]:
    """input_length of the first count lines of a JSONL trace.

    A malformed line raises DemoError with its number and the reason, unless skip is
    given, which then gets that text. DemoError also if the file cannot be read or has no request.
    """
    tokens: list[int] = []
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            _read(lines, tokens, count, str(path), skip)
    except OSError as error:
        raise DemoError(f"trace cannot be read: {error}") from error
    if not tokens:
        raise DemoError(f"{path} has no request")
    return tokens


def _read(
    lines: Iterable[str],
    tokens: list[int],
    count: int,
    name: str,
    skip: Callable[[str], None] | None,
) -> None:
    for number, line in enumerate(lines, 1):
        if len(tokens) == count:
            return
        if not line.strip():
            continue
        try:
            tokens.append(_input_length(line))
        except ValueError as error:
            reason = f"{name}, line {number}: {error}"
            if skip is None:
                raise DemoError(f"{reason} (--on-bad-line skip goes on)") from error
            skip(reason)


def _input_length(line: str) -> int:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(entry, dict):
        raise ValueError("not JSON object")
    if "input_length" not in entry:
        raise ValueError("input_length is missing")
    length = entry["input_length"]
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise ValueError(f"input_length must be a whole number above 0, not {json.dumps(length)}")
    return length


def fitted(tokens: list[int], limit: int, max_tokens: int | None) -> Lengths:
    """Lengths cut at max_tokens, and then all divided by one number so that the longest
    has at most limit tokens: the mix keeps its shape."""
    notes = []
    if max_tokens is not None and max(tokens) > max_tokens:
        cut = sum(length > max_tokens for length in tokens)
        notes.append(f"{cut} requests cut at {max_tokens} tokens")
        tokens = [min(length, max_tokens) for length in tokens]
    factor = -(-max(tokens) // limit)
    if factor > 1:
        notes.append(f"all lengths divided by {factor} to fit")
        tokens = [max(1, length // factor) for length in tokens]
    return Lengths(tokens, ", ".join(notes))
