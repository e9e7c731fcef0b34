"""Reads whole rows of one committed shard: all of them, or those of some clips.

Builds, checks and reports read rows by shard. Training reads frames by clip, through
`manifests.cache.reader`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.cache.encoded_frames import EncodedFrames
from manifests.cache.row_views import stream_columns
from manifests.cache.shard_files import data_file
from manifests.cache.shards import ROWS_PER_GROUP, Marker, Row
from manifests.errors import UserError
from manifests.storage import Folder
from manifests.streams.specs import StreamSpec, TeacherSpec

COLUMNS = ["clip_id", "duration", "audio_digest", "metadata"]
"""Columns beside those of the streams."""


def read_rows(folder: Folder, marker: Marker, spec: TeacherSpec) -> list[Row]:
    """Reads all rows of a committed shard, with the blobs as stored."""
    return list(iterate_rows(folder, marker, spec))


def iterate_rows(folder: Folder, marker: Marker, spec: TeacherSpec) -> Iterator[Row]:
    """The rows of a committed shard, one row group in memory at a time."""
    with folder.open(data_file(marker.data)) as source:
        file = pq.ParquetFile(source, page_checksum_verification=True)
        for group in range(file.num_row_groups):
            for fields in file.read_row_group(group).to_pylist():
                yield _to_row(fields, spec.streams)


def read_clip_rows(
    folder: Folder,
    marker: Marker,
    spec: TeacherSpec,
    *,
    clip_ids: Collection[str],
    streams: Sequence[str],
) -> list[Row]:
    """Reads the rows of some clips in storage order, from only the row groups that contain them.

    Args:
        folder: The teacher's shards over the corpus.
        marker: The commit of the shard.
        spec: The teacher's version.
        clip_ids: Ids of the clips. Ids without a row in this shard are skipped.
        streams: Names of the streams whose frames are read.

    Raises:
        UserError: the shard cannot be read.
    """
    columns = COLUMNS + [column for name in streams for column in stream_columns(name)]
    specs = [spec.stream(name) for name in streams]
    try:
        with folder.open(data_file(marker.data), memory_map=True) as source:
            file = pq.ParquetFile(source, page_checksum_verification=True)
            stored = file.read(columns=["clip_id"]).column(0).to_pylist()
            groups = {
                row // ROWS_PER_GROUP for row, clip_id in enumerate(stored) if clip_id in clip_ids
            }
            rows = file.read_row_groups(sorted(groups), columns=columns).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"{folder.uri}/data/{marker.data} cannot be read ({error}); "
            "run: coat-cache verify --deep --repair, then build again"
        ) from None
    return [_to_row(fields, specs) for fields in rows if fields["clip_id"] in clip_ids]


def _to_row(fields: dict[str, Any], streams: Sequence[StreamSpec]) -> Row:
    return Row(
        clip_id=fields["clip_id"],
        duration=fields["duration"],
        audio_digest=fields["audio_digest"],
        metadata=json.loads(fields["metadata"]),
        frames={
            stream.name: EncodedFrames(
                stream, fields[f"{stream.name}.frames"], fields[f"{stream.name}.num_frames"]
            )
            for stream in streams
        },
    )
