"""The limit: one bare TCP stream over the same memory, with an answer for each batch.

The sender gives the kernel up to 1,024 blocks a call, and the receiver has them put
where they belong the same way: no header, no address, no check.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

from driver import Side, serve
from plan import Plan, plan

BLOCKS_A_CALL = 1024  # IOV_MAX


class StreamSide(Side):
    connection: socket.socket | None = None

    def listen(self) -> dict[str, Any]:
        self.server = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self.accept, daemon=True).start()
        return {"port": self.server.getsockname()[1], "version": "", "file": ""}

    def accept(self) -> None:
        """Serve one connection after the other; each begins with its plan's arguments."""
        while True:
            connection, _ = self.server.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                size, batch = (int(word) for word in read_line(connection).split())
                what = plan(size, batch)
                calls = self.vectors(what.target, what.size)
                connection.sendall(b"+")
                self.receive(connection, calls)

    def receive(self, connection: socket.socket, batches: list[list[list[memoryview]]]) -> None:
        while True:
            for batch in batches:
                for views in batch:
                    if not fill(connection, views):
                        return
                connection.sendall(b"+")

    def vectors(self, offsets: list[list[int]], size: int) -> list[list[list[memoryview]]]:
        """For each batch, for each call, the memory of its blocks."""
        assert self.region is not None
        whole = memoryview(self.region.pages)
        return [
            [
                [whole[at : at + size] for at in batch[first : first + BLOCKS_A_CALL]]
                for first in range(0, len(batch), BLOCKS_A_CALL)
            ]
            for batch in offsets
        ]

    def prepare(self, what: Plan, there: dict[str, Any]) -> list[Callable[[], None]]:
        if self.connection is not None:
            self.connection.close()
        self.connection = socket.create_connection(("127.0.0.1", there["port"]))
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection.sendall(f"{what.size} {what.batch}\n".encode())
        read_answer(self.connection)
        return [self.one_batch(views) for views in self.vectors(what.source, what.size)]

    def one_batch(self, calls: list[list[memoryview]]) -> Callable[[], None]:
        connection = self.connection
        assert connection is not None

        def move() -> None:
            for views in calls:
                drain(connection, views)
            read_answer(connection)

        return move


def drain(connection: socket.socket, views: list[memoryview]) -> None:
    """Send all of the views."""
    while views:
        views = rest(views, connection.sendmsg(views))


def fill(connection: socket.socket, views: list[memoryview]) -> bool:
    """Receive into all of the views; False at the end of the stream."""
    while views:
        count = connection.recvmsg_into(views, 0, socket.MSG_WAITALL)[0]
        if count == 0:
            return False
        views = rest(views, count)
    return True


def rest(views: list[memoryview], count: int) -> list[memoryview]:
    """The views without their first count bytes."""
    for index, view in enumerate(views):
        if count < len(view):
            return [view[count:], *views[index + 1 :]]
        count -= len(view)
    return []


def read_answer(connection: socket.socket) -> None:
    if connection.recv(1) != b"+":
        raise RuntimeError("the receiver closed the stream")


def read_line(connection: socket.socket) -> str:
    line = b""
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte:
            raise RuntimeError("the sender closed the stream")
        line += byte
    return line.decode()


if __name__ == "__main__":
    serve(StreamSide())
