"""The sources of a run, stored in its folder: corpus, teachers with licences, streams.

The cache may not be available when a run is shown, evaluated or published. The meaning of the
heads' outputs (class names, units, mean and deviation) and facts about teachers are therefore
written to the run's folder at its start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from manifests.cache.stream_sums import Statistics
from manifests.streams.pitch_bins import CREPE_BINS, PitchBins
from student.config import StreamConfig
from student.data.example_table import Summary
from student.distill.streams import Stream


@dataclass(frozen=True, kw_only=True)
class TeacherSource:
    """One teacher of a run."""

    key: str
    """`NAME@FINGERPRINT`, its version in the cache."""
    family: str
    license: str
    weights: dict[str, str]
    """File name -> SHA-256."""


@dataclass(frozen=True, kw_only=True)
class StreamSource:
    """One stream of a run, which gives the outputs of a head their meaning."""

    kind: str
    dim: int
    names: list[str] = field(default_factory=list)
    unit: str = ""
    covered: int
    """Number of clips with targets."""
    mean: list[float] | None = None
    """Mean of each column over the cache, by which features are standardised."""
    std: list[float] | None = None
    pitch_bins: PitchBins = CREPE_BINS
    """The grid of a pitch stream; runs from before grids were stated have CREPE's."""

    def as_stream(self, name: str, config: StreamConfig) -> Stream:
        """The stream without its cache."""
        statistics = None
        if self.mean is not None and self.std is not None:
            mean_D, std_D = (np.array(values, np.float32) for values in (self.mean, self.std))
            statistics = Statistics(mean_D=mean_D, std_D=std_D, num_frames=0)
        return Stream(
            name=name,
            kind=self.kind,
            dim=self.dim,
            config=config,
            statistics=statistics,
            pitch_bins=self.pitch_bins,
        )


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The sources of a run."""

    corpus: str
    caches: list[str]
    clips: int
    hours: float
    examples: int
    held_out: int
    teachers: list[TeacherSource]
    streams: dict[str, StreamSource]
    corpus_name: str = ""
    """The name of the corpus in caches; empty in runs of earlier versions."""

    @classmethod
    def from_fields(cls, values: Mapping[str, Any]) -> Sources:
        """Builds sources from their JSON fields."""
        teachers = [TeacherSource(**teacher) for teacher in values["teachers"]]
        streams = {name: _stream_source(source) for name, source in values["streams"].items()}
        return cls(**{**values, "teachers": teachers, "streams": streams})


def _stream_source(values: Mapping[str, Any]) -> StreamSource:
    bins = {"pitch_bins": PitchBins(**values["pitch_bins"])} if "pitch_bins" in values else {}
    return StreamSource(**{**values, **bins})


def build_sources(
    corpus: str,
    corpus_name: str,
    caches: list[str],
    summary: Summary,
    streams: Mapping[str, Stream],
    *,
    examples: int,
    held_out: int,
) -> Sources:
    """Collects the sources at the start of a run."""
    specs = {
        stream.reader.teacher.spec.key: stream.reader.teacher.spec
        for stream in streams.values()
        if stream.reader is not None
    }
    return Sources(
        corpus=corpus,
        corpus_name=corpus_name,
        caches=caches,
        clips=summary.clips,
        hours=summary.hours,
        examples=examples,
        held_out=held_out,
        teachers=[
            TeacherSource(key=key, family=spec.family, license=spec.license, weights=spec.weights)
            for key, spec in specs.items()
        ],
        streams={
            name: _described(stream, summary.covered[name]) for name, stream in streams.items()
        },
    )


def _described(stream: Stream, covered: int) -> StreamSource:
    spec = stream.reader.spec if stream.reader is not None else None
    statistics = stream.statistics
    return StreamSource(
        kind=stream.kind,
        dim=stream.dim,
        names=list(spec.names) if spec else [],
        unit=spec.unit if spec else "",
        covered=covered,
        mean=statistics.mean_D.tolist() if statistics else None,
        std=statistics.std_D.tolist() if statistics else None,
        pitch_bins=stream.pitch_bins,
    )
