"""One engine of the benchmark, ours or upstream's: whichever `mooncake` this Python has.

It uses only the API that both have, so the same lines run on both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from driver import Side, serve
from plan import Plan


class EngineSide(Side):
    def listen(self) -> dict[str, Any]:
        from mooncake import engine as module

        self.engine = module.TransferEngine()
        status = self.engine.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", "")
        if status != 0:
            raise RuntimeError(f"initialize answered {status}")
        assert self.region is not None
        status = self.engine.register_memory(self.region.address, len(self.region.pages))
        if status != 0:
            raise RuntimeError(f"register_memory answered {status}")
        return {
            "session": f"127.0.0.1:{self.engine.get_rpc_port()}",
            "address": self.region.address,
            "file": module.__file__,
            "version": version(),
        }

    def prepare(self, what: Plan, there: dict[str, Any]) -> list[Callable[[], None]]:
        assert self.region is not None
        here, session, address = self.region.address, there["session"], there["address"]
        lengths = [what.size] * what.batch
        return [
            self.one_batch(session, [here + a for a in froms], [address + a for a in tos], lengths)
            for froms, tos in zip(what.source, what.target)
        ]

    def one_batch(
        self, session: str, local: list[int], remote: list[int], lengths: list[int]
    ) -> Callable[[], None]:
        write = self.engine.batch_transfer_sync_write

        def move() -> None:
            status = write(session, local, remote, lengths)
            if status != 0:
                raise RuntimeError(f"batch_transfer_sync_write answered {status}")

        return move


def version() -> str:
    """The version of the distribution that owns `mooncake` here."""
    from importlib import metadata

    for name in ("mooncake-go", "mooncake-transfer-engine-non-cuda", "mooncake-transfer-engine"):
        try:
            return f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    return "not installed"


if __name__ == "__main__":
    serve(EngineSide())
