"""Index tensors: made from page numbers on the host, and brought back to it.

sglang's are torch tensors on the pool's device. Without a device they are numpy arrays,
which is all that the arithmetic needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


class Arrays(Protocol):
    """One kind of index tensor, with 64-bit integers."""

    def tensor(self, numbers: Numbers) -> Any:
        """A tensor of numbers. Does not wait for the device."""
        ...

    def add_last(self, base: Numbers, last: Any, owner: Numbers) -> Any:
        """base, plus last[owner[i]] at every i where owner[i] is not len(last). Does not
        wait for the device."""
        ...

    def begin(self, tensor: Any) -> Callable[[], Numbers]:
        """Start to copy a tensor to the host; the result waits for it. The tensor may be
        changed, and freed, in the meantime."""
        ...


def host(numbers: Any) -> Numbers:
    """A list, array or tensor that lies in host memory."""
    if hasattr(numbers, "numpy"):
        numbers = numbers.numpy()
    return np.asarray(numbers, dtype=np.int64)


class NumpyArrays:
    def tensor(self, numbers: Numbers) -> Numbers:
        return numbers

    def add_last(self, base: Numbers, last: Any, owner: Numbers) -> Numbers:
        after: Numbers = base + np.append(host(last), 0)[owner]
        return after

    def begin(self, tensor: Any) -> Callable[[], Numbers]:
        taken = np.array(tensor, dtype=np.int64)  # the caller may change its own
        return lambda: taken


class TorchArrays:
    """Tensors of a torch device. Copies to and from a CUDA device go through pinned memory
    in the order of the current stream, so neither side waits for the other."""

    def __init__(self, device: Any) -> None:
        import torch  # type: ignore[import-not-found, unused-ignore]

        self._torch = torch
        self._device = torch.device(device)

    def tensor(self, numbers: Numbers) -> Any:
        made = self._torch.from_numpy(np.ascontiguousarray(numbers))
        if self._device.type == "cpu":
            return made
        if self._device.type == "cuda":
            made = made.pin_memory()
        return made.to(self._device, non_blocking=True)

    def add_last(self, base: Numbers, last: Any, owner: Numbers) -> Any:
        last = last.to(self._torch.int64)
        last = self._torch.cat((last, last.new_zeros(1)))
        return self.tensor(base) + last[self.tensor(owner)]

    def begin(self, tensor: Any) -> Callable[[], Numbers]:
        torch = self._torch
        if tensor.device.type != "cuda":
            taken = np.array(tensor.to("cpu", torch.int64).numpy())
            return lambda: taken
        pinned = torch.empty(tensor.shape, dtype=torch.int64, pin_memory=True)
        pinned.copy_(tensor.to(torch.int64), non_blocking=True)
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(tensor.device))

        def wait() -> Numbers:
            copied.synchronize()
            numbers: Numbers = pinned.numpy()
            return numbers

        return wait
