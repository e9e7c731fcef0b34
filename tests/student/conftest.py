"""A small world to train in: tones and noises as a corpus, and a cache of what they are.

The "teacher" computes its targets from the waveform's known content, so a student that hears can
learn them; corpus and cache are written by the product's own code.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from manifests import corpus as corpora
from manifests import shards
from manifests.clips import Clip
from manifests.codecs import encode
from manifests.layout import Layout
from manifests.streams import StreamSpec, TeacherSpec
from manifests.sums import Sums

RATE = 16000
NOTES = ("low", "middle", "high", "top")
NOTE_HZ = (220.0, 330.0, 494.0, 740.0)
STREAMS = (
    StreamSpec(name="bands", kind="features", dim=24, start_s=0.02, hop_s=0.04, window_s=0.04, codec="int8"),
    StreamSpec(name="events", kind="multilabel", dim=5, start_s=0.05, hop_s=0.1, window_s=0.1, codec="uint8"),
    StreamSpec(name="class", kind="distribution", dim=5, start_s=0.25, hop_s=0.5, window_s=0.5, codec="uint8"),
    StreamSpec(name="salience", kind="pitch", dim=361, start_s=0.0, hop_s=0.01, window_s=0.06, codec="pitch"),
    StreamSpec(name="f0", kind="curve", dim=1, start_s=0.0, hop_s=0.01, window_s=0.06, codec="fp16"),
)  # fmt: skip
SPEC = TeacherSpec(
    name="toy", family="tests:Toy", revision=1, settings={}, weights={}, sample_rate=RATE,
    streams=STREAMS, license="none",
)  # fmt: skip


def sing(rng: np.random.Generator, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """A tone for half of the time, noise for the other: (wave, note per 10 ms, 4 for noise)."""
    note = int(rng.integers(4))
    times = np.arange(int(seconds * RATE)) / RATE
    tone = 0.4 * np.sin(2 * np.pi * NOTE_HZ[note] * times)
    first = bool(rng.integers(2))
    is_tone = (times < seconds / 2) == first
    noise = 0.1 * rng.standard_normal(len(times))
    wave = np.where(is_tone, tone, noise).astype(np.float32)
    return wave, np.where(is_tone[:: RATE // 100], note, 4)


def targets(wave: np.ndarray, note_T: np.ndarray) -> dict[str, np.ndarray]:
    """What the toy teacher hears, on each stream's own grid."""
    hop = int(0.04 * RATE)
    pieces = wave[: len(wave) // hop * hop].reshape(-1, hop)
    power = np.log(np.abs(np.fft.rfft(pieces * np.hanning(hop)))[:, 1:241] ** 2 + 1e-4)
    one_hot = np.eye(5, dtype=np.float32)
    cents = 1200 * np.log2(np.array([*NOTE_HZ, 100.0]) / 32.70)
    peaks = np.exp(-(((np.arange(360) * 20)[None] - cents[note_T, None]) ** 2) / (2 * 25**2))
    voiced = (note_T < 4).astype(np.float32)[:, None]
    return {
        "bands": power.reshape(len(power), 24, 10).mean(2).astype(np.float32),
        "events": one_hot[note_T[::10]],
        "class": one_hot[note_T[::50]],
        "salience": np.concatenate([peaks * voiced, voiced], 1).astype(np.float32),
        "f0": voiced,
    }


def write_cache(cache: Path, corpus: corpora.Corpus, heard: dict[str, dict[str, np.ndarray]]) -> None:
    """Commits the toy teacher's targets for the clips that it has heard."""
    layout = Layout.create(cache)
    layout.register(corpus)
    layout.add_teacher(SPEC)
    for number in range(corpus.num_shards):
        clips = corpus.shard(number)
        sums = {stream.name: Sums.zero(stream.dim) for stream in STREAMS}
        rows, failures = [], []
        for clip in clips:
            if clip.clip_id not in heard:
                failures.append(
                    shards.Failure(clip_id=clip.clip_id, stage="decode", error="lost", message="")
                )
                continue
            frames = {}
            for stream in STREAMS:
                values = heard[clip.clip_id][stream.name]
                frames[stream.name] = encode(values, stream)
                sums[stream.name].add(Sums.of(values, frames[stream.name]))
            rows.append(
                shards.Row(clip_id=clip.clip_id, duration=clip.duration or 0.0, audio_digest="-",
                           metadata={}, frames=frames)
            )  # fmt: skip
        shards.write(layout.shards(SPEC, corpus.name), SPEC, shard=number,
                     clip_ids=[clip.clip_id for clip in clips], rows=rows, failures=failures,
                     sums=sums, extract_seconds=0.0, finished="")  # fmt: skip


class World:
    """Where the toy corpus and its cache are."""

    def __init__(self, root: Path, num_clips: int, lost: int = 2) -> None:
        rng = np.random.default_rng(0)
        self.corpus, self.cache = root / "toy", root / "cache"
        self.clips: list[Clip] = []
        heard = {}
        for number in range(num_clips):
            seconds = 0.6 + 0.1 * (number % 8)
            wave, note_T = sing(rng, seconds)
            path = root / f"{number}.wav"
            soundfile.write(path, wave, RATE)
            name = NOTES[note_T[note_T < 4][0]]
            clip = Clip(clip_id=f"clip{number}", uri=str(path), duration=seconds,
                        text=f"a {name} tone" if number % 2 else None, labels={"note": name})  # fmt: skip
            self.clips.append(clip)
            if number >= lost:
                heard[clip.clip_id] = targets(wave, note_T)
        write_cache(self.cache, corpora.build(self.clips, self.corpus), heard)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """48 clips of about a second; the cache lacks two of them."""
    return World(tmp_path_factory.mktemp("world"), 48)
