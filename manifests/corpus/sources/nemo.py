"""Reads NeMo's tarred sets: JSON-lines manifests whose audio is in numbered tars.

    set/tarred_audio_manifest.json  set/audio_0.tar ... set/audio_7.tar
    set/sharded_manifests/manifest__OP_0..7_CL_.json       the same rows, a manifest for each tar

Each row names a member of the tar of its `shard_id`. The reader checks that every row has its
member; the audio stays in the tars. Memory holds the name and position of each member.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from manifests.clips import Clip
from manifests.corpus.source_index import SourceIndex
from manifests.corpus.sources import json_lines
from manifests.corpus.sources.tar_index import Tar, expand, read_tars
from manifests.errors import UserError
from manifests.storage import filesystem

TARS = "?tars="
"""Suffix of a manifest: the pattern of its tars, if they are not where NeMo writes them."""
_PART = re.compile(r"-sub\d+(?=(\.\w+)?$)")
"""NeMo's suffix for a row that is one of several parts of a member."""


def is_pattern(source: str) -> bool:
    """Whether a source is a pattern of manifests, or states the location of its tars."""
    return TARS in source or re.search(r"(_OP_|\{).*\.\w*json\w*$", source) is not None


def is_tarred(row: dict[str, Any], source: str) -> bool:
    """Whether a row's audio is in a tar: it has a shard, and no file of its own."""
    path = row.get("audio_filepath")
    if "shard_id" not in row or not isinstance(path, str) or "://" in path:
        return False
    return "://" in source or not os.path.exists(json_lines.resolve(path, source))


def clips(source: str, index: SourceIndex) -> Iterator[Clip]:
    """Yields the rows of a tarred set as clips.

    Args:
        source: A manifest or a pattern of manifests, optionally followed by `?tars=` and a pattern.
        index: Index of the corpus, which remembers what was read.

    Raises:
        UserError: a row's audio is in no tar, or a manifest or a tar cannot be used.
    """
    given, _, pattern = source.partition(TARS)
    manifests = expand(given)
    shards = [_number(each) if len(manifests) > 1 else None for each in manifests]
    if pattern:
        uris = [json_lines.resolve(each, manifests[0]) for each in expand(pattern)]
    else:
        numbers = sorted(set(_shards(manifests, shards)))
        uris = [_find_tar(manifests[0], shard) for shard in numbers]
    tars = read_tars(uris, index=index)
    members = {_number(uri): _Members(tar) for uri, tar in zip(uris, tars, strict=True)}
    for manifest, shard in zip(manifests, shards, strict=True):
        for where, row in json_lines.rows(manifest):
            try:
                yield _clip(row, shard, members)
            except UserError as error:
                raise UserError(f"{where}: {error}") from None


class _Members:
    """The members of one tar by their names."""

    def __init__(self, tar: Tar) -> None:
        self._tar = tar
        self._by_name = {member.name.removeprefix("./"): member for member in tar.members}

    def address(self, path: str) -> str:
        """Returns the uri of the audio that a row names.

        Raises:
            UserError: the tar has no such member, or the member is empty.
        """
        for name in (path, _PART.sub("", path), PurePosixPath(path).name):
            member = self._by_name.get(name.removeprefix("./"))
            if member is not None and member.size:
                return self._tar.address(member)
        raise UserError(
            f"{self._tar.uri} has no audio {path!r} among its {len(self._by_name)} members; give "
            f"the tars that belong to this manifest, with MANIFEST{TARS}PATTERN"
        )


def _shards(manifests: list[str], shards: list[int | None]) -> Iterator[int]:
    for manifest, shard in zip(manifests, shards, strict=True):
        if shard is not None:
            yield shard
            continue
        for where, row in json_lines.rows(manifest):
            try:
                yield _shard_number(row)
            except UserError as error:
                raise UserError(f"{where}: {error}") from None


def _shard_number(row: dict[str, Any]) -> int:
    shard = row.get("shard_id")
    if isinstance(shard, bool) or not isinstance(shard, int) or shard < 0:
        raise UserError(f"expected shard_id with the number of a tar, found {shard!r}")
    return shard


def _number(uri: str) -> int:
    """Returns the last number in a file's name."""
    numbers = re.findall(r"[0-9]+", PurePosixPath(uri).name)
    if not numbers:
        raise UserError(f"expected the number of its shard in the name {uri}, found none")
    return int(numbers[-1])


def _find_tar(manifest: str, shard: int) -> str:
    """Finds the tar of a shard, beside the manifest or in the parent folder."""
    places = [json_lines.resolve(f"{up}audio_{shard}.tar", manifest) for up in ("", "../")]
    if "://" in manifest:
        places[1] = f"{manifest.rpartition('/')[0].rpartition('/')[0]}/audio_{shard}.tar"
    for place in places:
        system, path = filesystem(place)
        if system.get_file_info(path).is_file:
            return place
    raise UserError(
        f"{manifest} names audio in tars, and there is no {places[0]}; pass the location of the "
        "tars: "
        f"MANIFEST{TARS}audio__OP_0..7_CL_.tar"
    )


def _clip(row: dict[str, Any], shard: int | None, members: dict[int, _Members]) -> Clip:
    number = _shard_number(row) if shard is None or "shard_id" in row else shard
    path = row.get("audio_filepath")
    if isinstance(path, str) and path:
        if number not in members:
            raise UserError(f"there is no tar of shard {number} among those given")
        row = {**row, "audio_filepath": members[number].address(path)}
    row = {key: value for key, value in row.items() if key != "shard_id"}
    return json_lines.clip_from_row(row, "/")
