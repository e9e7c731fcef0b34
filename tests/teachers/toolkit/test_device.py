"""Tests the settings of PyTorch for the arithmetic of GPU workers, without a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from pipeline.build import worker
from pipeline.build.setup import TeacherSetup
from pipeline.config import Resources
from teachers import registry
from teachers.toolkit import device


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
