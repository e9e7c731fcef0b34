"""Training: what changes and what does not, resumption, accumulation, and errors of the user."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from manifests.errors import UserError
from student.config import (
    BlockConfig,
    DataConfig,
    ModelConfig,
    StageConfig,
    StreamConfig,
    TaskConfig,
    load_recipe,
    parse_recipe,
    save_recipe,
)
from student.generate import TrainedStudent, load_run
from student.model import load_backbone
from student.train import train
from student.trainer import StudentTrainer

FAMILIES = ("qwen2_audio", "qwen2_5_omni", "audioflamingo3")
STAGE = {"batch_size": 4, "max_steps": 2, "save_steps": 1, "log_steps": 1, "warmup": 0.0}


PLAIN_DESCENT = {"report_to": [], "disable_tqdm": True, "optim": "sgd"}
"""Where rounding must not count: Adam blows it up where a gradient is nearly zero."""


def model_of(checkpoints: Any, family: str) -> ModelConfig:
    return ModelConfig(path=checkpoints(family), dtype="float32")


def states(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {path.parent.name: load_file(path) for path in run.glob("*/student.safetensors")}


@pytest.mark.parametrize("family", FAMILIES)
def test_both_stages_train_rows_adapters_and_heads_alone(
    world: Any, checkpoints: Any, tmp_path: Path, family: str
) -> None:
    """One cache serves every backbone, and the base's weights keep their bits."""
    before = load_backbone(model_of(checkpoints, family), checkpoints(family))[1].state_dict()
    stage = STAGE | {"max_steps": 12, "save_steps": 12}
    report = train(
        world.options(
            tmp_path / "run",
            model=model_of(checkpoints, family),
            align=StageConfig(train="rows", **stage),
            joint=StageConfig(train="lora", lr=1e-3, **stage),
        )
    )
    assert list(report) == ["before", "align", "joint"]
    for name in ("toy.events", "toy.salience", "reconstruction"):
        assert report["align"][f"{name}/loss"] < report["before"][f"{name}/loss"]
    assert report["joint"]["answer_loss"] < report["align"]["answer_loss"]

    saved = states(tmp_path / "run")
    assert not any("lora" in name for name in saved["align"])
    kinds = {
        "lora" if ".lora_" in name else "rows" if "trainable_tokens" in name else name[:5]
        for name in saved["joint"]
    }
    assert kinds == {"lora", "rows", "heads", "tower"}
    assert not any("audio_tower" in name or "visual" in name for name in saved["joint"])

    _, student, _ = load_run(tmp_path / "run")
    after = {
        name.replace(".token_adapter", "").replace(".base_layer", ""): value
        for name, value in student.base.state_dict().items()
        if ".lora_" not in name and "trainable_tokens" not in name
    }
    for name, value in before.items():
        assert torch.equal(after[name][: len(value)] if value.ndim else after[name], value), name
    start = load_run_at(world, checkpoints, tmp_path, family)
    assert not torch.equal(rows(student), start), "the block's rows must have learnt"


def rows(student: Any) -> torch.Tensor:
    (delta,) = (value for name, value in student.named_parameters() if "trainable_tokens" in name)
    return delta.detach()


def load_run_at(world: Any, checkpoints: Any, tmp_path: Path, family: str) -> torch.Tensor:
    """The block's rows before training."""
    from student.model import build_student

    recipe = world.options(tmp_path / "x", model=model_of(checkpoints, family)).recipe()
    backbone, model, processor = load_backbone(recipe.model, checkpoints(family))
    return rows(build_student(recipe, backbone, model, processor, {}))


class _Killed(Exception):
    pass


class _KillAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise _Killed


@pytest.mark.parametrize("killed", [("align", 2), ("joint", 3)])
def test_a_killed_run_ends_at_the_same_bits(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: tuple[str, int]
) -> None:
    """Also within an epoch, with dropout, and with accumulation."""
    stage = STAGE | {"max_steps": 4, "accumulation": 2, "batch_size": 2, "eval_steps": 2}
    changes = {
        "align": StageConfig(train="rows", **stage),
        "joint": StageConfig(train="lora", **stage),
    }
    whole = tmp_path / "whole"
    train(world.options(whole, **changes))

    begin = StudentTrainer.__init__

    def with_killer(self: StudentTrainer, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        if Path(str(self.args.output_dir)).name == killed[0]:
            self.add_callback(_KillAt(killed[1]))

    broken = tmp_path / "broken"
    with monkeypatch.context() as patch:
        patch.setattr(StudentTrainer, "__init__", with_killer)
        with pytest.raises(_Killed):
            train(world.options(broken, **changes))
    torch.manual_seed(12345)  # a new process would start elsewhere
    train(world.options(broken, **changes))

    for name, expected in states(whole).items():
        found = states(broken)[name]
        assert expected.keys() == found.keys()
        for key, value in expected.items():
            assert torch.equal(found[key], value), (name, key)


@pytest.mark.parametrize("family", FAMILIES)
def test_accumulated_batches_are_exact(
    world: Any, checkpoints: Any, tmp_path: Path, family: str
) -> None:
    """Trap 1: four batches of one give the step that one batch of four gives."""
    lora_without_dropout = dataclasses.replace(world.options(tmp_path).lora, dropout=0.0)
    ends = []
    for batch_size, accumulation in ((4, 1), (1, 4)):
        stage = STAGE | {"batch_size": batch_size, "accumulation": accumulation}
        out = tmp_path / f"{batch_size}x{accumulation}"
        train(
            world.options(
                out,
                model=model_of(checkpoints, family),
                lora=lora_without_dropout,
                align=None,
                joint=StageConfig(train="lora", **stage),
                trainer=PLAIN_DESCENT,
            )
        )
        logs = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        losses = [log["loss"] for log in logs if "loss" in log]
        norms = [log["grad_norm"] for log in logs if "grad_norm" in log]
        ends.append((losses, norms, states(out)["joint"]))
    (losses, norms, expected), (losses_4, norms_4, found) = ends
    assert losses_4 == pytest.approx(losses, rel=1e-4)
    assert norms_4 == pytest.approx(norms, rel=1e-3)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5)


def test_arms_differ_by_the_block_and_the_distillation_alone(world: Any, tmp_path: Path) -> None:
    reports = {
        arm: train(world.options(tmp_path / arm, arm=arm)) for arm in ("sft", "pause", "coat")
    }
    saved = {arm: states(tmp_path / arm) for arm in reports}
    assert list(reports["sft"]) == ["before", "joint"]
    assert [list(reports[arm]) for arm in ("pause", "coat")] == [["before", "align", "joint"]] * 2
    adapters = {arm: {name for name in saved[arm]["joint"] if ".lora_" in name} for arm in saved}
    assert adapters["sft"] == adapters["pause"] == adapters["coat"]
    assert not any("trainable_tokens" in name for name in saved["sft"]["joint"])
    assert any("trainable_tokens" in name for name in saved["pause"]["align"])
    assert not any(name.startswith("heads.") for name in saved["pause"]["joint"])
    coat, pause = (reports[arm]["before"]["answer_loss"] for arm in ("coat", "pause"))
    assert coat == pytest.approx(pause, rel=1e-5)


def test_a_student_learns_every_stream_on_clips_that_it_has_not_heard(
    world: Any, tmp_path: Path
) -> None:
    """The whole point: better than before, and than the mean predictor, on held-out clips."""
    tiny = dataclasses.replace(world.options(tmp_path).model.tiny, hidden_size=128)
    report = train(
        world.options(
            tmp_path / "run",
            model=ModelConfig(build="tiny", tiny=tiny, remember_audio=True),
            align=StageConfig(train="rows", epochs=2, batch_size=8),
            joint=StageConfig(train="full", epochs=14, batch_size=8, lr=2e-3),
        )
    )
    first, last = report["before"], report["joint"]
    for name in ("toy.bands", "toy.events", "toy.class", "toy.salience", "reconstruction"):
        assert last[f"{name}/metric"] > first[f"{name}/metric"] + 0.05, name
        assert last[f"{name}/metric"] > last[f"{name}/mean_predictor"] + 0.05, name
    assert last["answer_loss"] < first["answer_loss"] / 2


def test_activation_checkpointing_changes_nothing_but_memory(world: Any, tmp_path: Path) -> None:
    for name in ("kept", "recomputed"):
        stage = StageConfig(train="lora", checkpointing=name == "recomputed", **STAGE)
        train(world.options(tmp_path / name, align=None, joint=stage, trainer=PLAIN_DESCENT))
    kept, recomputed = (states(tmp_path / name)["joint"] for name in ("kept", "recomputed"))
    for name, value in kept.items():
        torch.testing.assert_close(recomputed[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": {"build": "tiny"}, "blok": {"tokens": 4}}, "blok"),
        ({"model": {"build": "tiny"}, "block": {"tokns": 4}}, "tokns"),
        ({"model": {"build": "tiny"}, "block": {"tokens": 0}}, "block.tokens"),
        ({"model": {"build": "tiny", "path": "x"}}, "either `path` or `build: tiny`"),
        ({"model": {"build": "tiny"}, "arm": "both"}, "arm"),
    ],
)
def test_a_wrong_recipe_is_one_clear_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_recipe(values)


def test_recipes_that_ship_are_valid() -> None:
    folder = Path(__file__).parents[2] / "student" / "recipes"
    assert [load_recipe(path) for path in folder.glob("*.yaml")]


def test_a_stream_that_no_cache_has_is_named(world: Any, tmp_path: Path) -> None:
    streams = {"asr.encoder": StreamConfig()}
    with pytest.raises(UserError, match=r"asr\.encoder.*there are .*toy\.bands"):
        train(world.options(tmp_path / "run", streams=streams))
    assert not (tmp_path / "run").exists()


def test_a_curve_cannot_be_learnt(world: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"toy\.f0 is a curve"):
        train(world.options(tmp_path / "run", streams={"toy.f0": StreamConfig()}))


def test_cache_and_corpus_without_common_clips(world: Any, tmp_path: Path) -> None:
    from manifests.corpus import build

    others = [dataclasses.replace(clip, clip_id=f"other-{clip.clip_id}") for clip in world.clips]
    build(others, tmp_path / "others")
    options = dataclasses.replace(world.options(tmp_path / "run"), corpus=str(tmp_path / "others"))
    with pytest.raises(UserError, match="for none of the corpus' 48 clips"):
        train(options)


def test_another_block_than_the_run_began_with(world: Any, tmp_path: Path) -> None:
    train(world.options(tmp_path / "run", joint=None))
    with pytest.raises(UserError, match=r"block\.tokens: 4 there, 8 here"):
        train(world.options(tmp_path / "run", joint=None, block=BlockConfig(tokens=8)))
    shutil.copytree(tmp_path / "run", tmp_path / "forged")
    recipe = tmp_path / "forged" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("tokens: 4", "tokens: 8"))
    with pytest.raises(UserError, match="does not fit this recipe's model"):
        TrainedStudent(tmp_path / "forged")


def test_nothing_to_ask_about(world: Any, tmp_path: Path) -> None:
    tasks = [TaskConfig(questions=["?"], answer=["labels.none"])]
    with pytest.raises(UserError, match="0 examples"):
        train(world.options(tmp_path / "run", data=DataConfig(tasks=tasks)))


def test_two_processes_equal_one(world: Any, checkpoints: Any, tmp_path: Path) -> None:
    """Losses are normalised over all processes: 2 processes of 2 give the steps of one of 4."""
    lora_without_dropout = dataclasses.replace(world.options(tmp_path).lora, dropout=0.0)
    ends = []
    for processes in (1, 2):
        options = world.options(
            tmp_path / str(processes),
            model=model_of(checkpoints, "qwen2_audio"),
            lora=lora_without_dropout,
            align=None,
            joint=StageConfig(train="lora", **(STAGE | {"batch_size": 4 // processes})),
            trainer=PLAIN_DESCENT | {"use_cpu": True},
        )
        config = tmp_path / f"{processes}.yaml"
        save_recipe(options.recipe(), config)
        arguments = ["--config", config, "--corpus", options.corpus, "--cache", options.cache]
        launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
        command = [sys.executable, "-m", *launcher, "student.cli", "train"]
        done = subprocess.run(
            [*command, *map(str, arguments), "--out", options.out],
            capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        ends.append(states(Path(options.out))["joint"])
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-3, atol=1e-5)
