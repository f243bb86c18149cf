"""Registering memory with a device, which takes its time."""

from __future__ import annotations

from kit import clean, python

COUNTING = """
import ctypes, mmap, threading, time
from mooncake import Engine

COUNT, STEP = 8000, 8192
pages = mmap.mmap(-1, COUNT * STEP)
pages[:] = b"x" * len(pages)  # touched
address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
ranges = [(address + k * STEP, 4096) for k in range(COUNT)]
engine = Engine("127.0.0.1")
began = ended = 0.0

def count(over, ticks):
    while not over.is_set():
        ticks.append(time.perf_counter())

for attempt in range(8):
    over, ticks = threading.Event(), []
    thread = threading.Thread(target=count, args=(over, ticks))
    thread.start()
    while not ticks:
        time.sleep(0.001)
    began = time.perf_counter()
    memories = engine.register_many(ranges)
    ended = time.perf_counter()
    over.set()
    thread.join()
    assert engine.stats().memories == COUNT
    engine.deregister_many(memories)
    inside = [began, *(tick for tick in ticks if began < tick < ended), ended]
    longest = max(b - a for a, b in zip(inside, inside[1:]))
    print(f"{ended - began:.3f} s, {len(inside) - 2} ticks, {longest:.3f} s without one")
    if longest < (ended - began) / 2:
        break
else:
    raise SystemExit("nobody else could run while memory was registered")
"""


def test_others_run_while_memory_is_registered() -> None:
    """The device touches every page, and a thread counts all the while."""
    result = python(COUNTING, SOFTNIC="pin=1", timeout=50)
    print(result.stdout)
    clean(result)
