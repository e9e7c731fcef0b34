"""Deterministic kernels of PyTorch, for `trainer: {full_determinism: true}`.

transformers' Trainer selects them when it is created and never restores the settings. Here they are
selected before any work on a GPU, because cuBLAS reads its setting at its first call, and restored
after the run, because a notebook or the next arm may not want them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
from transformers.trainer_utils import enable_full_determinism

VARIABLES = (
    "CUDA_LAUNCH_BLOCKING",
    "CUBLAS_WORKSPACE_CONFIG",
    "FLASH_ATTENTION_DETERMINISTIC",
    "ASCEND_LAUNCH_BLOCKING",
    "HCCL_DETERMINISTIC",
)
"""Environment variables that `enable_full_determinism` sets (seen in transformers 5.24)."""


@contextlib.contextmanager
def deterministic_kernels(*, enabled: bool, seed: int) -> Iterator[None]:
    """Selects deterministic kernels for a context, and restores PyTorch's settings afterwards.

    Args:
        enabled: Whether to do anything.
        seed: Seed of all random numbers, which the function of transformers sets too.
    """
    if not enabled:
        yield
        return
    cudnn = torch.backends.cudnn
    algorithms = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    kernels, search = cudnn.deterministic, cudnn.benchmark
    variables = {name: os.environ.get(name) for name in VARIABLES}
    enable_full_determinism(seed)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)
        cudnn.deterministic, cudnn.benchmark = kernels, search
        for name, value in variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
