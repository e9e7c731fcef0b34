"""Reads the lengths of clips from the files' headers if the source does not state them.

Headers are read in many threads; of remote files, only ranges are fetched, in few requests. A file
that cannot be read gets no length, and stage 1 will report the reason. Missing files, folders and
clips that start beyond the end of their file are counted in warnings. Whether clips with a stated
duration do is only checked for the local files of the first batch. The build stops only if none of
the first files exists (a disk is not mounted, or paths are relative to another folder), or if clips
are parts of a file on a web server that cannot send parts.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from manifests import web
from manifests.audio_address import ParquetRow, hint_at_spelling, split_address
from manifests.clips import Clip, describe_ids
from manifests.corpus.source_index import SourceIndex, number_key
from manifests.decoders import probe
from manifests.errors import StoreError, UserError
from manifests.storage import REQUESTS, identity, in_parallel

log = logging.getLogger(__name__)

BATCH = 1024
"""Number of clips whose files are read together."""
LOCAL_THREADS = 8
FEWEST = 2
"""A build stops if all files of the first batch are missing, and at least this many."""


def fill(clips: Iterable[Clip], source: str, index: SourceIndex) -> Iterator[Clip]:
    """Yields the same clips, with an estimated duration if none is stated.

    Args:
        clips: Clips of a source, in order.
        source: The source as the user gave it, for messages.
        index: Lengths that were read before, and those read now.

    Raises:
        UserError: none of the first local files exists, or a web server cannot send parts of its
            files.
        StoreError: a store or a web server does not answer.
    """
    remaining = iter(clips)
    is_first = True
    missing: dict[str, None] = {}
    checked: set[str] = set()
    beyond: list[str] = []
    while batch := list(itertools.islice(remaining, BATCH)):
        uris = dict.fromkeys(clip.uri for clip in batch if _is_unknown(clip))
        if is_first:
            missing |= _missing_files(batch, source)
            parts = (clip for clip in batch if clip.offset and "://" not in clip.uri)
            uris |= dict.fromkeys(clip.uri for clip in parts)
        is_first = False
        _check_ranges((clip.uri for clip in batch if clip.uri.startswith(web.SCHEMES)), checked)
        lengths = _lengths(list(uris), index, missing)
        for clip in batch:
            length = lengths.get(clip.uri)
            rest = None if length is None else length - clip.offset
            if rest is not None and rest <= 0 and clip.offset:
                beyond.append(clip.clip_id)
            is_estimated = rest is not None and rest > 0 and _is_unknown(clip)
            yield replace(clip, estimated_duration=rest) if is_estimated else clip
    folders = [file for file in missing if "://" not in file and Path(file).is_dir()]
    for file in folders:
        del missing[file]
    if folders:
        log.warning(
            "%s: %s of the audio paths are folders, the first: %s; a build of a cache records "
            "their clips as failed",
            source, f"{len(folders):,}", folders[0],
        )  # fmt: skip
    if beyond:
        log.warning(
            "%s: %s clips start at or after the end of their files: %s; a build of a cache records "
            "them as failed",
            source, f"{len(beyond):,}", describe_ids(beyond),
        )  # fmt: skip
    if missing:
        first = next(iter(missing))
        log.warning(
            "%s: %s of the audio files do not exist, the first: %s; a build of a cache records "
            "their clips as failed (missing)",
            source, f"{len(missing):,}", first + hint_at_spelling(first),
        )  # fmt: skip


def _check_ranges(uris: Iterable[str], checked: set[str]) -> None:
    """Checks that web servers send parts of the files of which clips are parts, each file once."""
    addresses = map(split_address, uris)
    files = dict.fromkeys(file for file, part in addresses if part and file not in checked)
    for file, is_served in zip(files, in_parallel(_sends_parts, list(files)), strict=True):
        if not is_served:
            raise UserError(web.no_ranges(file))
    checked.update(files)


def _sends_parts(file: str) -> bool:
    try:
        return not web.ignores_ranges(file)
    except FileNotFoundError:  # Its clips are those of a missing file.
        return True


def _is_unknown(clip: Clip) -> bool:
    if clip.likely_duration is not None:
        return False
    file, part = split_address(clip.uri)
    # Reading a row of a remote Parquet file means fetching its whole row group.
    return not (isinstance(part, ParquetRow) and "://" in file)


def _lengths(
    uris: Sequence[str], index: SourceIndex, missing: dict[str, None]
) -> dict[str, float | None]:
    """The length of each audio; None where it is not known. Adds the files that do not exist."""
    lengths: dict[str, float | None] = {}
    for is_remote, requests in ((True, REQUESTS), (False, LOCAL_THREADS)):
        group = [uri for uri in uris if ("://" in uri) == is_remote]
        files = list(dict.fromkeys(split_address(uri)[0] for uri in group))
        states = dict(
            zip(files, in_parallel(partial(_state, index), files, requests=requests), strict=True)
        )
        # A web server may name no state of a file that it has.
        missing |= {
            file: None for file in files if states[file] is None and not file.startswith("http")
        }
        measured = in_parallel(partial(_length, index, states), group, requests=requests)
        lengths |= zip(group, measured, strict=True)
    return lengths


def _state(index: SourceIndex, file: str) -> str | None:
    try:
        return index.take_identity(file) or identity(file)
    except OSError as error:
        raise StoreError(f"{file} could not be opened: {error}") from error


def _length(index: SourceIndex, states: Mapping[str, str | None], uri: str) -> float | None:
    state = states[split_address(uri)[0]]
    if state is None:
        return probe.estimate_seconds(uri)
    key = number_key("length", uri, state)
    known = index.numbers(key)
    if known is None:
        seconds = probe.estimate_seconds(uri)
        known = [] if seconds is None else [seconds]
        index.add_numbers(key, known)
    return known[0] if known else None


def _missing_files(batch: Sequence[Clip], source: str) -> dict[str, None]:
    """The local audio files of a batch that do not exist.

    Raises:
        UserError: none of them exists.
    """
    files = list(dict.fromkeys(split_address(clip.uri)[0] for clip in batch))
    missing = {file: None for file in files if "://" not in file and not Path(file).exists()}
    if len(missing) < max(FEWEST, len(files)):
        return missing
    raise UserError(
        f"{source}: none of the first {len(files):,} audio files exists (the first: "
        f"{files[0]}{hint_at_spelling(files[0])}); relative paths count from the manifest's "
        "folder; mount the disk, correct the paths, or move the manifest to where its paths lead"
    )
