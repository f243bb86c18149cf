"""The drop-in engine's calls for page groups, which upstream has none of."""

from __future__ import annotations

from collections.abc import Sequence

from ._batch import Op
from ._compat_arguments import text_or_none
from ._compat_base import EngineBase
from ._errors import MooncakeError
from ._pages import PageGroup, groups_of


class PageCalls(EngineBase):
    """Transfers of whole groups of pages: of lists of page numbers, in all layers that share
    them. See PageGroup."""

    def transfer_pages_sync_write(
        self, target_hostname: str, groups: PageGroup | Sequence[PageGroup]
    ) -> int:
        """Write the pages of groups to the peer "<host>:<port>", and wait until they are in
        its memory; else as batch_transfer_sync_write()."""
        return self._pages("transfer_pages_sync_write", target_hostname, Op.WRITE, groups)

    def transfer_pages_sync_read(
        self, target_hostname: str, groups: PageGroup | Sequence[PageGroup]
    ) -> int:
        """Read the pages of groups from the peer; else as transfer_pages_sync_write()."""
        return self._pages("transfer_pages_sync_read", target_hostname, Op.READ, groups)

    def _pages(
        self,
        method: str,
        target: str | None,
        op: Op,
        groups: PageGroup | Sequence[PageGroup],
    ) -> int:
        peer = text_or_none(target, "target_hostname")
        opened = self._ready(method)
        if opened is None:
            return -1
        if peer is None:
            self._log.failure(method, "target_hostname is None: give the peer's <host>:<port>")
            return -1
        try:
            given = groups_of(groups)
        except MooncakeError as error:
            self._log.failure(method, error, peer)
            return -1
        return opened.transfers.pages(method, peer, op, given)
