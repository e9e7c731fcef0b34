"""The options of `coat-cache`: the command line and YAML files come from these classes.

Nothing of weight is imported here, so that `--help` answers at once.

(Without slots: jsonargparse reads the defaults of nested dataclasses through `vars`.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from manifests.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Resources:
    """The resources of one worker process. Teachers that ask for the same share workers."""

    num_cpus: float = 1.0
    """CPU cores per worker; also its thread budget (at least one thread)."""
    num_gpus: float = 0.0
    """GPUs per worker; a fraction shares one."""
    memory_gb: float = 0.0
    """Memory that Ray reserves per worker, in GB; 0 reserves none."""
    custom: dict[str, float] = field(default_factory=dict)
    """Custom Ray resources per worker, e.g. {"audio_node": 1}."""
    accelerator_type: str = ""
    """A Ray accelerator type, e.g. A100; empty for any."""
    max_workers: int = 0
    """Most workers with these resources; 0 takes what the cluster has room for."""

    def __post_init__(self) -> None:
        if self.num_cpus < 0 or self.num_gpus < 0 or self.memory_gb < 0 or self.max_workers < 0:
            raise UserError(f"resources must not be negative; found {self}")
        if self.num_cpus == 0 and self.num_gpus == 0 and not self.custom:
            raise UserError("a worker must ask for CPUs, GPUs or a custom resource; found none")

    @property
    def num_threads(self) -> int:
        """Threads that a worker may use."""
        return max(1, int(self.num_cpus))


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """One teacher of a build; what is left out comes from the preset."""

    family: str = ""
    """A registered family (`coat-cache teachers` lists them), `transformers:MODEL_ID` or
    `my_module:MyTeacher`."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the family that change the features; a change makes a new version."""
    runtime: dict[str, Any] = field(default_factory=dict)
    """Settings of the family that do not change the features, e.g. batch_size."""
    codecs: dict[str, str] = field(default_factory=dict)
    """Stream -> codec (fp16, int8, uint8, topk16, pitch) in place of the teacher's own choice."""
    resources: Resources = field(default_factory=Resources)
    """The resources of a worker that runs this teacher."""


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """A build of a teacher cache."""

    corpus: str
    """Folder or address of a corpus made by `coat-corpus build`."""
    cache: str
    """Folder or address (s3://, gs://) of the cache; made if it is not there."""
    preset: str = "embedded"
    """A set of teachers; `embedded` needs no model hub, `hub` is what `coat-cache fetch` gets."""
    weights_dir: str = ""
    """Folder of hub checkpoints that `coat-cache fetch` filled, at the same path on every node."""
    teachers: str = ""
    """Teachers to run, separated by commas; all of the preset and of `teacher` if empty."""
    teacher: dict[str, TeacherConfig] = field(default_factory=dict)
    """Teacher name -> changes to the preset, or a teacher of one's own."""
    ray_address: str = ""
    """Address of a running Ray cluster (`auto` finds it); empty starts a local one."""
    decode: Resources = field(default_factory=Resources)
    """Resources of the workers that decode audio and write shards. The default joins the workers of
    CPU teachers; ask for something else to keep decoding on nodes of its own."""
    block_clips: int = 0
    """Clips that travel together from decoding through a teacher; 0 means 4, or 128 with a GPU."""
    block_seconds: float = 0.0
    """Most audio seconds in a block of several clips; 0 means 240, or 600 with a GPU."""
    batch_seconds: float | Literal["auto"] = 0.0
    """Padded audio per forward pass of every teacher that has such a batch, in seconds; 0 leaves it
    to the teacher. `auto` searches for what runs fastest, once per teacher and card, and remembers
    it in ~/.cache/coat-distill; give larger blocks (block_seconds) for larger batches than theirs.
    What a teacher's own `runtime` says goes first."""
    max_clip_seconds: float = 3600.0
    """Longer clips are recorded as failures (cut them by offset and duration in the manifest)."""
    memory_fraction: float = 0.3
    """Share of Ray's object store that decoded audio may fill before decoding waits."""
    max_failure_rate: float = 0.2
    """The build stops once clearly more than this share of the last 2,000 clips has failed in
    decoding, or in a teacher (after the first 100); 1 never stops it. Not used by
    `retry-failures`."""
    hang_seconds: float = 120.0
    """A worker that has not come back from a block after this many seconds, and 30 more per second
    of audio, is replaced. Loading teachers and writing a shard may take 5 times as long."""
    retry_seconds: float = 120.0
    """Time for which a store that cannot be reached (audio or cache) is tried again, with pauses,
    before the build ends or leaves a shard to the next one."""
    part: str = ""
    """I/N: this build does only every N-th shard, from the I-th on. N builds at once, on clusters
    of their own, then fill one cache."""
    py_modules: list[str] = field(default_factory=list)
    """Folders of packages that workers on a cluster need besides this project's own."""

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
        """Those of the shards that this part of the build does."""
        if not self.part:
            return list(numbers)
        index, slash, count = self.part.partition("/")
        valid = bool(slash) and index.isdecimal() and count.isdecimal()
        if not valid or not 1 <= int(index) <= int(count):
            raise UserError(f"part must be I/N with 1 <= I <= N, e.g. 2/8; found {self.part!r}")
        return [number for number in numbers if number % int(count) == int(index) - 1]


@dataclass(frozen=True, kw_only=True)
class PlanOptions(BuildConfig):
    """The options of `coat-cache plan`: those of a build, and the form of the answer."""

    price_per_core_hour: float = 0.0
    """Price of a core for an hour, in any currency; 0 leaves the price out."""

    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """The options of `coat-cache report`."""

    cache: str = "cache"
    """Folder or address of the cache."""
    out: str = "report"
    """Folder for the page, `index.html`."""
    clips: int = 24
    """Clips in the gallery, with audio and all tracks (about 150 kB each)."""
    sample: int = 2000
    """Clips that the distributions and checks look at."""
    listen: int = 500
    """Clips of the sample that are decoded to look for silence, clipping and replaced audio."""
    seed: int = 0
    """Draws another sample."""

    def __post_init__(self) -> None:
        for name, least in (("clips", 1), ("sample", 1), ("listen", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, found {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class FetchConfig:
    """Checkpoints to fetch from the hub."""

    weights_dir: str
    """Folder to fill; builds are given the same."""
    preset: str = "hub"
    """The preset whose checkpoints are fetched."""
    teachers: str = ""
    """Teachers to fetch for, separated by commas; all of the preset and of `teacher` if empty."""
    teacher: dict[str, TeacherConfig] = field(default_factory=dict)
    """Teacher name -> changes to the preset, as a build has them."""
    model: str = ""
    """Hub ids in place of a preset's, separated by commas; org/name or org/name@revision."""
    newest: bool = False
    """Move pinned checkpoints to the newest commit. Targets made with them get new versions."""
    remote_code: bool = False
    """Fetch Python files too, for teachers with trust_remote_code."""
