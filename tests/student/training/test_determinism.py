"""Tests the settings of PyTorch by `trainer: {full_determinism: true}` and `tf32`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from manifests.errors import UserError
from student.config import ModelConfig, Recipe, StageConfig
from student.training.determinism import VARIABLES, deterministic_kernels
from student.training.trainer import training_arguments


def state() -> tuple[object, ...]:
    cudnn = torch.backends.cudnn
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn.deterministic,
        cudnn.benchmark,
        *(os.environ.get(name) for name in VARIABLES),
    )


def test_kernels_are_deterministic_only_within_the_context(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = state()
    with deterministic_kernels(enabled=True, seed=3):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.benchmark
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"]
        assert os.environ["FLASH_ATTENTION_DETERMINISTIC"] == "1"
        first = torch.rand(3)
    assert state() == before
    torch.manual_seed(3)
    assert torch.equal(first, torch.rand(3))


def test_interrupted_run_restores_the_settings():
    before = state()

    def run() -> None:
        with deterministic_kernels(enabled=True, seed=0):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert state() == before


def test_disabled_option_changes_no_settings():
    before = state()
    with deterministic_kernels(enabled=False, seed=0):
        assert state() == before


def test_all_variables_that_transformers_sets_are_restored(monkeypatch: pytest.MonkeyPatch):
    """A new version of transformers might set other variables."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    with deterministic_kernels(enabled=True, seed=0):
        changed = {name for name, value in os.environ.items() if before.get(name) != value}
    assert changed <= set(VARIABLES)
    assert dict(os.environ) == before


def test_determinism_option_is_passed_to_the_trainer(tmp_path: Path):
    recipe = Recipe(model=ModelConfig(build="tiny"), trainer={"full_determinism": True})
    arguments = training_arguments(recipe, StageConfig(), tmp_path, seed=0)
    assert arguments.full_determinism
    assert arguments.tf32 is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs: a machine without GPU")
def test_tf32_without_a_gpu_is_rejected(tmp_path: Path):
    recipe = Recipe(model=ModelConfig(build="tiny"), trainer={"tf32": True})
    with pytest.raises(UserError, match=r"recipe: trainer: .*tf32 requires Ampere"):
        training_arguments(recipe, StageConfig(), tmp_path, seed=0)
