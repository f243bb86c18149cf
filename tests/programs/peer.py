"""An engine in a process of its own, told what to do by JSON lines on standard input.

    peer.py HOST RPC_PORT

PEER_USER, a number, is the user that it becomes first. PEER_PROTOCOL and PEER_DEVICES are the
engine's protocol and devices.

Prints {"session": ..., "pid": ...}, then one line for each command. Ends at the end of its input.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from kit import Pages, map_at, pattern
from mooncake import Batch, Engine, Memory, MooncakeError, Op, Segment
from mooncake._ffi import lib


class Commands:
    """One method a command; keywords are its arguments, the result is the answer."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.arrays: dict[str, np.ndarray] = {}
        self.memories: dict[str, Memory] = {}
        self.parts: dict[str, list[Memory]] = {}
        self.keep: list[object] = []
        self.segments: dict[str, Segment] = {}
        self.batches: list[Batch] = []

    def memory(
        self, name: str, size: int, seed: int | None, at: int = 0, register: bool = True
    ) -> dict[str, Any]:
        if at:
            raw = (ctypes.c_uint8 * size).from_address(map_at(at, size))
            array = np.ctypeslib.as_array(raw)
        else:
            pages = Pages(size)
            self.keep.append(pages)
            array = pages.array
        if seed is not None:
            array[:] = pattern(size, seed)
        self.arrays[name] = array
        if register:
            self.register(name)
        return {"address": int(array.ctypes.data)}

    def register(self, name: str) -> dict[str, Any]:
        self.memories[name] = self.engine.register(self.arrays[name])
        return {}

    def register_parts(self, name: str, offsets: list[int], length: int) -> dict[str, Any]:
        address = int(self.arrays[name].ctypes.data)
        ranges = [(address + offset, length) for offset in offsets]
        self.parts[name] = self.engine.register_many(ranges, owner=self.arrays[name])
        return {}

    def deregister(self, name: str) -> dict[str, Any]:
        self.memories.pop(name).deregister()
        return {}

    def free(self, name: str) -> dict[str, Any]:
        if name in self.memories:
            self.deregister(name)
        self.engine.deregister_many(self.parts.pop(name, []))
        array = self.arrays.pop(name)
        self.keep = [each for each in self.keep if getattr(each, "array", None) is not array]
        return {}

    def fill(self, name: str, value: int) -> dict[str, Any]:
        self.arrays[name][:] = value
        return {}

    def sha(self, name: str) -> dict[str, Any]:
        return {"sha": hashlib.sha256(self.arrays[name].data).hexdigest()}

    def count(self, name: str, value: int) -> dict[str, Any]:
        return {"count": int(np.count_nonzero(self.arrays[name] == value))}

    def strange(self, name: str, seed: int) -> dict[str, Any]:
        array = self.arrays[name]
        odd = (array != 0) & (array != pattern(array.size, seed))
        return {"count": int(np.count_nonzero(odd))}

    def open(self, session: str) -> dict[str, Any]:
        self.segments[session] = self.engine.open_segment(session)
        return {}

    def submit(
        self, session: str, kind: str, local: Any, remote: Any, lengths: Any, deadline: float | None
    ) -> dict[str, Any]:
        op = Op.WRITE if kind == "write" else Op.READ
        batch = self.segments[session].submit(op, local, remote, lengths, deadline=deadline)
        self.batches.append(batch)
        return {"batch": len(self.batches) - 1}

    def wait(self, batch: int) -> dict[str, Any]:
        with self.batches[batch] as one:
            return {"bytes": one.wait().bytes_done}

    def fence(self, session: str, timeout: float) -> dict[str, Any]:
        self.engine.fence(session, timeout)
        return {}

    def notify(self, session: str, name: str, message: str) -> dict[str, Any]:
        self.engine.notify(session, name, message)
        return {}

    def notifications(self) -> dict[str, Any]:
        return {"notifications": self.engine.notifications()}

    def reopen(self, devices: str) -> dict[str, Any]:
        """Close the engine and open another one at the same address. The memory stays, and is not
        registered."""
        host, port = self.engine.name, self.engine.rpc_port
        self.engine.close()
        for each in (self.memories, self.parts, self.segments, self.batches):
            each.clear()
        self.engine = open_engine(host, port, devices)
        return {"session": self.engine.session}

    def stats(self) -> dict[str, Any]:
        return vars(self.engine.stats())


def open_engine(host: str, rpc_port: int, devices: str) -> Engine:
    protocol = os.environ.get("PEER_PROTOCOL")
    return Engine(host, rpc_port=rpc_port, protocol=protocol, devices=devices)


def become(user: int) -> None:
    """Change to another user, with rights to itself as if it had always been that one."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    set_dumpable = 4
    ctypes.CDLL(None).prctl(set_dumpable, 1, 0, 0, 0)


def main(host: str, rpc_port: str) -> None:
    if user := os.environ.get("PEER_USER"):
        lib(), np.random.default_rng(0)  # while their files can be read
        become(int(user))
    commands = Commands(open_engine(host, int(rpc_port), os.environ.get("PEER_DEVICES", "")))
    try:
        print(json.dumps({"session": commands.engine.session, "pid": os.getpid()}), flush=True)
        for line in sys.stdin:
            arguments = json.loads(line)
            try:
                answer = getattr(commands, arguments.pop("op"))(**arguments)
            except Exception as error:
                quiet = error.quiet if isinstance(error, MooncakeError) else None
                answer = {"error": type(error).__name__, "text": str(error), "quiet": quiet}
            print(json.dumps(answer), flush=True)
    finally:
        commands.engine.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
