"""One clip as the teachers heard it: its targets in numbers, or drawn under one time axis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.table import Table

from manifests.audio import Waveform
from manifests.cache.reader import CacheReader
from manifests.clips import Clip
from manifests.errors import UserError
from manifests.page import sound
from manifests.page.track_kinds import has_f0
from manifests.streams.kinds import KINDS
from manifests.streams.specs import StreamSpec

# Legend: T frames, D columns.

SPECTROGRAM_WINDOW = 512
SPECTROGRAM_HOP = 128
MOST_LABELS = 12


def find_clip(reader: CacheReader, clip_id: str) -> Clip:
    """A clip of the reader's corpora by its id; reads columns of ids, and then one row.

    Raises:
        UserError: no corpus of the cache has it.
    """
    for name in reader.corpora:
        corpus, row = reader.layout.corpus(name), 0
        for part in corpus.parts:
            with corpus.folder.open(part.file) as file:
                ids = pq.read_table(file, columns=["clip_id"]).column(0)
            place = pc.index(ids, clip_id).as_py()
            if place >= 0:
                return corpus.clip(row + place)
            row += part.clips
    raise UserError(
        f"no corpus of the cache has a clip {clip_id!r}; `coat-corpus stats` shows some ids"
    )


def numbers(reader: CacheReader, clip: Clip) -> dict[str, Any]:
    """Per stream: frames, grid, range and mean; per teacher: its words, or why there is nothing."""
    found: dict[str, Any] = {
        "clip_id": clip.clip_id,
        "uri": clip.uri,
        "text": clip.text,
        "labels": dict(clip.labels),
        "teachers": {},
    }
    for name, spec in reader.teachers.items():
        teacher = reader.teacher(name)
        if clip.clip_id not in teacher:
            reasons = [f for f in teacher.failures() if f.clip_id == clip.clip_id]
            why = f"{reasons[0].stage}: {reasons[0].message}" if reasons else "not run yet"
            found["teachers"][name] = {"absent": why}
            continue
        streams = {}
        for stream in spec.streams:
            frames_TD = teacher.row(clip.clip_id, stream.name)[1].decode()
            streams[stream.name] = {
                "kind": stream.kind,
                "frames": len(frames_TD),
                "dim": stream.dim,
                "frame_rate_hz": round(stream.frame_rate, 4),
                "start_s": stream.start_s,
                "min": round(float(frames_TD.min()), 5),
                "mean": round(float(frames_TD.mean()), 5),
                "max": round(float(frames_TD.max()), 5),
            }
        found["teachers"][name] = {"metadata": teacher.metadata(clip.clip_id), "streams": streams}
    return found


def table(found: dict[str, Any]) -> Table:
    """What `numbers` gives, for people."""
    shown = Table("stream", "kind", title=f"{found['clip_id']}  {found['text'] or ''}")
    for heading in ("frames", "dim", "Hz", "min", "mean", "max"):
        shown.add_column(heading, justify="right")
    for name, teacher in found["teachers"].items():
        if "absent" in teacher:
            shown.add_row(name, f"no targets: {teacher['absent']}")
            continue
        for stream, facts in teacher["streams"].items():
            values = [facts[key] for key in ("frames", "dim", "frame_rate_hz")]
            values += [facts[key] for key in ("min", "mean", "max")]
            shown.add_row(f"{name}.{stream}", facts["kind"], *(f"{value:g}" for value in values))
    return shown


def picture(reader: CacheReader, clip: Clip, path: Path) -> bool:
    """Draws what there is of a clip under one time axis, as a PNG: its audio, and every stream.

    Returns:
        False if there is nothing: neither audio that can be read nor targets.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    wave = sound.decode(clip)
    heard = [] if isinstance(wave, str) else [wave]
    streams = [
        (name, stream, *reader.teacher(name).row(clip.clip_id, stream.name))
        for name, spec in reader.teachers.items()
        if clip.clip_id in reader.teacher(name)
        for stream in spec.streams
    ]
    count = 2 * len(heard) + len(streams)
    if not count:
        return False
    figure, axes = pyplot.subplots(
        count, 1, figsize=(11, 1.6 * count), sharex=True, squeeze=False, layout="tight"
    )
    rows = iter(axes[:, 0])
    for wave in heard:
        _draw_audio(next(rows), next(rows), wave)
    for name, stream, duration, frames in streams:
        row = next(rows)
        _draw(row, stream, frames.decode(), duration)
        row.set_ylabel(f"{name}\n{stream.name}", fontsize=8)
        for word, start, _ in _words(reader, name, clip, stream):
            row.text(start, 1.02, word, fontsize=6, transform=row.get_xaxis_transform())
    lengths = [wave.seconds for wave in heard] + [duration for _, _, duration, _ in streams]
    axes[0, 0].set_title(f"{clip.clip_id}  {clip.text or ''}", loc="left", fontsize=9)
    axes[-1, 0].set_xlim(0, max(lengths))
    axes[-1, 0].set_xlabel("s")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True


def _draw_audio(wave_row: Any, row: Any, wave: Waveform) -> None:
    times = np.arange(len(wave.samples)) / wave.sample_rate
    wave_row.plot(times, wave.samples, linewidth=0.4, color="0.3")
    wave_row.set_ylabel("waveform")
    row.specgram(
        wave.samples + 1e-9,
        NFFT=min(SPECTROGRAM_WINDOW, len(wave.samples)),
        noverlap=max(0, min(SPECTROGRAM_WINDOW, len(wave.samples)) - SPECTROGRAM_HOP),
        Fs=wave.sample_rate,
        vmin=-120,
    )
    row.set_ylabel("Hz")


def _words(reader: CacheReader, name: str, clip: Clip, stream: StreamSpec) -> list[Any]:
    if stream is not reader.teachers[name].streams[0]:
        return []
    return reader.metadata(name, clip.clip_id).get("words", [])


def _draw(row: Any, stream: StreamSpec, frames_TD: np.ndarray, duration: float) -> None:
    times_T = stream.start_s + stream.hop_s * np.arange(len(frames_TD))
    if has_f0(stream):
        values_T = np.where(frames_TD[:, 1] > 0.5, frames_TD[:, 0], np.nan)
        row.plot(times_T, values_T, ".", markersize=2)
        row.set_ylim(bottom=0)
        return
    kind = KINDS[stream.kind]
    if kind.appearance == "curves":
        row.plot(times_T, frames_TD, linewidth=1)
        return
    frames_TD = kind.drawn(frames_TD)
    shown_TD, labels = frames_TD, []
    if kind.has_classes and stream.names and stream.dim > 100:
        top_K = np.argsort(-frames_TD.max(0))[:MOST_LABELS][::-1]
        shown_TD, labels = frames_TD[:, top_K], [stream.names[column] for column in top_K]
    if kind.appearance == "deviations":
        shown_TD = (frames_TD - frames_TD.mean(0)) / (frames_TD.std(0) + 1e-6)
    edge = stream.hop_s / 2
    extent = (times_T[0] - edge, min(times_T[-1] + edge, duration + edge), -0.5, shown_TD.shape[1])
    row.imshow(shown_TD.T, origin="lower", aspect="auto", extent=extent, interpolation="nearest")
    if labels:
        row.set_yticks(range(len(labels)), labels, fontsize=5)
