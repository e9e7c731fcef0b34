"""Tests for Qwen3's forced aligner on a tiny checkpoint: parity with transformers, frames."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from manifests.errors import UserError
from manifests.streams.transcript import Word
from teachers import registry
from teachers.adapters.forced_aligner import ForcedAligner, ForcedAlignerSettings
from teachers.protocol import Teacher, extract_targets
from tests.teachers import checkpoints
from tests.teachers.checkpoints import sound

RATE = 16_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.forced_aligner(tmp_path_factory.mktemp("aligner"))


def load(folder: Path, **settings: Any) -> Teacher:
    teacher = registry.make("words", "forced_aligner", {"model": str(folder), **settings})
    teacher.load(device="cpu", num_threads=1)
    return teacher


def test_word_times_match_transformers(folder: Path):
    wave, text = sound(8.0, RATE), "This is music, with drums."
    (targets,) = extract_targets(load(folder), [wave], [text])
    processor = transformers.AutoProcessor.from_pretrained(folder)
    model = transformers.Qwen3ASRForTokenClassification.from_pretrained(folder).eval()
    inputs, words = processor.prepare_forced_aligner_inputs(audio=[wave], transcript=[text])
    with torch.inference_mode():
        logits = model(**inputs).logits
    (expected,) = processor.decode_forced_alignment(
        logits, inputs["input_ids"], words, model.config.timestamp_token_id
    )
    assert [word.text for word in targets.metadata["words"]] == [
        "This", "is", "music", "with", "drums",
    ]  # fmt: skip
    assert targets.metadata["words"] == [
        (word["text"], word["start_time"], word["end_time"]) for word in expected
    ]
    assert targets.metadata["text"] == text


def test_targets_do_not_depend_on_other_clips_of_the_batch(folder: Path):
    teacher = load(folder)
    waves = [sound(seconds, RATE, seed) for seed, seconds in enumerate((8.0, 0.3, 5.5))]
    texts = ["This is a violin", "drums", "a sound of music with drums"]
    together = extract_targets(teacher, waves, texts)
    for wave, text, targets in zip(waves, texts, together, strict=True):
        (single,) = extract_targets(teacher, [wave], [text])
        assert targets.metadata == single.metadata
        assert np.array_equal(targets.frames["words"], single.frames["words"])
        assert len(single.frames["words"]) == max(1, round(len(wave) / RATE / 0.08))
        json.dumps(targets.metadata)


def test_bfloat16_is_close_to_float32(folder: Path):
    wave, text = sound(8.0, RATE), "This is music"
    processor = transformers.AutoProcessor.from_pretrained(folder)
    logits = []
    for dtype in ("float32", "bfloat16"):
        model = load(folder, dtype=dtype)._model  # pyright: ignore
        inputs, _ = processor.prepare_forced_aligner_inputs(audio=[wave], transcript=[text])
        inputs["input_features"] = inputs["input_features"].to(model.dtype)
        with torch.inference_mode():
            logits.append(model(**inputs).logits.float())
    assert (logits[1] - logits[0]).std() < 0.1 * logits[0].std()


class FixedAligner(ForcedAligner):
    """An aligner that returns fixed times of three words."""

    def _align(self, waves: Sequence[np.ndarray], texts: Sequence[str]) -> list[list[Word]]:
        return [[Word("one", 0.16, 0.4), Word("two", 0.4, 0.48), Word("three", 0.88, 0.96)]]


def test_frames_mark_words_and_their_starts(folder: Path):
    teacher = FixedAligner("words", ForcedAlignerSettings(model=str(folder)))
    teacher.load(device="cpu", num_threads=1)
    (targets,) = teacher.extract_with_texts([sound(0.96, RATE)], ["one two three"])
    spoken_T, begins_T = targets.frames["words"].T
    assert spoken_T.tolist() == [0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 1]
    assert begins_T.tolist() == [0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1]
    stream = teacher.spec().stream("words")
    assert (stream.start_s, stream.hop_s) == (0.04, 0.08)


@pytest.mark.parametrize(
    ("seconds", "text", "message"),
    [(1.0, None, "no text"), (1.0, " ... ", "no text"), (301.0, "a violin", "takes 300 s")],
)
def test_missing_text_or_too_long_audio_raises_value_error(
    folder: Path, seconds: float, text: str | None, message: str
):
    with pytest.raises(ValueError, match=message):
        extract_targets(load(folder), [np.zeros(round(seconds * RATE), np.float32)], [text])


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"frame_rate": 10.0}, "drop frame_rate"), ({"language": "ja"}, "pip install nagisa")],
)
def test_invalid_settings_raise_an_error(folder: Path, settings: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        load(folder, **settings)


def test_checkpoint_of_another_model_raises_an_error(tmp_path: Path):
    with pytest.raises(UserError, match="not a Qwen3 forced aligner"):
        load(checkpoints.hubert(tmp_path))


def test_chat_template_is_part_of_the_fingerprint(folder: Path):
    assert "chat_template.jinja" in load(folder).spec().weights
