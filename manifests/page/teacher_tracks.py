"""Builds the tracks of one teacher's outputs for one clip: words, notes and every stream."""

from __future__ import annotations

from collections.abc import Mapping

from manifests.cache.encoded_frames import EncodedFrames
from manifests.cache.stream_sums import Statistics
from manifests.page.tracks import Track, stream_tracks
from manifests.streams.specs import TeacherSpec
from manifests.streams.transcript import Transcript

# Legend: T frames, D columns of a stream.


def teacher_tracks(
    spec: TeacherSpec,
    transcript: Transcript,
    frames: Mapping[str, EncodedFrames],
    statistics: Mapping[str, Statistics],
    *,
    seconds: float,
) -> list[Track]:
    """Builds all tracks of one teacher for one clip, up to `seconds`.

    Args:
        spec: The teacher's version.
        transcript: The words and notes of the clip.
        frames: Stream name -> the clip's frames, of every stream of the teacher.
        statistics: TEACHER.STREAM -> mean and deviation over the whole cache.
        seconds: Time in the clip at which the tracks end.
    """
    tracks = []
    shown = transcript.before(seconds)
    if shown.words is not None:
        words = [word._asdict() for word in shown.words]
        title = "words (doubtful)" if transcript.doubts else "words"
        tracks.append(Track(kind="words", title=title, source=spec.name, data={"words": words}))
    if shown.notes is not None:
        notes = [note._asdict() for note in shown.notes]
        tracks.append(Track(kind="notes", title="notes", source=spec.name, data={"notes": notes}))
    for stream in spec.streams:
        key = f"{spec.name}.{stream.name}"
        frames_TD = frames[stream.name].decode()
        frames_TD = frames_TD[: max(1, int((seconds - stream.start_s) / stream.hop_s) + 1)]
        tracks += stream_tracks(key, stream, frames_TD, statistics[key])
    return tracks
