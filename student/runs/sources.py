"""What a run was made from, kept in its folder: corpus, teachers with licences, streams.

A cache may be far away, or gone, by the time a run is shown, evaluated or published. What the
heads' outputs mean (class names, units, mean and deviation) and what must be said of teachers is
therefore written beside the recipe when the run begins.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from manifests.cache.stream_sums import Statistics
from manifests.clips import Clip
from manifests.errors import UserError
from manifests.streams.specs import Kind
from student.config import Recipe, StreamConfig
from student.distill.streams import Stream

SOURCES_FILE = "sources.json"


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
    """One stream of a run: what a head's outputs mean."""

    kind: Kind
    dim: int
    names: list[str] = field(default_factory=list)
    unit: str = ""
    covered: int
    """Clips that have targets."""
    mean: list[float] | None = None
    """Of each column over the cache (features): what heads predict is standardised by it."""
    std: list[float] | None = None


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What a run was made from."""

    corpus: str
    caches: list[str]
    clips: int
    hours: float
    examples: int
    held_out: int
    teachers: list[TeacherSource]
    streams: dict[str, StreamSource]


def build_sources(
    corpus: str,
    caches: list[str],
    clips: Iterable[Clip],
    streams: Mapping[str, Stream],
    *,
    examples: int,
    held_out: int,
) -> Sources:
    """Gathers what a run begins with."""
    clips = list(clips)
    specs = {
        stream.reader.teacher.spec.key: stream.reader.teacher.spec
        for stream in streams.values()
        if stream.reader is not None
    }
    return Sources(
        corpus=corpus,
        caches=caches,
        clips=len(clips),
        hours=sum(clip.duration or 0.0 for clip in clips) / 3600,
        examples=examples,
        held_out=held_out,
        teachers=[
            TeacherSource(key=key, family=spec.family, license=spec.license, weights=spec.weights)
            for key, spec in specs.items()
        ],
        streams={name: _described(stream, clips) for name, stream in streams.items()},
    )


def _described(stream: Stream, clips: list[Clip]) -> StreamSource:
    spec = stream.reader.spec if stream.reader is not None else None
    statistics = stream.statistics
    return StreamSource(
        kind=stream.kind,
        dim=stream.dim,
        names=list(spec.names) if spec else [],
        unit=spec.unit if spec else "",
        covered=sum(stream.covers(clip.clip_id) for clip in clips),
        mean=statistics.mean_D.tolist() if statistics else None,
        std=statistics.std_D.tolist() if statistics else None,
    )


def write_sources(run: Path, sources: Sources) -> None:
    """Writes them into the run's folder."""
    (run / SOURCES_FILE).write_text(json.dumps(asdict(sources), indent=1))


def read_sources(run: Path) -> Sources:
    """Reads what `write_sources` wrote.

    Raises:
        UserError: the run has none.
    """
    path = run / SOURCES_FILE
    if not path.is_file():
        raise UserError(f"{run} has no {SOURCES_FILE}: it was made by an older version; train anew")
    fields: dict[str, Any] = json.loads(path.read_text())
    return Sources(
        **{
            **fields,
            "teachers": [TeacherSource(**teacher) for teacher in fields["teachers"]],
            "streams": {name: StreamSource(**of) for name, of in fields["streams"].items()},
        }
    )


def load_run_streams(run: Path, recipe: Recipe) -> dict[str, Stream]:
    """The run's streams without their cache: enough to load heads and read what they say."""
    if not recipe.distils:
        return {}
    return {
        name: Stream(
            name=name,
            kind=source.kind,
            dim=source.dim,
            config=(recipe.streams or {}).get(name, StreamConfig()),
            statistics=_statistics(source),
        )
        for name, source in read_sources(run).streams.items()
    }


def _statistics(source: StreamSource) -> Statistics | None:
    if source.mean is None or source.std is None:
        return None
    mean_D, std_D = (np.array(values, np.float32) for values in (source.mean, source.std))
    return Statistics(mean_D=mean_D, std_D=std_D, num_frames=0)
