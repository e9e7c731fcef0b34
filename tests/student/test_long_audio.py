"""Tests for clips that are longer than one window of the audio tower.

The tiny towers have windows of 2 s instead of Whisper's 30 s. Audio Flamingo 3 joins windows, and
Omni's tower takes as many frames as its extractor gives.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from transformers import (
    AudioFlamingo3ForConditionalGeneration,
    AutoProcessor,
    AutoTokenizer,
    MusicFlamingoForConditionalGeneration,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen3OmniMoeThinkerForConditionalGeneration,
    VoxtralForConditionalGeneration,
    WhisperFeatureExtractor,
)

from manifests.clips import Clip
from manifests.corpus import corpus as corpora
from manifests.errors import UserError
from student.batch import Grid, collate, stream_targets
from student.config import BlockConfig, StageConfig, StreamConfig
from student.data.dataset import ExampleDataset
from student.data.examples import ask, build_examples
from student.data.prompts import Prompter
from student.distill.alignment import student_frames
from student.distill.streams import open_streams
from student.evaluation.analysis.ablate import ablate
from student.evaluation.analysis.head_quality import read_run
from student.evaluation.questions import Question
from student.inference.generate import TrainedStudent
from student.inference.head_outputs import head_outputs
from student.model.backbones.qwen3_omni import count_tokens
from student.model.student import build_student, load_backbone
from student.model.tiny import build_tiny
from student.release.export import export
from student.runs.folder import Run
from student.train import train
from tests.student.conftest import (
    FAMILIES,
    PLACEHOLDERS,
    RATE,
    TASKS,
    TINY,
    ToyData,
    make_tone,
    targets,
    write_cache,
)

SECONDS = (1.2, 3.1, 4.7, 5.5)
"""Durations of clips: one, two, three and three windows of 2 s."""
BLOCK_S = 2.0
STREAMS = {name: StreamConfig() for name in ("toy.bands", "toy.salience", "reconstruction")}
LONG = ("audioflamingo3", "qwen2_5_omni")
WINDOWS_S = {"audioflamingo3": 2, "qwen2_5_omni": 10, "qwen3_omni_moe": 2, "musicflamingo": 2,
             "voxtral": 2}  # fmt: skip
"""Family that takes more than one window -> window of its small checkpoint in seconds. Omni's
extractor has a window that is longer than the longest clip."""
STOCK_CLASSES: dict[str, Any] = {
    "audioflamingo3": AudioFlamingo3ForConditionalGeneration,
    "qwen2_5_omni": Qwen2_5OmniThinkerForConditionalGeneration,
    "qwen3_omni_moe": Qwen3OmniMoeThinkerForConditionalGeneration,
    "musicflamingo": MusicFlamingoForConditionalGeneration,
    "voxtral": VoxtralForConditionalGeneration,
}
ARMS_OF_FAMILIES = [
    *((family, arm) for family in LONG for arm in ("coat", "distill", "both")),
    *((family, "both") for family in WINDOWS_S if family not in LONG),
]


class LongToyData(ToyData):
    """A corpus of 16 clips of up to 5.5 s, and a cache with targets of all but one."""

    def __init__(self, root: Path) -> None:
        rng = np.random.default_rng(1)
        self.corpus, self.cache = root / "long", root / "cache"
        self.clips, by_clip = [], {}
        for number in range(16):
            seconds = SECONDS[number % len(SECONDS)]
            wave, note_T = make_tone(rng, seconds)
            path = root / f"{number}.wav"
            soundfile.write(path, wave, RATE)
            clip = Clip(
                clip_id=f"long{number}", uri=str(path), duration=seconds, text=f"tone {number}",
                labels={"note": "low"},
            )  # fmt: skip
            self.clips.append(clip)
            if number != 3:
                by_clip[clip.clip_id] = targets(wave, note_T)
        write_cache(self.cache, corpora.build(self.clips, self.corpus), by_clip)


@pytest.fixture(scope="module")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> LongToyData:
    return LongToyData(tmp_path_factory.mktemp("long-world"))


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small checkpoints of the families that take long audio; Omni's extractor takes 10 s."""
    result = {}
    for family, window_s in WINDOWS_S.items():
        result[family] = tmp_path_factory.mktemp(family)
        config = dataclasses.replace(TINY, family=family, window_s=window_s)
        build_tiny(result[family], config, ["What is said? Which note? tone low"], seed=0)
    return result


def options(
    toy_data: LongToyData, paths: dict[str, Path], family: str, out: Path, **changes: Any
) -> Any:
    base_options = toy_data.options(out, streams=STREAMS, **changes)
    model = dataclasses.replace(
        base_options.model, build=None, path=str(paths[family]), dtype="float32", attention="sdpa"
    )
    stage = {"batch_size": 4, "max_steps": 8, "save_steps": 8, "warmup": 0.0}
    return dataclasses.replace(
        base_options,
        model=model,
        block=BlockConfig(tokens=4, seconds=BLOCK_S, placement=base_options.block.placement),
        align=StageConfig(train="embeddings", embeddings_lr=0.03, **stage),
        joint=StageConfig(train="lora", embeddings_lr=0.03, lr=0.01, **stage),
    )


def prepare(toy_data: LongToyData, recipe: Any, path: Path) -> tuple[Any, Any, Any, Any, Any]:
    streams = open_streams([str(toy_data.cache)], STREAMS)
    backbone, model, processor = load_backbone(recipe.model, str(path))
    student = build_student(recipe, backbone, model, processor, streams).eval()
    grid = Grid.from_recipe(recipe, streams)
    prompter = Prompter(backbone, processor, seconds_per_block=recipe.block.seconds)
    examples = list(build_examples(toy_data.clips, TASKS))[: len(toy_data.clips)]
    dataset = ExampleDataset(
        examples, {clip.clip_id: clip for clip in toy_data.clips}, prompter, grid,
        audio_token_id=backbone.audio_token_id(model),
    )  # fmt: skip
    return student, processor, grid, dataset, streams


@pytest.mark.parametrize(("family", "arm"), ARMS_OF_FAMILIES)
def test_each_span_of_a_clip_has_a_block_and_its_own_targets(
    toy_data: LongToyData, paths: dict[str, Path], family: str, arm: str, tmp_path: Path
) -> None:
    recipe = options(toy_data, paths, family, tmp_path / "x", arm=arm).recipe()
    student, processor, grid, dataset, streams = prepare(toy_data, recipe, paths[family])
    rows = [dataset[index] for index in range(4)]
    assert [row.num_blocks for row in rows] == [1, 2, 3, 3]
    if student.block is not None:
        for row in rows:
            content = torch.isin(row.ids_S, torch.tensor(student.block.content_ids))
            assert content.sum() == 4 * row.num_blocks
    # Targets of a span are those of the same span of the whole clip.
    duration, encoded = streams["toy.bands"].reader.row("long2")
    whole_ND = student_frames(encoded, duration, 3 * grid.num_frames)
    bands = streams["toy.bands"].statistics
    expected_ND = (whole_ND - bands.mean_D) / bands.std_D
    np.testing.assert_allclose(rows[2].targets["toy.bands"].numpy(), expected_ND, rtol=1e-5)
    pad_id = processor.tokenizer.pad_token_id
    batch = collate(rows, grid=grid, pad_id=pad_id)
    assert batch.num_blocks_B.tolist() == [1, 2, 3, 3]
    assert batch.targets["toy.bands"].shape == (9, grid.num_frames, 24)
    assert batch.covered["toy.bands"].all(1).tolist() == [True] * 6 + [False] * 3
    with torch.no_grad():
        result = student(batch.inputs, batch.labels_BS, batch.audio_weights_BNS)
    # A padded batch, a packed batch and single rows give the same outputs, targets and logits.
    packed = collate(rows, grid=grid, pad_id=pad_id, packed=True)
    separate = [collate([row], grid=grid, pad_id=pad_id) for row in rows]
    with torch.no_grad():
        as_packed = student(packed.inputs, packed.labels_BS, packed.audio_weights_BNS)
        singles = [
            student(item.inputs, item.labels_BS, item.audio_weights_BNS) for item in separate
        ]
    for name in STREAMS:
        frames_BND = result.frames[name]
        assert frames_BND.shape[:2] == (9, grid.num_frames)
        single = torch.cat([item.frames[name] for item in singles])
        torch.testing.assert_close(frames_BND, single, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(frames_BND, as_packed.frames[name], rtol=1e-3, atol=1e-4)
    assert result.tower_BNH.shape[:2] == (9, grid.num_frames)
    torch.testing.assert_close(result.tower_BNH, torch.cat([item.tower_BNH for item in singles]))
    torch.testing.assert_close(result.tower_BNH, as_packed.tower_BNH, rtol=1e-4, atol=1e-5)
    logits_AV = torch.cat([item.logits_AV for item in singles])
    torch.testing.assert_close(result.logits_AV, logits_AV, rtol=1e-3, atol=1e-4)
    assert set(stream_targets(batch, result)) == set(STREAMS)


@pytest.fixture(scope="module", params=WINDOWS_S)
def long_run(
    request: Any, toy_data: LongToyData, paths: dict[str, Path], tmp_path_factory: Any
) -> tuple[str, Path]:
    out = tmp_path_factory.mktemp("long-runs") / request.param
    report = train(options(toy_data, paths, request.param, out))
    assert report["joint"]["answer_loss"] < report["before"]["answer_loss"]
    return request.param, out


def stock_inputs(family: str, out: Path, path: str, wave: np.ndarray) -> dict[str, Any]:
    """Returns the inputs of a question as docs/serve.md makes them, without this project."""
    content = [{"type": "audio", "audio": path}, {"type": "text", "text": "What is said?"}]
    messages = [{"role": "user", "content": content}]
    is_flamingo = family in ("audioflamingo3", "musicflamingo")
    if is_flamingo:
        renderer = AutoProcessor.from_pretrained(out)
    elif family == "voxtral":
        renderer = AutoTokenizer.from_pretrained(out, mistral_format=False)
    else:
        renderer = AutoTokenizer.from_pretrained(out)
    text = renderer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True,
        thinking_blocks=math.ceil(len(wave) / RATE / BLOCK_S),
    )  # fmt: skip
    assert text.count("<|audio_think_start|>") == 3
    if is_flamingo:
        return renderer(text=[text], audio=[wave])
    extractor = WhisperFeatureExtractor.from_pretrained(out)
    if family == "voxtral":  # windows of 2 s, each with 25 placeholders
        windows = math.ceil(len(wave) / RATE / WINDOWS_S[family])
        whole = windows * WINDOWS_S[family] * RATE
        features = extractor(
            np.pad(wave, (0, whole - len(wave))), sampling_rate=RATE, truncation=False,
            padding="longest", return_tensors="pt",
        )["input_features"]  # fmt: skip
        ids = renderer(
            text.replace("[AUDIO]", "[AUDIO]" * 25 * windows),
            add_special_tokens=False, return_tensors="pt",
        )  # fmt: skip
        return {**ids, "input_features": torch.cat(features.chunk(windows, dim=-1))}
    is_whole = family == "qwen3_omni_moe"
    received = extractor(
        wave, sampling_rate=RATE, return_attention_mask=True, return_tensors="pt",
        **({"padding": True, "truncation": False} if is_whole else {}),
    )  # fmt: skip
    frames = int(received["attention_mask"].sum())
    tokens = count_tokens(frames) if is_whole else ((frames - 1) // 2 - 1) // 2 + 1
    placeholder = PLACEHOLDERS[family]
    ids = renderer(text.replace(placeholder, placeholder * tokens), return_tensors="pt")
    return {
        **ids, "input_features": received["input_features"],
        "feature_attention_mask": received["attention_mask"],
    }  # fmt: skip


def test_export_gives_the_same_ids_and_logits_in_transformers(
    long_run: tuple[str, Path], toy_data: LongToyData, tmp_path: Path
) -> None:
    """The number of blocks is passed to the chat template."""
    family, run = long_run
    out = tmp_path / "export"
    proof = export(run, out)
    assert proof.holds
    assert proof.largest_difference < 1e-4
    assert "thinking_blocks=math.ceil(seconds / 2)" in (out / "README.md").read_text()
    trained = TrainedStudent(run)
    path = toy_data.clips[2].uri  # 4.7 s: three blocks
    wave = soundfile.read(path, dtype="float32")[0]
    ours = trained.inputs([ask("What is said?")], [[wave]])
    with torch.no_grad():
        expected = trained.student.base(**ours).logits

    plain = stock_inputs(family, out, path, wave)
    model = STOCK_CLASSES[family].from_pretrained(out)
    torch.testing.assert_close(plain["input_ids"], ours["input_ids"])
    block = trained.student.block
    assert block is not None
    words = torch.ones(expected.shape[-1], dtype=torch.bool)
    words[list(block.ids)] = False
    with torch.no_grad():
        logits = model.eval()(**plain).logits
    torch.testing.assert_close(logits[..., words], expected[..., words], rtol=1e-3, atol=1e-3)
    # An export can be loaded directly, and contains the seconds per block.
    exported = TrainedStudent(out)
    again = exported.inputs([ask("What is said?")], [[wave]])
    torch.testing.assert_close(again["input_ids"], ours["input_ids"])
    assert exported.answer([path], "What is said?", max_tokens=4) == trained.answer(
        [path], "What is said?", max_tokens=4
    )


def test_commands_support_several_blocks_or_raise_an_error(
    long_run: tuple[str, Path], toy_data: LongToyData
) -> None:
    _, run = long_run
    trained = TrainedStudent(run, heads=True)
    wave = soundfile.read(toy_data.clips[2].uri, dtype="float32")[0]
    for output in head_outputs(trained, wave, "What is said?", Run(run).sources.streams):
        assert len(output.values_ND) == 3 * 8
    output = read_run(run, [str(toy_data.cache)], pictures=0)
    assert set(output["streams"]) == set(STREAMS)
    clips = [clip for clip in toy_data.clips if clip.duration == toy_data.clips[2].duration][:2]
    for duration in (toy_data.clips[2].duration, None):
        questions = [
            Question(id=str(n), kind="label", audio=clip.uri, question="?", answer=str(n),
                     duration=duration)
            for n, clip in enumerate(clips)
        ]  # fmt: skip
        with pytest.raises(UserError, match=r"one block per clip"):
            ablate(run, questions)


@pytest.mark.parametrize("family", FAMILIES)
def test_template_with_several_blocks_is_recognised(
    checkpoints: Any, family: str, toy_data: LongToyData, tmp_path: Path
) -> None:
    """Training from an export with the same seconds keeps the template; others raise an error."""
    base_options = toy_data.options(tmp_path / "x", streams=STREAMS)
    model = dataclasses.replace(base_options.model, build=None, path=checkpoints(family))
    for placement in ("before_response", "after_audio"):
        block = BlockConfig(tokens=4, seconds=2.5, placement=placement)
        recipe = dataclasses.replace(base_options, model=model, block=block).recipe()
        backbone, loaded, processor = load_backbone(recipe.model, checkpoints(family))
        original = processor.chat_template
        build_student(recipe, backbone, loaded, processor, {})
        first = processor.chat_template
        assert first != original
        build_student(recipe, backbone, loaded, processor, {})
        assert processor.chat_template == first
        other = dataclasses.replace(recipe, block=dataclasses.replace(block, seconds=3.0))
        with pytest.raises(UserError, match=r"another block\.seconds"):
            build_student(other, backbone, loaded, processor, {})
        plain = dataclasses.replace(recipe, arm="sft", align=None)
        build_student(plain, backbone, loaded, processor, {})
        assert processor.chat_template == original


def test_single_block_covers_a_clip_of_several_windows(
    toy_data: LongToyData, paths: dict[str, Path], tmp_path: Path
) -> None:
    """By default, a block has K positions for the whole clip, even if it lasts 10 minutes."""
    base_options = options(toy_data, paths, "audioflamingo3", tmp_path / "run")
    base_options = dataclasses.replace(base_options, block=BlockConfig(tokens=4), align=None)
    train(base_options)
    trained = TrainedStudent(tmp_path / "run")
    wave = soundfile.read(toy_data.clips[2].uri, dtype="float32")[0]
    inputs = trained.inputs([ask("?")], [[wave]])
    token = trained.student.backbone.audio_token_id(trained.student.base)
    assert int((inputs["input_ids"] == token).sum()) == 117  # 25 per second: nothing is truncated
    assert len(inputs["input_features"]) == 3
    export(tmp_path / "run", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())
