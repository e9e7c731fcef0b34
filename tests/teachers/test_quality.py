"""Tests the accuracy of the embedded teachers on real recordings with known content.

The comment after a bound gives the value that was measured on the same recordings.
"""

from __future__ import annotations

import re

import jiwer
import mir_eval
import numpy as np
import pytest
import soxr

from manifests import audio
from manifests.clips import Clip
from manifests.streams.transcript import Transcript
from tests import debian_audio
from tests.debian_audio import MELODY_RATE, Melody
from tests.teachers.conftest import Load

pytestmark = pytest.mark.debian

ANIMALS = {
    "Animal", "Domestic animals, pets", "Livestock, farm animals, working animals", "Wild animals",
    "Bird", "Bird vocalization, bird call, bird song", "Chirp, tweet", "Fowl", "Insect", "Cricket",
    "Cat", "Meow", "Dog", "Bark", "Duck", "Quack", "Goose", "Honk", "Horse", "Clip-clop", "Owl",
    "Hoot", "Chicken, rooster", "Crowing, cock-a-doodle-doo", "Howl", "Canidae, dogs, wolves",
}  # fmt: skip


def normalise_text(text: str) -> str:
    return " ".join(re.sub(r"[^a-z0-9' ]", " ", text.lower()).split())


def within_half_a_semitone(hertz_T: np.ndarray, times: np.ndarray, melody: Melody) -> list[bool]:
    """Returns, for each frame well inside a note, whether its pitch is within 50 cents."""
    result: list[bool] = []
    for note in melody.notes:
        inside = hertz_T[(times > note.onset_s + 0.06) & (times < note.offset_s - 0.06)]
        result += (np.abs(1200 * np.log2(np.maximum(inside, 1.0) / note.hertz)) < 50).tolist()
    return result


def test_whisper_transcribes_prompts_with_few_errors(load: Load):
    spoken = debian_audio.prompts(16)
    results = load("asr").extract([wave for wave, _ in spoken])
    references = [normalise_text(text) for _, text in spoken]
    transcripts = [normalise_text(targets.metadata["text"]) for targets in results]
    assert jiwer.wer(references, transcripts) < 0.05  # 0.011
    for (wave, _), targets in zip(spoken, results, strict=True):
        times = [time for _, start, end in targets.metadata["words"] for time in (start, end)]
        assert times == sorted(times)
        assert times[-1] <= len(wave) / debian_audio.PROMPT_RATE + 0.02


def test_whisper_marks_transcripts_of_animal_sounds_as_doubtful(load: Load):
    teacher = load("asr")
    spoken = teacher.extract([wave for wave, _ in debian_audio.prompts(6)])
    assert [Transcript.from_metadata(targets.metadata).doubts for targets in spoken] == [""] * 6
    files = list(debian_audio.sounds("Animal").values())[:8]
    waves = [
        audio.resample(audio.decode(Clip(clip_id=file.stem, uri=str(file))), 16_000)
        for file in files
    ]
    results = [Transcript.from_metadata(result.metadata) for result in teacher.extract(waves)]
    with_text = [transcript for transcript in results if transcript.text]
    assert len(with_text) >= 2
    assert all(transcript.doubts for transcript in with_text)  # none is missed
    assert all(transcript.confidence for transcript in results)
    assert all(
        normalise_text.confidence.detected_language == ""
        for normalise_text in results
        if normalise_text.confidence
    )


def test_whisper_transcribes_a_long_clip_without_gaps_and_repetitions(load: Load):
    spoken = debian_audio.prompts(16)
    wave = np.concatenate([wave for wave, _ in spoken])[: 55 * debian_audio.PROMPT_RATE]
    (results,) = load("asr").extract([wave])
    references = normalise_text(" ".join(text for _, text in spoken)).split()
    result = normalise_text(results.metadata["text"]).split()
    # The clip ends within a prompt, and two windows join at 30 s.
    assert jiwer.wer(" ".join(references[: len(result)]), " ".join(result)) < 0.15
    starts = [start for _, start, _ in results.metadata["words"]]
    assert starts == sorted(starts)
    assert max(np.diff(starts)) < 4


def test_whisper_words_have_correct_times(load: Load):
    ((wave, _),) = debian_audio.prompts(1)
    late = np.concatenate([np.zeros(3 * debian_audio.PROMPT_RATE, np.float32), wave])
    (early,), (later,) = load("asr").extract([wave]), load("asr").extract([late])
    starts = [start for _, start, _ in early.metadata["words"]]
    assert starts
    moved = [start - 3.0 for _, start, _ in later.metadata["words"]]
    # The first word of a window may begin early, since nothing precedes it.
    assert np.abs(np.subtract(starts, moved)[1:]).max() < 0.1  # 0.02


def test_whisper_frames_agree_across_windows(load: Load):
    wave = np.concatenate([wave for wave, _ in debian_audio.prompts(16)])[: 45 * 16_000]
    teacher = load("asr", transcribe=False)
    (whole,), (part,) = teacher.extract([wave]), teacher.extract([wave[15 * 16_000 :]])
    first, second = whole.frames["encoder"][875:2125], part.frames["encoder"][125:1375]
    mean, deviation = first.mean(0), first.std(0)
    first, second = (first - mean) / deviation, (second - mean) / deviation
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    assert np.mean((first * second).sum(1) / norms) > 0.92  # 0.947: attention spans the window


def test_crepe_and_egemaps_track_the_pitch_of_melodies(load: Load):
    crepe, egemaps, unvoiced = [], [], []
    for melody in debian_audio.melodies(notes_each=8):
        wave = soxr.resample(melody.samples, MELODY_RATE, 16_000)
        f0, voicing = load("pitch").extract([wave])[0].frames["f0"].T
        times = np.arange(len(f0)) * 0.01
        crepe += within_half_a_semitone(f0, times, melody)
        unvoiced.append(voicing[times < 0.2].max())
        semitones = load("emotion").extract([wave])[0].frames["lld"][:, 10]
        times = 0.03 + np.arange(len(semitones)) * 0.01
        low = Melody(melody.instrument, wave, [note for note in melody.notes if note.midi <= 83])
        egemaps += within_half_a_semitone(27.5 * 2 ** (semitones / 12), times, low)
    assert np.mean(crepe) > 0.97  # 0.998
    assert np.mean(egemaps) > 0.97  # 1.000
    assert max(unvoiced) < 0.5


@pytest.mark.parametrize(("chords", "bound"), [(False, 0.91), (True, 0.94)])
def test_basic_pitch_transcribes_notes(load: Load, chords: bool, bound: float):
    scores = []
    for melody in debian_audio.melodies(chords=chords):
        wave = soxr.resample(melody.samples, MELODY_RATE, 22_050)
        results = load("music").extract([wave])[0].metadata["notes"]
        times = np.array([[onset, offset] for onset, offset, _, _ in results])
        hertz = np.array([440 * 2 ** ((midi - 69) / 12) for _, _, midi, _ in results])
        scores.append(
            mir_eval.transcription.precision_recall_f1_overlap(
                np.array([[note.onset_s, note.offset_s] for note in melody.notes]),
                np.array([note.hertz for note in melody.notes]),
                times,
                hertz,
                offset_ratio=None,
            )[2]
        )
    assert np.mean(scores) > bound  # 0.934, 0.966


def test_yamnet_detects_animals(load: Load):
    teacher = load("sound_event")
    names = teacher.spec().streams[0].names
    files = debian_audio.sounds("Animal")
    clips = [Clip(clip_id=name, uri=str(file)) for name, file in files.items()]
    ranked = [
        [names[index] for index in results.frames["events"].mean(0).argsort()[::-1]]
        for results in teacher.extract([audio.load(clip, 16_000) for clip in clips])
    ]
    assert np.mean([bool(ANIMALS & set(order[:5])) for order in ranked]) > 0.65  # 0.75
    assert np.mean([order[0] in ANIMALS for order in ranked]) > 0.45  # 0.56
