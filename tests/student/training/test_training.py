"""Tests for training: changed and unchanged weights, resuming, arms, and learning."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from student.arm_switches import ARMS, WITH_BLOCK, WITH_HEADS
from student.config import ModelConfig, StageConfig
from student.inference.generate import load_student
from student.model.student import build_student, load_backbone
from student.runs.folder import Run
from student.train import train
from student.training.trainer import StudentTrainer
from tests.student.conftest import FAMILIES, TINY, digest, launch, model_config, states

STAGE = {"batch_size": 4, "max_steps": 2, "save_steps": 1, "log_steps": 1, "warmup": 0.0}


def test_log_contains_the_learning_rate_of_each_part(toy_data: Any, tmp_path: Path) -> None:
    """The rate of the block's embeddings used to be logged as that of the backbone."""
    options = toy_data.options(tmp_path / "run")
    train(options)
    recipe = options.recipe()
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    for name, stage in recipe.stages().items():
        logged = [line for line in lines if line["stage"] == name and "learning_rate" in line]
        assert [line["step"] for line in logged] == [1, 2]
        # Two steps without warm-up on a cosine: the whole peak, then half of it.
        peak = stage.lr if name == "joint" else stage.embeddings_lr
        assert [line["learning_rate"] for line in logged] == pytest.approx([peak, peak / 2])
        for part, rate in (("embeddings", stage.embeddings_lr), ("heads", stage.heads_lr)):
            rates = [line[f"learning_rate/{part}"] for line in logged]
            assert rates == pytest.approx([rate, rate / 2])
    assert recipe.joint is not None
    assert recipe.joint.lr != recipe.joint.embeddings_lr


def test_both_stages_train_only_rows_adapters_and_heads(
    toy_data: Any, checkpoints: Any, tmp_path: Path, run: Path
) -> None:
    """All weights of the base, including its embedding rows, stay the same bit by bit."""
    config = model_config(checkpoints, run.name)
    before = load_backbone(config, config.path or "")[1].state_dict()
    report = json.loads((run / "report.json").read_text())
    assert list(report) == ["before", "align", "joint"]
    for name in ("toy.events", "toy.salience"):
        assert report["align"][f"{name}/loss"] < report["before"][f"{name}/loss"]
    # For Music Flamingo's rotated features, one of the stages is too short.
    after = min(report[stage]["reconstruction/loss"] for stage in ("align", "joint"))
    assert after < report["before"]["reconstruction/loss"]
    assert report["joint"]["answer_loss"] < report["align"]["answer_loss"]

    saved = states(run)
    assert not any("lora" in name for name in saved["align"])
    kinds = {
        "lora" if ".lora_" in name else "rows" if "trainable_tokens" in name else name[:5]
        for name in saved["joint"]
    }
    assert kinds == {"lora", "rows", "heads", "tower"}
    assert not any("audio_tower" in name or "visual" in name for name in saved["joint"])

    _, student, _ = load_student(Run(run))
    after = {
        name.replace(".token_adapter", "").replace(".base_layer", ""): value
        for name, value in student.base.state_dict().items()
        if ".lora_" not in name and "trainable_tokens" not in name
    }
    for name, value in before.items():
        assert torch.equal(after[name][: len(value)] if value.ndim else after[name], value), name

    recipe = toy_data.options(tmp_path / "x", model=config).recipe()
    start = build_student(recipe, *load_backbone(config, config.path or ""), {})
    assert embedding_rows(student).shape[0] == recipe.block.tokens + 2
    assert not torch.equal(embedding_rows(student), embedding_rows(start)), (
        "the block's rows were not trained"
    )


def embedding_rows(student: Any) -> torch.Tensor:
    """Returns the trained rows of the embedding table."""
    (delta,) = (value for name, value in student.named_parameters() if "trainable_tokens" in name)
    return delta.detach()


def test_one_cache_serves_every_backbone_unchanged(
    toy_data: Any, runs: Callable[[str], Path]
) -> None:
    """Students of all families train from the same cache, which stays unchanged."""
    joint_states = {family: states(runs(family))["joint"] for family in FAMILIES}
    assert digest(toy_data.cache) == toy_data.cache_digest
    heads = [
        {name for name in state if name.startswith("heads.")} for state in joint_states.values()
    ]
    assert all(names == heads[0] for names in heads)
    assert len({name.split(".")[1] for name in heads[0]}) == 5


class _Killed(Exception):
    pass


class _KillAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise _Killed


@pytest.mark.parametrize(
    ("family", "killed"),
    [
        ("qwen2_audio", ("align", 2)),
        ("qwen2_5_omni", ("joint", 3)),
        pytest.param("qwen3_omni_moe", ("joint", 2), marks=pytest.mark.slow),
        ("audioflamingo3", ("joint", 1)),
        pytest.param("musicflamingo", ("joint", 2), marks=pytest.mark.slow),
        pytest.param("voxtral", ("align", 3), marks=pytest.mark.slow),
    ],
)
def test_killed_run_ends_with_the_same_weights(
    toy_data: Any,
    checkpoints: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    killed: tuple[str, int],
) -> None:
    """The runs are killed in various epochs, with dropout, accumulation, and batches by length."""
    stage = STAGE | {"max_steps": 4, "accumulation": 2, "batch_size": 12, "eval_steps": 2}
    data = dataclasses.replace(
        toy_data.options(tmp_path).data, group_by_length=family != "qwen2_audio"
    )
    changes = {
        "model": model_config(checkpoints, family),
        "data": data,
        "align": StageConfig(train="embeddings", **stage),
        "joint": StageConfig(train="lora", **stage),
    }
    whole = tmp_path / "whole"
    train(toy_data.options(whole, **changes))

    original_init = StudentTrainer.__init__

    def init_with_kill(self: StudentTrainer, *args: Any, **kwargs: Any) -> None:
        original_init(self, *args, **kwargs)
        if Path(str(self.args.output_dir)).name == killed[0]:
            self.add_callback(_KillAt(killed[1]))

    broken = tmp_path / "broken"
    with monkeypatch.context() as patch:
        patch.setattr(StudentTrainer, "__init__", init_with_kill)
        with pytest.raises(_Killed):
            train(toy_data.options(broken, **changes))
    torch.manual_seed(12345)  # a new process would start elsewhere
    train(toy_data.options(broken, **changes))

    for name, expected in states(whole).items():
        result = states(broken)[name]
        assert expected.keys() == result.keys()
        for key, value in expected.items():
            assert torch.equal(result[key], value), (name, key)


def test_killed_process_ends_with_the_same_weights(toy_data: Any, tmp_path: Path) -> None:
    """SIGKILL comes while a checkpoint is written, and the same command resumes."""
    stage = StageConfig(train="full", **(STAGE | {"max_steps": 8}))
    for name in ("whole", "killed"):
        options = toy_data.options(tmp_path / name, align=None, joint=stage)
        if name == "killed":
            joint = tmp_path / name / "joint"
            killed_at = joint / "checkpoint-3" / "student.safetensors"
            launch(options, killed_at=killed_at)
        launch(options)
    expected, result = (states(tmp_path / name)["joint"] for name in ("whole", "killed"))
    for key, value in expected.items():
        assert torch.equal(result[key], value), key


def test_arms_differ_only_in_block_and_distillation(toy_data: Any, tmp_path: Path) -> None:
    reports = {arm: train(toy_data.options(tmp_path / arm, arm=arm)) for arm in ARMS}
    saved = {arm: states(tmp_path / arm) for arm in reports}
    assert list(reports["sft"]) == ["before", "joint"]
    for arm in ARMS[1:]:
        assert list(reports[arm]) == ["before", "align", "joint"]
    adapters = {arm: {name for name in saved[arm]["joint"] if ".lora_" in name} for arm in saved}
    assert all(adapters[arm] == adapters["sft"] for arm in ARMS)
    embedding_rows, heads = (
        {arm for arm in ARMS if any(part in name for name in saved[arm]["joint"])}
        for part in ("trainable_tokens", "heads.")
    )
    assert embedding_rows == set(WITH_BLOCK)
    assert heads == set(WITH_HEADS) == {"distill", "coat", "coat+bottleneck", "both"}
    audio_heads = {name for name in saved["both"]["joint"] if name.startswith("audio_heads.")}
    block_heads = {name for name in saved["both"]["joint"] if name.startswith("heads.")}
    assert {name.removeprefix("audio_") for name in audio_heads} == block_heads
    before = {arm: reports[arm]["before"]["answer_loss"] for arm in ARMS}
    assert before["coat"] == pytest.approx(before["pause"], rel=1e-5)
    assert before["distill"] == pytest.approx(before["sft"], rel=1e-5)
    answered = {arm: reports[arm]["joint"]["answer_loss"] for arm in ARMS}
    assert len(set(answered.values())) == len(ARMS)


def test_student_improves_on_every_stream_of_held_out_clips(toy_data: Any, tmp_path: Path) -> None:
    """Metrics must exceed those before training and those of the mean predictor."""
    tiny = dataclasses.replace(
        TINY, hidden_size=128, tower_width=384, tower_layers=4, whisper_weights=True
    )
    report = train(
        toy_data.options(
            tmp_path / "run",
            model=ModelConfig(build="tiny", tiny=tiny, cache_audio_tower=True),
            align=StageConfig(train="embeddings", epochs=2, batch_size=8),
            joint=StageConfig(train="full", epochs=14, batch_size=8, lr=2e-3),
        )
    )
    first, last = report["before"], report["joint"]
    for name in ("toy.bands", "toy.events", "toy.class", "toy.salience", "reconstruction"):
        assert last[f"{name}/metric"] > first[f"{name}/metric"] + 0.05, name
        assert last[f"{name}/metric"] > last[f"{name}/mean_predictor"] + 0.05, name
    assert last["answer_loss"] < first["answer_loss"] / 2


def test_arm_without_heads_needs_no_cache(toy_data: Any, tmp_path: Path) -> None:
    """The recipe's streams must be ignored in such an arm."""
    options = dataclasses.replace(toy_data.options(tmp_path / "run", arm="pause"), cache=[])
    assert set(train(options)) >= {"before", "joint"}
