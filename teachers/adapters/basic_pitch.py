"""Music: Basic Pitch (Bittner et al., ICASSP 2022, arXiv 2203.09893): notes, onsets and contours.

The streams are posteriors of 88 sounding piano keys, 88 onsets of keys, and 264 contour bins (three
per semitone), at 86.13 frames per second. The network processes windows of 43,844 samples. Its own
code advances them by 36,164 samples, which is not a multiple of the hop of 256 samples, so its
frame clock drifts by up to 0.7 frames and jumps back at every window. Here windows advance by 142
whole hops and the grid is uniform: frame i is at i * 256 samples. The accuracy is the same: note F1
on rendered notes is 0.813 (monophonic) and 0.730 (chords and melody); the original windows and
clock give 0.810 and 0.724.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from manifests.packaged_weights import packaged_file, sha256
from manifests.streams.notes import decode_notes
from manifests.streams.specs import StreamSpec, TeacherSpec
from teachers.protocol import Targets
from teachers.settings import Count, Share
from teachers.toolkit.frame_grid import num_frames
from teachers.toolkit.onnx_session import open_session

# Legend: T frames, W windows.

SAMPLE_RATE = 22_050
HOP = 256
WINDOW = 43_844
WINDOW_FRAMES = 172
EDGE = 15
"""Frames at either end of a window that are taken from the neighbouring window instead."""
KEPT = WINDOW_FRAMES - 2 * EDGE
OUTPUTS = {
    "contours": ("StatefulPartitionedCall:0", 264),
    "notes": ("StatefulPartitionedCall:1", 88),
    "onsets": ("StatefulPartitionedCall:2", 88),
}
INPUT = "serving_default_input_2:0"
LOWEST_MIDI = 21
MODEL_SHA256 = "2c3c1d144bfa61ad236e92e169c13535c880469a12a047d4e73451f2c059a0ec"


@dataclass(frozen=True, slots=True, kw_only=True)
class BasicPitchSettings:
    """Settings of `BasicPitch`."""

    onset_threshold: Share = 0.5
    """Onset posterior at which a note begins, in [0, 1]."""
    note_threshold: Share = 0.3
    """Note posterior down to which a note continues, in [0, 1]."""
    batch_windows: Count = 8
    """Windows per forward pass. Does not change the features."""


class BasicPitch:
    """Note, onset and contour posteriors, and the notes decoded from them."""

    Settings = BasicPitchSettings

    def __init__(self, name: str, settings: BasicPitchSettings) -> None:
        self._name = name
        self._settings = settings
        self._weights = packaged_file(
            "basic-pitch", "basic_pitch/saved_models/icassp_2022/nmp.onnx", MODEL_SHA256
        )
        self._session: Any = None

    def spec(self) -> TeacherSpec:
        """See `teachers.protocol.Teacher`."""
        settings = asdict(self._settings)
        del settings["batch_windows"]
        keys = tuple(f"midi {LOWEST_MIDI + key}" for key in range(88))
        streams = tuple(
            StreamSpec(
                name=stream, kind="multilabel", dim=dim, start_s=0.0, hop_s=HOP / SAMPLE_RATE,
                window_s=2048 / SAMPLE_RATE, codec="uint8", names=keys if dim == 88 else (),
            )
            for stream, (_, dim) in OUTPUTS.items()
        )  # fmt: skip
        return TeacherSpec(
            name=self._name,
            family="basic_pitch",
            revision=1,
            settings=settings,
            weights={self._weights.name: sha256(self._weights)},
            sample_rate=SAMPLE_RATE,
            streams=streams,
            license="Apache-2.0",
        )

    def load(self, *, device: str, num_threads: int) -> None:
        """See `teachers.protocol.Teacher`."""
        self._session = open_session(self._weights, num_threads=num_threads, device=device)

    def extract(self, waves: Sequence[np.ndarray]) -> list[Targets]:
        """See `teachers.protocol.Teacher`."""
        cut = [_windows(wave) for wave in waves]
        posteriors = self._run([window for windows, _ in cut for window in windows])
        results, place = [], 0
        for windows, count in cut:
            frames = {
                name: values[place : place + len(windows)].reshape(-1, values.shape[2])[:count]
                for name, values in posteriors.items()
            }
            place += len(windows)
            notes = decode_notes(
                frames["notes"],
                frames["onsets"],
                hop_s=HOP / SAMPLE_RATE,
                lowest_midi=LOWEST_MIDI,
                onset_threshold=self._settings.onset_threshold,
                note_threshold=self._settings.note_threshold,
            )
            results.append(Targets(frames, {"notes": notes}))
        return results

    def _run(self, windows: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Returns (W, KEPT, D) by stream, without the edges of the windows."""
        names = [output for output, _ in OUTPUTS.values()]
        parts: dict[str, list[np.ndarray]] = {stream: [] for stream in OUTPUTS}
        for first in range(0, len(windows), self._settings.batch_windows):
            batch_WS = np.stack(windows[first : first + self._settings.batch_windows])
            outputs = self._session.run(names, {INPUT: batch_WS[:, :, None]})
            for stream, frames_WTD in zip(OUTPUTS, outputs, strict=True):
                parts[stream].append(frames_WTD[:, EDGE : EDGE + KEPT].copy())
        return {stream: np.concatenate(part) for stream, part in parts.items()}


def _windows(wave: np.ndarray) -> tuple[np.ndarray, int]:
    """Returns windows (W, 43844), a view whose kept frames are consecutive from frame 0, and T."""
    count = num_frames(len(wave), SAMPLE_RATE, start_s=0.0, hop_s=HOP / SAMPLE_RATE)
    number = -(-count // KEPT)
    length = (number - 1) * KEPT * HOP + WINDOW
    padded = np.pad(wave, (EDGE * HOP, max(0, length - EDGE * HOP - len(wave))))
    view = np.lib.stride_tricks.sliding_window_view(padded.astype(np.float32, copy=False), WINDOW)
    return view[:: KEPT * HOP][:number], count
