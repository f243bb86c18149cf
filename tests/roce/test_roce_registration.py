"""Memory: many buffers, large ones, untouched and read-only ones, and what limits them."""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hosts import BOUND, DEVICE, HERE, IN_LAB, LONG, PROTOCOL, variables
from kit import Pages, engine_environment, pattern, within
from link import Link
from mooncake import InvalidArgument, Op, Overlap

MIB = 1 << 20


def test_many_buffers(link: Link) -> None:
    """Registered in one call, with gaps; the peer writes to and reads from each."""
    count, size, step = 200, 12_288, 16_384
    side = link.side(count * step, register=False)
    memories = link.engine.register_many(
        [(side.here.address + i * step, size) for i in range(count)]
    )
    offsets = [i * step for i in range(count)]
    link.peer.call("register_parts", name=side.name, offsets=offsets, length=size)
    side.move(Op.WRITE, offsets, offsets[::-1], [size] * count)
    side.move(Op.READ, offsets, offsets, [size] * count)
    within(BOUND, link.engine.deregister_many, memories)
    assert link.engine.stats().memories == 0


def test_a_large_buffer(link: Link) -> None:
    """Its first, middle and last bytes are where they belong."""
    size = (768 if LONG else 256) * MIB
    memory = mmap.mmap(-1, size)
    held = link.engine.register(memory)
    target = link.side(3 * 4096)
    data = pattern(4096, 9).tobytes()
    for i, at in enumerate((0, size // 2, size - 4096)):
        memory[at : at + 4096] = data
        link.segment.write(held[at], target.remote + i * 4096, 4096, deadline=30)
        target.there[i * 4096 : (i + 1) * 4096] = pattern(4096, 9)
    target.check()
    within(BOUND, held.close)


def test_untouched_memory_is_a_destination(link: Link) -> None:
    """Pages that have never been written to before they are registered."""
    side = link.side(MIB)
    fresh = mmap.mmap(-1, MIB)
    held = link.engine.register(fresh)
    link.segment.read(held.address, side.remote, MIB, deadline=30)
    assert fresh[:] == side.there.tobytes()
    held.close()


def test_read_only_memory_is_a_source(link: Link, tmp_path: Path) -> None:
    side = link.side(65_536)
    file = tmp_path / "weights"
    file.write_bytes(pattern(side.size, 7).tobytes())
    # Private: of a shared one that cannot be written to, kernels before 6.3 pin no page.
    with file.open("rb") as opened:
        mapped = mmap.mmap(
            opened.fileno(), side.size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ
        )
    held = link.engine.register(mapped)
    link.segment.write(held.address, side.remote, side.size, deadline=30)
    side.there[:] = pattern(side.size, 7)
    side.check()
    with pytest.raises(InvalidArgument, match="read-only"):
        link.segment.read(held.address, side.remote, side.size)
    held.close()


def test_all_or_none(link: Link) -> None:
    """One element that cannot be registered, and none is."""
    good = Pages(65_536)
    with pytest.raises(Overlap, match="2"):
        link.engine.register_many(
            [(good.address, 4096), (good.address + 8192, 4096), (good.address, 100)]
        )
    assert link.engine.stats().memories == 0
    held = link.engine.register(good.map)
    held.close()


def test_registering_again_and_again(link: Link) -> None:
    side = link.side(65_536)
    for i in range(30):
        side.memory.close()
        side.memory = link.engine.register(side.here.map)
        side.move(Op.WRITE, [i], [i], [1000])


def test_memory_without_an_owner(link: Link) -> None:
    """An address and a length, and bytes on both sides of it."""
    buffer = ctypes.create_string_buffer(b"#" * 1000)
    side = link.side(4096)
    held = link.engine.register(ctypes.addressof(buffer) + 101, 500, owner=buffer)
    link.segment.read(held.address, side.remote, 500, deadline=30)
    assert buffer.raw[101:601] == side.there[:500].tobytes()
    assert buffer.raw[:101] == b"#" * 101 and buffer.raw[601:1000] == b"#" * 399
    held.close()


REGISTERS = f"""
import mmap, sys
from mooncake import Engine, MooncakeError
try:
    engine = Engine({HERE!r}, protocol={PROTOCOL!r}, devices={DEVICE!r})
    print("opened", flush=True)
    engine.register(mmap.mmap(-1, 64 << 20))
except MooncakeError as error:
    print(type(error).__name__, error)
else:
    print("registered")
"""


def without_rights(*prefix: str) -> str:
    """What REGISTERS prints when it is run by a command that takes rights from it."""
    done = subprocess.run(
        [*prefix, sys.executable, "-c", REGISTERS],
        capture_output=True,
        text=True,
        timeout=90,
        env={**engine_environment(), **variables()},
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


@pytest.mark.skipif(not IN_LAB, reason="tcp locks no memory")
def test_a_low_memlock_limit_is_explained() -> None:
    assert shutil.which("setpriv"), "setpriv is part of util-linux"
    said = without_rights(
        "setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock",
        "prlimit", f"--memlock={16 << 20}",
    )  # fmt: skip
    assert "registered" not in said.split(), said
    assert "opened" in said, said
    assert "memlock" in said or "ulimit -l" in said, said


@pytest.mark.skipif(not IN_LAB, reason="tcp needs no rights")
def test_no_permission_for_the_device_is_explained() -> None:
    node = next(Path("/dev/infiniband").glob("uverbs*"))
    modes = {each: each.stat().st_mode for each in node.parent.glob("uverbs*")}
    for each in modes:
        os.chmod(each, 0o600)
    try:
        said = without_rights("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    finally:
        for each, mode in modes.items():
            os.chmod(each, mode)
    assert "registered" not in said.split() and "opened" not in said.split(), said
    assert DEVICE in said and "permission" in said.lower(), (said, sorted(modes))
