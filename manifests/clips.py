"""A clip: one stretch of one audio file, the row that everything else is keyed by.

A row is text and numbers only; the audio stays where it is. `labels` is free-form and kept as one
JSON column, so that corpora with different labels share one schema.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from manifests.errors import UserError

SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("offset", pa.float64(), nullable=False, metadata={"unit": "s"}),
        pa.field("duration", pa.float64(), metadata={"unit": "s"}),
        pa.field("text", pa.string()),
        pa.field("labels", pa.string(), nullable=False, metadata={"encoding": "JSON object"}),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One stretch of audio and what is known of it."""

    clip_id: str
    """Unique within a corpus; given, or `stable_id`."""
    uri: str
    """Absolute local path, or an address with a scheme (`s3://bucket/key`)."""
    offset: float = 0.0
    """Start within the file, in seconds."""
    duration: float | None = None
    """Length in seconds; None means up to the end of the file."""
    text: str | None = None
    """What is said, if known."""
    labels: Mapping[str, Any] = field(default_factory=dict)
    """Anything else that is known, JSON-serialisable."""

    def __post_init__(self) -> None:
        if not self.clip_id or not self.uri:
            raise UserError(f"a clip needs an id and a uri; found {self.clip_id!r}, {self.uri!r}")
        if not (math.isfinite(self.offset) and self.offset >= 0):
            raise UserError(f"clip {self.clip_id}: offset must be >= 0 s, found {self.offset}")
        if self.duration is not None and not (math.isfinite(self.duration) and self.duration > 0):
            raise UserError(f"clip {self.clip_id}: duration must be > 0 s, found {self.duration}")


def stable_id(uri: str, offset: float, duration: float | None) -> str:
    """An id that depends on nothing but where the audio is: 16 hex digits (64 bits)."""
    key = json.dumps([uri, offset, duration])
    return hashlib.blake2b(key.encode(), digest_size=8).hexdigest()


def to_table(clips: Iterable[Clip]) -> pa.Table:
    """Clips as an Arrow table of `SCHEMA`."""
    rows = [
        {
            "clip_id": clip.clip_id,
            "uri": clip.uri,
            "offset": clip.offset,
            "duration": clip.duration,
            "text": clip.text,
            "labels": json.dumps(dict(clip.labels), ensure_ascii=False, sort_keys=True),
        }
        for clip in clips
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def from_table(table: pa.Table) -> list[Clip]:
    """The clips of a table made by `to_table`, in its order."""
    return [Clip(**{**row, "labels": json.loads(row["labels"])}) for row in table.to_pylist()]
