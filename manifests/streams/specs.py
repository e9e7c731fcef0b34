"""The specs of teachers: their streams, the time grids, and the fingerprint of a version.

A stream is one output of one teacher, stored at the teacher's own frame rate. Frame i of a stream
describes the time `start_s + i * hop_s` of the clip (the centre of its receptive field),
independent of the clip's length and of the windows.

The fingerprint covers only what changes features (code revision, settings, weights, streams). Batch
size, device and library versions are recorded but do not create a new version.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from manifests.errors import UserError
from manifests.streams.codecs import CODECS
from manifests.streams.kinds import KINDS
from manifests.streams.pitch_bins import CREPE_BINS, PitchBins


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSpec:
    """One output of one teacher."""

    name: str
    """Unique within the teacher, e.g. `encoder`."""
    kind: str
    """Meaning of the numbers, which determines the student's loss: a name of
    `manifests.streams.kinds`."""
    dim: int
    """Width D of a frame."""
    start_s: float
    """Centre of the first frame's receptive field, seconds from the clip's start."""
    hop_s: float
    """Seconds from one frame to the next."""
    window_s: float
    """Length of a frame's receptive field, in seconds (the part that dominates it)."""
    codec: str
    """Codec of the frames: a name of `manifests.streams.codecs`."""
    names: tuple[str, ...] = ()
    """Names of the D columns (classes, descriptors), or empty."""
    unit: str = ""
    """Unit of the values, if they have one."""
    pitch_bins: PitchBins = CREPE_BINS
    """Frequencies of the bins of a pitch stream; other kinds have no bins."""

    def __post_init__(self) -> None:
        for value, allowed, what in (
            (self.kind, KINDS, "kind"),
            (self.codec, CODECS, "codec"),
        ):
            if value not in allowed:
                raise UserError(
                    f"stream {self.name}: {what} must be one of {', '.join(allowed)}; found {value}"
                )
        if self.dim < 1 or self.hop_s <= 0:
            raise UserError(f"stream {self.name}: dim and hop_s must be positive; found {self}")
        if self.names and len(self.names) != self.dim:
            raise UserError(
                f"stream {self.name}: {self.dim} columns, {len(self.names)} names; name all or none"
            )
        if self.pitch_bins != CREPE_BINS and not KINDS[self.kind].has_pitch_bins:
            raise UserError(
                f"stream {self.name}: pitch_bins are for pitch streams; the kind is {self.kind}"
            )

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return 1.0 / self.hop_s

    def to_fields(self) -> dict[str, Any]:
        """The stream's fields in `spec.json`, which the fingerprint covers.

        CREPE's pitch grid is left out, as in all caches written before grids were stated.
        """
        fields = asdict(self)
        if self.pitch_bins == CREPE_BINS:
            del fields["pitch_bins"]
        return fields

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> StreamSpec:
        """Reads what `to_fields` wrote."""
        bins = {"pitch_bins": PitchBins(**fields["pitch_bins"])} if "pitch_bins" in fields else {}
        return cls(**{**fields, "names": tuple(fields["names"]), **bins})


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSpec:
    """One version of one teacher."""

    name: str
    """The teacher's name in the cache, e.g. `asr`."""
    family: str
    """`module:Class` of the adapter."""
    revision: int
    """Increased by the adapter's author when its code changes the features."""
    settings: dict[str, Any]
    """Settings that change the features. Passed to the family, they reproduce this version."""
    weights: dict[str, str]
    """File name -> SHA-256 of every weight file."""
    sample_rate: int
    """Sample rate of the teacher's mono input, in Hz."""
    streams: tuple[StreamSpec, ...]
    license: str
    """Licence of the expert's weights, with its conditions."""
    versions: dict[str, str] = field(default_factory=dict)
    """Library -> version; only recorded."""
    created: str = ""
    """Time at which this version was added to the cache (UTC, ISO 8601); only recorded."""

    @property
    def fingerprint(self) -> str:
        """12 hex digits that name this version."""
        covered = self._fields()
        for recorded_only in ("name", "license", "versions", "created"):
            del covered[recorded_only]
        text = json.dumps(covered, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def key(self) -> str:
        """`NAME@FINGERPRINT`, the version's folder in a cache."""
        return f"{self.name}@{self.fingerprint}"

    def stream(self, name: str) -> StreamSpec:
        """The stream of that name."""
        for stream in self.streams:
            if stream.name == name:
                return stream
        known = ", ".join(stream.name for stream in self.streams)
        raise UserError(f"teacher {self.name} has no stream {name!r}; it has {known}")

    def to_json(self) -> str:
        """The text of `spec.json`."""
        return json.dumps({**self._fields(), "fingerprint": self.fingerprint}, indent=1)

    def _fields(self) -> dict[str, Any]:
        return {**asdict(self), "streams": [stream.to_fields() for stream in self.streams]}

    @classmethod
    def from_json(cls, text: str) -> TeacherSpec:
        """Reads `spec.json`, and checks that its fingerprint matches its content."""
        fields = json.loads(text)
        stated = fields.pop("fingerprint")
        streams = tuple(StreamSpec.from_fields(stream) for stream in fields.pop("streams"))
        spec = cls(**fields, streams=streams)
        if spec.fingerprint != stated:
            raise UserError(
                f"spec.json of teacher {spec.name} says fingerprint {stated}, its content gives "
                f"{spec.fingerprint}: the file was edited; restore it from a copy of the cache"
            )
        return spec
