"""The drop-in engine's calls that move bytes."""

from __future__ import annotations

from ._arguments import Integers, integer, integers
from ._blocks import Blocks, many_blocks, one_block
from ._compat_arguments import (
    TransferNotify,
    TransferOpcode,
    opcode_of,
    strings_of,
    text_or_none,
)
from ._compat_base import EngineBase
from ._compat_transfers import Transfers

_READ = TransferOpcode.Read
_WRITE = TransferOpcode.Write

# The arguments that say which bytes, in a call for one block and for many.
_BLOCK = ("buffer", "peer_buffer_address", "length")
_BLOCKS = ("buffers", "peer_buffer_addresses", "lengths")


class TransferCalls(EngineBase):
    """Transfers that are waited for, and transfers in the background.

    Blocks are length bytes between buffer here and peer_buffer_address there, absolute
    addresses in registered memory. transport_hint is ignored.
    """

    def transfer_sync_write(
        self,
        target_hostname: str,
        buffer: int,
        peer_buffer_address: int,
        length: int,
        transport_hint: str = "",
    ) -> int:
        """Write length bytes at buffer to the peer "<host>:<port>", and wait until they are
        in its memory. 0, or -1. Ends within MC_TRANSFER_TIMEOUT (30 s) plus 1 ns a byte."""
        blocks = one_block(buffer, peer_buffer_address, length, _BLOCK)
        return self._sync("transfer_sync_write", target_hostname, _WRITE, blocks)

    def transfer_sync_read(
        self,
        target_hostname: str,
        buffer: int,
        peer_buffer_address: int,
        length: int,
        transport_hint: str = "",
    ) -> int:
        """Read length bytes of the peer into buffer; else as transfer_sync_write()."""
        blocks = one_block(buffer, peer_buffer_address, length, _BLOCK)
        return self._sync("transfer_sync_read", target_hostname, _READ, blocks)

    def transfer_sync(
        self,
        target_hostname: str,
        buffer: int,
        peer_buffer_address: int,
        length: int,
        opcode: TransferOpcode | int,
        notify: TransferNotify | None = None,
        transport_hint: str = "",
    ) -> int:
        """transfer_sync_read() or _write(), by opcode. notify is left with the peer when the
        transfer succeeded."""
        blocks = one_block(buffer, peer_buffer_address, length, _BLOCK)
        return self._sync("transfer_sync", target_hostname, opcode, blocks, notify)

    def batch_transfer_sync_write(
        self,
        target_hostname: str,
        buffers: Integers,
        peer_buffer_addresses: Integers,
        lengths: Integers,
        transport_hint: str = "",
    ) -> int:
        """transfer_sync_write() of many blocks, which have no order. 0 when all are in the
        peer's memory; -1 also when the sequences differ in length. None at all is 0."""
        blocks = many_blocks(buffers, peer_buffer_addresses, lengths, _BLOCKS)
        return self._sync("batch_transfer_sync_write", target_hostname, _WRITE, blocks)

    def batch_transfer_sync_read(
        self,
        target_hostname: str,
        buffers: Integers,
        peer_buffer_addresses: Integers,
        lengths: Integers,
        transport_hint: str = "",
    ) -> int:
        """Read many blocks; else as batch_transfer_sync_write()."""
        blocks = many_blocks(buffers, peer_buffer_addresses, lengths, _BLOCKS)
        return self._sync("batch_transfer_sync_read", target_hostname, _READ, blocks)

    def batch_transfer_sync(
        self,
        target_hostname: str,
        buffers: Integers,
        peer_buffer_addresses: Integers,
        lengths: Integers,
        opcode: TransferOpcode | int,
        notify: TransferNotify | None = None,
        transport_hint: str = "",
    ) -> int:
        """batch_transfer_sync_read() or _write(), by opcode, with notify as transfer_sync()."""
        blocks = many_blocks(buffers, peer_buffer_addresses, lengths, _BLOCKS)
        return self._sync("batch_transfer_sync", target_hostname, opcode, blocks, notify)

    def _sync(
        self,
        method: str,
        target: str | None,
        opcode: TransferOpcode | int,
        blocks: Blocks,
        notify: TransferNotify | None = None,
    ) -> int:
        op, note = opcode_of(opcode), strings_of(notify)
        ready = self._target(method, target, blocks)
        return -1 if ready is None else ready[0].sync(method, ready[1], op, blocks, note)

    def transfer_submit_write(
        self,
        target_hostname: str,
        buffer: int,
        peer_buffer_address: int,
        length: int,
        transport_hint: str = "",
    ) -> int:
        """Start transfer_sync_write(): an id for transfer_check_status(), or 0."""
        blocks = one_block(buffer, peer_buffer_address, length, _BLOCK)
        return self._start("transfer_submit_write", target_hostname, _WRITE, blocks)

    def batch_transfer_async_write(
        self,
        target_hostname: str,
        buffers: Integers,
        peer_buffer_addresses: Integers,
        lengths: Integers,
        transport_hint: str = "",
    ) -> int:
        """Start batch_transfer_sync_write(): an id for get_batch_transfer_status(), or 0."""
        blocks = many_blocks(buffers, peer_buffer_addresses, lengths, _BLOCKS)
        return self._start("batch_transfer_async_write", target_hostname, _WRITE, blocks)

    def batch_transfer_async_read(
        self,
        target_hostname: str,
        buffers: Integers,
        peer_buffer_addresses: Integers,
        lengths: Integers,
        transport_hint: str = "",
    ) -> int:
        """Start batch_transfer_sync_read(): an id for get_batch_transfer_status(), or 0."""
        blocks = many_blocks(buffers, peer_buffer_addresses, lengths, _BLOCKS)
        return self._start("batch_transfer_async_read", target_hostname, _READ, blocks)

    def batch_transfer_async(
        self,
        target_hostname: str,
        buffers: Integers,
        peer_buffer_addresses: Integers,
        lengths: Integers,
        opcode: TransferOpcode | int,
        transport_hint: str = "",
    ) -> int:
        """batch_transfer_async_read() or _write(), by opcode."""
        blocks = many_blocks(buffers, peer_buffer_addresses, lengths, _BLOCKS)
        return self._start("batch_transfer_async", target_hostname, opcode, blocks)

    def _start(
        self, method: str, target: str | None, opcode: TransferOpcode | int, blocks: Blocks
    ) -> int:
        op = opcode_of(opcode)
        ready = self._target(method, target, blocks)
        return 0 if ready is None else ready[0].start(method, ready[1], op, blocks)

    def get_batch_transfer_status(self, batch_ids: Integers) -> int:
        """Wait for batches and free them: 0 if all are done. -1 if one failed or its id is
        unknown, and then those that still ran are cancelled."""
        numbers = integers(batch_ids, "batch_ids")
        opened = self._ready("get_batch_transfer_status")
        if opened is None:
            return -1
        return opened.transfers.wait_all("get_batch_transfer_status", numbers)

    def transfer_check_status(self, batch_id: int) -> int:
        """1 done, 0 running, -1 failed or unknown, -2 out of time. All but 0 free the batch."""
        number = integer(batch_id, "batch_id")
        opened = self._ready("transfer_check_status")
        return -1 if opened is None else opened.transfers.check("transfer_check_status", number)

    def batch_transfer_poll(self, batch_ids: Integers) -> list[int]:
        """For each id 0 (done), 1 (running) or -1 (failed or unknown). Frees nothing."""
        numbers = integers(batch_ids, "batch_ids")
        opened = self._ready("batch_transfer_poll")
        if opened is None:
            return [-1] * len(numbers)
        return opened.transfers.poll("batch_transfer_poll", numbers)

    def batch_transfer_free(self, batch_ids: Integers) -> None:
        """Free batches; unknown ids are ignored, and one that still runs is cancelled."""
        numbers = integers(batch_ids, "batch_ids")
        opened = self._ready("batch_transfer_free")
        if opened is not None:
            opened.transfers.free(numbers)

    def _target(
        self, method: str, target: str | None, blocks: Blocks
    ) -> tuple[Transfers, str] | None:
        """Who moves blocks to whom; None if the call cannot succeed."""
        peer = text_or_none(target, "target_hostname")
        opened = self._ready(method)
        if opened is None:
            return None
        sizes = blocks.sizes
        if peer is None:
            self._log.failure(method, "target_hostname is None: give the peer's <host>:<port>")
        elif len(set(sizes)) > 1:
            self._log.failure(method, f"{list(sizes)} local and remote addresses and lengths", peer)
        else:
            return opened.transfers, peer
        return None
