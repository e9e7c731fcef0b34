"""Processes that train together: what is refused before anything loads, and what FSDP wraps."""

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
from tests.student.conftest import FAMILIES, model_of


@pytest.mark.parametrize("family", FAMILIES)
def test_fsdp_wraps_the_decoder_layer_of_each_family(
    checkpoints: Any, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shipped config named Qwen2's layer, which Omni has none of: accelerate found nothing."""
    monkeypatch.setenv("FSDP_TRANSFORMER_CLS_TO_WRAP", "Qwen2DecoderLayer")
    config = model_of(checkpoints, family)
    _, model, _ = load_backbone(config, config.path or "")
    name_wrapped_layer(model)
    layer: Any = get_module_class_from_name(model, os.environ["FSDP_TRANSFORMER_CLS_TO_WRAP"])
    language_model: Any = model
    assert type(language_model.model.language_model.layers[0]) is layer


def test_fsdp_in_bfloat16_is_refused_before_anything_is_loaded(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adapters and heads are float32; FSDP fails on mixed dtypes once the model is there."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    recipe = world.options(tmp_path).recipe()
    recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, dtype="bfloat16"))
    with pytest.raises(UserError, match="FSDP shards parameters of one dtype"):
        start_processes(recipe)


def test_processes_that_do_not_see_each_other_are_refused(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TorchDR/TorchDR#238: two whole trainings ran at once in one folder."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(processes, "PartialState", lambda cpu: SimpleNamespace(num_processes=1))
    with pytest.raises(UserError, match="a launcher started 2 processes"):
        start_processes(world.options(tmp_path).recipe())


def test_no_config_ships_that_was_never_run() -> None:
    """DeepSpeed was never run here, and its config is gone."""
    names = {file.stem for file in (recipes_folder() / "accelerate").iterdir()}
    assert names == {"ddp_8gpu", "fsdp_8gpu"}
