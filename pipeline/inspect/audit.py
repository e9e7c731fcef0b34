"""Checks random rows of the stored targets by running the expert on their audio again.

Random rows are decoded and extracted anew, in this process, and compared with what is stored,
within what the codec may lose. A file whose content changed behind an unchanged path shows as
another digest, whatever it does to the targets. Audio that cannot be read now says nothing about
the stored targets: it is reported, and never a reason to set a shard aside.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from manifests import audio
from manifests.cache import marker_index, shards, stored_rows
from manifests.cache.encoded_frames import encode
from manifests.cache.layout import Layout
from manifests.cache.shards import Marker, Row
from manifests.cache.stream_sums import Sums
from manifests.clips import Clip
from manifests.errors import UserError
from manifests.streams.kinds import KINDS
from manifests.streams.specs import StreamSpec, TeacherSpec
from teachers import registry
from teachers.protocol import Teacher, extract_targets

TOLERANCE = 0.05
"""Difference between stored and fresh targets, both through the codec, as `difference`."""
SAME = "same"
CONTENT_CHANGED = "content changed"
"""The verdict on a clip whose audio is readable but differs from what the teacher processed."""
SPARE_SECONDS = 1.0
"""Audio that is this much longer than what the teacher processed is different audio; no more of it
is decoded. (The build's own limit is not known here, and does not matter.)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One row, compared with what its audio gives now."""

    teacher: str
    corpus: str
    shard: int
    clip_id: str
    verdict: str
    """`same`, `content changed`, `targets differ`, or why the audio could not be read."""
    difference: float
    """The largest over the row's streams; 0 where it was not compared."""


def audit(
    layout: Layout,
    spec: TeacherSpec,
    *,
    sample: int,
    content_only: bool,
    seed: int,
    trust_remote_code: bool = False,
) -> Iterator[Finding]:
    """Extracts some rows of one version again.

    Args:
        layout: The cache.
        spec: The version.
        sample: Rows, drawn at random; 0 means all.
        content_only: Compare digests of the audio alone, and run no expert.
        seed: Seed of the draw.
        trust_remote_code: Run the code of the cache's teachers: adapters that are not this
            project's, and the Python files of model folders that the cache names.

    Raises:
        UserError: this machine's weights or code would write another version, or the version needs
            code that is not trusted.
    """
    expert = None if content_only else _expert(spec, trust_remote_code=trust_remote_code)
    for corpus_name in layout.corpora():
        corpus, folder = layout.corpus(corpus_name), layout.shards(spec, corpus_name)
        markers = list(marker_index.read_markers(folder))
        total = sum(marker.rows for marker in markers)
        drawn = random.Random(seed).sample(range(total), min(sample or total, total))
        places_left, first = sorted(drawn, reverse=True), 0
        for marker in markers:
            places = []
            while places_left and places_left[-1] < first + marker.rows:
                places.append(places_left.pop() - first)
            first += marker.rows
            if not places:
                continue
            clips = {clip.clip_id: clip for clip in corpus.shard(marker.shard)}
            # Only the marker itself has the sums that differences are held against.
            marker = shards.read_marker(folder, marker.shard)
            stored = stored_rows.read_rows(folder, marker, spec)
            for place in sorted(places):
                if place >= len(stored):
                    continue  # A retry has replaced the shard since.
                row = stored[place]
                verdict, difference = _again(row, clips[row.clip_id], spec, expert, marker)
                yield Finding(
                    teacher=spec.key, corpus=corpus_name, shard=marker.shard,
                    clip_id=row.clip_id, verdict=verdict, difference=difference,
                )  # fmt: skip


def _expert(spec: TeacherSpec, *, trust_remote_code: bool) -> Teacher:
    """The expert of a version, on this machine.

    `spec.json` is data that somebody gave us: it must not choose which code runs here.
    """
    needs = []
    if spec.settings.get("trust_remote_code"):
        needs.append(f"the Python files of the model {spec.settings.get('model', '')!r}")
    if not registry.is_own(spec.family):
        needs.append(f"the adapter {spec.family!r}")
    if needs and not trust_remote_code:
        raise UserError(
            f"auditing {spec.key} would run code that its spec.json names: {' and '.join(needs)}; "
            "if you trust it: --trust-remote-code, else compare the audio alone: --content-only"
        )
    expert = registry.make(spec.name, spec.family, registry.settings_from_spec(spec))
    here = expert.spec()
    if (here.weights, here.revision) != (spec.weights, spec.revision):
        raise UserError(
            f"{spec.key} was built by revision {spec.revision} with other weights than are here; "
            "audit it where they are, or with --content-only"
        )
    expert.load(device="cpu", num_threads=1)
    return expert


def _again(
    row: Row, clip: Clip, spec: TeacherSpec, expert: Teacher | None, marker: Marker
) -> tuple[str, float]:
    # A clip that is stated to be longer than its file has targets of what there is.
    longest = max(row.duration, clip.duration or 0.0)
    try:
        wave = audio.decode(clip, max_seconds=longest + SPARE_SECONDS)
    except audio.AudioError as error:
        if error.reason == "too-long":
            return CONTENT_CHANGED, 0.0
        return f"{error.reason}: {error}", 0.0
    except OSError as error:
        return f"unreachable: {error}", 0.0
    if wave.digest != row.audio_digest:
        return CONTENT_CHANGED, 0.0
    if expert is None:
        return SAME, 0.0
    samples = audio.resample(wave, spec.sample_rate)
    fresh = extract_targets(expert, [samples], [clip.text])[0].frames
    worst = max(
        difference(
            row.frames[stream.name].decode(),
            encode(fresh[stream.name], stream).decode(),
            stream,
            Sums.from_json(marker.sums[stream.name]),
        )
        for stream in spec.streams
    )
    return (SAME if worst <= TOLERANCE else "targets differ"), worst


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


def line(finding: Finding) -> str:
    """A row that is not the same, for people."""
    by = f" by {finding.difference:.3f}" if finding.difference else ""
    place = f"{finding.teacher} {finding.corpus} shard {finding.shard} {finding.clip_id}"
    return f"{place}: {finding.verdict}{by}"


def summary(spec: TeacherSpec, verdicts: Counter[str]) -> str:
    """A line about the results for the rows of one version."""
    others = [f"{name} {count}" for name, count in verdicts.most_common() if name != SAME]
    rest = f" ({', '.join(others)})" if others else ""
    return (
        f"{spec.key}: {verdicts[SAME]} of {verdicts.total()} rows equal the expert's output "
        f"now{rest}"
    )
