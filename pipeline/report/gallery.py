"""Selects and prepares the clips of the gallery: some with findings, some failed, others evenly
spread."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from manifests.audio import Waveform
from manifests.cache.stream_sums import Statistics
from manifests.clips import has_value
from manifests.page import sound
from manifests.page.teacher_tracks import teacher_tracks
from manifests.page.tracks import Track
from manifests.streams.specs import TeacherSpec
from pipeline.report.clip_summary import ClipSummary
from pipeline.report.quality_checks import QualityFinding
from pipeline.report.sampling import Place, SampledClip

LONGEST_S = 30.0
"""Maximum seconds of a clip that are shown and played."""
LONGEST_LABEL = 80

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class GalleryClip:
    """One clip of the gallery."""

    clip_id: str
    corpus: str
    uri: str
    seconds: float
    """Seconds of the clip that are shown."""
    full_seconds: float
    text: str
    transcript: str
    labels: dict[str, str]
    teachers: list[str]
    """Teachers with targets for the clip."""
    absent: dict[str, str]
    """Failed teacher -> reason."""
    not_run: list[str]
    """Teachers that have not been run on the clip yet."""
    failed: bool
    """Whether a teacher failed on it."""
    findings: list[str]
    """Kinds."""
    audio: str
    """Data URI, or empty."""
    no_audio: str
    """The reason why there is no audio, or empty."""
    waveform: dict[str, Any] | None
    spectrogram: dict[str, Any] | None
    tracks: list[Track]


def pick(
    summaries: Sequence[ClipSummary], findings: Sequence[QualityFinding], count: int
) -> list[Place]:
    """Places of the clips to show, in storage order.

    Up to a quarter are the most serious findings, taken from each kind in turn; up to a quarter
    have failed; the others are spread evenly over the sample.
    """
    ranks: dict[str, int] = {}
    turns = []
    for each in findings:
        ranks[each.kind] = ranks.get(each.kind, -1) + 1
        turns.append((ranks[each.kind], each.place))
    most_serious = dict.fromkeys(place for _, place in sorted(turns, key=lambda turn: turn[0]))
    chosen = dict.fromkeys(list(most_serious)[: count // 4])
    chosen |= dict.fromkeys(spread([each.place for each in summaries if each.failed], count // 4))
    others = [each.place for each in summaries if each.place not in chosen]
    chosen |= dict.fromkeys(spread(others, count - len(chosen)))
    return sorted(chosen)


def spread(things: list[T], count: int) -> list[T]:
    """Selects `count` evenly spaced items; all of them if there are not more."""
    if len(things) <= count:
        return things
    return [things[int((place + 0.5) * len(things) / count)] for place in range(count)]


def gallery_clips(
    clips: Iterator[SampledClip],
    teachers: Mapping[str, TeacherSpec],
    statistics: Mapping[str, Statistics],
    findings: Sequence[QualityFinding],
) -> Iterator[GalleryClip]:
    """Prepares clips for the page.

    Args:
        clips: Sampled clips with the frames of all streams.
        teachers: Name -> default version.
        statistics: TEACHER.STREAM -> over the whole cache.
        findings: The findings about all sampled clips.
    """
    for sampled in clips:
        kinds = [finding.kind for finding in findings if finding.place == sampled.place]
        yield _gallery_clip(sampled, teachers, statistics, kinds)


def _gallery_clip(
    sampled: SampledClip,
    teachers: Mapping[str, TeacherSpec],
    statistics: Mapping[str, Statistics],
    findings: list[str],
) -> GalleryClip:
    clip, targets = sampled.clip, sampled.targets
    wave = sound.decode(clip)
    decoded_s = wave.seconds if isinstance(wave, Waveform) else clip.likely_duration or 0.0
    full_seconds = max([decoded_s, *(target.duration for target in targets.values())])
    seconds = min(full_seconds, LONGEST_S)
    absent = {
        name: f"{failure.stage}: {failure.error}, {failure.message}"
        for name, failure in sampled.failures.items()
    }
    texts = [target.transcript.text for target in targets.values()]
    shown = [
        track
        for name, target in targets.items()
        for track in teacher_tracks(
            teachers[name], target.transcript, target.frames, statistics, seconds=seconds
        )
    ]
    return GalleryClip(
        clip_id=clip.clip_id,
        corpus=sampled.place[0],
        uri=clip.uri,
        seconds=round(seconds, 4),
        full_seconds=round(full_seconds, 4),
        text=clip.text or "",
        transcript=next((text for text in texts if text is not None), ""),
        labels={key: _label(value) for key, value in clip.labels.items() if has_value(value)},
        teachers=list(targets),
        absent=absent,
        not_run=[name for name in teachers if name not in targets and name not in absent],
        failed=bool(sampled.failures),
        findings=list(dict.fromkeys(findings)),
        tracks=sorted(shown, key=_reading_order),
        **sound.parts(wave, seconds),
    )


def _reading_order(track: Track) -> tuple[bool, int]:
    """Sorts tracks: words and pitch first, and those that are shown on demand last."""
    order = ("words", "pitch", "heat", "notes", "curves")
    return track.more, order.index(track.kind)


def _label(value: Any) -> str:
    if isinstance(value, list | dict):
        return f"{len(value)} values"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}…"
