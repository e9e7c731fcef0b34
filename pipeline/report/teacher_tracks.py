"""All that one teacher says of one clip, as tracks: its words, its notes, and every stream."""

from __future__ import annotations

from collections.abc import Mapping

from manifests.cache.stream_sums import Statistics
from manifests.page.tracks import Track, of_stream, track
from manifests.streams.specs import TeacherSpec
from manifests.streams.transcript import Transcript
from pipeline.report.sampling import TeacherTargets

# Legend: T frames, D columns of a stream.


def build_tracks(
    spec: TeacherSpec, target: TeacherTargets, statistics: Mapping[str, Statistics], seconds: float
) -> list[Track]:
    """All tracks of one teacher about one clip, up to `seconds` into it.

    Args:
        spec: The teacher's version.
        target: With the frames of all its streams.
        statistics: TEACHER.STREAM -> over the whole cache.
        seconds: Where the page stops showing the clip.
    """
    tracks = []
    written = Transcript.from_metadata(target.metadata).before(seconds)
    if written.words is not None:
        words = [word._asdict() for word in written.words]
        tracks.append(track("words", "words", spec.name, {"words": words}))
    if written.notes is not None:
        notes = [note._asdict() for note in written.notes]
        tracks.append(track("notes", "notes", spec.name, {"notes": notes}))
    for stream in spec.streams:
        key = f"{spec.name}.{stream.name}"
        frames_TD = target.frames[stream.name].decode()
        frames_TD = frames_TD[: max(1, int((seconds - stream.start_s) / stream.hop_s) + 1)]
        tracks += of_stream(key, stream, frames_TD, statistics[key])
    return tracks
