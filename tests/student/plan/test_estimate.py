"""Tests for the command `coat-student plan` and the values on which its numbers depend."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields, replace
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from manifests.errors import UserError
from student.config import Recipe
from student.plan.estimate import NF4_BYTES, Plan, build_plan
from student.plan.gpus import named_gpu
from student.plan.options import PlanOptions
from student.plan.table import render
from student.recipe_files import load_recipe, recipes_folder

STREAMS = {"asr.encoder": 384, "pitch.salience": 361}


def options(recipe: str, **values: object) -> PlanOptions:
    """Returns a shipped recipe with options of a plan."""
    loaded = load_recipe(recipes_folder() / recipe)
    recipe_fields = {item.name: getattr(loaded, item.name) for item in fields(Recipe)}
    return PlanOptions(**(recipe_fields | values))


@pytest.fixture(scope="module")
def on_24_gb() -> Plan:
    """The QLoRA recipe of Qwen2-Audio on a GPU of 24 GB."""
    return build_plan(options("qwen2_audio_1x24gb.yaml", gpu="rtx4090"), streams=STREAMS)


def test_recipe_for_24_gb_fits_and_the_one_for_80_gb_does_not(on_24_gb: Plan) -> None:
    for stage in on_24_gb.stages:
        assert stage.memory.total < 24e9
        assert stage.largest_batch >= 1
    whole = build_plan(options("qwen2_audio_8x80gb.yaml", gpu="rtx4090"), streams=STREAMS)
    assert any(stage.memory.total > 17e9 for stage in whole.stages)


@pytest.mark.parametrize(
    ("recipe", "changes", "steps"),
    [
        ("qwen2_audio_8x80gb.yaml", {}, ["4bit", "--sharded"]),
        ("qwen2_audio_8x80gb.yaml", {"sharded": True, "gpus": 2}, ["4bit"]),
        ("qwen2_audio_1x24gb.yaml", {}, ["--sharded"]),
        ("qwen3_omni_8x80gb.yaml", {}, ["--sharded"]),
    ],
)
def test_advice_has_only_steps_that_are_left(recipe: str, changes: dict, steps: list[str]) -> None:
    chosen = options(recipe, gpu="rtx4090", answer_tokens=200_000, **changes)
    output = StringIO()
    Console(file=output, width=10_000).print(render(build_plan(chosen, streams={}), chosen))
    advice = [line for line in output.getvalue().splitlines() if "take a larger card" in line]
    assert advice
    for line in advice:
        assert [step for step in ("4bit", "--sharded") if step in line] == steps
        assert "checkpointing" not in line  # these recipes have it


def test_four_bits_are_counted_only_for_projections(on_24_gb: Plan) -> None:
    bf16 = build_plan(
        replace(options("qwen2_audio_1x24gb.yaml"),
                model=replace(options("qwen2_audio_1x24gb.yaml").model, quantize=None)),
        streams=STREAMS,
    )  # fmt: skip
    saved = bf16.stages[0].memory.frozen - on_24_gb.stages[0].memory.frozen
    projections = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert saved == pytest.approx(projections * (2 - NF4_BYTES))


def test_hours_follow_from_operations(on_24_gb: Plan) -> None:
    for stage in on_24_gb.stages:
        spent = stage.examples_per_step * stage.steps * stage.flops_per_example
        least = spent / (165e12 * 0.4) / 3600
        assert least < stage.hours < 1.5 * least  # recomputed activations
    double = build_plan(options("qwen2_audio_1x24gb.yaml", gpu="rtx4090", gpus=2), streams=STREAMS)
    assert double.gpu_hours == pytest.approx(on_24_gb.gpu_hours, rel=0.01)


@pytest.mark.parametrize(
    ("examples", "batch", "accumulation", "epochs", "steps"),
    [(80, 7, 1, 2.0, 24), (80, 7, 2, 12.0, 72), (80, 7, 2, 0.5, 3), (5, 8, 4, 3.0, 3)],
)
def test_steps_are_rounded_up_in_every_epoch(
    examples: int, batch: int, accumulation: int, epochs: float, steps: int, tmp_path: Path
) -> None:
    """The number is that of transformers' Trainer."""
    loaded = options("qwen2_audio_1x24gb.yaml", gpu="rtx4090", align=None, examples=examples)
    assert loaded.joint is not None
    joint = replace(
        loaded.joint, batch_size=batch, accumulation=accumulation, epochs=epochs, max_steps=-1
    )
    (stage,) = build_plan(replace(loaded, joint=joint), streams={}).stages
    arguments = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=batch, num_train_epochs=epochs,
        gradient_accumulation_steps=accumulation, use_cpu=True,
    )  # fmt: skip
    trainer = Trainer(torch.nn.Linear(1, 1), arguments)
    expected = trainer.set_initial_training_values(
        arguments, DataLoader(torch.utils.data.TensorDataset(torch.zeros(examples)), batch)
    )
    assert stage.steps == steps
    assert steps in expected


def test_weights_that_learn_are_counted_with_their_moments() -> None:
    """Full training was planned as LoRA: 23 GB where the weights alone need 130."""
    made = {}
    for what in ("lora", "projector+lora", "full"):
        loaded = options("qwen2_audio_8x80gb.yaml", align=None)
        assert loaded.joint is not None
        joint = replace(loaded.joint, train=what)
        made[what] = build_plan(replace(loaded, joint=joint), streams={})
    projector = 1280 * 4096 + 4096
    learnt = {what: plan.learnt["joint"] for what, plan in made.items()}
    assert learnt["projector+lora"] == learnt["lora"] + projector
    assert 7.5e9 < learnt["full"] < 8e9
    (lora,), (full,) = (made[what].stages for what in ("lora", "full"))
    assert full.memory.learnt == 16 * learnt["full"]
    assert full.memory.frozen == pytest.approx(lora.memory.frozen - 2 * learnt["full"], rel=0.01)
    assert full.largest_batch == 0
    assert full.flops_per_example > 1.3 * lora.flops_per_example


def test_advice_on_memory_keeps_the_examples_per_step() -> None:
    """The advice used to be 12 instead of 16, for which no accumulation gives 16 examples."""
    given = options("qwen2_audio_8x80gb.yaml", gpu="h100")
    given = replace(given, joint=replace(given.joint, checkpointing=False))
    stream = StringIO()
    Console(file=stream, width=200).print(render(build_plan(given, streams=STREAMS), given))
    advice = re.search(
        r"set joint.batch_size to (\d+) and joint.accumulation to (\d+)", stream.getvalue()
    )
    assert advice, stream.getvalue()
    size, accumulation = map(int, advice.groups())
    assert size * accumulation == given.joint.batch_size * given.joint.accumulation
    smaller = replace(given.joint, batch_size=size, accumulation=accumulation)
    stage = build_plan(replace(given, joint=smaller), streams=STREAMS).stages[-1]
    assert stage.memory.total < 80e9


def test_sharding_divides_the_frozen_parameters() -> None:
    recipe = "audio_flamingo3_8x80gb.yaml"
    replicated = build_plan(options(recipe, gpus=8), streams={})
    sharded = build_plan(options(recipe, gpus=8, sharded=True), streams={})
    assert sharded.stages[0].memory.frozen == pytest.approx(
        replicated.stages[0].memory.frozen * 2 / 8
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"gpu": "v100"}, "not known; there are b200"), ({"gpus": 0}, "at least 1"),
     ({"utilisation": 1.5}, r"in \(0, 1\]")],
)  # fmt: skip
def test_wrong_options_raise_an_error(changed: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_plan(options("qwen2_audio_1x24gb.yaml", **changed), streams={})


def run_plan(*arguments: str | int | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "student.cli", "plan", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_plan_command_prints_memory_hours_and_price() -> None:
    recipe = recipes_folder() / "qwen2_5_omni_1x24gb.yaml"
    done = run_plan(
        "--config", recipe, "--gpu", "l4", "--examples", "1000", "--price-per-gpu-hour", "1"
    )
    assert done.returncode == 0, done.stderr
    shown = " ".join(done.stdout.split())
    assert "The backbone has 8.93 B parameters" in shown
    assert "Computed, not measured" in shown
    assert "memory per GPU, GB" in shown
    assert "price" in shown


def test_recipe_that_builds_its_model_prints_one_line() -> None:
    done = run_plan("--config", recipes_folder() / "demo.yaml")
    assert done.returncode == 2
    assert "model.build: tiny makes a small model on the spot" in " ".join(done.stderr.split())


@pytest.mark.parametrize("name", ["rtx4090", "RTX 4090", "4090"])
def test_named_gpu_accepts_other_spellings(name: str) -> None:
    assert named_gpu(name).name == "NVIDIA GeForce RTX 4090"
