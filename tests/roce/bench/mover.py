"""One engine of the RoCE benchmark, ours or upstream's: whichever `mooncake` this Python has.

It reads one JSON object a line, {"op": name, ...arguments}, and answers each with one. The standard
library and calls that both have are all it uses. What libraries print goes to standard error.
"""

import ctypes
import hashlib
import json
import mmap
import os
import sys
import time
from array import array


class Mover:
    def start(self, host, device, size):
        """An engine, and registered memory of this size, with the same bytes everywhere."""
        from mooncake.engine import TransferEngine

        self.engine = TransferEngine()
        status = self.engine.initialize(host, "P2PHANDSHAKE", "rdma", device)
        if status != 0:
            raise RuntimeError(f"initialize answered {status}")
        self.pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        first = ctypes.c_char.from_buffer(self.pages)
        self.address = ctypes.addressof(first)
        del first
        unit = hashlib.sha512(b"roce").digest()
        for at in range(0, size, 64):
            self.pages[at : at + 64] = at.to_bytes(8, "little") + unit[8:]
        if self.engine.register_memory(self.address, size) != 0:
            raise RuntimeError("the memory could not be registered")
        return {"session": f"{host}:{self.engine.get_rpc_port()}", "address": self.address}

    def fill(self, value):
        self.pages[:] = bytes([value]) * len(self.pages)
        return {}

    def sha(self):
        return {"sha": hashlib.sha256(self.pages).hexdigest()}

    def expected(self, fill, local, remote, size):
        """What the other's memory must hold when it was filled with a byte, and got the blocks."""
        want = bytearray([fill]) * len(self.pages)
        for a, b in zip(local, remote):
            want[b : b + size] = self.pages[a : a + size]
        return {"sha": hashlib.sha256(want).hexdigest()}

    def aim(self, session, address, local, remote, size):
        """Blocks of this size, at offsets in the two memories."""
        self.lists = (
            session,
            array("Q", [self.address + offset for offset in local]),
            array("Q", [address + offset for offset in remote]),
            array("Q", [size] * len(local)),
        )
        self.bytes = size * len(local)
        return {}

    def write(self, seconds):
        """Write all blocks once, and again until the time is over; blocking calls."""
        call, lists = self.engine.batch_transfer_sync_write, self.lists
        calls, cpu, began = 0, time.process_time(), time.perf_counter()
        while calls == 0 or time.perf_counter() - began < seconds:
            status = call(*lists)
            if status != 0:
                raise RuntimeError(f"batch_transfer_sync_write answered {status}")
            calls += 1
        took = time.perf_counter() - began
        return {"bytes": calls * self.bytes, "seconds": took, "cpu": time.process_time() - cpu}


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    mover = Mover()
    for line in sys.stdin:
        arguments = json.loads(line)
        try:
            answer = getattr(mover, arguments.pop("op"))(**arguments)
        except Exception as error:  # the caller decides what it means
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    os._exit(0)  # upstream's destructors may wait for seconds


if __name__ == "__main__":
    main()
