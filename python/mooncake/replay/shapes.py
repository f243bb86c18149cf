"""Shapes of KV caches, and what is left of one that has to fit this machine's memory."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from .errors import UsageError


@dataclass(frozen=True)
class Shape:
    """The KV cache of one rank: layers, each with some buffers that have a row for every token."""

    name: str
    title: str
    layers: int
    buffers_per_layer: int  # 2: K and V; 1: a latent
    row_bytes: int  # of a token in one buffer

    @property
    def buffers(self) -> int:
        return self.layers * self.buffers_per_layer

    @property
    def token_bytes(self) -> int:
        return self.buffers * self.row_bytes


SHAPES = {
    shape.name: shape
    for shape in (
        # The incident's: 8 KV heads of 128 numbers of 2 bytes over 8 ranks.
        Shape("qwen-32b-tp8", "Qwen-32B TP8 rank", 64, 2, 256),
        Shape("llama3-70b-tp8", "Llama-3-70B TP8 rank", 80, 2, 256),
        Shape("llama3-8b", "Llama-3-8B", 32, 2, 2048),
        # One latent of 512 + 64 numbers of 2 bytes.
        Shape("deepseek-v3", "DeepSeek-V3 MLA", 61, 1, 1152),
    )
}


def shape_of(text: str) -> Shape:
    """A shape by its name, or LAYERSxBUFFERSxBYTES. Raises UsageError."""
    if text in SHAPES:
        return SHAPES[text]
    match = re.fullmatch(r"(\d{1,4})x(\d{1,2})x(\d{1,7})", text)
    if match is None or not all(map(int, match.groups())):
        raise UsageError(
            f"--model {text!r} is neither one of {', '.join(SHAPES)} nor "
            "LAYERSxBUFFERSxBYTES, such as 64x2x256: layers, buffers in each, bytes of a token "
            "in one buffer"
        )
    layers, buffers, row = map(int, match.groups())
    return Shape(text, text, layers, buffers, row)


@dataclass(frozen=True)
class Scaled:
    """A shape cut down, and what that does to the figures."""

    shape: Shape
    of: Shape
    scale: int

    @property
    def statement(self) -> str:
        """For the reader of the report; "" if nothing was cut."""
        full, cut = self.of, self.shape
        if cut == full:
            return ""
        kept = f"{cut.layers} of {full.layers} layers"
        if cut.row_bytes == full.row_bytes:
            return (
                f"scaled: {kept}, rows of {cut.row_bytes} B as they are. Blocks have their real "
                "size, so cost per block against cost per byte is real; bytes and blocks of a "
                f"request are {full.buffers / cut.buffers:.0f} times fewer, so its fixed cost "
                "weighs that much more, and a real transfer takes up to that much longer"
            )
        return (
            f"scaled: {kept}, rows of {cut.row_bytes} B instead of {full.row_bytes}. Blocks are "
            f"{full.row_bytes / cut.row_bytes:.0f} times smaller than real ones, so cost per "
            "block weighs that much more against cost per byte than it really does: compare rows "
            "of this table with each other, not with a real server"
        )


def scaled(
    full: Shape, tokens: int, limit: int, scale: int | None, row_bytes: int | None
) -> Scaled:
    """The shape with one scale-th of its layers; None: as many as fit.

    tokens are those of all pools together, limit the bytes that they may have.
    row_bytes, if given, replaces that of the shape. Raises UsageError if it cannot fit.
    """
    shape = full if row_bytes is None else replace(full, row_bytes=row_bytes)
    if scale is None:
        layer_bytes = tokens * shape.buffers_per_layer * shape.row_bytes
        layers = min(shape.layers, limit // layer_bytes)
        scale = -(-full.layers // layers) if layers else full.layers
    shape = replace(shape, layers=max(1, full.layers // scale))
    need = tokens * shape.token_bytes
    if need > limit:
        raise UsageError(
            f"{tokens:,} tokens of KV memory with {shape.layers} of {full.layers} layers need "
            f"{-(-need >> 20):,} MiB, and --memory allows {limit >> 20:,}: give more, a higher "
            "--scale (fewer layers), fewer --pool-tokens, or a smaller --row-bytes"
        )
    return Scaled(shape, full, scale)
