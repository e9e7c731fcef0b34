"""Reads lhotse's Shar: cuts as JSON lines, with the audio of each cut in tars.

    set/cuts.000000.jsonl.gz  set/recording.000000.tar      cut by cut the same, in the same order

Audio is read from the tars in place. Other fields (features, targets) are ignored.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from manifests.clips import Clip
from manifests.corpus.source_index import SourceIndex
from manifests.corpus.sources import json_lines, lhotse
from manifests.corpus.sources.tar_index import Tar, read_tars
from manifests.errors import UserError
from manifests.storage import Folder

log = logging.getLogger(__name__)

_CUTS = re.compile(r"cuts(?:\.(\d+))?\.jsonl(\.gz)?")
_TAR = re.compile(r"recording(?:\.(\d+))?\.tar(\.\w+)?")
_EMPTY = (".nodata", ".nometa")
"""Suffixes of members that stand for a cut without audio."""


def is_shar(folder: Folder) -> bool:
    """Whether a folder contains cuts and tars with Shar's names."""
    try:
        names = folder.names()
        cuts = [match for match in map(_CUTS.fullmatch, names) if match]
        # A cuts.jsonl without numbers is a shard only beside a recording.tar.
        return any(match[1] for match in cuts) or (bool(cuts) and any(map(_TAR.fullmatch, names)))
    except UnicodeDecodeError:  # The walk through the audio folder reports the invalid name.
        return False


def clips(source: str, index: SourceIndex) -> Iterator[Clip]:
    """Yields the cuts of a folder in Shar's layout.

    Args:
        source: Path or address of the folder.
        index: Index of the corpus, which remembers what was read.

    Raises:
        UserError: a shard lacks its cuts or its audio, or the two do not belong together.
    """
    folder = Folder(source)
    names = folder.names()
    cuts = {match[1] or "": name for name in names if (match := _CUTS.fullmatch(name))}
    tars = {match[1] or "": name for name in names if (match := _TAR.fullmatch(name))}
    if cuts.keys() != tars.keys():
        unequal = [each or "without a number" for each in sorted(cuts.keys() ^ tars.keys())]
        raise UserError(
            f"{source}: the shards {', '.join(unequal[:5])} have cuts or a tar, not both; expected "
            "cuts.NUMBER.jsonl.gz and recording.NUMBER.tar for each (lhotse: cuts.to_shar with "
            "fields={'recording': 'flac'})"
        )
    numbers = sorted(cuts)
    places = [_place(folder, tars[number]) for number in numbers]
    without = 0
    for number, tar in zip(numbers, read_tars(places, index=index), strict=True):
        for clip in _shard(_place(folder, cuts[number]), tar):
            without += clip is None
            if clip is not None:
                yield clip
    if without:
        log.warning("%s: skipped %d cuts without audio", source, without)


def _place(folder: Folder, name: str) -> str:
    return folder.path(name) if folder.is_local else f"{folder.uri}/{name}"


def _shard(manifest: str, tar: Tar) -> Iterator[Clip | None]:
    """Yields a shard's cuts; None stands for a cut without audio."""
    members = [member for member in tar.members if not member.name.endswith((".json", ".nometa"))]
    rows = list(json_lines.rows(manifest))
    if len(rows) != len(members):
        raise UserError(
            f"{manifest} has {len(rows)} cuts, and {tar.uri} has audio for {len(members)}; "
            "they do not belong to the same set, or one was truncated: copy both again"
        )
    for (where, cut), member in zip(rows, members, strict=True):
        stem = member.name.removesuffix(PurePosixPath(member.name).suffix)
        if stem.removeprefix("./") != str(cut.get("id")):
            raise UserError(
                f"{where}: the cut is {cut.get('id')!r}, and {tar.uri} has {member.name!r} at its "
                "place; they are not of the same set: copy both again"
            )
        if member.name.endswith(_EMPTY) or not member.size:
            yield None
            continue
        yield lhotse.clip_from_cut(where, cut, manifest, tar.address(member))
