"""The drop-in engine's types, and what its arguments may be."""

from __future__ import annotations

import enum

from . import _ffi
from ._arguments import integer
from ._batch import Op
from ._errors import MooncakeError


class TransferOpcode(enum.IntEnum):
    """Direction of a transfer, seen from this process."""

    Read = 0
    Write = 1


class TransferNotify:
    """Two strings that arrive at the peer with a transfer."""

    def __init__(self, name: str = "", msg: str = "") -> None:
        self.name = name
        self.msg = msg

    def __repr__(self) -> str:
        return f"TransferNotify(name={self.name!r}, msg={self.msg!r})"


def text_or_none(value: object, name: str) -> str | None:
    """A string, or None, or bytes as pybind11 takes them. Raises TypeError."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if value is None or isinstance(value, str):
        return value
    raise TypeError(f"{name} must be a string, not {type(value).__name__}")


def opcode_of(value: object) -> Op:
    """Read or Write, or its number. Raises TypeError."""
    number = integer(value, "opcode")
    if number not in (Op.READ, Op.WRITE):
        raise TypeError(f"opcode must be TransferOpcode.Read or .Write, not {number}")
    return Op(number)


def strings_of(notify: object) -> tuple[str, str] | None:
    """The strings of a TransferNotify; None if there is none. Raises TypeError."""
    if notify is None:
        return None
    name, msg = getattr(notify, "name", None), getattr(notify, "msg", None)
    if not isinstance(name, str) or not isinstance(msg, str):
        raise TypeError("notify must be a TransferNotify with strings as name and msg")
    return name, msg


def invalid(text: str) -> MooncakeError:
    """The exception for a malformed argument."""
    return _ffi.error("MC_EINVAL", text)
