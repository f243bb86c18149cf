"""sglang's own sources, without its dependencies.

The modules named in REAL are sglang's, from a wheel that `make sglang` unpacked. Whatever else they
import is a stand-in when it is another module of sglang's, or a package that is not
installed: any name in it is there, can be called, indexed and derived from, and does nothing.
Functions of sglang's that such a module has and the tests need are taken out of its source.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
WHEELS = REPOSITORY / "build" / "sglang"  # a folder for each release

REAL = {
    "sglang.srt.disaggregation.common.conn",
    "sglang.srt.disaggregation.common.utils",
    "sglang.srt.disaggregation.decode",
    "sglang.srt.disaggregation.mooncake.conn",
    "sglang.srt.distributed.device_communicators.mooncake_transfer_engine",
    "sglang.srt.mem_cache.allocation",
    "sglang.srt.mem_cache.allocator",
    "sglang.srt.mem_cache.allocator.base",
    "sglang.srt.mem_cache.allocator.paged",
    "sglang.srt.mem_cache.allocator.token",
    "sglang.srt.mem_cache.kv_cache_configurator",
    "sglang.srt.mem_cache.memory_pool",
    "sglang.srt.plugins",
    "sglang.srt.plugins.hook_registry",
}
# Packages whose being there means something to sglang.
NEVER = {"mooncake", "mlx", "torch_npu", "sgl_kernel_npu"}


def _plain(given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """What a decorator is called with, which it leaves as it is; else None."""
    if len(given) != 1 or named or getattr(given[0], "__module__", "") == __name__:
        return None
    return given[0] if isinstance(given[0], (types.FunctionType, type)) else None


class _AnyMeta(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = _AnyMeta(name, (Anything,), {})
        setattr(cls, name, made)
        return made

    def __call__(cls, *given: Any, **named: Any) -> Any:
        if cls.__module__ != __name__:
            return super().__call__(*given, **named)  # a class of sglang's that derives from one
        plain = _plain(given, named)
        return plain if plain is not None else super().__call__()

    def __getitem__(cls, key: Any) -> Any:
        return cls

    def __or__(cls, other: Any) -> Any:
        return cls

    __ror__ = __or__

    def __iter__(cls) -> Iterator[Any]:
        return iter(())


class Anything(metaclass=_AnyMeta):
    def __init__(self, *given: Any, **named: Any) -> None:
        pass

    def __init_subclass__(cls, **named: Any) -> None:
        pass

    def __call__(self, *given: Any, **named: Any) -> Any:
        plain = _plain(given, named)
        return plain if plain is not None else Anything()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or type(self).__module__ != __name__:
            raise AttributeError(name)
        return Anything()

    def __getitem__(self, key: Any) -> Any:
        return Anything()

    def __bool__(self) -> bool:
        return False

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *given: Any) -> None:
        pass


class StandIn(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = _AnyMeta(name, (Anything,), {})
        setattr(self, name, made)
        return made


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, root: Path) -> None:
        self._root = root

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        top = name.partition(".")[0]
        if name in REAL:
            file = self._root.joinpath(*name.split("."))
            package = file.is_dir()
            file = file / "__init__.py" if package else file.with_suffix(".py")
            return importlib.util.spec_from_file_location(
                name, file, submodule_search_locations=[str(file.parent)] if package else None
            )
        if top == "sglang" or isinstance(sys.modules.get(top), StandIn) or _missing(top):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> StandIn:
        module = StandIn(spec.name)
        module.__path__ = []
        module.__version__ = "0.0"
        return module

    def exec_module(self, module: Any) -> None:
        pass


def _missing(top: str) -> bool:
    """Whether sglang imports a package that is not installed. Other importers are left to
    their own error, which they may expect."""
    if top in NEVER or top in sys.stdlib_module_names or top in sys.modules:
        return False
    frame = sys._getframe(1)
    while frame is not None and (
        frame.f_globals.get("__name__") == __name__ or "importlib" in frame.f_code.co_filename
    ):
        frame = frame.f_back  # type: ignore[assignment]
    if frame is None or not frame.f_globals.get("__name__", "").startswith("sglang"):
        return False
    with _without_us():
        return importlib.util.find_spec(top) is None


@contextlib.contextmanager
def _without_us() -> Iterator[None]:
    ours = [finder for finder in sys.meta_path if isinstance(finder, _Finder)]
    sys.meta_path[:] = [finder for finder in sys.meta_path if finder not in ours]
    try:
        yield
    finally:
        sys.meta_path[:] = ours + sys.meta_path


def function_of(version: str, module: str, name: str, **globals_: Any) -> Any:
    """A function of sglang's out of a module that is not imported."""
    file = (WHEELS / version).joinpath(*module.split(".")).with_suffix(".py")
    tree = ast.parse(file.read_text())
    found = [node for node in tree.body if getattr(node, "name", None) == name]
    space: dict[str, Any] = dict(globals_)
    future = ast.parse("from __future__ import annotations").body
    exec(compile(ast.Module([*future, *found], []), str(file), "exec"), space)
    return space[name]


@contextlib.contextmanager
def sglang(version: str) -> Iterator[None]:
    """Imports of sglang in this context are from version's sources; afterwards all of it is
    forgotten."""
    root = WHEELS / version
    before = set(sys.modules)
    finder = _Finder(root)
    sys.meta_path.insert(0, finder)
    sys.path.insert(0, str(root))  # for the wheel's metadata
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(root))
        sys.meta_path.remove(finder)
        for name in set(sys.modules) - before:
            top = name.partition(".")[0]
            if top == "sglang" or isinstance(sys.modules.get(top), StandIn):
                del sys.modules[name]
