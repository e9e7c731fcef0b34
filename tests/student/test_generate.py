"""Answers and exports: single equals batch, left equals right, exported equals trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manifests.errors import UserError
from student.config import ModelConfig, StageConfig
from student.data import Grid, collate
from student.export import export
from student.generate import TrainedStudent
from student.tasks import ask
from student.train import train

FAMILIES = ("qwen2_audio", "qwen2_5_omni", "audioflamingo3")


@pytest.fixture(scope="module", params=FAMILIES)
def run(request: Any, world: Any, checkpoints: Any, tmp_path_factory: Any) -> Path:
    """A run of each family, far enough from its start that adapters and rows matter."""
    out = tmp_path_factory.mktemp("runs") / request.param
    stage = {"batch_size": 4, "max_steps": 3, "save_steps": 9, "warmup": 0.0}
    train(
        world.options(
            out,
            model=ModelConfig(path=checkpoints(request.param), dtype="float32"),
            align=StageConfig(train="rows", rows_lr=0.03, **stage),
            joint=StageConfig(train="lora", rows_lr=0.03, lr=0.02, **stage),
        )
    )
    return out


@pytest.fixture(scope="module")
def trained(run: Path) -> TrainedStudent:
    return TrainedStudent(run)


def waves(world: Any, trained: TrainedStudent, count: int = 3) -> list[np.ndarray]:
    return [trained.hear(clip) for clip in world.clips[:count]]


def test_batched_answers_equal_single_ones(world: Any, trained: TrainedStudent) -> None:
    """Prompts of different lengths: the batch is padded on the left."""
    heard = waves(world, trained)
    assert len({len(wave) for wave in heard}) == 3
    together = trained.answer(heard, "What is said?", max_tokens=8)
    alone = [trained.answer([wave], "What is said?", max_tokens=8)[0] for wave in heard]
    assert together == alone


def test_padding_left_and_right_give_the_same_states(world: Any, trained: TrainedStudent) -> None:
    """Trap 8."""
    rows = []
    for wave in waves(world, trained):
        prompt = trained.prompter.prompt(ask("Which note?"), [wave])
        ids_S = prompt.pop("input_ids")[0]
        labels_S = torch.full_like(ids_S, -100)
        labels_S[-12:] = ids_S[-12:]
        rows.append({"input_ids": ids_S, "labels": labels_S, "audio": prompt, "targets": {},
                     "tower_weights": None})  # fmt: skip
    grid = Grid(streams={}, num_frames=0)
    logits = []
    for left in (False, True):
        batch = collate(rows, grid=grid, pad_id=0, left=left)
        with torch.no_grad():
            logits.append(trained.student(batch["inputs"], batch["labels_BS"])["logits_AV"])
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-5)


def test_the_audio_is_heard(world: Any, trained: TrainedStudent) -> None:
    """Another audio of the same length gives other logits."""
    wave = waves(world, trained, 1)[0]
    logits = []
    for heard in (wave, wave[::-1].copy()):
        inputs = trained.inputs([ask("?")], [[heard]])
        with torch.no_grad():
            logits.append(trained.student.base(**inputs).logits[:, -1])
    assert not torch.allclose(logits[0], logits[1], atol=1e-4)


def test_an_answer_has_no_block_tokens(world: Any, trained: TrainedStudent) -> None:
    block = trained.student.block
    assert block is not None
    head = trained.student.base.lm_head.weight
    kept = head.detach().clone()
    with torch.no_grad():  # a model that wants nothing but the block
        head[list(block.ids)] = 100 * head[list(block.ids)]
    inputs = trained.inputs([ask("?")], [waves(world, trained, 1)])
    model: Any = trained.student.base
    free = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    free = free[0, inputs["input_ids"].shape[1] :]
    answer = trained.answer(waves(world, trained, 1), "?", max_tokens=6)
    with torch.no_grad():
        head.copy_(kept)
    assert set(free.tolist()) & set(block.ids)
    assert "audio_think" not in answer[0]


def test_several_turns(world: Any, trained: TrainedStudent) -> None:
    first, second = waves(world, trained, 2)
    turns = [
        *ask("one?"),
        {"role": "assistant", "content": [{"type": "text", "text": "low"}]},
        {"role": "user", "content": [{"type": "text", "text": "sure?"}]},
    ]
    assert len(trained.reply([turns], [[first]], max_tokens=3)) == 1
    both = [*turns[:2], *ask("and this?")]
    if "flamingo" in str(type(trained.student.backbone)).lower():
        with pytest.raises(UserError, match="one audio per conversation"):
            trained.inputs([both], [[first, second]])
    else:
        assert len(trained.reply([both], [[first, second]], max_tokens=3)) == 1


def test_audio_shorter_than_a_token_is_refused(trained: TrainedStudent) -> None:
    """Trap 2."""
    with pytest.raises(UserError, match=r"0\.050 s.*nothing shorter than 0\.1 s"):
        trained.answer([np.zeros(800, np.float32)], "What is said?")
    at_least = trained.prompter.prompt(ask("?"), [np.zeros(1600, np.float32)])
    token = trained.student.backbone.audio_token_id(trained.student.base)
    assert (at_least["input_ids"] == token).sum() >= 2


def test_no_such_audio(trained: TrainedStudent) -> None:
    with pytest.raises(UserError, match="there is no audio file"):
        trained.answer(["/nowhere.wav"], "What is said?")


def test_25_audio_tokens_a_second(trained: TrainedStudent) -> None:
    token = trained.student.backbone.audio_token_id(trained.student.base)
    for seconds in (0.5, 1.0, 1.7):
        wave = np.zeros(int(16000 * seconds), np.float32)
        ids = trained.prompter.prompt(ask("?"), [wave])["input_ids"]
        assert abs(int((ids == token).sum()) - 25 * seconds) <= 1


def test_an_export_is_the_trained_model(run: Path, tmp_path: Path) -> None:
    """Loaded by stock classes alone."""
    import json

    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    trained = TrainedStudent(run)
    proof = export(run, tmp_path / "out")
    assert proof.prompts == 4
    assert proof.largest_difference < 1e-4
    assert proof.same_choice == 1.0

    weights = load_file(tmp_path / "out" / "model.safetensors")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert not any("lora" in name or "head." in name.replace("lm_head.", "") for name in weights)
    (table,) = (value for name, value in weights.items() if "embed_tokens" in name)
    if config["model_type"] == "qwen2_5_omni":
        assert all(name.startswith("thinker.") for name in weights)
        assert config["enable_audio_output"] is False
        config = config["thinker_config"]
    assert config["text_config"]["vocab_size"] == len(table)

    block = trained.student.block
    assert block is not None
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.convert_tokens_to_ids("<|audio_think_start|>") == block.ids[0]
    rows = trained.student.base.get_input_embeddings()
    with torch.no_grad():
        torch.testing.assert_close(table[list(block.ids)], rows(torch.tensor(block.ids)))
    (head,) = (value for name, value in weights.items() if name.endswith("lm_head.weight"))
    assert (head[list(block.ids)] == 0).all()
    messages = [{"role": "user", "content": "hello"}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt.endswith("<|audio_think_end|>")
    with pytest.raises(UserError, match="exists"):
        export(run, tmp_path / "out")


def test_a_run_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run"):
        TrainedStudent(tmp_path)


def test_the_lora_pattern_spares_the_audio_tower(trained: TrainedStudent) -> None:
    adapted = [name for name, _ in trained.student.named_parameters() if ".lora_A" in name]
    assert len(adapted) == 3 * 7
    assert all(".language_model.layers." in name for name in adapted)
    tower = trained.student.backbone.audio_tower(trained.student.base)
    assert any(name.endswith("q_proj") or name.endswith("q") for name, _ in tower.named_modules())
    assert dataclasses.asdict(trained.recipe.lora)["rank"] == 16
