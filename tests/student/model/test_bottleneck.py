"""Tests that an answer with the bottleneck depends on the audio only through the block."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from manifests.errors import UserError
from student.batch import IGNORE, Batch, Grid, PreparedExample, collate, pad_prompts
from student.config import ModelConfig, Recipe, StageConfig
from student.data.examples import ask
from student.inference.generate import TrainedStudent
from student.model.bottleneck import (
    as_attention_mask,
    check_kernel,
    text_that_is_blind,
    visible,
)
from student.train import bottleneck_now, distill_weight_now, train
from student.training.trainer import StudentTrainer
from tests.student.conftest import model_config, states
from tests.student.training.test_training import _KillAt, _Killed

LAYOUTS = ("right", "left", "packed")
ANSWER_TOKENS = 3
"""Number of tokens of the answer."""


def make_batch(
    toy_data: Any, trained: TrainedStudent, layout: str, *, other: bool = False
) -> Batch:
    """Returns three prompts of different lengths with answers; `other` replaces audio by noise."""
    rows = []
    noise = torch.Generator().manual_seed(1)
    for clip in toy_data.clips[:3]:
        wave = trained.load_audio(clip)
        if other:
            wave = (torch.randn(len(wave), generator=noise) * 0.1).numpy()
        prompt = trained.prompter.prompt(ask("Which note?"), [wave])
        prompt_S = prompt.pop("input_ids")[0]
        answer_S = torch.tensor(trained.prompter.answer("high tone"))[:ANSWER_TOKENS]
        labels_S = torch.cat([torch.full_like(prompt_S, IGNORE), answer_S])
        ids_S = torch.cat([prompt_S, answer_S])
        rows.append(PreparedExample(ids_S=ids_S, labels_S=labels_S, audio=prompt))
    pad_id = trained.processor.tokenizer.pad_token_id
    grid = Grid(streams={}, num_frames=0)
    batch = collate(rows, grid=grid, pad_id=pad_id, packed=layout == "packed")
    if layout != "left":
        return batch
    inputs = batch.inputs | pad_prompts([row.ids_S for row in rows], pad_id=pad_id)
    labels_BS = pad_prompts([row.labels_S for row in rows], pad_id=IGNORE)["input_ids"]
    return dataclasses.replace(batch, inputs=inputs, labels_BS=labels_BS)


def answer_logits(trained: TrainedStudent, batch: Batch, **options: Any) -> Tensor:
    """Returns logits_AV of the answers."""
    with torch.no_grad():
        return trained.student(batch.inputs, batch.labels_BS, **options).logits_AV


def cut_inputs(trained: TrainedStudent, batch: Batch) -> dict[str, Tensor]:
    """Returns inputs in which text attends neither to audio nor to the block."""
    student, inputs = trained.student, batch.inputs
    assert student.block is not None
    ids_BS = inputs["input_ids"]
    audio_id = student.backbone.audio_token_id(student.base)
    content = torch.tensor(student.block.content_ids)
    blind_BS = text_that_is_blind(
        ids_BS, batch.labels_BS, audio_id=audio_id, content_ids=student.block.content_ids
    )
    hidden_BS = (ids_BS == audio_id) | torch.isin(ids_BS, content)
    seen_BSS = visible(inputs, blind_BS=blind_BS, hidden_BS=hidden_BS)
    mask = {"attention_mask": as_attention_mask(seen_BSS, student.base)}
    return student.cast(inputs) | mask | student.backbone.masked_positions(inputs)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_answer_depends_on_audio_only_through_the_block(
    toy_data: Any, trained: TrainedStudent, layout: str
) -> None:
    batch = make_batch(toy_data, trained, layout)
    other = make_batch(toy_data, trained, layout, other=True)
    open_ = answer_logits(trained, batch)
    masked = answer_logits(trained, batch, bottleneck="question_and_answer")
    assert not torch.allclose(masked, open_)
    assert not torch.equal(masked, answer_logits(trained, other, bottleneck="question_and_answer"))
    model = trained.student.base.model
    answer_BS = batch.labels_BS != IGNORE
    with torch.no_grad():
        ends = [
            model(**cut_inputs(trained, each)).last_hidden_state[answer_BS]
            for each in (batch, other)
        ]
    assert torch.equal(*ends)  # without the block as well, nothing depends on the audio
    right = answer_logits(
        trained, make_batch(toy_data, trained, "right"), bottleneck="question_and_answer"
    )
    torch.testing.assert_close(masked, right, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_reach_the_audio_only_through_the_block(
    toy_data: Any, trained: TrainedStudent, layout: str
) -> None:
    student, batch = trained.student, make_batch(toy_data, trained, layout)
    audio_BS = batch.inputs["input_ids"] == student.backbone.audio_token_id(student.base)
    embedded: list[Tensor] = []

    def record_embeddings(module: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        embedded.append(kwargs["inputs_embeds"].detach().requires_grad_())
        return args, kwargs | {"inputs_embeds": embedded[-1]}

    base: Any = student.base.model
    handle = base.language_model.register_forward_pre_hook(record_embeddings, with_kwargs=True)
    answer_BS = batch.labels_BS != IGNORE
    try:
        result = student(batch.inputs, batch.labels_BS, bottleneck="question_and_answer")
        result.logits_AV.square().sum().backward()
        base(**cut_inputs(trained, batch)).last_hidden_state[answer_BS].square().sum().backward()
    finally:
        handle.remove()
    through_block, without = (each.grad for each in embedded)
    assert through_block is not None
    assert without is not None
    assert (through_block[audio_BS] != 0).any(-1).float().mean() > 0.9
    assert (without[audio_BS] == 0).all()


def test_bottleneck_can_apply_to_the_answer_only(
    toy_data: Any, runs: Callable[[str], Path]
) -> None:
    """The question still attends to audio; the marker that predicts the first token does not."""
    trained = TrainedStudent(runs("qwen2_audio"))
    batch = make_batch(toy_data, trained, "packed")
    ids_BS, labels_BS = batch.inputs["input_ids"], batch.labels_BS
    block = trained.student.block
    assert block is not None
    audio_id = trained.student.backbone.audio_token_id(trained.student.base)
    answer, text = (
        text_that_is_blind(
            ids_BS, labels_BS, audio_id=audio_id, content_ids=block.content_ids, blinds=blinds
        )
        for blinds in ("answer", "question_and_answer")
    )
    assert int(answer.sum()) == 3 * (ANSWER_TOKENS + 1)
    assert torch.equal(ids_BS[answer & (labels_BS == IGNORE)], torch.tensor([block.ids[-1]] * 3))
    assert (text | ~answer).all()
    for marker in (block.ids[0], block.ids[-1]):
        assert text[ids_BS == marker].all()
    assert not torch.equal(
        answer_logits(trained, batch, bottleneck="answer"),
        answer_logits(trained, batch, bottleneck="question_and_answer"),
    )


def test_recomputed_activations_use_the_same_mask(
    toy_data: Any, runs: Callable[[str], Path]
) -> None:
    gradients = []
    for recompute in (False, True):
        trained = TrainedStudent(runs("qwen2_audio"))
        student = trained.student
        student.train_only("lora")
        student.train()
        if recompute:
            student.base.gradient_checkpointing_enable({"use_reentrant": False})
        batch = make_batch(toy_data, trained, "right")
        torch.manual_seed(0)
        result = student(batch.inputs, batch.labels_BS, bottleneck="question_and_answer")
        result.logits_AV.square().sum().backward()
        gradients.append({n: p.grad for n, p in student.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value)


def test_eager_attention_takes_the_mask(toy_data: Any, run: Path) -> None:
    trained = TrainedStudent(run)
    batch = make_batch(toy_data, trained, "left")
    expected = answer_logits(trained, batch, bottleneck="question_and_answer")
    trained.student.base.set_attn_implementation("eager")
    results = answer_logits(trained, batch, bottleneck="question_and_answer")
    torch.testing.assert_close(results, expected, atol=1e-4, rtol=1e-4)


def test_kernels_without_masks_raise_an_error(runs: Callable[[str], Path]) -> None:
    base = TrainedStudent(runs("qwen2_audio")).student.base
    base.config.get_text_config()._attn_implementation = "flash_attention_2"
    with pytest.raises(UserError, match="'flash_attention_2' cannot take; set"):
        check_kernel(base)


@pytest.mark.parametrize(
    ("killed_at", "packing"), [(1, False), (3, True)], ids=["inside-padded", "across-packed"]
)
def test_run_killed_around_the_switch_ends_with_the_same_weights(
    toy_data: Any,
    checkpoints: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    killed_at: int,
    packing: bool,
) -> None:
    stage = StageConfig(max_steps=4, batch_size=4, save_steps=1, log_steps=1, bottleneck=0.5)
    data = dataclasses.replace(toy_data.options(tmp_path).data, packing=packing)
    changes = {"model": model_config(checkpoints, "qwen2_audio"), "arm": "coat+bottleneck",
               "data": data, "align": None, "joint": stage}  # fmt: skip
    seen: list[object] = []
    original_init, forward = StudentTrainer.__init__, StudentTrainer.compute_loss

    def with_killer(self: StudentTrainer, *args: Any, **kwargs: Any) -> None:
        original_init(self, *args, **kwargs)
        self.add_callback(_KillAt(killed_at))

    def record(self: StudentTrainer, *args: Any, **kwargs: Any) -> Any:
        done = self.state.global_step / self.state.max_steps
        seen.append(bottleneck_now(toy_data.options(tmp_path, **changes), "joint", done))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(StudentTrainer, "compute_loss", record)
    train(toy_data.options(tmp_path / "whole", **changes))
    assert seen == ["question_and_answer"] * 2 + [None] * 2
    with monkeypatch.context() as patch:
        patch.setattr(StudentTrainer, "__init__", with_killer)
        with pytest.raises(_Killed):
            train(toy_data.options(tmp_path / "broken", **changes))
    train(toy_data.options(tmp_path / "broken", **changes))
    expected, results = (states(tmp_path / name)["joint"] for name in ("whole", "broken"))
    for key, value in expected.items():
        assert torch.equal(results[key], value), key


def test_bottleneck_share_comes_from_the_recipe_or_the_arm(toy_data: Any, tmp_path: Path) -> None:
    def recipe(**changes: Any) -> Recipe:
        return toy_data.options(tmp_path, **changes).recipe()

    stage = StageConfig(max_steps=2, bottleneck=0.2)
    shares = [
        (each.joint.bottleneck if each.joint else None)
        for each in (
            recipe(arm="coat"),
            recipe(arm="livr"),
            recipe(arm="coat+bottleneck", joint=stage),
            recipe(arm="coat", joint=stage),
        )
    ]
    assert shares == [0.0, 0.4, 0.2, 0.2]
    with pytest.raises(UserError, match=r"joint.bottleneck must be 0 in the arm sft"):
        recipe(arm="sft", joint=stage)
    with pytest.raises(UserError, match=r"bottleneck of a stage must be in \[0, 1\]"):
        StageConfig(bottleneck=1.5)


def test_distill_reaches_audio_stops_gradients_at_audio_tokens(toy_data: Any, run: Path) -> None:
    """Without it, the heads have the same inputs, but no gradient reaches the audio tokens."""
    trained = TrainedStudent(run, heads=True)
    student, batch = trained.student, make_batch(toy_data, trained, "right")
    audio_BS = batch.inputs["input_ids"] == student.backbone.audio_token_id(student.base)
    embedded: list[Tensor] = []

    def record_embeddings(module: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        embedded.append(kwargs["inputs_embeds"].detach().requires_grad_())
        return args, kwargs | {"inputs_embeds": embedded[-1]}

    base: Any = student.base.model
    handle = base.language_model.register_forward_pre_hook(record_embeddings, with_kwargs=True)
    frames, gradients = [], []
    try:
        for reaches in (True, False):
            student.reaches_audio = reaches
            embedded.clear()
            result = student(batch.inputs, batch.labels_BS)
            frames.append(torch.cat([each.flatten() for each in result.frames.values()]))
            frames[-1].square().sum().backward()
            gradient = embedded[-1].grad
            assert gradient is not None
            gradients.append(gradient[audio_BS])
    finally:
        handle.remove()
    torch.testing.assert_close(*frames)
    assert (gradients[0] != 0).any(-1).float().mean() > 0.9
    assert (gradients[1] == 0).all()
    with pytest.raises(UserError, match="distill_reaches_audio must be true with"):
        Recipe(model=ModelConfig(build="tiny"), distill_reaches_audio=False,
               joint=StageConfig(checkpointing=True))  # fmt: skip


def test_distillation_loss_ends_at_distill_until(toy_data: Any, tmp_path: Path) -> None:
    recipe = toy_data.options(tmp_path, distill_weight=2.0, distill_until=0.5).recipe()
    weights = [distill_weight_now(recipe, done) for done in (0.0, 0.49, 0.5, 0.99)]
    assert weights == [2.0, 2.0, 0.0, 0.0]
    assert distill_weight_now(toy_data.options(tmp_path).recipe(), 0.99) == 1.0
    with pytest.raises(UserError, match=r"distill_until must be in \[0, 1\]"):
        toy_data.options(tmp_path, distill_until=1.5)
