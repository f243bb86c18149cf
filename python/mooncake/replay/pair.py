"""A prefill and a decode process of one engine, and how the parent drives them."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._demo_channel import Channel, with_package
from .process import cpu_seconds
from .schedule import Job

_HOST = "127.0.0.1"
_TIMEOUT = 900.0  # seconds for one answer: a slow engine may need minutes for a wave

# Runs worker.py as a module of a package of another name: `mooncake` is upstream's there.
_BOOTSTRAP = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location(
    "mooncake_replay", {init!r}, submodule_search_locations=[{folder!r}])
sys.modules["mooncake_replay"] = importlib.util.module_from_spec(spec)
from mooncake_replay import worker
sys.exit(worker.main())
"""
# Upstream's best mode over tcp.
_UPSTREAM_TCP = {
    "MC_FORCE_TCP": "1",
    "MC_TCP_ENABLE_CONNECTION_POOL": "1",
    "MC_TCP_MAX_QUEUED_TRANSFERS_PER_PEER": "65535",
}
# What says how to reach the network holds for both engines.
_NETWORK = ("MC_GID_INDEX", "MC_IB_", "MC_MTU", "MC_TE_FILTERS")


@dataclass(frozen=True)
class Engine:
    """What moves the bytes: its name, and how its processes are started."""

    name: str
    command: tuple[str, ...]
    env: dict[str, str]
    protocol: str
    transport: str = ""  # the one it must use, as it cannot be asked which it did use


def ours(transport: str, protocol: str) -> Engine:
    """This package. transport: tcp, local, rdma, or auto for what it chooses."""
    env = with_package(os.environ)
    if transport == "tcp":
        env["MC_FORCE_TCP"] = "1"
    elif transport == "local":
        env.pop("MC_FORCE_TCP", None)
        if env.get("MC_LOCAL", "").lower() in ("0", "off"):
            del env["MC_LOCAL"]
    elif transport == "rdma":
        env.pop("MC_FORCE_TCP", None)
        env.update({"MC_FORCE_HCA": "1", "MC_LOCAL": "off"})
    command = (sys.executable, "-m", "mooncake.replay.worker")
    return Engine("ours", command, env, protocol)


def upstream(python: Path, transport: str) -> Engine:
    """Upstream's wheel, with its own interpreter: over rdma, or tcp for every other transport."""
    folder = Path(__file__).parent
    code = _BOOTSTRAP.format(init=str(folder / "__init__.py"), folder=str(folder))
    by_nic = transport == "rdma"
    kept = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("MC_", "PYTHON")) or (by_nic and k.startswith(_NETWORK))
    }
    env = {**kept, "MC_LOG_LEVEL": "ERROR", **({} if by_nic else _UPSTREAM_TCP)}
    used = "rdma" if by_nic else "tcp"
    return Engine("upstream", (str(python), "-c", code), env, used, used)


@dataclass
class Moved:
    """What one wave took. Times are seconds."""

    builds: list[float] = field(default_factory=list)  # to make the block list, by job
    transfers: list[float] = field(default_factory=list)  # of the call, by job
    wall: float = 0.0  # from the first begin to the last end
    blocks: int = 0
    prefill_cpu: float = 0.0
    decode_cpu: float = 0.0
    counters: dict[str, int] = field(default_factory=dict)


class Pair:
    """Both processes. Stopped but while one of its methods runs: some engines poll for ever.
    Methods raise DemoError when a process reports a failure or is gone."""

    def __init__(
        self, engine: Engine, memory: Mapping[str, int], prefill_tokens: int, decode_tokens: int
    ) -> None:
        self.engine = engine
        self._channels = ExitStack()
        self.stopped = False
        try:
            self.decode = self._start("decode", memory, decode_tokens)
            self.prefill = self._start("prefill", memory, prefill_tokens)
            there, here = self.decode.hello(), self.prefill.hello()
            self.register_seconds = there["register_seconds"] + here["register_seconds"]
            self.numpy = bool(there["numpy"] and here["numpy"])
            self.prefill.call("connect", session=there["session"], addresses=there["addresses"])
            self._decode_tokens = decode_tokens
            self.stop()
        except BaseException:
            self.close(kill=True)
            raise

    def _start(self, role: str, memory: Mapping[str, int], tokens: int) -> Channel:
        config: dict[str, Any] = {
            **memory,
            "tokens": tokens,
            "engine": self.engine.name,
            "protocol": self.engine.protocol,
            "host": _HOST,
            "parent": os.getpid(),
        }
        name = role if self.engine.name == "ours" else f"{self.engine.name} {role}"
        channel = Channel(config, self.engine.command, self.engine.env, name, _TIMEOUT)
        self._channels.enter_context(channel)
        return channel

    @property
    def pids(self) -> tuple[int, int]:
        """Of the prefill and of the decode process."""
        return self.prefill.pid, self.decode.pid

    def stop(self) -> None:
        self._signal(signal.SIGSTOP)
        self.stopped = True

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)
        self.stopped = False

    def _signal(self, number: int) -> None:
        for channel in (self.prefill, self.decode):
            with contextlib.suppress(ProcessLookupError):
                channel.signal(number)

    @contextmanager
    def awake(self) -> Iterator[None]:
        self.go_on()
        try:
            yield
        finally:
            self.stop()

    def calibrate(self, page_size: int, run_tokens: int) -> dict[str, Any]:
        with self.awake():
            return self.prefill.call(
                "calibrate",
                page_size=page_size,
                peer_tokens=self._decode_tokens,
                run_tokens=run_tokens,
            )

    def stats(self) -> dict[str, int]:
        """The prefill engine's counters; {} if it has none."""
        with self.awake():
            counters: dict[str, int] = self.prefill.call("stats")["counters"]
            return counters

    def move(
        self, wave: Sequence[Job], page_size: int, api: str, concurrency: int, verify: str
    ) -> tuple[Moved, list[str]]:
        """Fill the wave's source pages, move them, and look at what arrived; in this order, so
        that the clock runs for the moves only. Returns failures in words, too."""
        with self.awake():
            fills = [(job.number, list(job.source)) for job in wave]
            self.prefill.call("fill", jobs=fills, page_size=page_size)
            moves = [
                (source, list(job.target)) for job, (_, source) in zip(wave, fills, strict=True)
            ]
            before = self._cpu()
            answer = self.prefill.call(
                "move", jobs=moves, page_size=page_size, api=api, concurrency=concurrency
            )
            after = self._cpu()
            moved = _moved(answer)
            moved.prefill_cpu, moved.decode_cpu = (
                b - a for a, b in zip(before, after, strict=True)
            )
            return moved, self._wrong(wave, page_size, verify)

    def _cpu(self) -> tuple[float, float]:
        prefill, decode = self.pids
        return cpu_seconds(prefill), cpu_seconds(decode)

    def _wrong(self, wave: Sequence[Job], page_size: int, verify: str) -> list[str]:
        if verify == "none":
            return []
        jobs = [(job.number, list(job.target)) for job in wave]
        answer = self.decode.call(
            "verify", jobs=jobs, page_size=page_size, sample=verify == "sample"
        )
        return [
            f"{self.engine.name}: request {job.number}: wrong bytes in {wrong} of its pages and "
            "buffers"
            for job, wrong in zip(wave, answer["wrong"], strict=True)
            if wrong
        ]

    def close(self, *, kill: bool = False) -> None:
        """End both processes."""
        if self.stopped and not kill:
            self.go_on()
        if kill:
            with contextlib.suppress(AttributeError):  # they may not have been started
                self._signal(signal.SIGKILL)
        self._channels.close()


def _moved(answer: dict[str, Any]) -> Moved:
    jobs = answer["jobs"]
    return Moved(
        builds=[build for build, _, _, _ in jobs],
        transfers=[end - begin for _, _, begin, end in jobs],
        wall=max(end for *_, end in jobs) - min(begin for _, _, begin, _ in jobs),
        blocks=sum(blocks for _, blocks, _, _ in jobs),
        counters=answer["counters"],
    )
