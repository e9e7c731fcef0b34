"""Builds a small cache in this process without a cluster, for tests of maintenance."""

from __future__ import annotations

from collections.abc import Sequence

from manifests import audio
from manifests.cache import shards
from manifests.cache.encoded_frames import encode
from manifests.cache.layout import Layout
from manifests.cache.shards import Failure, Marker, Row
from manifests.cache.stream_sums import Sums
from manifests.corpus.corpus import Corpus
from manifests.errors import AudioError
from manifests.streams.specs import TeacherSpec
from tests.pipeline.fakes import Energy, EnergySettings


def fill(
    layout: Layout,
    corpus: Corpus,
    *,
    name: str = "energy",
    gain: float = 1.0,
    created: str = "2026-01-01T00:00:00+00:00",
    numbers: Sequence[int] | None = None,
) -> TeacherSpec:
    """Commits shards of an `Energy` teacher, all of them if `numbers` is None."""
    teacher = Energy(name, EnergySettings(gain=gain))
    fields = {key: getattr(teacher.spec(), key) for key in TeacherSpec.__dataclass_fields__}
    spec = TeacherSpec(**{**fields, "created": created})
    layout.register(corpus)
    layout.add_teacher(spec)
    for number in range(corpus.num_shards) if numbers is None else numbers:
        commit(layout, corpus, spec, teacher, number)
    return spec


def commit(
    layout: Layout, corpus: Corpus, spec: TeacherSpec, teacher: Energy, number: int
) -> Marker:
    """Commits one shard."""
    (stream,) = spec.streams
    rows, failures, sums = [], [], Sums.zero(stream.dim)
    for clip in corpus.shard(number):
        try:
            wave = audio.decode(clip)
        except AudioError as error:
            failures.append(
                Failure(
                    clip_id=clip.clip_id, stage="decode", error=error.reason, message=str(error)
                )
            )
            continue
        targets = teacher.extract([audio.resample(wave, spec.sample_rate)])[0]
        encoded = encode(targets.frames[stream.name], stream)
        sums.add(Sums.from_frames(targets.frames[stream.name], encoded))
        rows.append(
            Row(
                clip_id=clip.clip_id,
                duration=len(wave.samples) / wave.sample_rate,
                audio_digest=wave.digest,
                metadata=dict(targets.metadata),
                frames={stream.name: encoded},
            )
        )
    return shards.write(
        layout.shards(spec, corpus.name),
        spec,
        shard=number,
        clip_ids=corpus.shard_ids(number),
        rows=rows,
        failures=failures,
        sums={stream.name: sums},
        extract_seconds=0.1,
        finished="2026-01-01T00:00:00+00:00",
    )
