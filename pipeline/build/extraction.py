"""Runs one teacher over blocks, and checks, encodes and sums its results.

An exception of an expert about a clip becomes a `Failure` of that clip alone. In a worker with a
GPU, two threads run in parallel: encoding and sums of one block overlap with the network of the
next. Only the network has exclusive use of the device.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Sequence

from manifests.cache.shards import AUDIO_WARNINGS, Failure, Row
from manifests.cache.stream_sums import Sums, encode_and_sum
from manifests.streams.specs import TeacherSpec
from pipeline.build.commit import merge
from pipeline.build.faults import BrokenProcess, brief, is_broken
from pipeline.build.libraries import library_versions
from pipeline.build.messages import Decoded, Extracted, ExtractSummary
from teachers.protocol import Targets, Teacher, extract_targets
from teachers.toolkit import device
from teachers.toolkit.batching import free_device_memory, is_out_of_memory


class SharedClock:
    """Divides the seconds of a worker among the calls that run in parallel."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._shared = 0.0
        self._changed_at = 0.0

    def start(self) -> float:
        """Starts a call, and returns a mark for `stop`."""
        return self._change(1)

    def stop(self, mark: float) -> float:
        """Ends a call, and returns its share of the worker's seconds."""
        return self._change(-1) - mark

    def _change(self, calls: int) -> float:
        with self._lock:
            now = time.perf_counter()
            if self._running:
                self._shared += (now - self._changed_at) / self._running
            self._changed_at = now
            self._running += calls
            return self._shared


class TeacherRunner:
    """A loaded teacher of a worker.

    Args:
        teacher: The loaded teacher.
        spec: The version that is written.
        clock: Clock of the worker.
    """

    def __init__(self, teacher: Teacher, spec: TeacherSpec, clock: SharedClock) -> None:
        self.teacher = teacher
        self._spec = spec
        self._clock = clock
        self._most_clips = 0
        """Largest number of clips that fits into memory, after a larger block failed; 0 means
        any."""

    def extract(self, decoded: Decoded) -> tuple[Extracted, ExtractSummary]:
        """Computes the teacher's rows for a block.

        A block that runs out of memory is halved. If a block fails for another reason, its clips
        are run one by one.

        Raises:
            BrokenProcess: the device of this process can no longer be used, or has no memory left
                for a single clip.
        """
        mark = self._clock.start()
        whole = Extracted([], [], _no_sums(self._spec))
        first, clips = 0, len(decoded.clip_ids)
        try:
            while first < clips:
                part = decoded.only(slice(first, first + (self._most_clips or clips)))
                extracted = self._extract(part)
                if extracted is None:
                    free_device_memory()
                    continue
                merge(whole, extracted)
                first += len(part.clip_ids)
        finally:
            elapsed = self._clock.stop(mark)
        summary = ExtractSummary(
            len(decoded.clip_ids),
            sum(decoded.durations),
            elapsed,
            sum(len(frames.blob) for row in whole.rows for frames in row.frames.values()),
            whole.failures,
        )
        return whole, summary

    def _extract(self, decoded: Decoded) -> Extracted | None:
        """A block's rows; None if it ran out of memory."""
        clips, name = len(decoded.clip_ids), self._spec.name
        try:
            return self._rows(decoded, self._results(decoded))
        except Exception as error:  # noqa: BLE001  (an expert may raise anything; see the docstring)
            no_memory = is_out_of_memory(error)
            if no_memory and clips > 1:
                self._most_clips = (clips + 1) // 2
                return None
            if no_memory or is_broken(error):
                raise BrokenProcess(f"{name}: {type(error).__name__}: {brief(error)}") from None
            if clips == 1:
                reason = type(error).__name__
                failure = clip_failure(decoded.clip_ids[0], "extract", reason, error)
                return Extracted([], [failure], {})
        whole = Extracted([], [], {})
        for part in decoded.split():
            merge(whole, self._extract(part) or Extracted([], [], {}))
        return whole

    def _results(self, decoded: Decoded) -> list[Targets]:
        """The expert's targets of each clip.

        Raises:
            Exception: the error of the expert, or a wrong number of results.
        """
        waves = decoded.waves[self._spec.sample_rate]
        with self._turn():
            results = extract_targets(self.teacher, waves, decoded.texts)
        if len(results) != len(decoded.clip_ids):
            clips = len(decoded.clip_ids)
            raise ValueError(f"the expert returned {len(results)} results for {clips} clips")
        return results

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Holds the device for the whole call, unless the adapter does so for its network only."""
        if getattr(self.teacher, "overlaps", False):
            yield
            return
        with device.turn():
            yield

    def _rows(self, decoded: Decoded, results: Sequence[Targets]) -> Extracted:
        sums = _no_sums(self._spec)
        part = Extracted([], [], sums, dict(library_versions()))
        for position, targets in enumerate(results):
            try:
                row, own_sums = _checked_row(targets, decoded, position, self._spec)
            except (ValueError, TypeError, AttributeError) as error:
                reason = "bad-frames" if "stream " in str(error) else "bad-result"
                clip_id = decoded.clip_ids[position]
                part.failures.append(clip_failure(clip_id, "extract", reason, error))
                continue
            for stream, own in own_sums.items():
                sums[stream].add(own)
            part.rows.append(row)
        return part


def clip_failure(clip_id: str, stage: str, error: str, why: Exception) -> Failure:
    """The record of a clip on which a decoder or an expert failed."""
    return Failure(clip_id=clip_id, stage=stage, error=error, message=str(why)[:500])


def _no_sums(spec: TeacherSpec) -> dict[str, Sums]:
    return {stream.name: Sums.zero(stream.dim) for stream in spec.streams}


def _checked_row(
    targets: Targets, decoded: Decoded, position: int, spec: TeacherSpec
) -> tuple[Row, dict[str, Sums]]:
    """Builds a clip's row and its sums, after checking that it can be written and read again.

    Raises:
        ValueError, TypeError: the expert's result does not match its spec.
    """
    missing = [stream.name for stream in spec.streams if stream.name not in targets.frames]
    if missing:
        raise ValueError(f"the expert's result lacks {', '.join(missing)}")
    try:
        json.dumps(targets.metadata, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise ValueError(f"the expert's metadata is not JSON: {error}") from None
    if not isinstance(targets.metadata, dict):
        raise ValueError("the expert's metadata is not a JSON object")
    kinds = decoded.warnings[position] if decoded.warnings else []
    stored = {
        stream.name: encode_and_sum(targets.frames[stream.name], stream) for stream in spec.streams
    }
    row = Row(
        clip_id=decoded.clip_ids[position],
        duration=decoded.durations[position],
        audio_digest=decoded.digests[position],
        metadata=targets.metadata | ({AUDIO_WARNINGS: kinds} if kinds else {}),
        frames={name: encoded for name, (encoded, _) in stored.items()},
    )
    return row, {name: sums for name, (_, sums) in stored.items()}
