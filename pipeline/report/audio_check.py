"""Measures the decoded samples of clips: silence, peaks and clipping."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from manifests import audio
from manifests.clips import Clip
from manifests.decoders.checks import clipped_share
from manifests.page.sound import decode

DECODERS = 4
"""Number of clips decoded in parallel."""
FLOOR_DB = -120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """Measurements of one clip's samples."""

    clip_id: str
    problem: str = ""
    """The reason why there are no samples, or empty."""
    digest: str = ""
    """Digest of the decoded content, see `manifests.audio.Waveform`."""
    seconds: float = 0.0
    peak_db: float = FLOOR_DB
    """Largest magnitude, dB of full scale."""
    rms_db: float = FLOOR_DB
    clipped: float = 0.0
    """Share of the samples that belong to a flat top at full scale."""


def measure_clips(clips: Iterable[Clip]) -> Iterator[Sound]:
    """Decodes clips, a few in parallel, and yields the results in order."""
    with ThreadPoolExecutor(DECODERS) as pool:
        yield from pool.map(_sound, clips)


def measure(clip_id: str, wave: audio.Waveform) -> Sound:
    """Measures one waveform."""
    magnitudes = np.abs(wave.samples)
    return Sound(
        clip_id=clip_id,
        digest=wave.digest,
        seconds=wave.seconds,
        peak_db=_decibel(float(magnitudes.max())),
        rms_db=_decibel(float(np.sqrt(np.mean(magnitudes.astype(np.float64) ** 2)))),
        clipped=clipped_share(wave.samples),
    )


def _sound(clip: Clip) -> Sound:
    wave = decode(clip)
    if isinstance(wave, str):
        return Sound(clip_id=clip.clip_id, problem=wave)
    return measure(clip.clip_id, wave)


def _decibel(magnitude: float) -> float:
    return max(FLOOR_DB, 20 * float(np.log10(max(magnitude, 1e-9))))
