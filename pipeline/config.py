"""The options of `coat-cache`: the command line and YAML files come from these classes.

This module imports no large libraries, so that `--help` is fast.

(Without slots: jsonargparse reads the defaults of nested dataclasses through `vars`.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from manifests.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Resources:
    """The resources of one worker process. Teachers with equal resources share workers."""

    num_cpus: float = 1.0
    """CPU cores per worker; also its number of threads (at least one)."""
    num_gpus: float = 0.0
    """GPUs per worker. With a fraction, several workers share one GPU."""
    memory_gb: float = 0.0
    """Memory that Ray reserves per worker, in GB; 0 reserves none."""
    custom: dict[str, float] = field(default_factory=dict)
    """Custom Ray resources per worker, e.g. {"audio_node": 1}."""
    accelerator_type: str = ""
    """A Ray accelerator type, e.g. A100; empty for any."""
    max_workers: int = 0
    """Number of workers with these resources, all of which are requested at once, for clusters that
    add nodes on request; 0 uses the capacity of the cluster."""

    def __post_init__(self) -> None:
        numbers = (self.num_cpus, self.num_gpus, self.memory_gb, *self.custom.values())
        if not all(0 <= number < math.inf for number in (*numbers, self.max_workers)):
            raise UserError(f"resources must be finite and not negative; found {self}")
        if self.num_cpus == 0 and self.num_gpus == 0 and not self.custom:
            raise UserError("a worker must request CPUs, GPUs or a custom resource; found none")

    @property
    def num_threads(self) -> int:
        """Threads that a worker may use."""
        return max(1, int(self.num_cpus))


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """One teacher of a build: `--teacher.NAME.FIELD`. Missing fields are taken from the preset."""

    family: str = ""
    """A registered family (`coat-cache teachers` lists them), `transformers:MODEL_ID` or
    `my_module:MyTeacher`."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the family that affect the features; a change creates a new version."""
    runtime: dict[str, Any] = field(default_factory=dict)
    """Settings of the family that do not affect the features, e.g. batch_seconds."""
    codecs: dict[str, str] = field(default_factory=dict)
    """Stream -> codec (fp16, int8, uint8, topk16, pitch), instead of the teacher's default."""
    resources: Resources = field(default_factory=Resources)
    """The resources of a worker that runs this teacher."""


def listed_names(names: list[str] | str) -> list[str]:
    """Returns each of the names, which are a list or separated by commas, once."""
    several = names.split(",") if isinstance(names, str) else names
    return list(dict.fromkeys(name.strip() for name in several if name.strip()))


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """A build of a teacher cache."""

    corpus: str
    """Folder or address of a corpus made by `coat-corpus build`."""
    cache: str
    """Folder or address (s3://, gs://) of the cache. A build creates it if it does not exist."""
    preset: str = "embedded"
    """A set of teachers. `embedded` needs no model hub; `hub` needs `coat-cache fetch`."""
    weights_dir: str = ""
    """Folder of hub checkpoints written by `coat-cache fetch`, at the same path on every node."""
    teachers: list[str] | str = ""
    """Teachers to run, separated by commas, or as a list. If empty, all teachers of the preset and
    of `teacher`."""
    teacher: dict[str, TeacherConfig] = field(default_factory=dict)
    """Maps teacher names to changes of the preset, or to additional teachers."""
    ray_address: str = ""
    """Address of a running Ray cluster (`auto` finds it). If empty, a local cluster is started."""
    decode: Resources = field(default_factory=Resources)
    """Resources of the workers that decode audio and write shards. By default, they share the
    workers of CPU teachers. Set different resources to decode on separate nodes."""
    block_clips: int = 0
    """Clips that are decoded and passed to a teacher together; 0 means 4, or 128 with a GPU."""
    block_seconds: float = 0.0
    """Maximum audio in a block of several clips, in seconds; 0 means 240, or 600 with a GPU."""
    batch_seconds: float | Literal["auto"] = 0.0
    """Padded audio per forward pass of every teacher with such batches, in seconds. 0 uses the
    teacher's default. `auto` searches for the fastest size once per teacher and GPU, and stores it
    in ~/.cache/coat-distill; a batch is never larger than a block (block_seconds). The `runtime` of
    a teacher takes precedence."""
    max_clip_seconds: float = 3600.0
    """Longer clips are recorded as failed (split them by offset and duration in the manifest)."""
    memory_fraction: float = 0.3
    """Fraction of Ray's object store that decoded audio can use before decoding waits."""
    max_failure_rate: float = 0.2
    """The build stops if clearly more than this fraction of the last 2,000 clips has failed in
    decoding, or in a teacher (after the first 100). 1 never stops it. Not used by
    `retry-failures`."""
    hang_seconds: float = 120.0
    """A worker that does not return from a block after this many seconds, plus 30 per second of
    audio, is replaced. Loading teachers and writing a shard can take 5 times as long."""
    retry_seconds: float = 120.0
    """Time for which an unreachable store (audio or cache) is retried, with pauses, before the
    build stops or leaves a shard to the next build."""
    part: str = ""
    """I/N: this build processes only every N-th shard, starting with the I-th. N such builds, each
    on its own cluster, can fill one cache at the same time."""
    py_modules: list[str] = field(default_factory=list)
    """Additional code that workers on a cluster need: the folder of a package (with the package's
    name, not the folder that contains it), a .py file, or a wheel."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("block_clips", 0, 4096),
            ("block_seconds", 0, 86400),
            ("batch_seconds", 0, 86400),
            ("max_clip_seconds", 1, 86400),
            ("memory_fraction", 0.01, 0.8),
            ("max_failure_rate", 0, 1),
            ("hang_seconds", 1, 86400),
            ("retry_seconds", 0, 86400),
        ):
            value = getattr(self, name)
            if value == "auto":
                continue
            if not low <= value <= high:
                raise UserError(f"{name} must be in [{low}, {high}]; found {value}")
        self.shards_of_part(())

    def shards_of_part(self, numbers: Iterable[int]) -> list[int]:
        """The shards that this part of the build processes."""
        if not self.part:
            return list(numbers)
        index, slash, count = self.part.partition("/")
        valid = bool(slash) and index.isdecimal() and count.isdecimal()
        if not valid or not 1 <= int(index) <= int(count):
            raise UserError(f"part must be I/N with 1 <= I <= N, e.g. 2/8; found {self.part!r}")
        return [number for number in numbers if number % int(count) == int(index) - 1]


@dataclass(frozen=True, kw_only=True)
class PlanOptions(BuildConfig):
    """The options of `coat-cache plan`: those of a build, and the output format."""

    price_per_core_hour: float = 0.0
    """Price of one core hour, in any currency. With 0, no price is shown."""

    json: bool = False
    """Print JSON instead of a table."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.price_per_core_hour >= 0:
            raise UserError(
                f"price_per_core_hour must not be negative; found {self.price_per_core_hour}"
            )


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """The options of `coat-cache report`."""

    cache: str = "cache"
    """Folder or address of the cache."""
    out: str = "report"
    """Folder or address of a folder for the page, `index.html`."""
    clips: int = 24
    """Clips in the gallery, with audio and all tracks (about 150 kB each)."""
    sample: int = 2000
    """Number of clips from which distributions are computed and which are checked."""
    listen: int = 500
    """Clips of the sample that are decoded to detect silence, clipping and replaced audio."""
    seed: int = 0
    """Seed of the sample."""

    def __post_init__(self) -> None:
        for name, least in (("clips", 1), ("sample", 1), ("listen", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, found {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class FetchConfig:
    """Checkpoints to fetch from the hub."""

    weights_dir: str
    """Folder for the checkpoints. Pass the same folder to builds."""
    preset: str = "hub"
    """The preset whose checkpoints are fetched."""
    teachers: list[str] | str = ""
    """Teachers whose checkpoints are fetched, separated by commas, or as a list. If empty, all
    teachers of the preset and of `teacher`."""
    teacher: dict[str, TeacherConfig] = field(default_factory=dict)
    """Maps teacher names to changes of the preset, as in a build."""
    model: list[str] | str = ""
    """Hub ids to fetch instead of a preset, separated by commas, or as a list; org/name or
    org/name@revision."""
    newest: bool = False
    """Move pinned checkpoints to the newest commit. Targets computed with them get new versions."""
    remote_code: bool = False
    """Fetch Python files too, for teachers with trust_remote_code."""
