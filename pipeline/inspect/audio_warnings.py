"""Lists the clips whose audio was decoded with warnings: truncated, clipped, silent and others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq
from rich import box
from rich.table import Table

from manifests.cache import marker_index
from manifests.cache.layout import Layout
from manifests.cache.shard_files import data_file
from manifests.cache.shards import AUDIO_WARNINGS, Marker
from manifests.clips import Clip
from manifests.storage import Folder, in_parallel
from manifests.streams.specs import TeacherSpec
from pipeline.inspect.find_clips import find_clips

SHOWN = 100
"""Maximum number of clips in the table; `--json` lists all."""


@dataclass(frozen=True, slots=True)
class WarnedClip:
    """A clip with targets whose audio has problems (docs/audio.md)."""

    corpus: str
    clip: Clip
    kinds: tuple[str, ...]


def warned_clips(
    layout: Layout, specs: Sequence[TeacherSpec], corpora: Sequence[str]
) -> list[WarnedClip]:
    """The clips with audio warnings, in the order of the corpora.

    Teachers process the same audio, so each shard is read from the first version that has it. Only
    shards whose marker counts warnings are read, and only their metadata.
    """
    lines = []
    for name in corpora:
        places: dict[int, tuple[Folder, Marker]] = {}
        for spec in specs:
            folder = layout.shards(spec, name)
            for marker in marker_index.read_markers(folder):
                if marker.warnings:
                    places.setdefault(marker.shard, (folder, marker))
        numbers = sorted(places)
        kinds: dict[str, tuple[str, ...]] = {}
        for in_shard in in_parallel(_kinds, [places[number] for number in numbers]):
            kinds.update(in_shard)
        lines += [
            WarnedClip(name, clip, kinds[clip.clip_id])
            for clip in find_clips(layout.corpus(name), numbers, kinds)
        ]
    return lines


def _kinds(place: tuple[Folder, Marker]) -> dict[str, tuple[str, ...]]:
    """Returns the warnings of one shard by clip id."""
    folder, marker = place
    with folder.open(data_file(marker.data)) as file:
        table = pq.read_table(file, columns=["clip_id", "metadata"])
    kinds = (json.loads(text).get(AUDIO_WARNINGS, ()) for text in table["metadata"].to_pylist())
    pairs = zip(table["clip_id"].to_pylist(), map(tuple, kinds), strict=True)
    return {clip_id: warnings for clip_id, warnings in pairs if warnings}


def as_json(line: WarnedClip) -> dict[str, Any]:
    """A clip and its warnings as JSON fields."""
    return {
        "corpus": line.corpus,
        "clip_id": line.clip.clip_id,
        "uri": line.clip.uri,
        "warnings": list(line.kinds),
    }


def table(lines: Sequence[WarnedClip]) -> Table:
    """Renders a table: one row per clip."""
    shown = Table(title="Clips with audio warnings", box=box.SIMPLE_HEAD, padding=0)
    for heading in ("clip", "warnings", "file"):
        shown.add_column(heading, overflow="fold")
    for line in lines[:SHOWN]:
        shown.add_row(line.clip.clip_id, ", ".join(line.kinds), line.clip.uri)
    if len(lines) > SHOWN:
        shown.caption = f"{len(lines) - SHOWN:,} more: --json lists all"
    return shown
