"""Tests for training from exports, exports in half precision, and generation configs."""

from __future__ import annotations

import dataclasses
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from manifests.errors import UserError
from student.config import BlockConfig, ModelConfig, StageConfig
from student.inference.generate import TrainedStudent
from student.model.backbones.qwen2_audio import Qwen2Audio
from student.model.block import START, template_with_block, template_without_block
from student.model.student import build_student, load_backbone
from student.release.export import export
from student.train import train
from tests.student.conftest import FAMILIES, model_config

STAGE = {"batch_size": 4, "max_steps": 2, "save_steps": 9, "warmup": 0.0}


@pytest.fixture(scope="module")
def exported(runs: Callable[[str], Path], tmp_path_factory: Any) -> Path:
    out = tmp_path_factory.mktemp("exported") / "out"
    export(runs("qwen2_audio"), out)
    return out


def build_arm(toy_data: Any, exported: Path, arm: str, **changes: Any) -> tuple[Any, Any]:
    """Returns (student, processor) of an arm that starts from an export."""
    config = ModelConfig(path=str(exported), dtype="float32")
    recipe = dataclasses.replace(
        toy_data.options(exported, model=config, arm=arm).recipe(), **changes
    )
    backbone, model, processor = load_backbone(config, str(exported))
    return build_student(recipe, backbone, model, processor, {}), processor


@pytest.mark.parametrize("arm", ["coat", "pause", "sft", "distill"])
def test_training_from_an_export_has_one_block_or_none(
    toy_data: Any, exported: Path, runs: Callable[[str], Path], arm: str
) -> None:
    student, processor = build_arm(toy_data, exported, arm)
    turns = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
    prompt = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert prompt.count(START) == (1 if arm in ("coat", "pause") else 0)
    if student.block is not None:
        trained = TrainedStudent(runs("qwen2_audio")).student
        ids = torch.tensor(student.block.ids)
        with torch.no_grad():
            rows, expected = (each.base.get_input_embeddings()(ids) for each in (student, trained))
        torch.testing.assert_close(rows, expected)


def test_run_from_an_export_trains_and_is_exported(
    toy_data: Any, exported: Path, tmp_path: Path
) -> None:
    config = ModelConfig(path=str(exported), dtype="float32")
    train(
        toy_data.options(
            tmp_path / "run", model=config, align=None, joint=StageConfig(train="lora", **STAGE)
        )
    )
    assert export(tmp_path / "run", tmp_path / "again").holds


@pytest.mark.parametrize(
    ("block", "message"),
    [(BlockConfig(tokens=6), "block.tokens"),
     (BlockConfig(tokens=4, placement="after_audio"), "block.placement")],
)  # fmt: skip
def test_other_block_than_in_the_export_raises_an_error(
    toy_data: Any, exported: Path, block: BlockConfig, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        build_arm(toy_data, exported, "coat", block=block)


@pytest.mark.parametrize("placement", ["before_response", "after_audio"])
def test_template_without_block_restores_the_template(placement: Any) -> None:
    plain = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    with_block = template_with_block(plain, 3, placement=placement, audio_end="<|audio_eos|>")
    assert template_without_block(with_block) == plain
    assert template_without_block(plain) == plain
    again = template_with_block(with_block, 3, placement=placement, audio_end="<|audio_eos|>")
    assert again == with_block


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_run_is_exported_with_a_valid_proof(
    toy_data: Any, checkpoints: Any, tmp_path: Path, family: str
) -> None:
    """The proof tolerates rounding, but rejects another model."""
    model = dataclasses.replace(model_config(checkpoints, family), dtype="bfloat16")
    trainer = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "bf16": True}
    joint = StageConfig(train="lora", lr=0.01, **STAGE)
    train(toy_data.options(tmp_path / "run", model=model, align=None, joint=joint, trainer=trainer))
    proof = export(tmp_path / "run", tmp_path / "out")
    assert proof.dtype == "bfloat16"
    assert proof.holds, proof
    assert 1e-4 < proof.tolerance < 0.5
    for changed in (
        {"largest_difference": 2 * proof.tolerance},
        {"divergence": 0.1},
        {"lost_margin": 3 * proof.tolerance},
    ):
        assert not dataclasses.replace(proof, **changed).holds
    answers = TrainedStudent(tmp_path / "out").answer([toy_data.clips[0].uri], "?", max_tokens=3)
    assert len(answers) == 1


WITHOUT_EFFECT = {
    "do_sample": False, "temperature": 0.7, "top_p": 0.5, "top_k": 20, "epsilon_cutoff": 0.1,
    "eta_cutoff": 0.1, "length_penalty": 2.0, "early_stopping": True, "output_scores": True,
}  # fmt: skip
"""Settings without effect on greedy decoding, which transformers reads and refuses to save."""
INHERITED = {
    "repetition_penalty": 1.1, "forced_eos_token_id": 3, "begin_suppress_tokens": [4],
    "min_new_tokens": 2, "no_repeat_ngram_size": 3,
}  # fmt: skip


def test_generation_config_is_cleaned_and_inherited_settings_are_listed(
    toy_data: Any, runs: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some checkpoints ship greedy decoding with a temperature."""
    original_init = TrainedStudent.__init__

    def with_settings(self: Any, *args: Any, **kwargs: Any) -> None:
        original_init(self, *args, **kwargs)
        own = self.student.base.generation_config
        for name, value in (WITHOUT_EFFECT | INHERITED).items():
            setattr(own, name, value)
        own.eos_token_id = [1, 2]

    monkeypatch.setattr(TrainedStudent, "__init__", with_settings)
    export(runs("qwen2_audio"), tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert not saved.keys() & (WITHOUT_EFFECT.keys() - {"do_sample"})
    assert saved["eos_token_id"][:2] == [1, 2]
    card = (tmp_path / "out" / "README.md").read_text()
    for name, value in INHERITED.items():
        assert f"{name}: {value}" in card
    assert "length_penalty" not in card


def test_failed_export_leaves_no_files(
    runs: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next export to the same folder must succeed."""
    with monkeypatch.context() as patch:
        patch.setattr("student.release.export._compare", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export(runs("qwen2_audio"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert export(runs("qwen2_audio"), tmp_path / "out").holds
    assert not (tmp_path / "out.part").exists()


def test_export_keeps_one_model_in_memory(
    runs: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU may not have memory for two copies, so the trained model is freed before the export is
    loaded."""
    students: list[Any] = []
    is_gone: list[bool] = []
    original_init, load = TrainedStudent.__init__, Qwen2Audio.load

    def record_student(self: Any, *args: Any, **kwargs: Any) -> None:
        original_init(self, *args, **kwargs)
        students.append(weakref.ref(self.student.base))

    def load_and_check(self: Any, *args: Any, **kwargs: Any) -> Any:
        is_gone.extend(student() is None for student in students)
        return load(self, *args, **kwargs)

    monkeypatch.setattr(TrainedStudent, "__init__", record_student)
    monkeypatch.setattr(Qwen2Audio, "load", load_and_check)
    export(runs("qwen2_audio"), tmp_path / "out")
    assert is_gone == [True]


def test_generation_ignores_the_repetition_penalty_of_the_checkpoint(
    toy_data: Any, trained: TrainedStudent
) -> None:
    """Greedy decoding always takes the most likely token."""
    model: Any = trained.student.base
    inputs = trained.inputs([[{"role": "user", "content": [
        {"type": "audio", "audio": ""}, {"type": "text", "text": "which which note?"}]}]],
        [[trained.load_audio(toy_data.clips[1])]])  # fmt: skip
    own = dict(model.generation_config.to_dict())
    expected = trained.generate(inputs, max_tokens=6)
    model.generation_config.repetition_penalty = 5.0
    result = trained.generate(inputs, max_tokens=6)
    assert result == expected
    assert model.generation_config.repetition_penalty == 5.0, "the checkpoint's setting was changed"
    model.generation_config.repetition_penalty = own["repetition_penalty"]
    (first,) = trained.generate(inputs, max_tokens=1)
    assert first.is_cut == bool(first.text)
