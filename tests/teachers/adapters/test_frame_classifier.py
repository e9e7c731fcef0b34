"""Tests for frame classifiers on tiny checkpoints: parity with transformers, columns, windows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from manifests.errors import UserError
from teachers import registry
from teachers.adapters.frame_classifier import FrameClassifier, FrameClassifierSettings
from teachers.protocol import Teacher
from tests.teachers import checkpoints
from tests.teachers.checkpoints import sound

RATE = 16_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.speakers(tmp_path_factory.mktemp("speakers"))


def load(folder: Path, **settings: Any) -> Teacher:
    teacher = registry.make("speakers", "frame_classifier", {"model": str(folder), **settings})
    teacher.load(device="cpu", num_threads=1)
    return teacher


def run_transformers(folder: Path, wave: np.ndarray) -> np.ndarray:
    """Returns the output of transformers for a single clip."""
    model = transformers.AutoModelForAudioFrameClassification.from_pretrained(folder).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    inputs = extractor([wave], sampling_rate=RATE, return_tensors="pt")
    with torch.inference_mode():
        return model(**inputs).logits[0].sigmoid().numpy()


# 1.6 and 3.2 s are whole groups of mel frames; longer clips take several chunks.
@pytest.mark.parametrize("seconds", [1.6, 1.63, 3.2, 7.77])
def test_activity_of_a_padded_clip_matches_transformers(folder: Path, seconds: float):
    wave = sound(seconds, RATE)
    targets, _ = load(folder).extract([wave, sound(9.0, RATE, 1)])
    expected_TC = run_transformers(folder, wave)
    activity_TC = targets.frames["posteriors"]
    assert len(activity_TC) == len(wave) // 160
    # The columns are those of transformers in another order.
    distance_CC = np.abs(
        activity_TC[:, :, None] - expected_TC[: len(activity_TC), None, :]
    ).max(0)  # fmt: skip
    assert sorted(distance_CC.argmin(1)) == [0, 1, 2, 3]
    assert distance_CC.min(1).max() < 1e-5


def test_frame_times_match_the_position_of_a_click(folder: Path):
    """With a disabled encoder, eight frames share a state that is centred at the click."""
    teacher = load(folder)
    for layer in teacher._model.model.audio_tower.layers:  # pyright: ignore
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.self_attn.o_proj.bias)
        torch.nn.init.zeros_(layer.mlp.fc2.weight)
        torch.nn.init.zeros_(layer.mlp.fc2.bias)
    background = 0.01 * sound(2.3, RATE)
    delays = []
    for index in np.linspace(1.0, 1.07, 8):
        clicked = background.copy()
        clicked[round(index * RATE) - 32 :][:64] += 0.5
        before, after = (
            teacher._native_frames([wave])[0]["posteriors"]  # pyright: ignore
            for wave in (background, clicked)
        )
        change_T = np.abs(after - before).sum(1)
        times_T = 0.01 * np.arange(len(change_T))
        delays.append((times_T * change_T).sum() / change_T.sum() - index)
    assert abs(np.mean(delays)) < 0.02
    assert np.abs(delays).max() < 0.06


class ConversationClassifier(FrameClassifier):
    """Returns the true activity, with the speakers of each window in another order."""

    def _forward_batch(self, waves: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
        results = []
        for wave in waves:
            # The value of a sample gives the active speakers as the bits of a number.
            speakers_T = np.rint(wave[200::320] * 100).astype(int)[: self._input.count(len(wave))]
            activity_TC = np.stack([speakers_T >> bit & 1 for bit in range(2)], 1) * 0.9 + 0.05
            turn = int(np.abs(wave).sum()) % 2
            results.append({"posteriors": np.roll(activity_TC, turn, axis=1).astype(np.float32)})
        return results


def test_speakers_keep_their_column_across_windows(tmp_path: Path):
    rng = np.random.default_rng(0)
    # Speaker 2 begins; then both speak in random turns, sometimes at the same time.
    speakers = [2, *rng.integers(0, 4, size=119).tolist()]
    wave = np.repeat(np.array(speakers) / 100, RATE).astype(np.float32)
    settings = FrameClassifierSettings(
        model=str(checkpoints.speaker_frames(tmp_path)), window_s=20.0, overlap_s=6.0
    )
    (targets,) = ConversationClassifier("speakers", settings).extract([wave])
    activity_TC = targets.frames["posteriors"]
    truth_T = np.rint(wave[200::320] * 100).astype(int)[: len(activity_TC)]
    assert np.array_equal(activity_TC[:, 0] > 0.5, truth_T >> 1 & 1 == 1)
    assert np.array_equal(activity_TC[:, 1] > 0.5, truth_T & 1 == 1)
    first = targets.metadata["speakers"][0]
    assert first[0] == "speaker 1"
    assert first[1] < 0.01


def test_named_columns_keep_their_order(tmp_path: Path):
    labels = {"id2label": {0: "speech", 1: "music", 2: "noise"}, "num_labels": 3}
    folder = checkpoints._save_waveform_model(
        "Wav2Vec2", "ForAudioFrameClassification", tmp_path, **labels
    )
    teacher = load(folder)
    assert teacher.spec().stream("posteriors").names == ("speech", "music", "noise")
    wave = sound(1.5, RATE)
    (targets,) = teacher.extract([wave])
    assert np.abs(targets.frames["posteriors"] - run_transformers(folder, wave)).max() < 1e-4
    assert targets.metadata == {}


def test_softmax_scores_are_a_distribution(tmp_path: Path):
    teacher = load(checkpoints.speaker_frames(tmp_path), columns="classes", scores="softmax")
    assert teacher.spec().stream("posteriors").kind == "distribution"
    (targets,) = teacher.extract([sound(1.0, RATE)])
    assert np.allclose(targets.frames["posteriors"].sum(1), 1, atol=1e-5)


def test_nemotron_with_features_raises_an_error(folder: Path):
    with pytest.raises(UserError, match="set features: false"):
        load(folder, features=True)


def test_nemotron_window_is_one_hour(folder: Path):
    assert load(folder)._window_frames() == 360_000  # pyright: ignore
