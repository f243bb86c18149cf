"""A process that runs upstream's Mooncake on command, for the interop tests.

Run it with the Python of a virtual environment that holds upstream's wheel. It
reads one JSON object a line from stdin, {"op": name, ...arguments}, and answers
each with one line on stdout: {"ok": true, ...results} or {"ok": false, "error":
text, "type": exception}. It ends after "exit" and at the end of stdin. It imports the
standard library and upstream's `mooncake` only, never ours.

Upstream and its libraries print to stdout as they like, so the answers go to a
duplicate of that descriptor and everything else to stderr.
"""

import ctypes
import hashlib
import json
import mmap
import os
import random
import sys
import time


class Peer:
    """One upstream engine and the memory it owns; a method per command."""

    def __init__(self):
        self.engine = None
        self.module = None
        self.host = ""
        self.memory = {}  # name -> (mmap, address, size)

    # -- engine

    def start(self, host, metadata="P2PHANDSHAKE", protocol="tcp", env=None, devices=""):
        """Open the engine; env is set first, because upstream reads it at import and later."""
        if self.engine is not None:
            raise RuntimeError("the engine runs already")
        os.environ.update(env or {})
        import mooncake.engine as module

        engine = module.TransferEngine()
        status = engine.initialize(host, metadata, protocol, devices)
        if status != 0:
            raise RuntimeError(f"initialize({host!r}) answered {status}")
        self.module, self.engine, self.host = module, engine, host
        return {**self.session(), "file": module.__file__, "version": version()}

    def session(self):
        return {"session": f"{self.host}:{self.engine.get_rpc_port()}", "pid": os.getpid()}

    def setenv(self, env):
        """Change variables that upstream reads at each transfer, such as MC_TCP_PROTO."""
        os.environ.update(env)
        return {}

    def probe(self, target):
        return {"rc": self.engine.send_probe(target)}

    def has(self, method):
        return {"has": hasattr(self.engine, method)}

    # -- memory

    def alloc(self, name, size, seed=None, byte=0):
        """Map size bytes under a name, filled with one byte or from a seed."""
        if name in self.memory:
            raise ValueError(f"memory {name!r} exists already")
        pages = mmap.mmap(-1, size)
        first = ctypes.c_char.from_buffer(pages)  # the export keeps the pages mapped
        address = ctypes.addressof(first)
        del first
        self.memory[name] = (pages, address, size)
        self.fill(name, seed=seed, byte=byte)
        return {"address": address}

    def free(self, name, unregister=True):
        """Unmap memory; its registration, if any, is ended first."""
        _, address, _ = self.memory[name]
        rc = self.engine.unregister_memory(address) if unregister else 0
        del self.memory[name]
        return {"rc": rc}

    def fill(self, name, seed=None, byte=0, offset=0, length=None):
        pages, _, size = self.memory[name]
        length = size - offset if length is None else length
        check_range(name, size, offset, length)
        if seed is not None:
            pages[offset : offset + length] = random.Random(seed).randbytes(length)
        else:
            pages[offset : offset + length] = bytes([byte]) * length
        return {}

    def read_memory(self, name, offset=0, length=None, form="sha256"):
        """The bytes as hex, or their SHA-256."""
        pages, _, size = self.memory[name]
        length = size - offset if length is None else length
        check_range(name, size, offset, length)
        piece = memoryview(pages)[offset : offset + length]
        try:
            return {form: piece.hex() if form == "hex" else hashlib.sha256(piece).hexdigest()}
        finally:
            piece.release()

    def write_memory(self, name, offset, hex):
        data = bytes.fromhex(hex)
        pages, _, size = self.memory[name]
        check_range(name, size, offset, len(data))
        pages[offset : offset + len(data)] = data
        return {}

    def register(self, address, size):
        return {"rc": self.engine.register_memory(address, size)}

    def unregister(self, address):
        return {"rc": self.engine.unregister_memory(address)}

    def first_buffer(self, target):
        return {"address": self.engine.get_first_buffer_address(target)}

    # -- transfers

    def transfer(self, opcode, target, local, remote, length, notify=None):
        """One blocking batch, "write" or "read"; notify is a [name, message] pair."""
        began = time.monotonic()
        if notify is not None:
            code = getattr(self.module.TransferOpcode, opcode.capitalize())
            message = self.module.TransferNotify(*notify)
            rc = self.engine.batch_transfer_sync(target, local, remote, length, code, message)
        else:
            call = getattr(self.engine, f"batch_transfer_sync_{opcode}")
            rc = call(target, local, remote, length)
        return {"rc": rc, "seconds": time.monotonic() - began}

    def transfer_one(self, opcode, target, local, remote, length):
        """One blocking block by the single-block call."""
        call = getattr(self.engine, f"transfer_sync_{opcode}")
        return {"rc": call(target, local, remote, length)}

    def get_notifies(self):
        return {"notifies": [[note.name, note.msg] for note in self.engine.get_notifies()]}


def check_range(name, size, offset, length):
    if not 0 <= offset <= offset + length <= size:
        raise ValueError(f"[{offset}, {offset}+{length}) is outside {name!r} of {size} bytes")


def version():
    """The version of the installed wheel, "" if its metadata is missing."""
    from importlib import metadata

    for name in ("mooncake-transfer-engine-non-cuda", "mooncake-transfer-engine"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return ""


COMMANDS = {
    name
    for name, value in vars(Peer).items()
    if callable(value) and not name.startswith("_")
}


def answer(peer, line):
    try:
        arguments = json.loads(line)
        op = arguments.pop("op")
        if op not in COMMANDS:
            raise ValueError(f"unknown op {op!r}")
        if peer.engine is None and op not in ("start", "alloc", "fill", "read_memory"):
            raise RuntimeError(f"{op} needs start first")
        return {"ok": True, **getattr(peer, op)(**arguments)}
    except Exception as error:  # the caller decides what an error means
        return {"ok": False, "error": str(error), "type": type(error).__name__}


def main():
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    peer = Peer()
    for line in sys.stdin:
        stop = '"op": "exit"' in line or '"op":"exit"' in line
        reply = {"ok": True} if stop else answer(peer, line)
        channel.write(json.dumps(reply) + "\n")
        channel.flush()
        if stop:
            break
    # Upstream's destructors wait for its threads, sometimes for seconds, and
    # nothing here needs them.
    channel.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
