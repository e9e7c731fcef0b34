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
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from teachers.toolkit.windowing import Window, num_groups

# Legend: B windows of a batch, T frames, G groups of frames, D columns.

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


class FramesCopy:
    """A copy of the frames of a batch of windows from the device to the host, in float32.

    The frames of a window that is a whole clip are averaged on the device, as
    `teachers.toolkit.windowing.pooled` does on the host. This takes almost no time on a GPU, and
    only the averages are copied. Windows of longer clips are cross-faded first, on the host.

    Args:
        states_BTD: The frames on the device.
        counts: Frames of each window; the others are padding.
        windows: The windows.
        pool: Frames that are averaged into one.
    """

    def __init__(
        self, states_BTD: Any, counts: Sequence[int], windows: Sequence[Window], pool: int
    ) -> None:
        self._counts = list(counts)
        whole = [row for row, window in enumerate(windows) if window.is_whole and pool > 1]
        parts = [row for row in range(len(windows)) if row not in set(whole)]
        self._copies: list[tuple[list[int], HostCopy]] = []
        if parts:
            longest = max(counts[row] for row in parts)
            part_BTD = states_BTD[:, :longest] if not whole else states_BTD[parts, :longest]
            self._copies.append((parts, HostCopy(part_BTD.float())))
        if whole:
            averages_BGD = average(
                states_BTD if not parts else states_BTD[whole], [counts[row] for row in whole], pool
            )
            self._copies.append((whole, HostCopy(averages_BGD)))
            for row in whole:
                self._counts[row] = num_groups(counts[row], pool)

    def arrays(self) -> list[np.ndarray]:
        """Waits for the copy, and returns the frames of each window, averaged or not."""
        frames: list[Any] = [None] * len(self._counts)
        for rows, copy in self._copies:
            for row, each_TD in zip(rows, copy.array(), strict=True):
                frames[row] = each_TD[: self._counts[row]]
        return frames


def average(states_BTD: Any, counts: Sequence[int], times: int) -> Any:
    """Means of groups of `times` frames, as `teachers.toolkit.windowing.pooled`: (B, G, D)."""
    groups = max(num_groups(count, times) for count in counts)
    whole = min(groups, states_BTD.shape[1] // times)
    grouped_BGND = states_BTD[:, : whole * times].float().unflatten(1, (whole, times))
    # In the order in which `pooled` adds.
    averages_BGD = grouped_BGND[:, :, 0] + grouped_BGND[:, :, 1]
    for place in range(2, times):
        averages_BGD += grouped_BGND[:, :, place]
    averages_BGD /= times
    if groups > whole:
        import torch

        averages_BGD = torch.nn.functional.pad(averages_BGD, (0, 0, 0, groups - whole))
    for row, count in enumerate(counts):
        first = count // times * times
        if num_groups(count, times) > count // times:
            averages_BGD[row, count // times] = states_BTD[row, first:count].float().mean(0)
    return averages_BGD
