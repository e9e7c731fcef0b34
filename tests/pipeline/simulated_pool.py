"""A `pipeline.build.backend.Backend` whose workers run in simulated time."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from manifests.cache.shards import Marker
from pipeline.build.backend import Call, Node
from pipeline.build.messages import DecodeSummary, ExtractSummary
from pipeline.build.setup import TeacherSetup
from pipeline.config import Resources

BYTES_PER_SECOND = 64_000
"""Size of one second of audio at 16 kHz in float32, in bytes."""


@dataclass
class SimulatedWorker:
    """A worker process that runs its calls one after the other."""

    node_id: str
    has_gpu: bool
    free_at: float = 0.0


@dataclass
class SimulatedPool:
    """A cluster of one node.

    Args:
        resources: The resources of the node.
        decode_cost: Worker seconds for decoding one second of audio.
        teacher_cost: Worker seconds of the teacher for one second of audio.
        variation: Factor of the duration of each call, by its number.
        commit_s: Worker seconds of a commit.
    """

    resources: Mapping[str, float]
    decode_cost: float
    teacher_cost: float
    variation: Callable[[int], float] = lambda number: 1.0
    commit_s: float = 0.05
    now: float = 0.0
    busy: Counter[str] = field(default_factory=Counter)
    """Method -> worker seconds."""
    first_extract_at: float = 0.0
    last_extract_at: float = 0.0
    most_decoded_s: float = 0.0
    """Largest amount of audio, in seconds, that was decoded and not yet processed."""

    def __post_init__(self) -> None:
        self._workers: list[SimulatedWorker] = []
        self._done: list[tuple[float, int, Call]] = []
        self._numbers = itertools.count()
        self._decoded_s = 0.0

    def nodes(self) -> list[Node]:
        return [Node("a", "a", {"object_store_memory": 1e12, **self.resources})]

    def available(self) -> Mapping[str, float]:
        return self.resources

    def start_worker(
        self,
        resources: Resources,
        setups: Sequence[TeacherSetup],
        *,
        node_id: str | None,
        calls_at_once: int = 1,
    ) -> Any:
        worker = SimulatedWorker(node_id or "a", has_gpu=resources.num_gpus > 0)
        self._workers.append(worker)
        return worker

    def call(self, worker: Any, method: str, *arguments: Any, keep: bool = False) -> Call:
        call = Call(worker, kept="kept")
        number = next(self._numbers)
        seconds, result = self._work(worker, method, arguments, self.variation(number))
        start = max(self.now, worker.free_at)
        worker.free_at = start + seconds
        self.busy[method] += seconds
        if method == "extract":
            self.first_extract_at = self.first_extract_at or start
            self.last_extract_at = worker.free_at
        call.result = method, result
        heapq.heappush(self._done, (worker.free_at, number, call))
        return call

    def _work(
        self, worker: SimulatedWorker, method: str, arguments: tuple, factor: float
    ) -> tuple[float, Any]:
        if method == "decode":
            audio_s = sum(clip.duration for clip in arguments[0])
            seconds = self.decode_cost * audio_s * factor
            size = int(BYTES_PER_SECOND * audio_s)
            summary = DecodeSummary(len(arguments[0]), audio_s, size, [], {}, elapsed=seconds)
            return seconds, summary
        if method == "extract":
            audio_s = 4.0 * 30.0
            seconds = self.teacher_cost * audio_s * factor
            return seconds, ExtractSummary(4, audio_s, seconds, 1000, [])
        if method == "commit":
            marker = Marker(
                shard=0, clips=1, rows=1, failures={}, seconds=1.0, extract_seconds=1.0,
                finished="", clips_digest="", data="", data_bytes=1, data_sha256="",
            )  # fmt: skip
            return self.commit_s, marker
        return 0.0, worker.node_id if method == "place" else 0.0

    def completed(self, timeout: float) -> list[Call]:
        """Returns the calls that end next, and advances the time until then."""
        if not self._done:
            self.now += timeout
            return []
        if self._done[0][0] > self.now + timeout:
            self.now += timeout
            return []
        self.now = max(self.now, self._done[0][0])
        calls = []
        while self._done and self._done[0][0] <= self.now:
            calls.append(heapq.heappop(self._done)[2])
        return calls

    def result(self, call: Call) -> Any:
        method, result = call.result
        if method == "decode":
            self._decoded_s += result.seconds
            self.most_decoded_s = max(self.most_decoded_s, self._decoded_s)
        if method == "extract":
            self._decoded_s -= result.seconds
        return result

    def kill(self, worker: Any) -> None: ...

    def keep(self, value: Any) -> Any:
        return value

    def fetch(self, handle: Any) -> Any:
        return handle

    @property
    def busy_share(self) -> float:
        """Share of busy time of the teacher's workers between their first and last call."""
        workers = sum(worker.has_gpu for worker in self._workers)
        return self.busy["extract"] / workers / (self.last_extract_at - self.first_extract_at)
