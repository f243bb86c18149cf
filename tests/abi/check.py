"""Compares mooncake.h with what the library exports and with what layout.c prints.

    check.py HEADER LIBRARY LAYOUT_JSON

The functions that the header declares must be exactly the dynamic symbols that the
library defines; layout.c must print every struct, field, handle and constant of the
header. Prints each difference; the exit status is the number of them.
"""

import json
import re
import subprocess
import sys
from pathlib import Path


class Header:
    """What the text of mooncake.h declares. Its own style only, not all of C."""

    def __init__(self, text: str) -> None:
        text = re.sub(r"/\*.*?\*/", " ", text, flags=re.S)
        text = re.sub(r"^\s*#.*$", "", text, flags=re.M)
        self.functions = set(re.findall(r"\b(mc_\w+)\s*\(", text))
        self.constants: dict[str, int] = {
            name: int(value)
            for body in re.findall(r"\benum\s*\{(.*?)\}", text, flags=re.S)
            for name, value in re.findall(r"(\w+)\s*=\s*(-?\d+)", body)
        }
        self.structs: dict[str, list[str]] = {
            name: re.findall(r"(\w+)(?:\[\d+\])?\s*;", body)
            for body, name in re.findall(r"typedef struct \w+\s*\{(.*?)\}\s*(\w+)\s*;", text, flags=re.S)
        }
        self.handles = set(re.findall(r"typedef uint64_t (\w+);", text))


def exported(library: Path) -> set[str]:
    """Names of the dynamic symbols that the library defines."""
    output = subprocess.run(
        ["nm", "-D", "--defined-only", str(library)], check=True, capture_output=True, text=True
    ).stdout
    return {line.split()[-1].split("@")[0] for line in output.splitlines()}


def differences(what: str, header: set[str], other: set[str], where: str) -> list[str]:
    return [f"{what} {name} is in mooncake.h but not in {where}" for name in sorted(header - other)] + [
        f"{what} {name} is in {where} but not in mooncake.h" for name in sorted(other - header)
    ]


def compare(header: Header, symbols: set[str], layout: dict) -> list[str]:
    found = differences("function", header.functions, symbols, "the exports")
    structs, constants = layout["structs"], layout["constants"]
    found += differences("type", set(header.structs) | header.handles, set(structs), "layout.c")
    for name, fields in header.structs.items():
        printed = set(structs.get(name, {}).get("fields", {}))
        found += differences(f"field {name}.", set(fields), printed, "layout.c")
    found += differences("constant", set(header.constants), set(constants), "layout.c")
    return found + [
        f"constant {name} is {value} in mooncake.h, the compiler says {constants[name]}"
        for name, value in header.constants.items()
        if constants.get(name, value) != value
    ]


def main(header_path: str, library: str, layout_path: str) -> int:
    header = Header(Path(header_path).read_text())
    if not (header.functions and header.constants and header.structs and header.handles):
        print(f"{header_path}: found no declarations; check.py does not understand it", file=sys.stderr)
        return 1
    found = compare(header, exported(Path(library)), json.loads(Path(layout_path).read_text()))
    for line in found:
        print(line, file=sys.stderr)
    print(
        f"{len(header.functions)} functions, {len(header.structs)} structs, "
        f"{len(header.constants)} constants compared, {len(found)} differences"
    )
    return min(len(found), 125)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
