"""A worker process: decodes, runs its teachers, commits shards.

Every worker can do each step for the teachers that share its resources.

On a CPU machine, one kind of worker does everything, so that all cores stay busy. Teachers that
request a GPU get separate workers, and CPU workers decode. An exception of a decoder about a clip
becomes a `Failure` of that clip alone (`pipeline.build.extraction` does the same for experts).
Errors that say nothing about the clip are raised: an unreachable store, or an error after which the
process can no longer be used.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from manifests import audio
from manifests.cache.shards import Failure, Marker
from manifests.clips import Clip
from manifests.corpus.corpus_index import CACHE_FILE
from manifests.errors import AudioError, StoreError, UserError
from pipeline.build.commit import commit_shard
from pipeline.build.extraction import SharedClock, TeacherRunner, clip_failure
from pipeline.build.faults import brief
from pipeline.build.messages import (
    CommitRequest,
    Decoded,
    DecodeSummary,
    Extracted,
    ExtractSummary,
)
from pipeline.build.setup import TeacherSetup
from teachers.toolkit import batch_search
from teachers.toolkit.device import use_exact_float32

QUICK_TRIES = 3
"""Number of attempts while a store does not respond, before the block is retried later."""
KEPT_BYTES = 256 << 20
"""Freed memory that a process keeps at most."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Numbers of options in glibc's malloc.h."""


class Worker:
    """One process with some cores and perhaps a GPU (an actor of `pipeline.build.cluster`)."""

    def __init__(self, setups: Sequence[TeacherSetup], *, device: str, num_threads: int) -> None:
        self._setups = {setup.name: setup for setup in setups}
        self._device = device
        self._num_threads = num_threads
        self._clock = SharedClock()
        self._runners: dict[str, TeacherRunner] = {}

    def place(self) -> str:
        """The id of the node on which the process runs."""
        return self._node_id()

    def start(self, cache: str = "", search_up_to: float = 0.0) -> float:
        """Loads every teacher, and returns the elapsed seconds.

        Args:
            cache: Address of the cache to which shards are written; empty if none are.
            search_up_to: Seconds of audio up to which the best batch size is searched; 0 disables
                the search.

        Raises:
            UserError: the cache is not accessible from this node.
        """
        began = time.perf_counter()
        if cache and "://" not in cache and not Path(cache, CACHE_FILE).exists():
            raise UserError(
                f"the cache {cache} is not accessible on this node; it must be on a file system "
                "that all nodes share under one path, or at an address such as s3://BUCKET/KEY"
            )
        keep_freed_memory()
        use_exact_float32(self._device)
        for setup in self._setups.values():
            teacher = setup.make()
            teacher.load(device=self._device, num_threads=self._num_threads)
            if search_up_to and not setup.settings.get("batch_seconds"):
                batch_search.tune(
                    teacher, setup.spec, device=self._device, most_seconds=search_up_to
                )
            self._runners[setup.name] = TeacherRunner(teacher, setup.spec, self._clock)
        return time.perf_counter() - began

    def decode(
        self,
        clips: Sequence[Clip],
        sample_rates: Sequence[int],
        max_seconds: float,
        block_seconds: float = math.inf,
    ) -> tuple[Decoded, DecodeSummary]:
        """Reads a block's audio once, and resamples it once per rate.

        Args:
            clips: The clips of the block.
            sample_rates: In Hz.
            max_seconds: Longer clips are failures.
            block_seconds: If lengths are unknown, the block ends with the clip that reaches this
                length.

        Raises:
            StoreError: the audio of a clip could not be reached.
        """
        began = time.perf_counter()
        decoded = Decoded([], [], [], {rate: [] for rate in sample_rates})
        failures: list[Failure] = []
        warnings: Counter[str] = Counter()
        num_read = 0
        for clip, wave in _read_block(clips, max_seconds):
            num_read += 1
            try:
                if isinstance(wave, Exception):
                    raise wave
                resampled = {rate: audio.resample(wave, rate) for rate in sample_rates}
            except Exception as error:  # noqa: BLE001  (a decoder may raise anything on bad bytes)
                reason = error.reason if isinstance(error, AudioError) else type(error).__name__
                failures.append(clip_failure(clip.clip_id, "decode", reason, error))
                continue
            kinds = sorted({warning.kind for warning in wave.warnings})
            warnings.update(kinds)
            decoded.warnings.append(kinds)
            decoded.clip_ids.append(clip.clip_id)
            decoded.texts.append(clip.text)
            decoded.durations.append(len(wave.samples) / wave.sample_rate)
            decoded.digests.append(wave.digest)
            for rate, samples in resampled.items():
                decoded.waves[rate].append(samples)
            if clip.likely_duration is None and sum(decoded.durations) >= block_seconds:
                break
        num_bytes = sum(wave.nbytes for waves in decoded.waves.values() for wave in waves)
        seconds = sum(decoded.durations)
        summary = DecodeSummary(
            len(decoded.clip_ids),
            seconds,
            num_bytes,
            failures,
            dict(warnings),
            num_left=len(clips) - num_read,
            elapsed=time.perf_counter() - began,
        )
        return decoded, summary

    def extract(
        self, name: str, decoded: Decoded, position: int | None = None
    ) -> tuple[Extracted, ExtractSummary]:
        """Computes a teacher's rows for a block, or for the clip at one position of it.

        Raises:
            BrokenProcess: the GPU of this process can no longer be used.
        """
        if position is not None:
            decoded = decoded.only(slice(position, position + 1))
        return self._runners[name].extract(decoded)

    def commit(self, request: CommitRequest, parts: Sequence[Any]) -> Marker:
        """Writes a shard of one teacher, in the corpus's order.

        Args:
            request: The shard to write.
            parts: Handles of the blocks' rows (`Extracted`), which are fetched one by one.
        """
        return commit_shard(request, map(self._fetch, parts))

    def _fetch(self, handle: Any) -> Any:
        """The value of a handle; implemented by the cluster's workers."""
        return handle

    def _node_id(self) -> str:
        return ""


def keep_freed_memory() -> None:
    """Lets glibc reuse the memory of arrays of some megabytes instead of returning it to the
    system, which clears every page before it gives it back: a tenth of a worker's time.

    Other C libraries have no such option.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 << 20)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def _read_block(
    clips: Sequence[Clip], max_seconds: float
) -> Iterator[tuple[Clip, audio.Waveform | Exception]]:
    """Yields clips with their audio, one in memory at a time if their lengths are unknown."""
    if all(clip.likely_duration is not None for clip in clips):
        yield from zip(clips, _decode_patiently(clips, max_seconds), strict=True)
        return
    for clip in clips:
        (wave,) = _decode_patiently([clip], max_seconds)
        yield clip, wave


def _decode_patiently(
    clips: Sequence[Clip], max_seconds: float
) -> list[audio.Waveform | Exception]:
    """Decodes a block, with a few retries if a store does not respond.

    Raises:
        StoreError: the audio of a clip could not be reached.
    """
    for attempt in range(QUICK_TRIES):
        try:
            return list(audio.decode_many(clips, max_seconds=max_seconds))
        except OSError as error:
            if attempt == QUICK_TRIES - 1:
                raise StoreError(brief(error)) from None
        except Exception as error:  # noqa: BLE001  (a decoder may raise anything on bad bytes)
            if len(clips) == 1:
                return [error]
            return [wave for clip in clips for wave in _decode_patiently([clip], max_seconds)]
        time.sleep(0.2 * 2**attempt)
    raise AssertionError("the last try returns or raises")
