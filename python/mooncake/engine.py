"""Drop-in for Mooncake's mooncake.engine: sglang, vLLM and others run on it unmodified.

Names, argument order, keywords and return values are upstream's: 0 is success, and a
negative number, or 0 for ids and addresses, is failure. The reason goes to the logger
"mooncake". TypeError is raised for arguments of wrong type, as pybind11 does, and
ForkedError in a process that was forked off one that uses an engine; nothing else is,
unless said. Where upstream crashes, an error is returned.

Calls that move data in GPU memory (*_on_cuda) are absent, as in upstream's build without
CUDA. Beyond upstream's there are calls for page groups, see PageCalls.
"""

from __future__ import annotations

from . import _compat_arguments
from ._compat_arguments import TransferNotify, TransferOpcode
from ._compat_host_calls import HostCalls
from ._compat_memory_calls import MemoryCalls
from ._compat_page_calls import PageCalls
from ._compat_transfer_calls import TransferCalls

__all__ = [
    "SUPPORT_CUDA",
    "SUPPORT_EFA",
    "SUPPORT_HIP",
    "SUPPORT_INTRA_NVLINK",
    "SUPPORT_MNNVL",
    "SUPPORT_MUSA",
    "Read",
    "TransferEngine",
    "TransferNotify",
    "TransferOpcode",
    "Write",
]

SUPPORT_CUDA = False
SUPPORT_EFA = False
SUPPORT_HIP = False
SUPPORT_INTRA_NVLINK = False
SUPPORT_MNNVL = False
SUPPORT_MUSA = False

Read = TransferOpcode.Read
Write = TransferOpcode.Write


class TransferEngine(TransferCalls, PageCalls, MemoryCalls, HostCalls):
    """One endpoint for transfers. Safe for concurrent use; several may live in one process.

    The constructor loads the library (LibraryError if it cannot) and initialize() opens the
    engine, which lasts as long as this object. No call is needed before the process exits.
    """

    TransferOpcode = _compat_arguments.TransferOpcode
