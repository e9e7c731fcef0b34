"""Emotion and paralinguistics: the 25 low-level descriptors of eGeMAPSv02, from openSMILE.

Loudness, spectral balance, MFCCs, f0, jitter, shimmer, harmonics and formants every 10 ms (Eyben et
al., IEEE TAC 2016). openSMILE's own licence allows research and private use; commercial use needs
one from audEERING.

openSMILE numbers frames by their left edge, but computes voice descriptors over 60 ms and the
others over 20 ms, so the two groups are 20 ms apart in its rows. Here both are aligned to one grid.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

import numpy as np

from manifests.errors import UserError
from manifests.streams.specs import StreamSpec, TeacherSpec
from teachers.protocol import Targets
from teachers.toolkit.frame_grid import num_frames

SAMPLE_RATE = 16_000
HOP_S = 0.01
START_S = 0.03
"""Centre of the first 60 ms window."""
LAG = 2
"""Rows by which the 20 ms descriptors precede the 60 ms ones: (60 - 20) / 2 / 10."""
TAIL_S = 0.1
"""Silence appended so that openSMILE returns a row for every frame of the clip."""
VOICE = ("F0", "jitter", "shimmer", "HNR", "logRelF0-H1")
"""Prefixes of the names of the descriptors over 60 ms."""
FORMANT_AMPLITUDES = ("F1amplitude", "F2amplitude", "F3amplitude")
"""Prefixes of further ones, because openSMILE states them relative to F0. Revision 1 treated them
as 20 ms descriptors."""
NAMES = (
    "Loudness_sma3", "alphaRatio_sma3", "hammarbergIndex_sma3", "slope0-500_sma3",
    "slope500-1500_sma3", "spectralFlux_sma3", "mfcc1_sma3", "mfcc2_sma3", "mfcc3_sma3",
    "mfcc4_sma3", "F0semitoneFrom27.5Hz_sma3nz", "jitterLocal_sma3nz", "shimmerLocaldB_sma3nz",
    "HNRdBACF_sma3nz", "logRelF0-H1-H2_sma3nz", "logRelF0-H1-A3_sma3nz", "F1frequency_sma3nz",
    "F1bandwidth_sma3nz", "F1amplitudeLogRelF0_sma3nz", "F2frequency_sma3nz", "F2bandwidth_sma3nz",
    "F2amplitudeLogRelF0_sma3nz", "F3frequency_sma3nz", "F3bandwidth_sma3nz",
    "F3amplitudeLogRelF0_sma3nz",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class EGeMAPSSettings:
    """Settings of `EGeMAPS`."""

    revision: Literal[1, 2] = 2
    """Revision; 1 extends a version from before revision 2, in which the amplitudes of the three
    formants are 20 ms early."""

    @staticmethod
    def from_revision(revision: int) -> dict[str, Any]:
        """The settings that reproduce a version of this revision."""
        return {"revision": revision}


class EGeMAPS:
    """25 low-level descriptors every 10 ms."""

    Settings = EGeMAPSSettings

    def __init__(self, name: str, settings: EGeMAPSSettings) -> None:
        if settings.revision not in (1, 2):
            raise UserError(f"teacher {name}: revision must be 1 or 2; found {settings.revision!r}")
        self._name = name
        self._revision = settings.revision
        self._voice = VOICE if self._revision == 1 else (*VOICE, *FORMANT_AMPLITUDES)
        self._smile: Any = None

    def spec(self) -> TeacherSpec:
        """See `teachers.protocol.Teacher`."""
        stream = StreamSpec(
            name="lld", kind="features", dim=len(NAMES), start_s=START_S, hop_s=HOP_S,
            window_s=0.06, codec="int8", names=NAMES,
        )  # fmt: skip
        return TeacherSpec(
            name=self._name,
            family="egemaps",
            revision=self._revision,
            settings={},
            weights={},
            sample_rate=SAMPLE_RATE,
            streams=(stream,),
            license="openSMILE: research and private use; commercial use needs a licence",
            versions={"opensmile": metadata.version("opensmile")},
        )

    def load(self, *, device: str, num_threads: int) -> None:
        """See `teachers.protocol.Teacher`. openSMILE runs on the CPU, in one thread."""
        import opensmile

        self._smile = opensmile.Smile(
            feature_set=opensmile.FeatureSet.eGeMAPSv02,
            feature_level=opensmile.FeatureLevel.LowLevelDescriptors,
            num_workers=1,
        )
        assert tuple(self._smile.feature_names) == NAMES

    def extract(self, waves: Sequence[np.ndarray]) -> list[Targets]:
        """See `teachers.protocol.Teacher`."""
        return [Targets({"lld": self._descriptors(wave)}) for wave in waves]

    def _descriptors(self, wave: np.ndarray) -> np.ndarray:
        count = num_frames(len(wave), SAMPLE_RATE, start_s=START_S, hop_s=HOP_S)
        padded = np.pad(wave, (0, int(TAIL_S * SAMPLE_RATE)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows = self._smile.process_signal(padded, SAMPLE_RATE).to_numpy(np.float32)
        voice_D = np.array([name.startswith(self._voice) for name in NAMES])
        frames_TD = np.where(voice_D, rows[:-LAG], rows[LAG:])
        return frames_TD[:count]
