"""Do the stored targets still say what the expert hears? A spot check by hearing again.

Random rows are decoded and extracted anew, in this process, and compared with what is stored,
within what the codec may lose. A file whose content changed behind an unchanged path shows as
another digest, whatever it does to the targets.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from manifests import audio
from manifests.cache import shards
from manifests.cache.encoded_frames import encode
from manifests.cache.layout import Layout
from manifests.cache.shards import Marker, Row
from manifests.cache.stream_sums import Sums
from manifests.clips import Clip
from manifests.errors import UserError
from manifests.streams.kinds import KINDS
from manifests.streams.specs import StreamSpec, TeacherSpec
from teachers import registry
from teachers.protocol import Teacher

TOLERANCE = 0.05
"""Difference between stored and fresh targets, both through the codec, as `difference`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One row, heard again."""

    teacher: str
    corpus: str
    shard: int
    clip_id: str
    verdict: str
    """`same`, `content changed`, `targets differ`, or why it could not be heard."""
    difference: float
    """The largest over the row's streams; 0 where it was not compared."""


def audit(
    layout: Layout, spec: TeacherSpec, *, sample: int, content_only: bool, seed: int
) -> Iterator[Finding]:
    """Hears some rows of one version again.

    Args:
        layout: The cache.
        spec: The version.
        sample: Rows, drawn at random; 0 means all.
        content_only: Compare digests of the audio alone, and run no expert.
        seed: Of the draw.

    Raises:
        UserError: this machine's weights or code would write another version.
    """
    expert = None if content_only else _expert(spec)
    for corpus_name in layout.corpora():
        corpus, folder = layout.corpus(corpus_name), layout.shards(spec, corpus_name)
        markers = list(shards.read_markers(folder))
        total = sum(marker.rows for marker in markers)
        drawn = random.Random(seed).sample(range(total), min(sample or total, total))
        wanted, first = sorted(drawn, reverse=True), 0
        for marker in markers:
            places = []
            while wanted and wanted[-1] < first + marker.rows:
                places.append(wanted.pop() - first)
            first += marker.rows
            if not places:
                continue
            clips = {clip.clip_id: clip for clip in corpus.shard(marker.shard)}
            stored = shards.read_rows(folder, marker, spec)
            for at in places:
                row = stored[at]
                verdict, difference = _again(row, clips[row.clip_id], spec, expert, marker)
                yield Finding(
                    teacher=spec.key, corpus=corpus_name, shard=marker.shard,
                    clip_id=row.clip_id, verdict=verdict, difference=difference,
                )  # fmt: skip


def _expert(spec: TeacherSpec) -> Teacher:
    expert = registry.make(spec.name, spec.family, spec.settings)
    here = expert.spec()
    if (here.weights, here.revision) != (spec.weights, spec.revision):
        raise UserError(
            f"{spec.key} was made by revision {spec.revision} with other weights than are here; "
            "audit it where they are, or with --content-only"
        )
    expert.load(device="cpu", num_threads=1)
    return expert


def _again(
    row: Row, clip: Clip, spec: TeacherSpec, expert: Teacher | None, marker: Marker
) -> tuple[str, float]:
    try:
        wave = audio.decode(clip)
    except audio.AudioError as error:
        return f"{error.reason}: {error}", 0.0
    if wave.digest != row.audio_digest:
        return "content changed", 0.0
    if expert is None:
        return "same", 0.0
    fresh = expert.extract([audio.resample(wave, spec.sample_rate)])[0].frames
    worst = max(
        difference(
            row.frames[stream.name].decode(),
            encode(fresh[stream.name], stream).decode(),
            stream,
            Sums.from_json(marker.sums[stream.name]),
        )
        for stream in spec.streams
    )
    return ("same" if worst <= TOLERANCE else "targets differ"), worst


def difference(
    stored_TD: np.ndarray, fresh_TD: np.ndarray, stream: StreamSpec, sums: Sums
) -> float:
    """RMS difference in standard deviations of the shard's columns; of probabilities, as they are.

    Another number of frames is infinitely different.
    """
    if stored_TD.shape != fresh_TD.shape:
        return float("inf")
    scale_D = sums.statistics().std_D if KINDS[stream.kind].is_physical else np.float32(1)
    return float(np.sqrt(np.square((stored_TD - fresh_TD) / scale_D).mean()))
