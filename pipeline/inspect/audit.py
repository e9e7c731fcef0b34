"""Checks random rows of the stored targets by running the expert on their audio again.

Random rows are decoded and extracted again in this process, and compared with the stored ones
within the loss of the codec. A file whose content changed under the same path has another digest.
Audio that cannot be read now says nothing about the stored targets: it is reported, but no shard is
set aside because of it.
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
from manifests.wording import number_of
from teachers import registry
from teachers.protocol import Teacher, extract_targets

TOLERANCE = 0.05
"""Maximum `difference` between stored and new targets, both after the codec."""
SAME = "same"
CONTENT_CHANGED = "content changed"
"""The verdict on a clip whose audio is readable but differs from the processed audio."""
SPARE_SECONDS = 1.0
"""Audio that is longer than the processed audio by this much is different; decoding stops there.
(The build's own limit is unknown here and does not matter.)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of comparing one row with its audio."""

    teacher: str
    corpus: str
    shard: int
    clip_id: str
    verdict: str
    """`same`, `content changed`, `targets differ`, or the reason why the audio could not be
    read."""
    difference: float
    """The largest difference over the row's streams; 0 if it was not compared."""


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
        sample: Number of random rows; 0 means all.
        content_only: Compare only digests of the audio, and run no expert.
        seed: Seed of the draw.
        trust_remote_code: Run the code of the cache's teachers: adapters that are not this
            project's, and the Python files of model folders that the cache names.

    Raises:
        UserError: this machine's weights or code would create another version, or the version needs
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
            # Only the marker itself has the sums with which differences are compared.
            try:
                marker = shards.read_marker(folder, marker.shard)
            except FileNotFoundError:
                continue  # The shard has been set aside meanwhile.
            stored = stored_rows.read_rows(folder, marker, spec)
            for place in sorted(places):
                if place >= len(stored):
                    continue  # A retry has replaced the shard meanwhile.
                row = stored[place]
                verdict, difference = _extract_again(row, clips[row.clip_id], spec, expert, marker)
                yield Finding(
                    teacher=spec.key, corpus=corpus_name, shard=marker.shard,
                    clip_id=row.clip_id, verdict=verdict, difference=difference,
                )  # fmt: skip


def _expert(spec: TeacherSpec, *, trust_remote_code: bool) -> Teacher:
    """Creates the expert of a version.

    `spec.json` is untrusted data: it must not choose the code that runs here.
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
    if here.revision != spec.revision:
        raise UserError(
            f"{spec.key} was built by revision {spec.revision} of its adapter, which has revision "
            f"{here.revision} here; audit it with the older code, or with --content-only"
        )
    if here.weights != spec.weights:
        raise UserError(
            f"{spec.key} was built with other weights than this machine has; audit it on a machine "
            "that has them, or with --content-only"
        )
    expert.load(device="cpu", num_threads=1)
    return expert


def _extract_again(
    row: Row, clip: Clip, spec: TeacherSpec, expert: Teacher | None, marker: Marker
) -> tuple[str, float]:
    # A clip that is stated to be longer than its file has targets for the existing part.
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
    """Computes the RMS difference in the columns' deviations; unscaled for probabilities.

    If the number of frames differs, the result is infinite.
    """
    if stored_TD.shape != fresh_TD.shape:
        return float("inf")
    scale_D = sums.statistics().std_D if KINDS[stream.kind].is_physical else np.float32(1)
    return float(np.sqrt(np.square((stored_TD - fresh_TD) / scale_D).mean()))


def line(finding: Finding) -> str:
    """Describes a row that differs, in one line."""
    by = f" by {finding.difference:.3f}" if finding.difference else ""
    place = f"{finding.teacher} {finding.corpus} shard {finding.shard} {finding.clip_id}"
    return f"{place}: {finding.verdict}{by}"


def summary(spec: TeacherSpec, verdicts: Counter[str], *, content_only: bool) -> str:
    """Summarises the results for the rows of one version in one line."""
    if not verdicts:
        return f"{spec.key}: no rows"
    others = [f"{name} {count}" for name, count in verdicts.most_common() if name != SAME]
    rest = f" ({', '.join(others)})" if others else ""
    return (
        f"{spec.key}: {verdicts[SAME]} of {number_of(verdicts.total(), 'row')} "
        f"{'have the audio of' if content_only else 'equal the output of the expert'} today{rest}"
    )
