"""Replaces parts of other modules: all of them or none, and back.

Every target is found and its parameters are compared before the first one is touched, so
that a changed or forked sglang is refused as a whole.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ..._ffi import error


class Target(NamedTuple):
    """A function, method or class by where it is, "package.module:Class.method", and the
    parameters that it must have: those of the constructor for a class."""

    path: str
    parameters: tuple[str, ...]

    def find(self) -> tuple[Any, str]:
        """Its owner and its name there. Raises Unsupported if it is not as described."""
        module, _, names = self.path.partition(":")
        *outer, name = names.split(".")
        try:
            owner: Any = importlib.import_module(module)
            for part in outer:
                owner = getattr(owner, part)
            parameters = tuple(inspect.signature(getattr(owner, name)).parameters)
        except (ImportError, AttributeError) as missing:
            raise error(
                "MC_EUNSUPPORTED", f"this sglang has no {self.path}: {missing}"
            ) from missing
        if parameters != self.parameters:
            raise error(
                "MC_EUNSUPPORTED",
                f"{self.path} of this sglang takes ({', '.join(parameters)}), "
                f"not ({', '.join(self.parameters)}) as its release does",
            )
        return owner, name


class Patch(NamedTuple):
    """What becomes of a target: make(original) takes its place. Without make it is only
    looked at."""

    target: Target
    make: Callable[[Any], Any] | None = None


class Applied:
    """Patches in place."""

    def __init__(self) -> None:
        self._done: list[tuple[Any, str, Any]] = []

    def apply(self, patches: Iterable[Patch]) -> None:
        """Put all patches in place; on an exception there are none."""
        found = [(patch, *patch.target.find()) for patch in patches]
        try:
            for patch, owner, name in found:
                if patch.make is not None:
                    original = _held(owner, name)
                    self._set(owner, name, original, patch.make(original))
        except BaseException:
            self.undo()
            raise

    def _set(self, owner: Any, name: str, original: Any, replacement: Any) -> None:
        if name not in vars(owner):
            raise error("MC_EUNSUPPORTED", f"{owner.__name__} of this sglang inherits {name}")
        if isinstance(original, types.FunctionType) and isinstance(owner, types.ModuleType):
            # "from module import name" has given other modules the original.
            holders = [owner, *(m for m in _loaded("sglang") if m is not owner)]
        else:
            holders = [owner]
        for holder in holders:
            if vars(holder).get(name) is original:
                self._done.append((holder, name, original))
                setattr(holder, name, replacement)

    def undo(self) -> None:
        """Put back what was there. Objects made meanwhile stay as they are."""
        while self._done:
            holder, name, original = self._done.pop()
            setattr(holder, name, original)


def _held(owner: Any, name: str) -> Any:
    """The attribute itself, not what it is bound to; of a class the nearest base's."""
    if isinstance(owner, type):
        return inspect.getattr_static(owner, name)
    return getattr(owner, name)


def _loaded(package: str) -> list[types.ModuleType]:
    return [
        module
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] == package and isinstance(module, types.ModuleType)
    ]
