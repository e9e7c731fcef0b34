"""Writes one shard of one teacher from the rows of its blocks.

The rows are fetched one block at a time and spooled to a file, from which the shard is written in
the corpus's order. A commit therefore needs memory for one block and one row group, independent of
the shard's size (`docs/cluster.md`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime

from manifests.cache import shards, stored_rows
from manifests.cache.shards import Failure, Marker
from manifests.cache.stream_sums import Sums
from manifests.errors import UserError
from pipeline.build.messages import CommitRequest, Extracted
from pipeline.build.row_spool import RowSpool


def commit_shard(request: CommitRequest, parts: Iterable[Extracted]) -> Marker:
    """Writes a shard, and returns its marker.

    Args:
        request: The shard to write.
        parts: The rows of the shard's blocks, in the order in which their sums are added.

    Raises:
        OSError: the cache cannot be written.
        UserError: the shard whose failures were retried no longer exists.
    """
    spec = request.spec
    whole = Extracted([], list(request.failures), {})
    extract_seconds = request.extract_seconds
    with RowSpool() as spool:
        for part in parts:
            spool.add(part.rows)
            merge(whole, replace(part, rows=[]))
        if len(request.done) < len(request.ids):
            before = _marker_before(request)
            done = set(request.done)
            for row in stored_rows.iterate_rows(request.folder, before, spec):
                if row.clip_id in done:
                    return before  # Another job has processed them meanwhile.
                spool.add([row])
            merge(whole, _kept(request, before, done))
            extract_seconds += before.extract_seconds
        place = {clip_id: position for position, clip_id in enumerate(request.ids)}
        return shards.write(
            request.folder,
            spec,
            shard=request.shard,
            clip_ids=request.ids,
            rows=spool.rows(request.ids),
            failures=sorted(whole.failures, key=lambda failure: place[failure.clip_id]),
            sums={
                stream.name: whole.sums.get(stream.name, Sums.zero(stream.dim))
                for stream in spec.streams
            },
            extract_seconds=extract_seconds,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=whole.versions,
        )


def merge(whole: Extracted, part: Extracted) -> None:
    """Adds a block to the sums and failures of the shard."""
    whole.rows.extend(part.rows)
    whole.failures.extend(part.failures)
    for library, version in part.versions.items():
        known = whole.versions.get(library, version).split(" and ")
        whole.versions[library] = " and ".join(dict.fromkeys([*known, *version.split(" and ")]))
    for stream, sums in part.sums.items():
        if stream in whole.sums:
            whole.sums[stream].add(sums)
        else:
            whole.sums[stream] = sums


def _marker_before(request: CommitRequest) -> Marker:
    try:
        return shards.read_marker(request.folder, request.shard)
    except FileNotFoundError:
        raise UserError(
            f"shard {request.shard} of {request.spec.key} is no longer committed: another "
            "process has set it aside or deleted it while its failures were retried; run "
            "coat-cache build, which builds the whole shard"
        ) from None


def _kept(request: CommitRequest, marker: Marker, done: set[str]) -> Extracted:
    """A committed shard's failures and sums, without the failures that were retried."""
    others: list[Failure] = [
        failure
        for failure in shards.read_failures(request.folder, marker)
        if failure.clip_id not in done
    ]
    sums = {stream: Sums.from_json(fields) for stream, fields in marker.sums.items()}
    return Extracted([], others, sums, dict(marker.versions))
