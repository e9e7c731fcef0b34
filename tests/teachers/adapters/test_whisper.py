"""Tests for Whisper with transformers and OpenAI's package; some need real weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
import torch
import transformers

from teachers import registry
from teachers.protocol import Teacher
from teachers.toolkit.windowing import pooled
from teachers.toolkit.words import warp
from tests import debian_audio
from tests.teachers import checkpoints
from tests.teachers.checkpoints import WHISPER, sound

real = pytest.mark.skipif(not WHISPER.is_dir(), reason=f"needs Whisper's weights in {WHISPER}")
Load = Callable[..., Teacher]


@pytest.fixture(scope="module")
def load() -> Load:
    """`load(**settings)` returns a loaded teacher with the real tiny.en and one thread."""
    loaded_teachers: dict[str, Teacher] = {}

    def loaded(family: str = "whisper", **settings: Any) -> Teacher:
        key = f"{family} {settings}"
        if key not in loaded_teachers:
            loaded_teachers[key] = registry.make("asr", family, {"model": str(WHISPER), **settings})
            loaded_teachers[key].load(device="cpu", num_threads=1)
        return loaded_teachers[key]

    return loaded


def normalise_text(text: str) -> str:
    return " ".join(re.sub(r"[^a-z0-9' ]", " ", text.lower()).split())


def cosines(first_TD: np.ndarray, second_TD: np.ndarray) -> np.ndarray:
    """Returns the cosine of each frame pair, with columns standardised by the first."""
    mean_D, deviation_D = first_TD.mean(0), first_TD.std(0)
    first_TD, second_TD = (first_TD - mean_D) / deviation_D, (second_TD - mean_D) / deviation_D
    norms_T = np.linalg.norm(first_TD, axis=1) * np.linalg.norm(second_TD, axis=1)
    return (first_TD * second_TD).sum(1) / norms_T


@real
@pytest.mark.parametrize("seconds", [0.5, 7.3, 30.0])
@pytest.mark.parametrize("layer", [-1, 2])
def test_frames_match_transformers(load: Load, seconds: float, layer: int):
    wave = sound(seconds, 16_000)
    (received,) = load(transcribe=False, layer=layer).extract([wave])
    model = transformers.WhisperForConditionalGeneration.from_pretrained(
        WHISPER, dtype=torch.float32
    ).eval()
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(WHISPER)
    mel = extractor(wave, sampling_rate=16_000, return_tensors="pt").input_features
    with torch.inference_mode():
        states = model.model.encoder(mel, output_hidden_states=True)
    expected = states.last_hidden_state if layer == -1 else states.hidden_states[layer]
    frames_TD = received.frames["encoder"]
    assert len(frames_TD) == np.ceil(seconds * 50)
    error_TD = np.abs(frames_TD - expected[0, : len(frames_TD)].numpy())
    assert error_TD.max() < 2e-3 * np.abs(frames_TD).max()


@real
@pytest.mark.parametrize("rate", [25.0, 10.0])
def test_lower_frame_rates_are_averages_of_all_frames(load: Load, rate: float):
    """Clips of one window are averaged on the device, longer ones on the host."""
    waves = [sound(seconds, 16_000) for seconds in (0.03, 1.13, 41.0, 30.0)]
    native = load(transcribe=False).extract(waves)
    stored = load(transcribe=False, frame_rate=rate).extract(waves)
    for whole, averages in zip(native, stored, strict=True):
        expected_TD = pooled(whole.frames["encoder"], round(50 / rate))
        assert np.array_equal(averages.frames["encoder"], expected_TD)


@real
@pytest.mark.debian
def test_silence_step_changes_neither_transcripts_nor_frames_much(load: Load):
    spoken = debian_audio.prompts(12)
    waves = [wave for wave, _ in spoken]
    exact, thinned = load().extract(waves), load(silence_step=4).extract(waves)
    references = [normalise_text(text) for _, text in spoken]
    for received in (exact, thinned):
        transcripts = [normalise_text(targets.metadata["text"]) for targets in received]
        assert (
            jiwer.wer(references, transcripts) < 0.05
        )  # 0.036 on 120 prompts with the same weights
    similar_T = np.concatenate([
        cosines(first.frames["encoder"], second.frames["encoder"])
        for first, second in zip(exact, thinned, strict=True)
    ])  # fmt: skip
    assert similar_T.mean() > 0.995
    assert np.percentile(similar_T, 5) > 0.985
    for (wave, _), targets in zip(spoken, exact, strict=True):
        times = [time for _, start, end in targets.metadata["words"] for time in (start, end)]
        assert times == sorted(times)
        assert times[-1] <= len(wave) / 16_000 + 0.04


@real
@pytest.mark.debian
def test_words_and_frames_match_ctranslate2(load: Load):
    waves = [wave for wave, _ in debian_audio.prompts(4)]
    other = registry.make("asr", "whisper_ct2", {})
    other.load(device="cpu", num_threads=1)
    distances = []
    for ours, theirs in zip(load().extract(waves), other.extract(waves), strict=True):
        references, expected = (
            normalise_text(ours.metadata["text"]),
            normalise_text(theirs.metadata["text"]),
        )
        assert references == expected
        first, second = (
            np.array([word[1:] for word in each.metadata["words"]]) for each in (ours, theirs)
        )
        distances.append(np.median(np.abs(first - second)))
        assert cosines(ours.frames["encoder"], theirs.frames["encoder"]).min() > 0.999
    assert max(distances) <= 0.02


@real
@pytest.mark.debian
def test_openai_checkpoint_gives_the_same_transcript(load: Load, tmp_path: Path):
    pytest.importorskip("whisper")
    path = checkpoints.openai_whisper(tmp_path / "tiny.en.pt", WHISPER)
    waves = [wave for wave, _ in debian_audio.prompts(3)]
    teacher = load("openai_whisper", model=str(path))
    assert teacher.spec().streams[0].dim == 384
    for ours, theirs in zip(load().extract(waves), teacher.extract(waves), strict=True):
        assert normalise_text(ours.metadata["text"]) == normalise_text(theirs.metadata["text"])
        assert cosines(ours.frames["encoder"], theirs.frames["encoder"]).mean() > 0.9999


@real
@pytest.mark.debian
def test_long_clip_is_transcribed_without_repetitions(load: Load):
    spoken = debian_audio.prompts(16)
    wave = np.concatenate([wave for wave, _ in spoken])[: 55 * 16_000]
    (whole,) = load().extract([wave])
    single_texts = [targets.metadata["text"] for targets in load().extract([w for w, _ in spoken])]
    references = normalise_text(" ".join(single_texts))
    received = normalise_text(whole.metadata["text"])
    # The clip ends within a prompt, and windows have another context.
    assert jiwer.wer(references[: len(received)], received) < 0.15
    starts = [start for _, start, _ in whole.metadata["words"]]
    assert starts == sorted(starts)
    assert starts[-1] > 45


def test_warp_returns_the_steps_of_a_staircase():
    score_NT = np.zeros((4, 20))
    for token, (first, end) in enumerate(((0, 3), (3, 9), (9, 10), (10, 20))):
        score_NT[token, first:end] = 1
    assert warp(score_NT).tolist() == [0, 3, 9, 10]


def test_empty_language_is_detected(tmp_path: Path):
    folder = checkpoints.whisper(tmp_path)
    teacher = registry.make("asr", "whisper", {"model": str(folder), "language": ""})
    teacher.load(device="cpu", num_threads=1)
    (received,) = teacher.extract([sound(1, 16_000)])
    assert received.metadata["language"] in ("en", "de", "")
