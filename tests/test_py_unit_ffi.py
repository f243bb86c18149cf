"""The ctypes tables against mooncake.h, and loading without a library that works."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mooncake import LibraryError, __version__, _ffi

HEADER = (Path(__file__).parent.parent / "capi" / "mooncake.h").read_text()
CODE = re.sub(r"/\*.*?\*/", " ", HEADER, flags=re.DOTALL)

CTYPES = {
    "uint64_t": ctypes.c_uint64,
    "uint32_t": ctypes.c_uint32,
    "int32_t": ctypes.c_int32,
    "const char *": ctypes.c_char_p,
    "const void *": ctypes.c_void_p,
    "const mc_layer_t *": ctypes.c_void_p,
}


def header_functions() -> dict[str, tuple[str, list[str]]]:
    found = re.findall(
        r"^(int|const char \*)\s*(mc_\w+)\(([^)]*)\);", CODE, re.MULTILINE | re.DOTALL
    )
    return {
        name: (
            result,
            [" ".join(each.split()) for each in arguments.split(",") if each.strip() != "void"],
        )
        for result, name, arguments in found
    }


def test_prototypes_are_the_headers_in_its_order() -> None:
    functions = header_functions()
    assert len(functions) > 20
    assert list(_ffi.PROTOTYPES) == list(functions)
    for name, (result, arguments) in functions.items():
        restype, argtypes = _ffi.PROTOTYPES[name]
        assert restype is (ctypes.c_int if result == "int" else ctypes.c_char_p), name
        assert len(argtypes) == len(arguments), name
        for argtype, argument in zip(argtypes, arguments, strict=True):
            declared = argument[: argument.rindex(" ") + 1].strip()
            pointer = "*" in argument
            if not pointer:
                assert ctypes.sizeof(argtype) == {"int": 4, "uint32_t": 4}.get(declared, 8), (
                    name,
                    argument,
                )
            else:
                assert ctypes.sizeof(argtype) == ctypes.sizeof(ctypes.c_void_p), (name, argument)


def test_constants_are_the_headers() -> None:
    constants = {name: int(value) for name, value in re.findall(r"(MC_\w+) = (-?\d+)", CODE)}
    statuses = {n: v for n, v in constants.items() if n == "MC_OK" or n.startswith("MC_E")}
    assert statuses == _ffi.STATUS
    for name in constants.keys() - statuses.keys():
        assert getattr(_ffi, name) == constants[name], name


@pytest.mark.parametrize(
    ("structure", "name"),
    [
        (_ffi.BatchStatus, "mc_batch_status"),
        (_ffi.Layer, "mc_layer"),
        (_ffi.PageGroup, "mc_page_group"),
        (_ffi.EngineOptions, "mc_engine_options"),
        (_ffi.EngineStats, "mc_engine_stats"),
    ],
)
def test_structures_are_the_headers(structure: type[ctypes.Structure], name: str) -> None:
    body = re.search(rf"typedef struct {name} \{{(.*?)\}}", CODE, re.DOTALL)
    assert body is not None
    fields = re.findall(r"(const \w+ \*|\w+ )\s*(\w+);", body.group(1))
    assert [(field, CTYPES[kind.strip()]) for kind, field in fields] == structure._fields_


def test_every_status_has_its_exception() -> None:
    for name, status in _ffi.STATUS.items():
        if name != "MC_OK":
            error = _ffi.error(name, "text")
            assert error.status == status
            assert str(error) == "text"
            assert _ffi._BY_STATUS[status] is type(error)


def test_importing_loads_nothing_and_starts_nothing() -> None:
    script = (
        "import mooncake, mooncake.engine, mooncake.native, threading\n"
        "assert 'libmooncake' not in open('/proc/self/maps').read()\n"
        "assert threading.active_count() == 1\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env=environ(), timeout=60)


def environ(**more: str) -> dict[str, str]:
    package = str(Path(_ffi.__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": package, **more}


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(_ffi, "_library", None)
    return monkeypatch


def test_a_missing_library_says_what_to_do(unloaded: pytest.MonkeyPatch, tmp_path: Path) -> None:
    unloaded.setenv("MOONCAKE_LIBRARY", str(tmp_path / "none.so"))
    with pytest.raises(LibraryError, match="MOONCAKE_LIBRARY"):
        _ffi.lib()
    unloaded.delenv("MOONCAKE_LIBRARY")
    unloaded.setattr(_ffi, "__file__", str(tmp_path / "_ffi.py"))
    with pytest.raises(ImportError, match="make lib"):
        _ffi.lib()


def test_a_file_that_is_no_library_is_refused(unloaded: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "text.so").write_text(
        "no library, but long enough to be read as a header of one\n" * 9
    )
    unloaded.setenv("MOONCAKE_LIBRARY", str(tmp_path / "text.so"))
    with pytest.raises(LibraryError, match="make lib"):
        _ffi.lib()


def test_another_library_is_refused(unloaded: pytest.MonkeyPatch) -> None:
    unloaded.setenv("MOONCAKE_LIBRARY", ctypes.util.find_library("c") or "libc.so.6")
    unloaded.setattr(_ffi.Path, "exists", lambda path: True)
    with pytest.raises(LibraryError, match="not the library"):
        _ffi.lib()


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("cannot allocate memory in static TLS block", "LD_PRELOAD"),
        ("Error loading shared library ld-linux-x86-64.so.2", "glibc"),
        ("version `GLIBC_2.38' not found", "make lib"),
        ("file too short", "make lib"),
        ("a reason of its own", ""),
    ],
)
def test_loader_errors_have_remedies(text: str, remedy: str) -> None:
    assert remedy in _ffi._remedy(text)
    assert bool(remedy) == bool(_ffi._remedy(text))


def test_a_forked_child_is_refused() -> None:
    script = (
        "import os, sys\n"
        "from mooncake import _ffi, ForkedError\n"
        "_ffi._library = object()\n"
        "pid = os.fork()\n"
        "if pid:\n"
        "    assert _ffi.lib() is _ffi._library and not _ffi.is_forked()\n"
        "    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
        "try:\n"
        "    _ffi.lib()\n"
        "except ForkedError as error:\n"
        "    assert error.status == _ffi.STATUS['MC_EFORKED']\n"
        "    sys.exit(0 if 'spawn' in str(error) and str(os.getppid()) in str(error) else 2)\n"
        "sys.exit(3)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env=environ(), timeout=60)


def test_a_child_forked_before_loading_may_load() -> None:
    script = (
        "import os, sys\n"
        "from mooncake import _ffi, LibraryError\n"
        "pid = os.fork()\n"
        "if pid:\n"
        "    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
        "try:\n"
        "    _ffi.lib()\n"
        "except LibraryError:\n"  # it went to look for the file
        "    sys.exit(0)\n"
        "sys.exit(3)\n"
    )
    env = environ(MOONCAKE_LIBRARY="/nonexistent/libmooncake.so")
    subprocess.run([sys.executable, "-c", script], check=True, env=env, timeout=60)


def test_version_is_the_distributions() -> None:
    project = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    assert re.search(r'^version = "(.+)"$', project, re.MULTILINE).group(1) == __version__
