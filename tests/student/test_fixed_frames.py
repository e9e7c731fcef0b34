"""Tests for positions of a fixed length in seconds, and for heads with a frame per audio token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manifests.errors import UserError
from student.batch import Grid, collate, stream_targets
from student.config import BlockConfig, HeadConfig, Recipe, StreamConfig
from student.data.dataset import ExampleDataset
from student.data.examples import build_examples
from student.data.prompts import Prompter
from student.distill.streams import RECONSTRUCTION, open_streams
from student.evaluation.analysis.head_quality import read_run
from student.inference.generate import TrainedStudent
from student.inference.head_outputs import head_outputs
from student.model.student import build_student, load_backbone
from student.model.tiny import build_tiny
from student.train import step_losses, train
from tests.student.conftest import RATE, STREAM_NAMES, TASKS, TINY

POSITION_S = 0.3
"""With K = 4, a block covers 1.2 s: clips of 0.6 to 1.3 s have one block, the longest have two."""
FIXED: dict[str, Any] = {"block": BlockConfig(tokens=4, position_seconds=POSITION_S)}
PER_TOKEN: dict[str, Any] = {"heads": HeadConfig(width=32, per_token=True), "arm": "distill"}
STREAMS = ("toy.bands", "toy.events", RECONSTRUCTION)


def prepare(toy_data: Any, tmp_path: Path, **changes: Any) -> tuple[Any, ...]:
    """Returns recipe, student, grid, dataset, streams and the tokenizer's padding token."""
    with_streams = {"streams": {name: StreamConfig() for name in STREAMS}} | changes
    recipe = toy_data.options(tmp_path / "run", **with_streams).recipe()
    streams = open_streams([str(toy_data.cache)], recipe.streams)
    folder = tmp_path / "base"
    build_tiny(folder, TINY, ["a low tone"], seed=0)
    backbone, model, processor = load_backbone(recipe.model, str(folder))
    student = build_student(recipe, backbone, model, processor, streams).eval()
    grid = Grid.from_recipe(recipe, streams)
    dataset = ExampleDataset(
        list(build_examples(toy_data.clips, TASKS))[-8:],
        {clip.clip_id: clip for clip in toy_data.clips},
        Prompter(backbone, processor, seconds_per_block=recipe.block.span_seconds),
        grid,
        audio_token_id=backbone.audio_token_id(model),
    )
    return recipe, student, grid, dataset, streams, processor.tokenizer.pad_token_id


def loss_sums(student: Any, batch: Any, recipe: Recipe, streams: Any) -> dict[str, float]:
    """Returns the losses of a batch as sums over frames and answer tokens."""
    counts = {name: torch.ones(1) for name in ("answer", *streams)}
    with torch.no_grad():
        parts, _ = step_losses(
            student, batch, counts, recipe=recipe, streams=streams, stage="joint"
        )
    return {name: float(value) for name, value in parts.items()}


@pytest.mark.parametrize("arm", ["coat", "distill", "both"])
def test_position_covers_the_same_time_in_every_clip(
    toy_data: Any, tmp_path: Path, arm: str
) -> None:
    recipe, student, grid, dataset, streams, pad_id = prepare(toy_data, tmp_path, arm=arm, **FIXED)
    rows = [dataset[index] for index in range(len(dataset))]
    by_id = {clip.clip_id: clip for clip in toy_data.clips}
    seconds = [by_id[example.clip_ids[-1]].duration for example in dataset.examples]
    assert [row.num_blocks for row in rows] == [1 + (length > 1.2001) for length in seconds]
    assert len({row.num_blocks for row in rows}) == 2
    frame_s = POSITION_S / recipe.heads.frames_per_position
    for row, length in zip(rows, seconds, strict=True):
        assert len(row.targets["toy.bands"]) == int(np.ceil(length / frame_s - 1e-6))
    batch = collate(rows, grid=grid, pad_id=pad_id)
    num_covered = sum(len(row.targets["toy.bands"]) for row in rows)
    assert batch.covered["toy.bands"].sum() == num_covered < batch.covered["toy.bands"].numel()
    # Frames after the end have no loss, and losses do not depend on packing and padding.
    whole = loss_sums(student, batch, recipe, streams)
    for name, values_BND in batch.targets.items():
        batch.targets[name] = torch.where(batch.covered[name][..., None], values_BND, 0.7)
    assert loss_sums(student, batch, recipe, streams) == whole
    packed = collate(rows, grid=grid, pad_id=pad_id, packed=True)
    assert loss_sums(student, packed, recipe, streams) == pytest.approx(whole, rel=1e-3)
    with torch.no_grad():
        result = student(batch.inputs, batch.labels_BS, batch.audio_weights_BNS)
    covered_BN = stream_targets(batch, result)[RECONSTRUCTION][1]
    assert 0 <= num_covered - int(covered_BN.sum()) <= len(rows)


def test_per_token_heads_give_a_frame_for_each_audio_token(toy_data: Any, tmp_path: Path) -> None:
    recipe, student, grid, dataset, streams, pad_id = prepare(toy_data, tmp_path, **PER_TOKEN)
    rows = [dataset[index] for index in range(len(dataset))]
    audio_id = student.backbone.audio_token_id(student.base)
    for row in rows:
        places = torch.nonzero(row.ids_S == audio_id)[:, 0].tolist()
        assert row.audio_weights_NS.argmax(1).tolist() == places
        assert len(row.targets["toy.bands"]) in (len(places), len(places) - 1)
    batch, packed = (collate(rows, grid=grid, pad_id=pad_id, packed=flag) for flag in (False, True))
    whole = loss_sums(student, batch, recipe, streams)
    assert loss_sums(student, packed, recipe, streams) == pytest.approx(whole, rel=1e-3)
    singles = [collate([row], grid=grid, pad_id=pad_id) for row in rows]
    separate = [loss_sums(student, single, recipe, streams) for single in singles]
    for name in STREAMS:
        assert sum(each[name] for each in separate) == pytest.approx(whole[name], rel=1e-3)
    assert student.head_layer == round(TINY.layers / 2)
    with pytest.raises(UserError, match=r"heads.per_token must be false in other arms"):
        Recipe(**{**vars(recipe), "arm": "coat"})


@pytest.mark.parametrize(
    "changes", [FIXED, FIXED | {"arm": "distill"}, PER_TOKEN], ids=["coat", "distill", "per token"]
)
def test_run_with_fixed_frames_trains_and_its_heads_are_read(
    toy_data: Any, tmp_path: Path, changes: dict[str, Any]
) -> None:
    report = train(toy_data.options(tmp_path / "run", **changes))
    assert np.isfinite(report["joint"]["answer_loss"])
    head_report = read_run(tmp_path / "run", [str(toy_data.cache)], pictures=1)
    assert set(head_report["streams"]) == set(STREAM_NAMES)
    trained = TrainedStudent(tmp_path / "run", heads=True)
    wave = np.zeros(int(0.7 * RATE), np.float32)
    assert len(trained.answer([wave], "What is heard?", max_tokens=4)) == 1
    if trained.student.block is not None:
        outputs = head_outputs(trained, wave, "?", trained.run.sources.streams)
        # 0.7 s are five frames of 0.15 s, of the eight that a block has.
        assert {len(each.values_ND) for each in outputs} == {5}
