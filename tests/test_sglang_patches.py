"""Replacing parts of other modules, on a package made up for it."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
from kit import engine_environment

import mooncake
from mooncake.integrations import sglang as integration
from mooncake.integrations.sglang._patches import Applied, Patch, Target


def add(one: int) -> int:
    return one + 1


class Pool:
    def free(self, rows: list[int]) -> str:
        return "original"


class Special(Pool):
    pass


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Any, Any]]:
    """sglang.a defines things, sglang.b imported one, other did so too."""
    a, b, other = (types.ModuleType(name) for name in ("sglang.a", "sglang.b", "other"))
    a.add = b.add = other.add = add  # type: ignore[attr-defined]
    a.Pool, a.Special = Pool, Special  # type: ignore[attr-defined]
    for module in (types.ModuleType("sglang"), a, b, other):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    yield a, b, other


def doubled(original: Any) -> Any:
    return lambda one: 2 * original(one)


def test_importers_get_the_replacement_too(modules: Any) -> None:
    a, b, other = modules
    applied = Applied()
    applied.apply([Patch(Target("sglang.a:add", ("one",)), doubled)])
    assert (a.add(3), b.add(3), other.add(3)) == (8, 8, 4)
    applied.undo()
    assert a.add is b.add is other.add is add


def test_methods_and_their_way_back(modules: Any) -> None:
    applied = Applied()
    target = Target("sglang.a:Pool.free", ("self", "rows"))
    applied.apply([Patch(target), Patch(target, lambda original: lambda self, rows: "patched")])
    assert Pool().free([]) == "patched" == Special().free([])
    applied.undo()
    assert Pool().free([]) == "original"


@pytest.mark.parametrize(
    ("path", "parameters", "text"),
    [
        ("sglang.a:add", ("two",), r"takes \(one\), not \(two\)"),
        ("sglang.a:subtract", ("one",), "has no sglang.a:subtract"),
        ("sglang.c:add", ("one",), "has no sglang.c:add"),
        ("sglang.a:Special.free", ("self", "rows"), "Special of this sglang inherits free"),
    ],
)
def test_all_or_nothing(modules: Any, path: str, parameters: tuple[str, ...], text: str) -> None:
    applied = Applied()
    with pytest.raises(mooncake.Unsupported, match=text):
        applied.apply(
            [
                Patch(Target("sglang.a:add", ("one",)), doubled),
                Patch(Target(path, parameters), doubled),
            ]
        )
    assert modules[0].add is add


def test_without_sglang_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise integration._versions.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    integration.plugin()  # MC_SGLANG is not set
    with pytest.raises(mooncake.Unsupported, match="sglang is not installed"):
        integration.install()
    monkeypatch.setenv("MC_SGLANG", "1")
    with pytest.raises(SystemExit, match="MC_SGLANG=1: sglang is not installed"):
        integration.plugin()
    with pytest.raises(mooncake.InvalidArgument, match="'blocks' is no part"):
        integration.install("blocks")


def test_importing_it_needs_neither_numpy_nor_the_library() -> None:
    program = (
        "import sys, mooncake.integrations.sglang as s; s.plugin();"
        "assert 'numpy' not in sys.modules and s.installed() == ();"
        "from mooncake import _ffi; assert _ffi._library is None"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=engine_environment(), capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


class Manager:
    """A KV manager whose transfers go another way than those that are noted."""

    def __init__(self) -> None:
        self.engine = types.SimpleNamespace(
            engine=types.SimpleNamespace(transfer_pages_sync_write=self._unexpected)
        )
        self.sent: list[list[int]] = []

    def _unexpected(self, *_: Any) -> int:
        raise AssertionError("a group of no layers")

    def send(
        self,
        mooncake_session_id: str,
        prefill_data_indices: Any,
        dst_data_indices: Any,
        dst_device_data_indices: Any = None,
    ) -> int:
        self.sent.append(list(prefill_data_indices))
        return 0


def test_what_is_sent_in_another_way_is_sent_whole() -> None:
    pytest.importorskip("numpy")
    from mooncake.integrations.sglang._transfers import for_pages

    manager, pages = Manager(), [3, 4, 9]
    assert for_pages(Manager.send)(manager, "peer", pages, [1, 2, 5]) == 0
    assert manager.sent[-1] == pages, "not the one page that layers are found with"
