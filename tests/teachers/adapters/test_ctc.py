"""Tests for CTC models on log-mel inputs: parity with transformers, words, known texts, times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers

from manifests.errors import UserError
from teachers import registry
from teachers.protocol import Teacher, extract_targets
from tests.teachers import checkpoints
from tests.teachers.checkpoints import PIECES, sound

RATE = 16_000


def load(folder: Path, **settings: Any) -> Teacher:
    teacher = registry.make("words", "ctc", {"model": str(folder), **settings})
    teacher.load(device="cpu", num_threads=1)
    return teacher


@pytest.fixture(scope="module")
def parakeet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.parakeet(tmp_path_factory.mktemp("parakeet"))


@pytest.mark.parametrize("make", [checkpoints.parakeet, checkpoints.lasr])
@pytest.mark.parametrize("seconds", [0.5, 1.28, 2.345])
def test_posteriors_of_a_padded_clip_match_transformers(tmp_path: Path, make, seconds: float):
    folder = make(tmp_path)
    wave = sound(seconds, RATE)
    targets, _ = load(folder).extract([wave, sound(3.0, RATE, 1)])
    model = transformers.AutoModelForCTC.from_pretrained(folder).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    inputs = extractor([wave], sampling_rate=RATE, return_tensors="pt", return_attention_mask=True)
    with torch.inference_mode():
        expected_TV = model(**inputs).logits[0].softmax(-1).numpy()
    posteriors_TV = targets.frames["posteriors"]
    mask = inputs["attention_mask"]
    lengths = getattr(model, "encoder", model)._get_subsampling_output_length(mask.sum(-1))
    assert len(posteriors_TV) == int(lengths[0])
    assert np.abs(posteriors_TV - expected_TV[: len(posteriors_TV)]).max() < 1e-4


def test_text_is_the_decoded_best_path(parakeet: Path):
    (targets,) = load(parakeet).extract([sound(6.0, RATE)])
    path_T = targets.frames["posteriors"].argmax(1)
    kept = [
        int(token) for index, token in enumerate(path_T)
        if token != len(PIECES) - 1 and token != 0 and (index == 0 or token != path_T[index - 1])
    ]  # fmt: skip
    assert len(kept) > 5
    tokenizer = tokenizers.Tokenizer.from_file(str(parakeet / "tokenizer.json"))
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    assert targets.metadata["text"] == tokenizer.decode(kept)
    times = [time for _, *both in targets.metadata["words"] for time in both]
    assert times == sorted(times)
    assert times[-1] <= 6.0


def test_large_vocabulary_is_stored_with_topk16(tmp_path: Path, parakeet: Path):
    assert load(parakeet).spec().stream("posteriors").codec == "uint8"
    config = transformers.ParakeetCTCConfig(
        vocab_size=100, pad_token_id=99,
        encoder_config={**checkpoints.SMALL, "subsampling_conv_channels": 16, "num_mel_bins": 16},
    )  # fmt: skip
    folder = checkpoints.save(
        tmp_path, transformers.ParakeetForCTC(config),
        transformers.ParakeetFeatureExtractor(feature_size=16),
    )  # fmt: skip
    teacher = registry.make("words", "ctc", {"model": str(folder)})
    assert teacher.spec().stream("posteriors").codec == "topk16"


def test_known_text_is_aligned(parakeet: Path):
    wave = sound(6.0, RATE)
    teacher = load(parakeet, align=True)
    (free,) = teacher.extract([wave])
    decoded = free.metadata["text"]
    known, unknown = extract_targets(teacher, [wave, wave], [f"{decoded.upper()} 42!", None])
    assert unknown.metadata == free.metadata
    assert np.array_equal(known.frames["posteriors"], free.frames["posteriors"])
    # The decoded text itself is aligned at the times of the best path.
    words = known.metadata["words"]
    assert known.metadata["text"] == f"{decoded.upper()} 42!"
    assert [word.text for word in words] == [*decoded.upper().split(), "42!"]
    ours, theirs = (
        np.array([word[1:] for word in each]) for each in (words[:-1], free.metadata["words"])
    )
    assert np.median(np.abs(ours - theirs)) <= 0.08
    assert known.metadata["alignment"] > 0.2
    (wrong,) = extract_targets(teacher, [wave], ["a " * 60])
    assert wrong.metadata == free.metadata


def test_text_is_ignored_without_align(parakeet: Path):
    """Without `align`, a text changes neither targets nor the fingerprint."""
    wave = sound(1.0, RATE)
    teacher = load(parakeet)
    (free,), (with_text,) = teacher.extract([wave]), extract_targets(teacher, [wave], ["a b"])
    assert with_text.metadata == free.metadata
    assert "align" not in teacher.spec().settings


def test_align_with_a_phone_vocabulary_raises_an_error(tmp_path: Path):
    folder = checkpoints.ctc(tmp_path)
    (folder / "vocab.json").write_text('{"<pad>": 0, "a:": 1, "b": 2}')
    with pytest.raises(UserError, match="has phones"):
        load(folder, align=True)


def test_frame_times_match_the_position_of_a_click(tmp_path: Path):
    """The input of the first layer depends on fifteen mel frames."""
    teacher = load(checkpoints.parakeet(tmp_path), features=True, layer=0)
    for layer in teacher._model.encoder.layers:  # pyright: ignore
        for module in layer.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Conv1d):
                torch.nn.init.zeros_(module.weight)
                if module.bias is not None:
                    torch.nn.init.zeros_(module.bias)
    background = 0.1 * sound(4.0, RATE)
    stream = teacher.spec().stream("frames")
    delays = []
    for index in np.linspace(2.0, 2.14, 8):
        clicked = background.copy()
        clicked[round(index * RATE) - 32 :][:64] += 0.5
        before, after = (
            teacher.extract([wave])[0].frames["frames"] for wave in (background, clicked)
        )
        change_T = np.square(after - before).sum(1)
        times_T = stream.start_s + stream.hop_s * np.arange(len(change_T))
        near_T = np.abs(times_T - index) < 0.3
        delays.append((times_T * change_T)[near_T].sum() / change_T[near_T].sum() - index)
    assert abs(np.mean(delays)) < 0.02
    assert np.abs(delays).max() < 0.06
