"""Tests for recipes, and for the errors of invalid recipes and options."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType

from manifests.corpus.corpus import build
from manifests.errors import UserError
from student.config import BlockConfig, DataConfig, StageConfig, StreamConfig, TaskConfig
from student.inference.generate import TrainedStudent
from student.recipe_files import load_recipe, parse_recipe, recipes_folder
from student.train import train


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": {"build": "tiny"}, "blok": {"tokens": 4}}, "blok"),
        ({"model": {"build": "tiny"}, "block": {"tokns": 4}}, "tokns"),
        ({"model": {"build": "tiny"}, "block": {"tokens": 0}}, "block.tokens"),
        ({"model": {"build": "tiny", "path": "x"}}, "either `path` or `build`"),
        ({"model": {"build": "tiny"}, "arm": "neither"}, "arm"),
        (
            {
                "model": {"build": "tiny"},
                "data": {"tasks": [{"questions": ["?"], "answer": ["text"], "choices": 1}]},
            },
            "choices",
        ),
    ],
)
def test_invalid_recipe_raises_an_error(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_recipe(values)


def test_shipped_recipes_are_valid() -> None:
    recipes = {path.stem: load_recipe(path) for path in recipes_folder().glob("*.yaml")}
    for family in ("qwen2_audio", "qwen2_5_omni", "audio_flamingo3", "music_flamingo", "voxtral"):
        assert recipes[f"{family}_8x80gb"].model.quantize is None
        assert recipes[f"{family}_1x24gb"].model.quantize == "4bit"
    assert recipes["qwen3_omni_8x80gb"].model.quantize is None
    assert recipes.keys() >= {"demo", "small_base"}
    assert len(recipes) == 5 * 2 + 3


def test_accelerate_reads_the_shipped_configs() -> None:
    kinds = {
        path.stem: load_config_from_file(str(path)).distributed_type
        for path in (recipes_folder() / "accelerate").glob("*.yaml")
    }
    assert kinds == {
        "ddp_8gpu": DistributedType.MULTI_GPU,
        "fsdp_8gpu": DistributedType.FSDP,
    }


def test_unknown_stream_raises_an_error(toy_data: Any, tmp_path: Path) -> None:
    streams = {"asr.encoder": StreamConfig()}
    with pytest.raises(UserError, match=r"asr\.encoder.*there are .*toy\.bands"):
        train(toy_data.options(tmp_path / "run", streams=streams))
    assert not (tmp_path / "run").exists()


def test_curve_stream_raises_an_error(toy_data: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"toy\.f0 is a curve"):
        train(toy_data.options(tmp_path / "run", streams={"toy.f0": StreamConfig()}))


def test_cache_without_clips_of_the_corpus_raises_an_error(toy_data: Any, tmp_path: Path) -> None:
    others = [dataclasses.replace(clip, clip_id=f"other-{clip.clip_id}") for clip in toy_data.clips]
    build(others, tmp_path / "others")
    options = dataclasses.replace(
        toy_data.options(tmp_path / "run"), corpus=str(tmp_path / "others")
    )
    with pytest.raises(UserError, match="for none of the corpus' 48 clips"):
        train(options)


def test_changed_block_of_a_run_raises_an_error(toy_data: Any, tmp_path: Path) -> None:
    train(toy_data.options(tmp_path / "run", joint=None))
    with pytest.raises(UserError, match=r"block\.tokens: 4 in the run, 8 now"):
        train(toy_data.options(tmp_path / "run", joint=None, block=BlockConfig(tokens=8)))
    shutil.copytree(tmp_path / "run", tmp_path / "edited")
    recipe = tmp_path / "edited" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("tokens: 4", "tokens: 8"))
    with pytest.raises(UserError, match="does not fit this recipe's model"):
        TrainedStudent(tmp_path / "edited")


def test_task_without_examples_raises_an_error(toy_data: Any, tmp_path: Path) -> None:
    tasks = [TaskConfig(questions=["?"], answer=["labels.none"])]
    with pytest.raises(UserError, match=r"'\?' has no example: no usable clip has labels\.none"):
        train(toy_data.options(tmp_path / "run", data=DataConfig(tasks=tasks)))


class _OutOfMemoryLoss:
    """A loss function that runs out of memory, by a real allocation or with the GPU's error."""

    def __init__(self, device_error: bool) -> None:
        self.device_error = device_error

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.device_error:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return torch.empty(1 << 58)


@pytest.mark.parametrize("device_error", [False, True])
def test_out_of_memory_raises_an_error_with_advice(
    toy_data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device_error: bool
) -> None:
    monkeypatch.setattr("student.train.step_losses", _OutOfMemoryLoss(device_error))
    stage = StageConfig(train="embeddings", batch_size=8, accumulation=3, max_steps=1)
    with pytest.raises(UserError) as caught:
        train(toy_data.options(tmp_path / "run", align=stage, joint=None))
    text = str(caught.value)
    assert "out of memory in align with batches of 8" in text
    assert "lower align.batch_size from 8 to 4 and raise align.accumulation from 3 to 6" in text
    assert "align.checkpointing" in text


def test_other_exceptions_of_training_are_not_changed(
    toy_data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        return torch.zeros(2) @ torch.zeros(3)

    monkeypatch.setattr("student.train.step_losses", broken)
    with pytest.raises(RuntimeError, match="size"):
        train(toy_data.options(tmp_path / "run", joint=None))


def test_corpus_of_too_short_clips_raises_an_error(toy_data: Any, tmp_path: Path) -> None:
    """Too short clips are skipped in training; an error is raised if no clip is left."""
    short = [dataclasses.replace(clip, duration=0.05) for clip in toy_data.clips]
    build(short, tmp_path / "short")
    options = dataclasses.replace(
        toy_data.options(tmp_path / "run"), corpus=str(tmp_path / "short")
    )
    with pytest.raises(UserError, match="none of the corpus' 48 clips can be used"):
        train(options)
