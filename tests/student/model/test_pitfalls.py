"""Tests for eight pitfalls of the model classes in transformers 5.23, which cause wrong results
without any error.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from safetensors.torch import load_file, save_file

from manifests.errors import UserError
from student.batch import IGNORE, Grid, PreparedExample, collate, pad_prompts
from student.config import ModelConfig, StageConfig
from student.data.examples import ask
from student.inference.generate import TrainedStudent
from student.model.block import add_block
from student.model.student import load_backbone
from student.release.export import export
from student.train import train
from tests.student.conftest import FAMILIES, model_config, states

STAGE = {"batch_size": 4, "max_steps": 2, "save_steps": 9, "log_steps": 1, "warmup": 0.0}
PLAIN_DESCENT = {"report_to": [], "disable_tqdm": True, "optim": "sgd"}
"""Options of plain gradient descent; Adam amplifies rounding errors of gradients near zero."""


def make_rows(toy_data: Any, trained: TrainedStudent, num_labels: int) -> list[PreparedExample]:
    """Returns prompts of three lengths, whose last tokens are labels."""
    rows = []
    for number, clip in enumerate(toy_data.clips[:3]):
        question = "Which note?" + " Say it." * number  # Voxtral's audio has one length
        prompt = trained.prompter.prompt(ask(question), [trained.load_audio(clip)])
        ids_S = prompt.pop("input_ids")[0]
        labels_S = torch.full_like(ids_S, IGNORE)
        labels_S[-num_labels:] = ids_S[-num_labels:]
        rows.append(PreparedExample(ids_S=ids_S, labels_S=labels_S, audio=prompt))
    return rows


@pytest.mark.parametrize("family", FAMILIES)
def test_1_accumulated_batches_equal_one_batch(
    toy_data: Any, checkpoints: Any, tmp_path: Path, family: str
) -> None:
    """Qwen2-Audio's loss ignores `num_items_in_batch`. The trainer normalises over the accumulated
    batch, so four batches of one example give the step of one batch of four."""
    lora_without_dropout = dataclasses.replace(toy_data.options(tmp_path).lora, dropout=0.0)
    results_by_batch = []
    for batch_size, accumulation in ((4, 1), (1, 4)):
        stage = STAGE | {"batch_size": batch_size, "accumulation": accumulation}
        out = tmp_path / f"{batch_size}x{accumulation}"
        train(
            toy_data.options(
                out,
                model=model_config(checkpoints, family),
                lora=lora_without_dropout,
                align=None,
                joint=StageConfig(train="lora", **stage),
                trainer=PLAIN_DESCENT,
            )
        )
        logs = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        losses = [log["loss"] for log in logs if "loss" in log]
        norms = [log["grad_norm"] for log in logs if "grad_norm" in log]
        results_by_batch.append((losses, norms, states(out)["joint"]))
    (losses, norms, expected), (losses_4, norms_4, results) = results_by_batch
    assert losses_4 == pytest.approx(losses, rel=1e-4)
    assert norms_4 == pytest.approx(norms, rel=1e-3)
    for name, value in expected.items():
        torch.testing.assert_close(results[name], value, rtol=1e-3, atol=1e-5)


def test_2_audio_of_a_single_token_raises_an_error(trained: TrainedStudent) -> None:
    """Without two adjacent audio tokens, Qwen2-Audio switches to a legacy way of merging."""
    with pytest.raises(UserError, match=r"0\.050 s.*requires at least 0\.1 s"):
        trained.answer([np.zeros(800, np.float32)], "What is said?")
    at_least = trained.prompter.prompt(ask("?"), [np.zeros(1600, np.float32)])
    token = trained.student.backbone.audio_token_id(trained.student.base)
    assert (at_least["input_ids"] == token).sum() >= 2


@pytest.mark.parametrize("family", FAMILIES)
def test_3_embedding_table_never_shrinks(checkpoints: Any, family: str) -> None:
    """Checkpoints such as Qwen2-Audio may have more rows than their tokenizer has tokens."""
    config = model_config(checkpoints, family)
    _, model, processor = load_backbone(config, config.path or "")
    model.resize_token_embeddings(len(processor.tokenizer) + 100)
    rows = len(model.get_input_embeddings().weight)
    add_block(model, processor.tokenizer, 6)
    assert len(model.get_input_embeddings().weight) == len(model.lm_head.weight) == rows
    assert model.config.get_text_config().vocab_size == rows


@pytest.mark.parametrize("family", FAMILIES)
def test_4_exported_head_never_generates_the_block(
    toy_data: Any, checkpoints: Any, tmp_path: Path, family: str
) -> None:
    """An export sets the block's rows of the head to zero. Omni's head and embeddings can be tied,
    but the rows of the embeddings must be kept."""
    folder = tmp_path / "tied"
    _write_tied_checkpoint(Path(checkpoints(family)), folder)
    config = ModelConfig(path=str(folder), dtype="float32")
    _, model, _ = load_backbone(config, str(folder))
    shared = model.lm_head.weight is model.get_input_embeddings().weight
    assert shared == ("omni" in family)
    stage = StageConfig(train="lora", embeddings_lr=0.03, **STAGE)
    train(toy_data.options(tmp_path / "run", model=config, align=None, joint=stage))
    proof = export(tmp_path / "run", tmp_path / "out")
    assert proof.largest_difference < 1e-4

    trained = TrainedStudent(tmp_path / "run")
    block = trained.student.block
    assert block is not None
    weights = load_file(tmp_path / "out" / "model.safetensors")
    (table,) = (value for name, value in weights.items() if name.endswith("embed_tokens.weight"))
    (head,) = (value for name, value in weights.items() if name.endswith("lm_head.weight"))
    assert (head[list(block.ids)] == 0).all()
    assert (table[list(block.ids)] != 0).any(1).all()
    with torch.no_grad():
        expected = trained.student.base.get_input_embeddings()(torch.tensor(block.ids))
    torch.testing.assert_close(table[list(block.ids)], expected)


def _write_tied_checkpoint(source: Path, folder: Path) -> None:
    """Copies a checkpoint with all flags for tying set, and a head that equals the embeddings."""
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())

    def set_flags(config: dict[str, Any]) -> dict[str, Any]:
        inner = {key: set_flags(config[key]) for key in ("text_config", "thinker_config")
                 if key in config}  # fmt: skip
        return config | inner | {"tie_word_embeddings": True}

    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(set_flags(config)))
    weights = load_file(folder / "model.safetensors")
    (table,) = (name for name in weights if name.endswith("embed_tokens.weight"))
    (head,) = (name for name in weights if name.endswith("lm_head.weight"))
    save_file(weights | {head: weights[table].clone()}, folder / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip


def test_5_inputs_have_the_form_of_each_class(toy_data: Any, runs: Callable[[str], Path]) -> None:
    """Audio Flamingo 3 takes one audio, `input_features_mask`, and windows of 2 *
    max_source_positions mel frames. Omni needs `vision_start_token_id` and positions on 3 axes."""
    flamingo = TrainedStudent(runs("audioflamingo3"))
    window = 2 * flamingo.student.base.config.audio_config.max_source_positions
    for seconds, windows in ((0.5, 1), (2.0, 1), (3.0, 2)):  # the tiny model's window is 2 s
        wave = np.zeros(int(16_000 * seconds), np.float32)
        inputs = flamingo.inputs([ask("?")], [[wave]])
        assert inputs["input_features"].shape[::2] == (windows, window)
        assert inputs["input_features_mask"].shape == (windows, window)
    with pytest.raises(UserError, match="one audio per conversation, found 2"):
        flamingo.inputs([[*ask("one?"), *ask("two?")]], [[wave, wave]])

    omni = TrainedStudent(runs("qwen2_5_omni"))
    config = omni.student.base.config
    assert config.vision_start_token_id in range(config.get_text_config().vocab_size)
    seen = []
    rotary = omni.student.base.model.language_model.rotary_emb
    handle = rotary.register_forward_pre_hook(lambda module, args: seen.append(args[1].shape))
    inputs = omni.inputs([ask("?")] * 2, [[omni.load_audio(clip)] for clip in toy_data.clips[:2]])
    omni.student.base(**inputs)
    handle.remove()
    assert seen == [(3, *inputs["input_ids"].shape)]


def test_6_head_is_applied_only_to_answers(toy_data: Any, trained: TrainedStudent) -> None:
    """Logits at every position would need most of the memory."""
    batch = collate(make_rows(toy_data, trained, 5), grid=Grid(streams={}, num_frames=0), pad_id=0)
    seen = []
    handle = trained.student.base.lm_head.register_forward_hook(
        lambda *args: seen.append(args[2].shape)
    )
    result = trained.student(batch.inputs, batch.labels_BS)
    handle.remove()
    assert [shape[0] for shape in seen] == [15] == [len(result.labels_A)]


def test_7_no_dependency_requires_torchaudio() -> None:
    """With a CPU build of torch, an installed torchaudio breaks `transformers.audio_utils`."""
    required: set[str] = set()
    queue = [("coat-distill", frozenset({"student", "demo", "quantize"}))]
    while queue:
        package, extras = queue.pop()
        for line in _requirements(package):
            requested = Requirement(line)
            if any(_applies(requested, extra) for extra in extras | {""}):
                key = requested.name.lower().replace("_", "-")
                if key not in required:
                    required.add(key)
                    queue.append((requested.name, frozenset(requested.extras)))
    assert {"torch", "transformers", "peft", "gradio"} <= required
    assert not {"torchaudio", "torchvision", "torchcodec"} & required
    modules = "student.train, student.release.export, student.inference.generate"
    code = f"import sys, {modules}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torchaudio" not in done.stdout.split()


def _requirements(package: str) -> list[str]:
    try:
        return metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        return []  # a dependency of another platform


def _applies(requested: Requirement, extra: str) -> bool:
    return requested.marker is None or requested.marker.evaluate({"extra": extra})


def test_8_left_and_right_padding_give_the_same_logits(
    toy_data: Any, trained: TrainedStudent
) -> None:
    rows = make_rows(toy_data, trained, 12)
    assert len({len(row.ids_S) for row in rows}) == 3
    grid = Grid(streams={}, num_frames=0)
    right = collate(rows, grid=grid, pad_id=0)
    left = trained.pad([row.ids_S for row in rows], [row.audio for row in rows])
    labels_BS = pad_prompts([row.labels_S for row in rows], pad_id=IGNORE)["input_ids"]
    with torch.no_grad():
        expected = trained.student(right.inputs, right.labels_BS).logits_AV
        results = trained.student(left, labels_BS).logits_AV
    torch.testing.assert_close(results, expected, rtol=1e-4, atol=1e-5)


def test_8_number_of_audio_tokens_matches_the_class(trained: TrainedStudent) -> None:
    token = trained.student.backbone.audio_token_id(trained.student.base)
    for seconds in (0.5, 1.0, 1.7):
        wave = np.zeros(int(16_000 * seconds), np.float32)
        ids = trained.prompter.prompt(ask("?"), [wave])["input_ids"]
        mel = int(100 * seconds)
        expected = ((mel - 1) // 2 - 1) // 2 + 1
        if trained.student.backbone.pads_audio:
            expected = 25  # for the window of 2 s
        if trained.student.backbone.tokens_per_second == 13:  # Qwen3-Omni: in chunks of a second
            expected = {0.5: 7, 1.0: 13, 1.7: 22}[seconds]
        assert int((ids == token).sum()) == expected
