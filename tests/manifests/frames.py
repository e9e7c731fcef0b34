"""Builds streams and frames for every codec, and a small cache of them, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from manifests.cache import shards
from manifests.cache.encoded_frames import encode
from manifests.cache.layout import Layout
from manifests.cache.shards import Failure, Row
from manifests.cache.stream_sums import Sums
from manifests.clips import Clip
from manifests.corpus.corpus import Corpus, build
from manifests.streams.specs import StreamSpec, TeacherSpec

KINDS: dict[str, str] = {
    "fp16": "features",
    "int8": "features",
    "uint8": "multilabel",
    "topk16": "multilabel",
    "pitch": "pitch",
}
FAILED = 5
"""Index of the clip in `make_cache` that has no targets."""


def stream(codec: str) -> StreamSpec:
    """Returns a stream that fits a codec and has its name."""
    dim = {"topk16": 60, "pitch": 361}.get(codec, 40)
    return StreamSpec(
        name=codec,
        kind=KINDS[codec],
        dim=dim,
        start_s=0.01,
        hop_s=0.02,
        window_s=0.025,
        codec=codec,
    )


def frames(codec: str, *, seed: int, count: int = 50) -> np.ndarray:
    """Returns random frames for `stream(codec)`."""
    rng = np.random.default_rng(seed)
    dim = stream(codec).dim
    if KINDS[codec] == "features":
        return rng.normal(size=(count, dim)).astype(np.float32)
    if codec == "pitch":
        bins = np.arange(dim - 1) - rng.uniform(20, 340, (count, 1))
        return np.hstack([np.exp(-((bins / 4) ** 2)), rng.random((count, 1))]).astype(np.float32)
    return rng.beta(0.05, 2.0, (count, dim)).astype(np.float32)


def spec() -> TeacherSpec:
    """Returns the spec of a teacher with a stream for every codec."""
    return TeacherSpec(
        name="every",
        family="none",
        revision=1,
        settings={},
        weights={},
        sample_rate=16_000,
        streams=tuple(stream(codec) for codec in KINDS),
        license="none",
    )


def row(clip_id: str, index: int) -> Row:
    """Returns the targets of one clip."""
    return Row(
        clip_id=clip_id,
        duration=1.0 + index,
        audio_digest=f"{index:032x}",
        metadata={"text": f"clip {index} ♪"},
        frames={
            codec: encode(frames(codec, seed=index, count=10 + index), stream(codec))
            for codec in KINDS
        },
    )


def make_cache(folder: Path, *, clips: int = 20, per_shard: int = 11) -> Layout:
    """Writes a cache of clips `clip00`, `clip01`, ... in which one clip failed."""
    clips_to_store = [
        Clip(clip_id=f"clip{index:02d}", uri=f"/audio/{index}.wav") for index in range(clips)
    ]
    corpus = build(clips_to_store, folder / "corpus", clips_per_shard=per_shard)
    layout = Layout.create(folder / "cache")
    layout.register(corpus)
    layout.add_teacher(spec())
    for number in range(corpus.num_shards):
        write_shard(layout, corpus, number)
    return layout


def write_shard(layout: Layout, corpus: Corpus, number: int) -> shards.Marker:
    """Commits one shard of the cache."""
    ids = corpus.shard_ids(number)
    rows = [row(clip_id, int(clip_id[4:])) for clip_id in ids if int(clip_id[4:]) != FAILED]
    sums = {codec: Sums.zero(stream(codec).dim) for codec in KINDS}
    for stored_row in rows:
        index = int(stored_row.clip_id[4:])
        for codec, total in sums.items():
            total.add(
                Sums.from_frames(
                    frames(codec, seed=index, count=10 + index), stored_row.frames[codec]
                )
            )
    present = {stored_row.clip_id for stored_row in rows}
    return shards.write(
        layout.shards(spec(), corpus.name),
        spec(),
        shard=number,
        clip_ids=ids,
        rows=rows,
        failures=[
            Failure(clip_id=clip_id, stage="decode", error="empty", message="no samples")
            for clip_id in ids
            if clip_id not in present
        ],
        sums=sums,
        extract_seconds=1.5,
        finished="2026-01-01T00:00:00+00:00",
    )
