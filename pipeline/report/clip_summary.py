"""Computes distributions over the sampled clips, clip by clip.

Frames are dropped as soon as they are counted; only a few numbers per clip are kept for the checks
(`pipeline.report.quality_checks`), so memory does not depend on the width of the streams.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from manifests.cache.shards import AUDIO_WARNINGS, Row
from manifests.cache.stream_sums import Statistics
from manifests.clips import Clip
from manifests.page import track_kinds
from manifests.streams.kinds import VOICED
from manifests.streams.specs import StreamSpec, TeacherSpec
from manifests.streams.transcript import Transcript
from pipeline.report import words
from pipeline.report.histogram import Histogram
from pipeline.report.sampling import Place, SampledClip

# Legend: T frames, D columns.

PRESENT = 0.5
"""Minimum probability of a present class."""
MOST_CLASSES = 15
NARROW = 4.0
"""Range of the descriptors' histograms, in standard deviations around the mean."""
SEMITONES = 2.0 ** (np.arange(0, 74) / 12)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSummary:
    """The numbers and texts that are kept of one sampled clip."""

    clip: Clip
    place: Place
    targets: dict[str, Row]
    """Teacher -> its row, without metadata and frames."""
    failed: tuple[str, ...]
    """Teachers that failed."""
    audio_warnings: tuple[str, ...]
    """Faults of its audio that the build recorded (`docs/audio.md`)."""
    transcript: str | None
    """Text of the first teacher that has one."""
    num_words: int
    language: str
    """Language according to the transcribing teacher, or empty."""
    doubts: str
    """Reason why the transcriber doubts its own words, or empty."""
    error_rate: float | None
    """Word error rate of the transcript against the corpus's text, if both exist."""
    speech: float | None
    """Largest probability of the class Speech."""
    norms: dict[str, float]
    """TEACHER.STREAM -> RMS of its standardised frames: about 1 for a typical clip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One distribution: a histogram, or bars of shares in [0, 1]."""

    title: str
    about: str
    unit: str = ""
    histogram: dict[str, Any] | None = None
    bars: list[tuple[str, float]] = field(default_factory=list)


class Summarizer:
    """Summarises sampled clips one by one.

    Args:
        teachers: Name -> default version.
        statistics: TEACHER.STREAM -> over the whole cache.
    """

    def __init__(
        self, teachers: Mapping[str, TeacherSpec], statistics: Mapping[str, Statistics]
    ) -> None:
        self._statistics = statistics
        self._streams = {
            f"{name}.{stream.name}": stream
            for name, spec in teachers.items()
            for stream in spec.streams
            if track_kinds.is_summarized(stream)
        }
        self._f0: dict[str, Histogram] = {}
        self._voiced: dict[str, list[int]] = {}
        self._present: dict[str, Counter[str]] = {}
        self._clips: Counter[str] = Counter()
        self._descriptors: dict[tuple[str, int], Histogram] = {}
        self._notes = Histogram(np.arange(20.5, 109))
        self._word_rate = Histogram(np.arange(0, 8.01, 0.25))
        self._errors = Histogram(np.arange(0, 1.51, 0.05))

    def summarize(self, sampled: SampledClip) -> ClipSummary:
        """Adds one clip to the distributions, and returns its summary."""
        norms: dict[str, float] = {}
        speech = None
        for key, spec in self._streams.items():
            target = sampled.targets.get(key.partition(".")[0])
            if target is None:
                continue
            frames_TD = target.frames[spec.name].decode()
            self._clips[key] += 1
            if track_kinds.has_f0(spec):
                self._count_f0(key, frames_TD)
            elif track_kinds.has_classes(spec):
                self._count_classes(key, spec, frames_TD)
                if track_kinds.SPEECH in spec.names:
                    speech = float(frames_TD[:, spec.names.index(track_kinds.SPEECH)].max())
            else:
                norms[key] = self._norm(key, frames_TD)
                self._count_descriptors(key, spec, frames_TD)
        transcript, num_words = self._count_words(sampled)
        rate = None
        text = transcript.text
        if sampled.clip.text and text is not None:
            rate = words.error_rate(sampled.clip.text, text)
            self._errors.add([rate])
        return ClipSummary(
            clip=sampled.clip,
            place=sampled.place,
            targets={
                name: dataclasses.replace(target, metadata={}, frames={})
                for name, target in sampled.targets.items()
            },
            failed=tuple(sampled.failures),
            audio_warnings=tuple(
                sorted(
                    {
                        kind
                        for target in sampled.targets.values()
                        for kind in target.metadata.get(AUDIO_WARNINGS, ())
                    }
                )
            ),
            transcript=text if text is None else text.strip(),
            num_words=num_words,
            language=transcript.language,
            doubts=transcript.doubts,
            error_rate=rate,
            speech=speech,
            norms=norms,
        )

    def charts(self, observations: list[ClipSummary]) -> list[Chart]:
        """Returns all distributions that are not empty."""
        charts = []
        for key, histogram in self._f0.items():
            voiced, frames = self._voiced[key]
            about = f"{key}: frames with voicing of {VOICED} or more, {voiced / frames:.0%} of all"
            charts.append(_histogram("Pitch", about, histogram, "Hz"))
        about = "Words per second of the clips whose words the transcriber does not doubt"
        charts.append(_histogram("Word rate", about, self._word_rate, "words/s"))
        about = "Transcript against the corpus's text, per clip"
        charts.append(_histogram("Word error rate", about, self._errors))
        charts.append(_histogram("Notes", "Transcribed notes by key", self._notes, "MIDI"))
        for key, counts in self._present.items():
            shares = [(name, count / self._clips[key]) for name, count in counts.most_common()]
            about = f"{key}: share of clips in which a class reaches {PRESENT}"
            charts.append(Chart(title="Classes", about=about, bars=shares[:MOST_CLASSES]))
        for (key, column), histogram in self._descriptors.items():
            name = track_kinds.short_name(self._streams[key].names[column])
            charts.append(_histogram(name, f"{key}: all frames", histogram))
        for key in dict.fromkeys(key for summary in observations for key in summary.norms):
            values = [summary.norms[key] for summary in observations if key in summary.norms]
            histogram = Histogram.nice(min(values), float(np.quantile(values, 0.99)), 30)
            histogram.add(values)
            about = f"{key}: RMS per clip; 1 is a clip like all others"
            charts.append(_histogram("Feature norm", about, histogram, "std"))
        return [chart for chart in charts if chart.bars or _filled(chart)]

    def _count_f0(self, key: str, frames_TD: np.ndarray) -> None:
        voiced_TD = frames_TD[frames_TD[:, 1] >= VOICED]
        histogram = self._f0.setdefault(key, Histogram(32.703 * SEMITONES, log=True))
        histogram.add(voiced_TD[:, 0])
        counts = self._voiced.setdefault(key, [0, 0])
        counts[0] += len(voiced_TD)
        counts[1] += len(frames_TD)

    def _count_classes(self, key: str, spec: StreamSpec, frames_TD: np.ndarray) -> None:
        present = np.flatnonzero(frames_TD.max(0) >= PRESENT)
        self._present.setdefault(key, Counter()).update(spec.names[column] for column in present)

    def _count_descriptors(self, key: str, spec: StreamSpec, frames_TD: np.ndarray) -> None:
        overall = self._statistics[key]
        for column in track_kinds.descriptors(spec):
            mean, std = float(overall.mean_D[column]), float(overall.std_D[column])
            if (key, column) not in self._descriptors:
                within = (mean - NARROW * std, mean + NARROW * std)
                self._descriptors[key, column] = Histogram.nice(*within)
            self._descriptors[key, column].add(frames_TD[:, column])

    def _norm(self, key: str, frames_TD: np.ndarray) -> float:
        overall = self._statistics[key]
        standard_TD = (frames_TD - overall.mean_D) / overall.std_D
        return float(np.sqrt(np.mean(np.square(standard_TD))))

    def _count_words(self, sampled: SampledClip) -> tuple[Transcript, int]:
        """The transcript of the first teacher that has one, and its number of words. Words that the
        decoder doubts are excluded from the distribution."""
        for target in sampled.targets.values():
            self._notes.add([note.midi for note in target.transcript.notes or ()])
        for target in sampled.targets.values():
            transcript = target.transcript
            if transcript.text is not None:
                text = transcript.text.strip()
                num_words = len(words.units(text))
                if num_words and target.duration and not transcript.doubts:
                    self._word_rate.add([num_words / target.duration])
                return transcript, num_words
        return Transcript(), 0


def _histogram(title: str, about: str, histogram: Histogram, unit: str = "") -> Chart:
    return Chart(title=title, about=about, unit=unit, histogram=histogram.to_json(trim=True))


def _filled(chart: Chart) -> bool:
    return chart.histogram is not None and any(chart.histogram["counts"])
