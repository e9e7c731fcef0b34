"""Returns the frames in a batch of Parquet rows as views, without copying."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from manifests.cache.encoded_frames import EncodedFrames
from manifests.streams.specs import StreamSpec


def stream_columns(stream: str) -> list[str]:
    """The columns that a stream's frames are read from."""
    return [f"{stream}.frames", f"{stream}.num_frames"]


def row_views(batch: pa.RecordBatch, spec: StreamSpec) -> list[EncodedFrames]:
    """Frames of every row of a batch, as views into its buffer."""
    column = batch.column(f"{spec.name}.frames")
    _, offsets, values = column.buffers()
    bounds = np.frombuffer(offsets, np.int32, len(column) + 1, offset=4 * column.offset).tolist()
    view = memoryview(values) if values is not None else memoryview(b"")
    counts = batch.column(f"{spec.name}.num_frames").to_pylist()
    return [
        EncodedFrames(spec, view[bounds[row] : bounds[row + 1]], count)
        for row, count in enumerate(counts)
    ]
