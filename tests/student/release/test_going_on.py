"""Exports as bases: training goes on with the block and its rows; half precision; old defaults."""

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
from tests.student.conftest import FAMILIES, model_of

STAGE = {"batch_size": 4, "max_steps": 2, "save_steps": 9, "warmup": 0.0}


@pytest.fixture(scope="module")
def exported(runs: Callable[[str], Path], tmp_path_factory: Any) -> Path:
    out = tmp_path_factory.mktemp("exported") / "out"
    export(runs("qwen2_audio"), out)
    return out


def built(world: Any, exported: Path, arm: str, **changes: Any) -> tuple[Any, Any]:
    """(student, processor) of an arm that starts from an export."""
    config = ModelConfig(path=str(exported), dtype="float32")
    recipe = dataclasses.replace(world.options(exported, model=config, arm=arm).recipe(), **changes)
    backbone, model, processor = load_backbone(config, str(exported))
    return build_student(recipe, backbone, model, processor, {}), processor


@pytest.mark.parametrize("arm", ["coat", "pause", "sft", "distill"])
def test_training_goes_on_with_one_block_or_none(
    world: Any, exported: Path, runs: Callable[[str], Path], arm: str
) -> None:
    student, processor = built(world, exported, arm)
    turns = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
    prompt = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert prompt.count(START) == (1 if arm in ("coat", "pause") else 0)
    if student.block is not None:
        trained = TrainedStudent(runs("qwen2_audio")).student
        ids = torch.tensor(student.block.ids)
        with torch.no_grad():
            rows, expected = (each.base.get_input_embeddings()(ids) for each in (student, trained))
        torch.testing.assert_close(rows, expected)


def test_a_run_from_an_export_trains_and_is_exported(
    world: Any, exported: Path, tmp_path: Path
) -> None:
    config = ModelConfig(path=str(exported), dtype="float32")
    train(
        world.options(
            tmp_path / "run", model=config, align=None, joint=StageConfig(train="lora", **STAGE)
        )
    )
    assert export(tmp_path / "run", tmp_path / "again").holds


@pytest.mark.parametrize(
    ("block", "said"),
    [(BlockConfig(tokens=6), "block.tokens"),
     (BlockConfig(tokens=4, placement="after_audio"), "block.placement")],
)  # fmt: skip
def test_another_block_than_the_export_has_is_one_line(
    world: Any, exported: Path, block: BlockConfig, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        built(world, exported, "coat", block=block)


@pytest.mark.parametrize("placement", ["before_response", "after_audio"])
def test_a_template_is_found_again_under_its_block(placement: Any) -> None:
    plain = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    with_block = template_with_block(plain, 3, placement=placement, audio_end="<|audio_eos|>")
    assert template_without_block(with_block) == plain
    assert template_without_block(plain) == plain
    again = template_with_block(with_block, 3, placement=placement, audio_end="<|audio_eos|>")
    assert again == with_block


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_from_training_to_export(
    world: Any, checkpoints: Any, tmp_path: Path, family: str
) -> None:
    """Rounding is no failure: the proof holds, and it does not hold for another model."""
    model = dataclasses.replace(model_of(checkpoints, family), dtype="bfloat16")
    trainer = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "bf16": True}
    joint = StageConfig(train="lora", lr=0.01, **STAGE)
    train(world.options(tmp_path / "run", model=model, align=None, joint=joint, trainer=trainer))
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
    answers = TrainedStudent(tmp_path / "out").answer([world.clips[0].uri], "?", max_tokens=3)
    assert len(answers) == 1


WITHOUT_EFFECT = {
    "do_sample": False, "temperature": 0.7, "top_p": 0.5, "top_k": 20, "epsilon_cutoff": 0.1,
    "eta_cutoff": 0.1, "length_penalty": 2.0, "early_stopping": True, "output_scores": True,
}  # fmt: skip
"""Settings of a greedy checkpoint that transformers reads and refuses to save."""
INHERITED = {
    "repetition_penalty": 1.1, "forced_eos_token_id": 3, "begin_suppress_tokens": [4],
    "min_new_tokens": 2, "no_repeat_ngram_size": 3,
}  # fmt: skip


def test_a_generation_config_that_cannot_be_saved(
    world: Any, runs: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy with a temperature, as some checkpoints ship it; what is inherited is said."""
    begin = TrainedStudent.__init__

    def with_settings(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
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


def test_an_export_that_fails_leaves_nothing(
    runs: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next one is not kept from its place."""
    with monkeypatch.context() as patch:
        patch.setattr("student.release.export._compare", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export(runs("qwen2_audio"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert export(runs("qwen2_audio"), tmp_path / "out").holds
    assert not (tmp_path / "out.part").exists()


def test_one_model_at_a_time_is_in_memory(
    runs: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice a 7B model does not fit into the GPU that it was trained on: the trained one has gone
    before the checkpoint is read again."""
    students: list[Any] = []
    gone: list[bool] = []
    begin, load = TrainedStudent.__init__, Qwen2Audio.load

    def note(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        students.append(weakref.ref(self.student.base))

    def record_call(self: Any, *args: Any, **kwargs: Any) -> Any:
        gone.extend(student() is None for student in students)
        return load(self, *args, **kwargs)

    monkeypatch.setattr(TrainedStudent, "__init__", note)
    monkeypatch.setattr(Qwen2Audio, "load", record_call)
    export(runs("qwen2_audio"), tmp_path / "out")
    assert gone == [True]


def test_greedy_means_greedy(world: Any, trained: TrainedStudent) -> None:
    """A repetition penalty in the checkpoint changes nothing: each token is the likeliest one."""
    model: Any = trained.student.base
    inputs = trained.inputs([[{"role": "user", "content": [
        {"type": "audio", "audio": ""}, {"type": "text", "text": "which which note?"}]}]],
        [[trained.load_audio(world.clips[1])]])  # fmt: skip
    own = dict(model.generation_config.to_dict())
    expected = trained.generate(inputs, max_tokens=6)
    model.generation_config.repetition_penalty = 5.0
    result = trained.generate(inputs, max_tokens=6)
    assert result == expected
    assert model.generation_config.repetition_penalty == 5.0, "the checkpoint keeps its own"
    model.generation_config.repetition_penalty = own["repetition_penalty"]
    (first,) = trained.generate(inputs, max_tokens=1)
    assert first.is_cut == bool(first.text)
