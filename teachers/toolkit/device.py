"""Turns on a device that threads of a worker share, and copies of arrays to and from it.

A worker with a GPU runs two blocks at a time, each in a thread of its own. Only one of them
computes on the device; meanwhile the other pads its next batch, or turns frames that have arrived
into targets. An adapter holds `turn` while it gives work to the device, and waits for results after
it. It says so by the class attribute `overlaps = True` (`teachers.protocol`).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

_TURN = threading.RLock()


@contextlib.contextmanager
def turn() -> Iterator[None]:
    """The time in which this thread, and no other of the process, gives work to the device."""
    with _TURN:
        yield


def on_device(array: Any, device: Any) -> Any:
    """A tensor, or an array as one, on the device.

    The copy to a GPU starts from page-locked memory and does not wait for its end.
    """
    import torch

    tensor = torch.from_numpy(array) if isinstance(array, np.ndarray) else array
    if torch.device(device).type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class HostCopy:
    """A tensor on its way from the device to the host.

    The copy is queued behind the network's work when this is made, into page-locked memory. The
    thread that asks for the array waits for it, and needs no turn for that.
    """

    def __init__(self, tensor: Any) -> None:
        self._arrived: Any = None
        if not tensor.is_cuda:
            self._tensor = tensor
            return
        import torch

        self._tensor = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._tensor.copy_(tensor, non_blocking=True)
        self._arrived = torch.cuda.Event()
        self._arrived.record()

    def array(self) -> np.ndarray:
        """The values, once they have arrived."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._tensor.numpy()
