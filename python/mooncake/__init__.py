"""mooncake: moves KV-cache pages between LLM servers.

mooncake.engine is the drop-in for Mooncake's TransferEngine; the names of this module are
the native API. Importing it loads no library and starts no thread.
"""

from __future__ import annotations

import importlib
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

# Other distributions may add modules such as mooncake.store beside these.
__path__ = extend_path(__path__, __name__)

# The version of the distribution; pyproject.toml has the same, and a test compares.
__version__ = "0.1.0"

if TYPE_CHECKING:
    from ._batch import Batch as Batch
    from ._batch import BatchState as BatchState
    from ._batch import BatchStatus as BatchStatus
    from ._batch import Op as Op
    from ._batch import Quiet as Quiet
    from ._errors import Cancelled as Cancelled
    from ._errors import DeadlineExceeded as DeadlineExceeded
    from ._errors import DeviceError as DeviceError
    from ._errors import Fenced as Fenced
    from ._errors import ForkedError as ForkedError
    from ._errors import InternalError as InternalError
    from ._errors import InvalidArgument as InvalidArgument
    from ._errors import LibraryError as LibraryError
    from ._errors import MooncakeError as MooncakeError
    from ._errors import NotFound as NotFound
    from ._errors import NotRegistered as NotRegistered
    from ._errors import Overlap as Overlap
    from ._errors import PageError as PageError
    from ._errors import PeerRestarted as PeerRestarted
    from ._errors import PeerUnreachable as PeerUnreachable
    from ._errors import PoolExhausted as PoolExhausted
    from ._errors import QueueFull as QueueFull
    from ._errors import Rejected as Rejected
    from ._errors import StaleHandle as StaleHandle
    from ._errors import Unsupported as Unsupported
    from ._errors import WaitTimeout as WaitTimeout
    from ._memory import Memory as Memory
    from ._pages import Layer as Layer
    from ._pages import PageGroup as PageGroup
    from ._segment import Segment as Segment
    from .native import Engine as Engine
    from .native import EngineStats as EngineStats
    from .native import Notification as Notification
    from .native import local_topology as local_topology
    from .native import rdma_ports as rdma_ports
    from .pages import PagePool as PagePool
    from .pages import PagePoolStats as PagePoolStats
    from .pages import PageRun as PageRun
    from .pages import PoolKind as PoolKind
    from .replay.advise import Advice as Advice
    from .replay.advise import advise as advise

_HOMES = {
    "_batch": ("Batch", "BatchState", "BatchStatus", "Op", "Quiet"),
    "_errors": (
        "Cancelled",
        "DeadlineExceeded",
        "DeviceError",
        "Fenced",
        "ForkedError",
        "InternalError",
        "InvalidArgument",
        "LibraryError",
        "MooncakeError",
        "NotFound",
        "NotRegistered",
        "Overlap",
        "PageError",
        "PeerRestarted",
        "PeerUnreachable",
        "PoolExhausted",
        "QueueFull",
        "Rejected",
        "StaleHandle",
        "Unsupported",
        "WaitTimeout",
    ),
    "_memory": ("Memory",),
    "_pages": ("Layer", "PageGroup"),
    "_segment": ("Segment",),
    "native": ("Engine", "EngineStats", "Notification", "local_topology", "rdma_ports"),
    "pages": ("PagePool", "PagePoolStats", "PageRun", "PoolKind"),
    "replay.advise": ("Advice", "advise"),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_MODULE_OF)]


def __getattr__(name: str) -> Any:
    """Import a public name's module when the name is first used."""
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
