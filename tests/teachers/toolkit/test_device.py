"""Tests the settings of PyTorch for the arithmetic of GPU workers, and the averages on a device,
without a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from pipeline.build import worker
from pipeline.build.setup import TeacherSetup
from pipeline.config import Resources
from teachers import registry
from teachers.toolkit import device
from teachers.toolkit.windowing import Window, pooled


@pytest.fixture(autouse=True)
def changed_settings() -> Iterator[None]:
    """Sets the opposite of what GPU workers use, and PyTorch's defaults after the test."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark, cudnn.deterministic
    cudnn.allow_tf32 = matmul.allow_tf32 = cudnn.benchmark = True
    cudnn.deterministic = False
    yield
    cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark, cudnn.deterministic = before


def settings() -> dict[str, bool]:
    cudnn = torch.backends.cudnn
    return {
        "tf32 in convolutions": cudnn.allow_tf32,
        "tf32 in products": torch.backends.cuda.matmul.allow_tf32,
        "search": cudnn.benchmark,
        "deterministic": cudnn.deterministic,
    }


EXACT = {
    "tf32 in convolutions": False,
    "tf32 in products": False,
    "search": False,
    "deterministic": True,
}


def test_gpu_computes_float32_without_tf32():
    device.use_exact_float32("cuda")
    assert settings() == EXACT


def test_cpu_leaves_the_settings_unchanged():
    before = settings()
    device.use_exact_float32("cpu")
    assert settings() == before != EXACT


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_worker_on_a_gpu_sets_exact_float32(name: str):
    family = "tests.pipeline.fakes:Energy"
    spec = registry.make("energy", family, {}).spec()
    setup = TeacherSetup("energy", family, {}, spec, Resources())
    worker.Worker([setup], device=name, num_threads=1).start()
    assert (settings() == EXACT) == (name == "cuda")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("times", [1, 2, 3, 4, 5])
def test_frames_copy_averages_like_pooled(times: int, dtype: str):
    counts = [1, times, 3 * times + (times + 1) // 2, 40, 17, 40 - times // 2]
    rng = np.random.default_rng(times)
    states_BTD = torch.from_numpy(rng.normal(size=(len(counts), 50, 7))).to(getattr(torch, dtype))
    for are_whole in ([True] * 6, [False] * 6, [True, False, True, True, False, True]):
        windows = [
            Window(row, 0, np.empty(0), is_whole=is_whole) for row, is_whole in enumerate(are_whole)
        ]
        arrays = device.FramesCopy(states_BTD, counts, windows, times).arrays()
        for row, (frames_TD, count) in enumerate(zip(arrays, counts, strict=True)):
            native_TD = states_BTD[row, :count].float().numpy()
            expected_TD = pooled(native_TD, times) if are_whole[row] else native_TD
            assert frames_TD.dtype == np.float32
            assert np.array_equal(frames_TD, expected_TD)
