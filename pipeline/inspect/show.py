"""Shows the targets of one clip as numbers or as a picture: `coat-cache show`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.table import Table

from manifests.audio import Waveform
from manifests.cache.reader import CacheReader
from manifests.cache.shards import AUDIO_WARNINGS
from manifests.clips import LISTED, Clip
from manifests.corpus.corpus import Corpus
from manifests.corpus.stats import is_same_language, labelled_language
from manifests.errors import UserError
from manifests.page import sound, track_kinds
from manifests.page.figure import draw_tracks
from manifests.page.teacher_tracks import teacher_tracks
from manifests.streams.kinds import VOICED
from manifests.streams.specs import StreamSpec
from manifests.streams.transcript import Transcript

# Legend: T frames, D columns.

PICTURES = (".png", ".pdf", ".svg")
"""Extensions of pictures."""


def find_clip(reader: CacheReader, clip_id: str) -> Clip:
    """Finds a clip by its id, or by the name of its file; reads only columns, and then one row.

    Args:
        reader: The cache.
        clip_id: An id; or a file's name with or without its extension, if no clip has such an id.

    Raises:
        UserError: no corpus of the cache has it, or several clips are of such a file.
    """
    for corpus, row, ids in _parts(reader, "clip_id"):
        place = pc.index(ids, clip_id).as_py()
        if place >= 0:
            return corpus.clip(row + place)
    if clips := list(itertools.islice(_clips_of_file(reader, clip_id), LISTED)):
        if len(clips) == 1:
            return clips[0]
        raise UserError(
            f"{clip_id!r} is no id, but the file of several clips; give the id of one of them, "
            f"such as {', '.join(clip.clip_id for clip in clips)}"
        )
    others = [name for name in reader.layout.corpora() if name not in reader.corpora]
    more = f" (not searched: {', '.join(others)})" if others else ""
    raise UserError(
        f"the cache has no clip {clip_id!r} in corpus {', '.join(reader.corpora)}{more}; "
        "`coat-corpus stats` shows some ids"
    )


def _parts(reader: CacheReader, column: str) -> Iterator[tuple[Corpus, int, pa.ChunkedArray]]:
    """Yields the corpus, the first row and one column of each part of the reader's corpora."""
    for name in reader.corpora:
        corpus, row = reader.layout.corpus(name), 0
        for part in corpus.parts:
            with corpus.folder.open(part.file) as file:
                yield corpus, row, pq.read_table(file, columns=[column]).column(0)
            row += part.clips


def _clips_of_file(reader: CacheReader, name: str) -> Iterator[Clip]:
    """Yields the clips of files with this name or path, with or without its extension."""
    for corpus, row, uris in _parts(reader, "uri"):
        for place, uri in enumerate(uris.to_pylist()):
            if name in uri and name in (uri, PurePosixPath(uri).name, PurePosixPath(uri).stem):
                yield corpus.clip(row + place)


def describe(reader: CacheReader, clip: Clip) -> dict[str, Any]:
    """The frames, time grid, range and mean of each stream, and the texts of each teacher.

    Range and mean of a fundamental frequency are in Hz, over its voiced frames. For a teacher
    without targets for the clip, the reason is given instead.
    """
    facts: dict[str, Any] = {
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
            facts["teachers"][name] = {"absent": why}
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
                **_range(stream, frames_TD),
            }
        facts["teachers"][name] = {"metadata": teacher.metadata(clip.clip_id), "streams": streams}
    return facts


def _range(spec: StreamSpec, frames_TD: np.ndarray) -> dict[str, float | None]:
    """Computes minimum, mean and maximum over all values; for f0 (Hz) over voiced frames."""
    if track_kinds.has_f0(spec):
        frames_TD = frames_TD[frames_TD[:, 1] >= VOICED, :1]
    if not frames_TD.size:
        return dict.fromkeys(("min", "mean", "max"))
    values = {"min": frames_TD.min(), "mean": frames_TD.mean(), "max": frames_TD.max()}
    return {name: round(float(value), 5) for name, value in values.items()}


def build_table(facts: dict[str, Any]) -> Table:
    """The result of `describe` as a table."""
    labels = ", ".join(f"{key}={value}" for key, value in facts["labels"].items())
    kinds = {
        kind
        for teacher in facts["teachers"].values()
        for kind in teacher.get("metadata", {}).get(AUDIO_WARNINGS, ())
    }
    warnings = f"audio warnings: {', '.join(sorted(kinds))}" if kinds else ""
    lines = [f"{facts['clip_id']}  {facts['text'] or ''}", facts["uri"], labels, warnings]
    language = labelled_language(facts["labels"])
    lines += [
        _words(name, each.get("metadata", {}), language) for name, each in facts["teachers"].items()
    ]
    table = Table("stream", "kind", title="\n".join(filter(None, lines)), title_justify="left")
    for heading in ("frames", "dim", "Hz", "min", "mean", "max"):
        table.add_column(heading, justify="right")
    for name, teacher in facts["teachers"].items():
        if "absent" in teacher:
            table.add_row(name, f"no targets: {teacher['absent']}")
            continue
        for stream, numbers in teacher["streams"].items():
            keys = ("frames", "dim", "frame_rate_hz", "min", "mean", "max")
            values = [numbers[key] for key in keys]
            table.add_row(f"{name}.{stream}", numbers["kind"], *map(_number, values))
    return table


def _words(teacher: str, metadata: dict[str, Any], language: str) -> str:
    """The text that a teacher wrote, with the reason to doubt it; empty if there is none.

    Args:
        teacher: Name of the teacher.
        metadata: The metadata of its row.
        language: Language that the labels of the clip state, or empty.
    """
    transcript = Transcript.from_metadata(metadata)
    if not transcript.text:
        return ""
    why = transcript.doubts
    written = transcript.language
    if not why and language and written and not is_same_language(language, written):
        why = f"labelled {language}, written as {written}"
    doubts = f" (doubtful: {why})" if why else ""
    return f"{teacher} wrote: {transcript.text}{doubts}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def picture_path(clip_id: str, picture: str | None) -> Path:
    """The file of a clip's picture.

    Args:
        clip_id: The clip.
        picture: The file, a folder for it, or None for the working folder.

    Raises:
        UserError: the file has an extension that is not supported.
    """
    path = Path(picture or ".")
    if path.is_dir():
        return path / f"{clip_id.replace('/', '_')}.png"
    if path.suffix.lower() not in PICTURES:
        raise UserError(
            f"--picture {picture}: expected a folder, or a file with one of the extensions "
            f"{', '.join(PICTURES)}"
        )
    return path


def draw(reader: CacheReader, clip: Clip, path: Path) -> bool:
    """Draws a clip into a file: its audio, and every stream of every teacher over one time axis.

    Returns:
        False if there is nothing to draw: neither audio that can be read nor targets.
    """
    wave = sound.decode(clip)
    audio = wave if isinstance(wave, Waveform) else None
    teachers = [
        teacher for name in reader.teachers if clip.clip_id in (teacher := reader.teacher(name))
    ]
    if audio is None and not teachers:
        return False
    rows = {
        teacher.spec.key: {
            stream.name: teacher.row(clip.clip_id, stream.name) for stream in teacher.spec.streams
        }
        for teacher in teachers
    }
    durations = [duration for row in rows.values() for duration, _ in row.values()]
    seconds = max([audio.seconds] if audio else durations)
    tracks = [
        track
        for teacher in teachers
        for track in teacher_tracks(
            teacher.spec,
            teacher.transcript(clip.clip_id),
            {name: frames for name, (_, frames) in rows[teacher.spec.key].items()},
            {
                f"{teacher.spec.name}.{stream.name}": teacher.statistics(stream.name)
                for stream in teacher.spec.streams
            },
            seconds=seconds,
        )
    ]
    title = f"{clip.clip_id}  {clip.text or ''}"
    draw_tracks(tracks, seconds=seconds, title=title, wave=audio).savefig(path, dpi=110)
    return True
