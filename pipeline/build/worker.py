"""A worker process: decodes, runs its teachers, commits shards.

Every worker can do each step for the teachers that share its resources. On a CPU machine one kind
of worker does everything, so that no core waits while another step is behind; teachers that ask for
a GPU get workers of their own, and decoding stays with the CPU workers.

A bad clip ends here: whatever a decoder or an expert raises becomes a `Failure` of that clip alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from manifests import audio
from manifests.cache import shards
from manifests.cache.codecs import encode
from manifests.cache.shards import Failure, Marker, Row
from manifests.cache.stream_sums import MAX_CODEC_LOSS, Sums
from manifests.clips import Clip
from manifests.errors import UserError
from manifests.storage import Folder
from manifests.streams.specs import TeacherSpec
from pipeline.build.messages import Decoded, DecodeSummary, Extracted, ExtractSummary
from pipeline.build.setup import TeacherSetup
from teachers.protocol import Targets, Teacher


class Worker:
    """One process with some cores and perhaps a GPU, a Ray actor (`pipeline.build.pools`)."""

    def __init__(self, setups: Sequence[TeacherSetup], *, device: str, num_threads: int) -> None:
        self._setups = {setup.name: setup for setup in setups}
        self._device = device
        self._num_threads = num_threads
        self._teachers: dict[str, Teacher] = {}

    def start(self) -> tuple[int, float]:
        """Loads every teacher; the process id and the seconds it took."""
        began = time.perf_counter()
        for setup in self._setups.values():
            teacher = setup.make()
            teacher.load(device=self._device, num_threads=self._num_threads)
            self._teachers[setup.name] = teacher
        return os.getpid(), time.perf_counter() - began

    def decode(
        self, clips: Sequence[Clip], sample_rates: Sequence[int], max_seconds: float
    ) -> tuple[Decoded, DecodeSummary]:
        """Reads a block's audio once, and resamples it once per rate."""
        decoded = Decoded([], [], [], {rate: [] for rate in sample_rates})
        failures: list[Failure] = []
        for clip in clips:
            try:
                wave = audio.decode(clip, max_seconds=max_seconds)
                resampled = {rate: audio.resample(wave, rate) for rate in sample_rates}
            except audio.AudioError as error:
                failures.append(_failure(clip.clip_id, "decode", error.reason, error))
                continue
            except Exception as error:  # noqa: BLE001  (a decoder may raise anything on bad bytes)
                failures.append(_failure(clip.clip_id, "decode", type(error).__name__, error))
                continue
            decoded.clip_ids.append(clip.clip_id)
            decoded.durations.append(len(wave.samples) / wave.sample_rate)
            decoded.digests.append(wave.digest)
            for rate, samples in resampled.items():
                decoded.waves[rate].append(samples)
        num_bytes = sum(wave.nbytes for waves in decoded.waves.values() for wave in waves)
        seconds = sum(decoded.durations)
        return decoded, DecodeSummary(len(decoded.clip_ids), seconds, num_bytes, failures)

    def extract(
        self, name: str, decoded: Decoded, position: int | None = None
    ) -> tuple[Extracted, ExtractSummary]:
        """A teacher's rows for a block, or for the clip at one position of it.

        Once a batch fails, its clips are tried one by one.
        """
        if position is not None:
            decoded = decoded.only(position)
        teacher, spec = self._teachers[name], self._setups[name].spec
        began = time.perf_counter()
        failures: list[Failure] = []
        targets: list[Targets | None] = []
        try:
            targets += teacher.extract(decoded.waves[spec.sample_rate])
        except Exception as error:  # noqa: BLE001  (an expert may raise anything; see the docstring)
            if len(decoded.clip_ids) > 1:
                return self._extract_singly(name, decoded)
            failures.append(_failure(decoded.clip_ids[0], "extract", type(error).__name__, error))
            targets.append(None)
        rows: list[Row] = []
        sums = {stream.name: Sums.zero(stream.dim) for stream in spec.streams}
        for position, heard in enumerate(targets):
            if heard is None:
                continue
            clip_id = decoded.clip_ids[position]
            try:
                frames = {
                    stream.name: encode(heard.frames[stream.name], stream)
                    for stream in spec.streams
                }
            except ValueError as error:
                failures.append(_failure(clip_id, "extract", "bad-frames", error))
                continue
            for stream, encoded in frames.items():
                sums[stream].add(Sums.of(heard.frames[stream], encoded))
            rows.append(
                Row(
                    clip_id=clip_id,
                    duration=decoded.durations[position],
                    audio_digest=decoded.digests[position],
                    metadata=heard.metadata,
                    frames=frames,
                )
            )
        summary = ExtractSummary(
            len(decoded.clip_ids),
            sum(decoded.durations),
            time.perf_counter() - began,
            failures,
        )
        return Extracted(rows, failures, sums), summary

    def _extract_singly(self, name: str, decoded: Decoded) -> tuple[Extracted, ExtractSummary]:
        whole = Extracted([], [], {})
        elapsed = 0.0
        for position in range(len(decoded.clip_ids)):
            part, summary = self.extract(name, decoded, position)
            merge(whole, part)
            elapsed += summary.elapsed
        summary = ExtractSummary(
            len(decoded.clip_ids), sum(decoded.durations), elapsed, whole.failures
        )
        return whole, summary

    def commit(
        self,
        spec: TeacherSpec,
        folder: Folder,
        shard: int,
        ids: Sequence[str],
        done: Sequence[str],
        failures: Sequence[Failure],
        extract_seconds: float,
        *parts: Extracted,
    ) -> Marker:
        """Writes a shard of one teacher from all its blocks, in the corpus's order.

        Args:
            spec: The teacher's version.
            folder: Of its shards.
            shard: Number of the corpus slice.
            ids: Of the slice's clips, in order.
            done: Of the clips that were to be done. If not all of them, the shard keeps what it
                has of the others.
            failures: Of decoding.
            extract_seconds: Worker time of the teacher.
            parts: The blocks' rows.

        Raises:
            UserError: a stream's codec lost more than `MAX_CODEC_LOSS`.
        """
        whole = Extracted([], list(failures), {})
        for part in parts:
            merge(whole, part)
        for stream, sums in whole.sums.items():
            codec = spec.stream(stream).codec
            loss, limit = sums.codec_loss(spec.stream(stream)), MAX_CODEC_LOSS[codec]
            if loss > limit:
                raise UserError(
                    f"codec {codec} loses {loss:.3f} of {spec.name}.{stream} (shard {shard}), the "
                    f"limit is {limit}; set teacher.{spec.name}.codecs.{stream}: fp16"
                )
        if len(done) < len(ids):
            before = shards.read_marker(folder, shard)
            kept = shards.read_rows(folder, before, spec)
            if not {row.clip_id for row in kept}.isdisjoint(done):
                return before  # Another job has done them meanwhile.
            merge(whole, _stored(kept, folder, before, done))
            extract_seconds += before.extract_seconds
        place = {clip_id: at for at, clip_id in enumerate(ids)}
        return shards.write(
            folder,
            spec,
            shard=shard,
            clip_ids=ids,
            rows=sorted(whole.rows, key=lambda row: place[row.clip_id]),
            failures=sorted(whole.failures, key=lambda failure: place[failure.clip_id]),
            sums={
                stream.name: whole.sums.get(stream.name, Sums.zero(stream.dim))
                for stream in spec.streams
            },
            extract_seconds=extract_seconds,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )


def merge(whole: Extracted, part: Extracted) -> None:
    """Adds a block's rows to those of others."""
    whole.rows.extend(part.rows)
    whole.failures.extend(part.failures)
    for stream, sums in part.sums.items():
        if stream in whole.sums:
            whole.sums[stream].add(sums)
        else:
            whole.sums[stream] = sums


def _stored(rows: list[Row], folder: Folder, marker: Marker, done: Sequence[str]) -> Extracted:
    """A shard as it is, without the failures that have been tried again."""
    others = [
        failure
        for failure in shards.read_failures(folder, marker)
        if failure.clip_id not in set(done)
    ]
    sums = {stream: Sums.from_json(fields) for stream, fields in marker.sums.items()}
    return Extracted(rows, others, sums)


def _failure(clip_id: str, stage: str, error: str, why: Exception) -> Failure:
    return Failure(clip_id=clip_id, stage=stage, error=error, message=str(why)[:500])
