"""Tests for training with several processes: invalid settings, and the layers that FSDP wraps."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.utils.dataclasses import get_module_class_from_name

from manifests.errors import UserError
from student.model.student import load_backbone
from student.recipe_files import recipes_folder
from student.training import processes
from student.training.processes import name_wrapped_layer, start_processes
from tests.student.conftest import FAMILIES, model_config


@pytest.mark.parametrize("family", FAMILIES)
def test_fsdp_wraps_the_decoder_layer_of_each_family(
    checkpoints: Any, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A config that names Qwen2's layer fails for Omni, which has other layers."""
    monkeypatch.setenv("FSDP_TRANSFORMER_CLS_TO_WRAP", "Qwen2DecoderLayer")
    config = model_config(checkpoints, family)
    _, model, _ = load_backbone(config, config.path or "")
    name_wrapped_layer(model)
    layer: Any = get_module_class_from_name(model, os.environ["FSDP_TRANSFORMER_CLS_TO_WRAP"])
    language_model: Any = model
    assert type(language_model.model.language_model.layers[0]) is layer


def test_fsdp_in_bfloat16_raises_an_error(
    toy_data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adapters and heads are float32, and FSDP does not support mixed dtypes."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    recipe = toy_data.options(tmp_path).recipe()
    recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, dtype="bfloat16"))
    with pytest.raises(UserError, match="FSDP shards parameters of one dtype"):
        start_processes(recipe)


def test_unconnected_processes_raise_an_error(
    toy_data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TorchDR/TorchDR#238: two complete trainings ran at the same time in one folder."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(processes, "PartialState", lambda cpu: SimpleNamespace(num_processes=1))
    with pytest.raises(UserError, match="a launcher started 2 processes"):
        start_processes(toy_data.options(tmp_path).recipe())


def test_only_tested_accelerate_configs_are_shipped() -> None:
    """DeepSpeed was never tested, so there is no config for it."""
    names = {file.stem for file in (recipes_folder() / "accelerate").iterdir()}
    assert names == {"ddp_8gpu", "fsdp_8gpu"}
