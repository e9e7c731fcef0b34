"""Tests for options that only change memory and speed: checkpointing, precision, processes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from student.arm_switches import Arm
from student.config import ModelConfig, StageConfig
from student.model.tiny import build_tiny
from student.recipe_files import recipes_folder
from student.runs.folder import Run
from student.train import train
from tests.student.conftest import FAMILIES, TINY, launch, model_config, states

STAGE = {"batch_size": 4, "max_steps": 2, "save_steps": 9, "log_steps": 1, "warmup": 0.0}
PLAIN_DESCENT = {"report_to": [], "disable_tqdm": True, "optim": "sgd"}
"""Options of plain gradient descent; Adam amplifies rounding errors of gradients near zero."""
WEIGHTS = "model.safetensors"
ADAM = {"report_to": [], "disable_tqdm": True, "adam_epsilon": 1e-4}
"""Options of AdamW, whose state must be restored, with an epsilon above rounding errors."""


@pytest.mark.parametrize("family", FAMILIES)
def test_activation_checkpointing_gives_the_same_weights(
    toy_data: Any, checkpoints: Any, tmp_path: Path, family: str
) -> None:
    for name in ("kept", "recomputed"):
        stage = StageConfig(train="lora", checkpointing=name == "recomputed", **STAGE)
        train(
            toy_data.options(
                tmp_path / name,
                model=model_config(checkpoints, family),
                align=None,
                joint=stage,
                trainer=PLAIN_DESCENT,
            )
        )
    kept, recomputed = (states(tmp_path / name)["joint"] for name in ("kept", "recomputed"))
    for name, value in kept.items():
        torch.testing.assert_close(recomputed[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("attention", "arm"), [("sdpa", "coat"), ("eager", "coat"), ("sdpa", "distill")]
)
def test_packing_gives_the_same_losses_and_weights(
    toy_data: Any, checkpoints: Any, tmp_path: Path, family: str, attention: str, arm: Arm
) -> None:
    """Rows contain several clips of 0.6 to 1.3 s instead of one."""
    reports = {}
    for name in ("padded", "packed"):
        options = toy_data.options(
            tmp_path / name,
            arm=arm,
            model=dataclasses.replace(model_config(checkpoints, family), attention=attention),
            align=None,
            lora=dataclasses.replace(toy_data.options(tmp_path).lora, dropout=0.0),
            joint=StageConfig(train="lora", **STAGE),
            trainer=PLAIN_DESCENT,
        )
        data = dataclasses.replace(options.data, packing=name == "packed")
        reports[name] = train(dataclasses.replace(options, data=data))
    for stage, expected in reports["padded"].items():
        for name, value in reports["packed"][stage].items():
            # Metrics of ranks jump where two scores that are nearly equal change their order.
            tolerance = 5e-3 if name.endswith("/metric") else 1e-5
            assert value == pytest.approx(expected[name], rel=1e-4, abs=tolerance), name
    padded, packed = (states(tmp_path / name)["joint"] for name in ("padded", "packed"))
    for name, value in padded.items():
        torch.testing.assert_close(packed[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_training_in_bfloat16_gives_similar_losses(
    toy_data: Any, checkpoints: Any, tmp_path: Path, family: str
) -> None:
    """The frozen backbone is bfloat16, and trained weights are float32."""
    losses = {}
    for dtype in ("float32", "bfloat16"):
        model = dataclasses.replace(model_config(checkpoints, family), dtype=dtype)
        stage = StageConfig(train="lora", **STAGE)
        half = dtype == "bfloat16"
        trainer = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "bf16": half}
        out = tmp_path / dtype
        train(toy_data.options(out, model=model, align=None, joint=stage, trainer=trainer))
        logs = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        losses[dtype] = [log["loss"] for log in logs if "loss" in log]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)
    assert {value.dtype for value in states(tmp_path / "bfloat16")["joint"].values()} == {
        torch.float32
    }


def test_backbone_in_four_bits_trains_and_is_exported(
    toy_data: Any, checkpoints: Any, tmp_path: Path
) -> None:
    """QLoRA on a CPU: the language model's projections are stored in 4 bits, adapters and rows are
    trained, and an export has full weights."""
    pytest.importorskip("bitsandbytes", reason="pip install 'coat-distill[quantize]'")
    from student.evaluation.evaluate import evaluate
    from student.evaluation.question_files import questions_of_run
    from student.inference.generate import TrainedStudent
    from student.release.export import export

    model = dataclasses.replace(model_config(checkpoints, "qwen2_audio"), quantize="4bit")
    stage = StageConfig(train="lora", checkpointing=True, **(STAGE | {"max_steps": 6}), lr=1e-2)
    out = tmp_path / "run"
    report = train(toy_data.options(out, model=model, align=None, joint=stage))
    assert report["joint"]["answer_loss"] < report["before"]["answer_loss"]
    trained = TrainedStudent(out)
    kinds = {type(module).__name__ for name, module in trained.student.base.named_modules()
             if name.endswith("gate_proj.base_layer")}  # fmt: skip
    assert kinds == {"Linear4bit"}
    assert export(out, tmp_path / "export").prompts == 4
    # The card states the weights behind each number, and gets the export's scores.
    card = tmp_path / "export" / "README.md"
    assert "of the student as it was trained, with its backbone in 4 bits" in card.read_text()
    questions = questions_of_run(Run(out).folder)[:6]
    report = evaluate(tmp_path / "export", questions, "held_out")
    row = f"| held_out | 6 | {report['mean']['score']:.3f} |"
    assert row in card.read_text()


def test_two_processes_give_the_results_of_one(
    toy_data: Any, checkpoints: Any, tmp_path: Path
) -> None:
    """Losses are normalised over all processes: 2 batches of 2 give the steps of one batch of 4."""
    lora_without_dropout = dataclasses.replace(toy_data.options(tmp_path).lora, dropout=0.0)
    options = toy_data.options(
        tmp_path / "1",
        model=model_config(checkpoints, "qwen2_audio"),
        lora=lora_without_dropout,
        align=None,
        joint=StageConfig(train="lora", **STAGE),
        trainer=PLAIN_DESCENT | {"use_cpu": True},
    )
    train(options)
    half = StageConfig(train="lora", **(STAGE | {"batch_size": 2}))
    options = dataclasses.replace(options, joint=half, out=str(tmp_path / "2"))
    launch(options, processes=2)
    expected, result = (states(tmp_path / name)["joint"] for name in ("1", "2"))
    for name, value in expected.items():
        torch.testing.assert_close(result[name], value, rtol=1e-3, atol=1e-5)
    # Logged losses are those over all processes.
    logs = [
        [line for line in Run(tmp_path / name).log() if "loss/answer" in line]
        for name in ("1", "2")
    ]
    assert len(logs[0]) == len(logs[1]) == 2
    for ours, theirs in zip(*logs, strict=True):
        parts = {name for name in ours if name.startswith("loss")}
        assert len(parts) == 7
        for name in parts:
            assert theirs[name] == pytest.approx(ours[name], rel=1e-3), name
    # Each process validates a part of the held-out clips, and metrics cover all of them.
    one_process, two_processes = (Run(tmp_path / name).report() for name in ("1", "2"))
    assert two_processes["before"] == pytest.approx(
        one_process["before"], rel=1e-4, abs=1e-5, nan_ok=True
    )
    assert two_processes["joint"] == pytest.approx(
        one_process["joint"], rel=1e-2, abs=1e-3, nan_ok=True
    )


@pytest.mark.slow
def test_only_the_first_process_loads_a_sharded_model(toy_data: Any, tmp_path: Path) -> None:
    """Otherwise, FSDP on 8 GPUs would need 8 copies of the model in the host's memory. Steps and
    metrics must be those of one process."""
    large = dataclasses.replace(TINY, hidden_size=640, feed_forward=2560, layers=4)
    base = tmp_path / "base"
    build_tiny(base, large, ["What is said? a low middle high top tone"], seed=0)
    # Like published checkpoints, the weights are in half precision, so loading converts them.
    weights = {name: value.bfloat16() for name, value in load_file(base / WEIGHTS).items()}
    save_file(weights, base / WEIGHTS, metadata={"format": "pt"})
    size = 4 * sum(value.numel() for value in weights.values())
    lora_without_dropout = dataclasses.replace(toy_data.options(tmp_path).lora, dropout=0.0)
    options = toy_data.options(
        tmp_path / "1",
        model=ModelConfig(path=str(base), dtype="float32"),
        lora=lora_without_dropout,
        align=None,
        joint=StageConfig(train="lora", **STAGE),
        trainer=ADAM | {"use_cpu": True},
    )
    train(options)
    half = StageConfig(train="lora", **(STAGE | {"batch_size": 2}))
    options = dataclasses.replace(options, joint=half, out=str(tmp_path / "2"))
    memory = tmp_path / "memory"
    environment = fsdp_environment() | {"COAT_TEST_MEMORY_FILE": str(memory)}
    launch(options, "tests.student.training.fsdp_on_cpu", processes=2, environment=environment)
    first, second = (1024 * int(Path(f"{memory}.{rank}").read_text()) for rank in range(2))
    print(f"own memory once built: {first / 1e6:.0f} and {second / 1e6:.0f} MB of {size / 1e6:.0f}")
    assert first - second > 0.8 * size
    one_process, two_processes = (Run(tmp_path / name).report() for name in ("1", "2"))
    assert two_processes["before"] == pytest.approx(
        one_process["before"], rel=1e-3, abs=1e-4, nan_ok=True
    )
    expected, result = (states(tmp_path / name)["joint"] for name in ("1", "2"))
    for name, value in expected.items():
        torch.testing.assert_close(result[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_sharded_backbone_gives_the_results_of_one_process(
    toy_data: Any, checkpoints: Any, tmp_path: Path, family: str
) -> None:
    """FSDP 2 takes the steps of one process in both stages, also when every rank is killed in the
    second stage and the run resumes from its checkpoint."""
    lora_without_dropout = dataclasses.replace(toy_data.options(tmp_path).lora, dropout=0.0)
    options = toy_data.options(
        tmp_path / "1",
        model=model_config(checkpoints, family),
        lora=lora_without_dropout,
        align=StageConfig(train="embeddings", **STAGE),
        joint=StageConfig(train="lora", **(STAGE | {"max_steps": 8, "save_steps": 1})),
        trainer=ADAM | {"use_cpu": True},
    )
    train(options)
    halved = {
        name: dataclasses.replace(getattr(options, name), batch_size=2)
        for name in ("align", "joint")
    }
    options = dataclasses.replace(options, **halved, out=str(tmp_path / "2"))
    joint = tmp_path / "2" / "joint"
    sharded = {"module": "tests.student.training.fsdp_on_cpu", "environment": fsdp_environment()}
    launch(options, processes=2, killed_at=joint / "checkpoint-2" / "trainer_state.json", **sharded)
    launch(options, processes=2, **sharded)
    first_steps = [line for line in Run(tmp_path / "2").log() if line["step"] == 1]
    assert [line["stage"] for line in first_steps] == ["align", "joint"], (
        "the run started again instead of resuming"
    )
    expected, result = (states(tmp_path / name)["joint"] for name in ("1", "2"))
    for name, value in expected.items():
        torch.testing.assert_close(result[name], value, rtol=1e-3, atol=1e-4)
    # The metrics of the untrained, sharded student are the same as well.
    one_process, two_processes = (Run(tmp_path / name).report() for name in ("1", "2"))
    assert two_processes["before"] == pytest.approx(
        one_process["before"], rel=1e-3, abs=1e-4, nan_ok=True
    )


def fsdp_environment() -> dict[str, str]:
    """Returns the environment that `accelerate launch --config_file fsdp_8gpu.yaml` sets."""
    config = yaml.safe_load((recipes_folder() / "accelerate" / "fsdp_8gpu.yaml").read_text())
    fields = {name.removeprefix("fsdp_").upper(): value
              for name, value in config["fsdp_config"].items()}  # fmt: skip
    fields["TRANSFORMER_CLS_TO_WRAP"] = fields.pop("TRANSFORMER_LAYER_CLS_TO_WRAP", "")
    environment = {f"FSDP_{name}": str(value).lower() if isinstance(value, bool) else str(value)
                   for name, value in fields.items()}  # fmt: skip
    return environment | {"ACCELERATE_USE_FSDP": "true"}
