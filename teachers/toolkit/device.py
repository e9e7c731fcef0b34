"""Lets threads of a worker take turns on a device, copies arrays to and from it, and sets its
arithmetic.

A worker with a GPU runs two blocks at a time, each in a thread of its own. Only one of them
computes on the device; meanwhile the other pads its next batch, or converts finished frames to
targets. An adapter holds `turn` while it submits work to the device, and waits for results
afterwards. It declares this with the class attribute `overlaps = True` (`teachers.protocol`).
"""

from __future__ import annotations

import contextlib
import importlib.util
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

_TURN = threading.RLock()


@contextlib.contextmanager
def turn() -> Iterator[None]:
    """Returns a context in which only this thread submits work to the device."""
    with _TURN:
        yield


def use_exact_float32(device: str) -> None:
    """Makes a GPU compute float32 networks in float32, with deterministic kernels of cuDNN.

    By default, PyTorch rounds the factors of float32 convolutions on a GPU to TF32, which has 10
    bits as float16 has, and the frames of an expert would depend on the kind of its device. Experts
    with `half` or `dtype` are not affected. The settings are those of the process.
    """
    if not device.startswith("cuda") or importlib.util.find_spec("torch") is None:
        return
    import torch

    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def on_device(array: Any, device: Any) -> Any:
    """Copies a tensor or array to the device.

    The copy to a GPU is asynchronous, from page-locked memory.
    """
    import torch

    tensor = torch.from_numpy(array) if isinstance(array, np.ndarray) else array
    if torch.device(device).type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class HostCopy:
    """An asynchronous copy of a tensor from the device to the host.

    The copy to page-locked memory is queued after the network's work. The thread that requests the
    array waits for it, without holding the turn.
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
        """Waits for the copy, and returns the values."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._tensor.numpy()
