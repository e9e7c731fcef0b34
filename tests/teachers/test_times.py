"""Tests that frames have the times of their grid, with stimuli at known times."""

from __future__ import annotations

import numpy as np
import pytest

from manifests.streams.pitch_bins import CREPE_BINS
from teachers import registry
from teachers.adapters.egemaps import NAMES
from teachers.protocol import Teacher
from tests.teachers.conftest import Load


def extract_stream(
    teacher: Teacher, wave: np.ndarray, stream: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a stream's frames and their times in seconds."""
    spec = teacher.spec().stream(stream)
    frames_TD = teacher.extract([wave.astype(np.float32)])[0].frames[stream]
    return frames_TD, spec.start_s + spec.hop_s * np.arange(len(frames_TD))


def middle(times: np.ndarray, high: np.ndarray) -> float:
    """Returns the middle of the first and the last of the selected times."""
    inside = times[high]
    return float(inside[0] + inside[-1]) / 2


@pytest.mark.parametrize("position", [0.5, 0.513, 0.527, 1.0])
def test_loudness_peaks_at_a_click(load: Load, position: float):
    wave = np.zeros(24_000)
    wave[round(position * 16_000) - 8 :][:16] = 0.5
    frames_TD, times = extract_stream(load("emotion"), wave, "lld")
    loud = frames_TD[:, 0]
    assert abs(middle(times, loud > loud.max() / 2) - position) <= 0.0051


@pytest.mark.parametrize("begin", [0.5, 0.704])
def test_voice_descriptors_have_the_times_of_loudness(load: Load, begin: float):
    time = np.arange(32_000) / 16_000
    tone = sum(np.sin(2 * np.pi * 200 * n * time) / n for n in range(1, 8))
    wave = 0.1 * tone * ((time >= begin) & (time < begin + 0.5))
    frames_TD, times = extract_stream(load("emotion"), wave, "lld")
    loud, f0 = frames_TD[:, 0], frames_TD[:, 10]
    assert abs(middle(times, loud > loud.max() / 2) - (begin + 0.25)) <= 0.0051
    # Voicing is decided per frame: the ends are exact to a hop, the middle to half a hop.
    assert abs(middle(times, f0 > 0) - (begin + 0.25)) <= 0.01


@pytest.mark.parametrize(("revision", "early_s"), [(2, 0.0), (1, 0.02)])
def test_formant_amplitudes_have_the_times_of_f0(revision: int, early_s: float):
    """openSMILE computes both from the same 60 ms; revision 1 had amplitudes 20 ms early."""
    time = np.arange(24_000) / 16_000
    tone = sum(np.sin(2 * np.pi * 200 * n * time) / n for n in range(1, 8))
    wave = 0.1 * tone * ((time >= 0.5) & (time < 1.0))
    teacher = registry.make("emotion", "egemaps", {"revision": revision})
    teacher.load(device="cpu", num_threads=1)
    frames_TD, times = extract_stream(teacher, wave, "lld")
    f0 = middle(times, frames_TD[:, NAMES.index("F0semitoneFrom27.5Hz_sma3nz")] > 0)
    for formant in (1, 2, 3):
        column = NAMES.index(f"F{formant}amplitudeLogRelF0_sma3nz")
        # openSMILE writes -201 for unvoiced frames.
        amplitude = middle(times, frames_TD[:, column] > -200)
        assert abs(f0 - early_s - amplitude) <= 0.0101


def test_salience_changes_when_the_pitch_changes(load: Load):
    time = np.arange(24_000) / 16_000

    def column(hertz: float) -> int:
        return round(1200 * np.log2(hertz / CREPE_BINS.lowest_hz) / CREPE_BINS.cents_per_bin)

    delays = []
    for change in np.linspace(0.6, 0.61, 5):
        for before, after in ((440, 660), (660, 440)):
            wave = 0.3 * np.sin(2 * np.pi * np.where(time < change, before, after) * time)
            salience_TB, times = extract_stream(load("pitch"), wave, "salience")
            lead = salience_TB[:, column(after)] - salience_TB[:, column(before)]
            first = np.flatnonzero((lead > 0) & (times > 0.3))[0]
            share = lead[first] / (lead[first] - lead[first - 1])
            delays.append(times[first] - 0.01 * share - change)
    assert abs(np.mean(delays)) <= 0.005
    assert np.abs(delays).max() <= 0.01


@pytest.mark.parametrize("begin", [0.5, 1.2, 2.7, 3.303])
def test_note_frames_have_the_time_of_the_note(load: Load, begin: float):
    time = np.arange(5 * 22_050) / 22_050
    harmonics = sum(np.sin(2 * np.pi * 440 * n * time) / n for n in range(1, 6))
    wave = 0.1 * harmonics * ((time >= begin) & (time < begin + 0.4))
    key = 69 - 21
    contours, times = extract_stream(load("music"), wave, "contours")
    line = contours[:, 3 * key + 1]
    assert abs(middle(times, line > line.max() / 2) - (begin + 0.2)) <= 128 / 22_050
    onsets, times = extract_stream(load("music"), wave, "onsets")
    # The network was trained to detect onsets a frame early.
    assert abs(times[onsets[:, key].argmax()] - begin) <= 1.5 * 256 / 22_050


@pytest.mark.parametrize(("hop_s", "tolerance"), [(0.48, 0.24), (0.1, 0.05)])
@pytest.mark.parametrize("begin", [3.0, 3.2, 3.4])
def test_event_posteriors_have_the_time_of_the_event(
    load: Load, hop_s: float, tolerance: float, begin: float
):
    time = np.arange(9 * 16_000) / 16_000
    hiss = np.random.default_rng(0).normal(scale=5e-4, size=len(time))
    beep = 0.3 * np.sin(2 * np.pi * 1000 * time) * ((time >= begin) & (time < begin + 2))
    posteriors, times = extract_stream(load("sound_event", hop_s=hop_s), hiss + beep, "events")
    change = posteriors[np.abs(times - begin - 1).argmin()] - posteriors[0]
    likeness = (posteriors - posteriors[0]) @ change / (change @ change)
    assert abs(middle(times, likeness > 0.5) - (begin + 1)) <= tolerance


@pytest.mark.parametrize("position", [0.5, 1.0, 1.01, 2.51])
def test_whisper_frames_change_at_a_click(load: Load, position: float):
    wave = np.zeros(48_000)
    noise = np.random.default_rng(0).normal(scale=0.2, size=320)
    wave[round(position * 16_000) - 160 :][:320] = noise
    frames_TD, times = extract_stream(load("asr"), wave, "encoder")
    change = (np.diff(frames_TD, axis=0) ** 2).sum(1)
    between = (times[1:] + times[:-1]) / 2
    near = np.abs(between - position) < 0.2
    largest = between[near][change[near].argsort()[-4:]]
    assert abs(np.median(largest) - position) <= 0.0201
