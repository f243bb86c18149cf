"""The header, the library and the ctypes package are one ABI."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import mooncake
import pytest
from kit import HEADER, REPOSITORY
from mooncake import _errors, _ffi
from mooncake._batch import STATUS_LAYOUT, status_of

STRUCTS = {
    "mc_batch_status_t": _ffi.BatchStatus,
    "mc_layer_t": _ffi.Layer,
    "mc_page_group_t": _ffi.PageGroup,
    "mc_engine_options_t": _ffi.EngineOptions,
    "mc_engine_stats_t": _ffi.EngineStats,
    "mc_pages_stats_t": _ffi.PagesStats,
}
HANDLES = {
    "mc_engine_t": _ffi.engine_t,
    "mc_memory_t": _ffi.memory_t,
    "mc_segment_t": _ffi.segment_t,
    "mc_batch_t": _ffi.batch_t,
    "mc_pages_t": _ffi.pages_t,
}


def header_text() -> str:
    """The header's declarations: without comments and preprocessor lines."""
    text = re.sub(r"/\*.*?\*/", " ", HEADER.read_text(), flags=re.S)
    return re.sub(r"^\s*#.*$", "", text, flags=re.M)


def header_functions() -> dict[str, str]:
    """Parameters by function, as text."""
    found = re.findall(r"\b(mc_\w+)\s*\(([^)]*)\)\s*;", header_text())
    return {name: " ".join(parameters.split()) for name, parameters in found}


def exports() -> set[str]:
    output = subprocess.run(
        ["nm", "-D", "--defined-only", str(_ffi.library_path())],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return {line.split()[-1].split("@")[0] for line in output.splitlines()}


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a C compiler makes of the header: tests/abi/layout.c prints it."""
    program = tmp_path_factory.mktemp("layout") / "layout"
    compiler = os.environ.get("CC", "gcc")
    source = REPOSITORY / "tests" / "abi" / "layout.c"
    subprocess.run([compiler, f"-I{HEADER.parent}", str(source), "-o", str(program)], check=True)
    printed = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout
    loaded: dict[str, Any] = json.loads(printed)
    return loaded


def test_functions_are_the_same_in_header_library_and_ctypes() -> None:
    declared = set(header_functions())
    assert len(declared) > 20, "the header is not understood"
    assert exports() == declared
    assert set(_ffi.PROTOTYPES) == declared


# What a C parameter's type is in ctypes. An array of uint64 is passed as an address.
PARAMETERS = {
    "int": (ctypes.c_int,),
    "int64_t": (ctypes.c_int64,),
    "uint32_t": (ctypes.c_uint32,),
    "uint64_t": (ctypes.c_uint64,),
    "const char *": (ctypes.c_char_p,),
    "char *": (ctypes.POINTER(ctypes.c_char),),
    "uint16_t *": (ctypes.POINTER(ctypes.c_uint16),),
    "int32_t *": (ctypes.POINTER(ctypes.c_int32),),
    "uint64_t *": (ctypes.POINTER(ctypes.c_uint64), ctypes.c_void_p),
    "int64_t *": (ctypes.c_void_p,),
    "const int64_t *": (ctypes.c_void_p,),
    "const uint64_t *": (ctypes.c_void_p,),
    "const mc_memory_t *": (ctypes.c_void_p,),
    "mc_batch_status_t *": (ctypes.POINTER(_ffi.BatchStatus),),
    "mc_engine_stats_t *": (ctypes.POINTER(_ffi.EngineStats),),
    "const mc_page_group_t *": (ctypes.POINTER(_ffi.PageGroup),),
    "mc_pages_stats_t *": (ctypes.POINTER(_ffi.PagesStats),),
    "const mc_engine_options_t *": (ctypes.POINTER(_ffi.EngineOptions),),
    **{name: (kind,) for name, kind in HANDLES.items()},
    **{f"{name} *": (ctypes.POINTER(kind), ctypes.c_void_p) for name, kind in HANDLES.items()},
}


@pytest.mark.parametrize("name", sorted(header_functions()))
def test_prototypes_are_the_headers(name: str) -> None:
    parameters = header_functions()[name]
    types = [] if parameters == "void" else [p.strip() for p in parameters.split(",")]
    types = [re.sub(r"\w+$", "", p).strip() for p in types]
    restype, argtypes = _ffi.PROTOTYPES[name]
    assert len(argtypes) == len(types), parameters
    for declared, given in zip(types, argtypes, strict=True):
        assert given in PARAMETERS[declared], f"{declared} is {given}"
    returned = re.search(rf"(\w[\w ]*\*?)\s*\b{name}\s*\(", header_text())
    assert returned is not None
    wanted = {"int": ctypes.c_int, "const char *": ctypes.c_char_p}[returned.group(1).strip()]
    assert restype is wanted


def test_structs_have_the_compilers_layout(layout: dict[str, Any]) -> None:
    assert set(layout["structs"]) == set(STRUCTS) | set(HANDLES)
    for name, struct in STRUCTS.items():
        compiled = layout["structs"][name]
        assert ctypes.sizeof(struct) == compiled["size"], name
        assert ctypes.alignment(struct) == compiled["align"], name
        fields = {field[0]: getattr(struct, field[0]) for field in struct._fields_}
        assert {n: {"offset": f.offset, "size": f.size} for n, f in fields.items()} == compiled[
            "fields"
        ], name
    for name, handle in HANDLES.items():
        assert ctypes.sizeof(handle) == layout["structs"][name]["size"]


def test_a_status_is_read_as_the_struct_says() -> None:
    raw = _ffi.BatchStatus(2, 1, -9, 1, 5, 6, 7, 8, 9_000_000_000, 10, 11)
    assert STATUS_LAYOUT.size == ctypes.sizeof(raw)
    fields = tuple(getattr(raw, name) for name, *_ in raw._fields_)
    assert STATUS_LAYOUT.unpack_from(raw) == fields
    status = status_of(raw)
    assert (status.state, status.quiet) == (mooncake.BatchState.FAILED, mooncake.Quiet.BOTH)
    assert tuple(status)[2:] == (-9, True, 5, 6, 7, 8, 9.0, 10, 11)


def test_constants_are_the_compilers(layout: dict[str, Any]) -> None:
    ours = dict(_ffi.STATUS)
    ours.update({n: v for n, v in vars(_ffi).items() if n.startswith("MC_") and n not in ours})
    assert ours == layout["constants"]


def test_the_version_is_one() -> None:
    project = (REPOSITORY / "pyproject.toml").read_text()
    (version,) = re.findall(r'^version = "(.*)"$', project, flags=re.M)
    assert mooncake.__version__ == version
    assert _ffi.lib().mc_version().decode() == version


def test_every_status_has_a_name_and_an_exception() -> None:
    for name, number in _ffi.STATUS.items():
        assert _ffi.lib().mc_status_name(number).decode() == name
    assert set(_errors.EXCEPTIONS) == set(_ffi.STATUS) - {"MC_OK"}
    assert len(set(_errors.EXCEPTIONS.values())) == len(_errors.EXCEPTIONS)
    for unknown in (1, -20, 2**31 - 1, -(2**31)):
        assert _ffi.lib().mc_status_name(unknown) == b"MC_UNKNOWN"


def test_every_exception_is_public_and_derives_from_a_builtin() -> None:
    for exception in _errors.EXCEPTIONS.values():
        assert getattr(mooncake, exception.__name__) is exception
        assert issubclass(exception, mooncake.MooncakeError)
        others = [base for base in exception.__mro__[1:] if base.__module__ == "builtins"]
        assert others[0] is not Exception, f"{exception.__name__} is no kind of builtin"


def test_every_public_name_exists() -> None:
    for name in mooncake.__all__:
        assert getattr(mooncake, name) is not None
    engine = importlib.import_module("mooncake.engine")
    for name in engine.__all__:
        assert getattr(engine, name) is not None


def test_the_library_needs_only_the_c_library() -> None:
    if shutil.which("readelf") is None:
        pytest.skip("readelf is not installed")
    path = Path(_ffi.library_path())
    output = subprocess.run(
        ["readelf", "-d", str(path)], check=True, capture_output=True, text=True
    ).stdout
    needed = set(re.findall(r"\(NEEDED\).*\[(.*?)\]", output))
    system = ("libc.so", "libpthread.so", "libdl.so", "libresolv.so", "ld-linux-")
    assert [name for name in needed if not name.startswith(system)] == []
