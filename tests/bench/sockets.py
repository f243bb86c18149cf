"""How many bytes a process has received over TCP: the kernel's own count, socket by socket.

A contender is believed to have used the transport that it is named for only when this agrees.
The counters of the loopback interface would do, were nothing else running on the machine.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Iterator

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST_DUMP = 0x301
NLMSG_ERROR, NLMSG_DONE = 2, 3
INET_DIAG_INFO = 2
HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
REQUEST = struct.Struct("=BBBBI48x")  # inet_diag_req_v2: family, protocol, extensions, pad, states
ATTRIBUTE = struct.Struct("=HH")  # rtattr: length, type
MESSAGE_LENGTH, INODE_AT = 72, 68  # of inet_diag_msg
RECEIVED_AT = 128  # tcpi_bytes_received in tcp_info
EVERY_STATE = 0xFFFFFFFF


def tcp_received(pids: Iterable[int]) -> int:
    """Bytes that these processes have received over the TCP sockets they have open now."""
    counts = dict(received_by_inode())
    return sum(counts.get(inode, 0) for pid in pids for inode in inodes(pid))


def inodes(pid: int) -> set[int]:
    """Those of a process's sockets."""
    found = set()
    folder = f"/proc/{pid}/fd"
    for name in os.listdir(folder):
        try:
            target = os.readlink(f"{folder}/{name}")
        except OSError:
            continue  # closed meanwhile
        if target.startswith("socket:["):
            found.add(int(target[len("socket:[") : -1]))
    return found


def received_by_inode() -> Iterator[tuple[int, int]]:
    """Of every TCP socket in this network namespace."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as kernel:
            kernel.settimeout(10)
            body = REQUEST.pack(
                family, socket.IPPROTO_TCP, 1 << (INET_DIAG_INFO - 1), 0, EVERY_STATE
            )
            length = HEADER.size + len(body)
            kernel.send(HEADER.pack(length, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST_DUMP, 1, 0) + body)
            for message in messages(kernel):
                (inode,) = struct.unpack_from("=I", message, INODE_AT)
                yield inode, bytes_received(message)


def messages(kernel: socket.socket) -> Iterator[bytes]:
    """The bodies of an answer in several parts."""
    while True:
        part, at = kernel.recv(1 << 16), 0
        while at < len(part):
            length, kind, *_ = HEADER.unpack_from(part, at)
            if kind == NLMSG_DONE:
                return
            if kind == NLMSG_ERROR:
                (number,) = struct.unpack_from("=i", part, at + HEADER.size)
                raise OSError(-number, f"socket diagnosis: {os.strerror(-number)}")
            yield part[at + HEADER.size : at + length]
            at += aligned(length)


def bytes_received(message: bytes) -> int:
    at = MESSAGE_LENGTH
    while at + ATTRIBUTE.size <= len(message):
        length, kind = ATTRIBUTE.unpack_from(message, at)
        if kind == INET_DIAG_INFO and length >= ATTRIBUTE.size + RECEIVED_AT + 8:
            (count,) = struct.unpack_from("=Q", message, at + ATTRIBUTE.size + RECEIVED_AT)
            return int(count)
        at += aligned(max(length, ATTRIBUTE.size))
    return 0


def aligned(length: int) -> int:
    return (length + 3) & ~3
