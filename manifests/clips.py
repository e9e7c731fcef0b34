"""Defines a clip: a part of an audio file. Everything else is keyed by its id.

A row is text and numbers only; the audio stays where it is. `labels` is free-form and kept as one
JSON column, so that corpora with different labels share one schema.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from manifests.audio_address import split_address
from manifests.errors import UserError
from manifests.storage import check_given_address

SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("offset", pa.float64(), nullable=False, metadata={"unit": "s"}),
        pa.field("duration", pa.float64(), metadata={"unit": "s"}),
        pa.field("text", pa.string()),
        pa.field("labels", pa.string(), nullable=False, metadata={"encoding": "JSON object"}),
        pa.field("estimated_duration", pa.float64(), metadata={"unit": "s"}),
    ]
)

MAX_SECONDS = 1e9
"""Three decades: a longer time comes from a damaged header or a typing error."""
LISTED = 5
"""Number of clip ids that a message lists."""
_STORED_AUDIO = re.compile(r"/\d{5}/\d{8}-[0-9a-f]{16}(\.\w+)?$")
"""Audio that `coat-corpus build` copied out of a dataset: each file is one whole clip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A part of an audio file, with its text and labels."""

    clip_id: str
    """Unique within a corpus; from the source, or `stable_id`."""
    uri: str
    """Absolute local path, or an address with a scheme (`s3://bucket/key`), possibly followed by a
    part of that file (`manifests.audio_address`)."""
    offset: float = 0.0
    """Start within the file, in seconds."""
    duration: float | None = None
    """Stated length in seconds, which limits the clip; None means up to the end of the file."""
    text: str | None = None
    """Transcript, if known."""
    labels: Mapping[str, Any] = field(default_factory=dict)
    """Any other fields, JSON-serialisable."""
    estimated_duration: float | None = None
    """Length in seconds as a file's header suggests, used for planning; it does not limit the
    clip."""

    def __post_init__(self) -> None:
        if not self.clip_id or not self.uri:
            raise UserError(f"a clip needs an id and a uri; found {self.clip_id!r}, {self.uri!r}")
        check_given_address(split_address(self.uri)[0])
        if not 0 <= self.offset < MAX_SECONDS:
            raise UserError(
                f"clip {self.clip_id}: offset must be >= 0 s and below 1e9 s, found {self.offset}"
            )
        for seconds in (self.duration, self.estimated_duration):
            if seconds is not None and not 0 < seconds < MAX_SECONDS:
                raise UserError(
                    f"clip {self.clip_id}: duration must be > 0 s and below 1e9 s, found {seconds}"
                )

    @property
    def likely_duration(self) -> float | None:
        """The stated duration, else the estimated one, else None; used for planning."""
        return self.estimated_duration if self.duration is None else self.duration


def stable_id(uri: str, offset: float, duration: float | None) -> str:
    """Returns an id that depends only on the location of the audio: 16 hex digits (64 bits)."""
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
            "estimated_duration": clip.estimated_duration,
        }
        for clip in clips
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def from_table(table: pa.Table) -> list[Clip]:
    """The clips of a table made by `to_table`, in its order.

    Corpora of format 1 stored the length from a file's header as a stated one. If a row is a whole
    file, as sources of folders and datasets created it, its length is treated as an estimate.
    """
    rows = table.to_pylist()
    if "estimated_duration" not in table.column_names:
        for row in rows:
            _tell_estimate(row)
    return [Clip(**{**row, "labels": json.loads(row["labels"])}) for row in rows]


def likely_durations(table: pa.Table) -> pa.ChunkedArray:
    """Returns `Clip.likely_duration` of each row of a table of any format by `to_table`."""
    if "estimated_duration" not in table.column_names:
        return table["duration"]
    return pc.coalesce(table["duration"], table["estimated_duration"])  # type: ignore[attr-defined]


def has_value(value: Any) -> bool:
    """Whether a text or label states something: null, an empty text and a list without a value do
    not."""
    if isinstance(value, list | tuple):
        return any(map(has_value, value))
    return value is not None and value != ""


def describe_ids(clip_ids: Sequence[str], count: int | None = None) -> str:
    """Lists the first ids of `count` clips, and the number of further ones.

    Args:
        clip_ids: At least the first `LISTED` ids.
        count: Number of clips; None for the number of ids.
    """
    further = (len(clip_ids) if count is None else count) - LISTED
    more = f" and {further:,} more" if further > 0 else ""
    return ", ".join(clip_ids[:LISTED]) + more


def _tell_estimate(row: dict[str, Any]) -> None:
    whole = row["clip_id"] == stable_id(row["uri"], 0.0, None) or _STORED_AUDIO.search(row["uri"])
    if row["offset"] or row["duration"] is None or not whole:
        return
    seconds = row.pop("duration")
    row["estimated_duration"] = seconds if seconds < MAX_SECONDS else None
