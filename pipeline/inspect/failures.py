"""Lists the clips without targets, with their audio files and the reasons."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from manifests.cache import marker_index
from manifests.cache.layout import Layout
from manifests.cache.shards import Failure
from manifests.clips import Clip
from manifests.errors import UserError
from manifests.streams.specs import TeacherSpec
from pipeline.inspect.find_clips import find_clips

SHOWN = 100
"""Maximum number of clips in the table; `--json` and `--export` list all."""


@dataclass(frozen=True, slots=True)
class FailedClip:
    """A clip for which some teachers have no targets."""

    corpus: str
    clip: Clip
    reasons: dict[str, Failure]
    """`NAME@FINGERPRINT` -> failure."""


def failures(
    layout: Layout, specs: Sequence[TeacherSpec], *, corpora: Sequence[str] | None = None
) -> list[FailedClip]:
    """The failed clips of some versions, in the order of the corpora.

    Raises:
        UserError: the cache has no such corpus.
    """
    known = layout.corpora()
    lines = []
    for name in known if corpora is None else corpora:
        if name not in known:
            raise UserError(f"the cache has no corpus {name!r}; it has {', '.join(known)}")
        shards: set[int] = set()
        reasons: dict[str, dict[str, Failure]] = {}
        for spec in specs:
            for marker in marker_index.read_markers(layout.shards(spec, name)):
                for failure in marker.failed:
                    shards.add(marker.shard)
                    reasons.setdefault(failure.clip_id, {})[spec.key] = failure
        lines += [
            FailedClip(name, clip, reasons[clip.clip_id])
            for clip in find_clips(layout.corpus(name), shards, reasons)
        ]
    return lines


def as_json(line: FailedClip) -> dict[str, Any]:
    """A failed clip as JSON fields."""
    return {
        "corpus": line.corpus,
        "clip_id": line.clip.clip_id,
        "uri": line.clip.uri,
        "offset": line.clip.offset,
        "duration": line.clip.duration,
        "failures": [
            {
                "teacher": teacher,
                "stage": failure.stage,
                "error": failure.error,
                "message": failure.message,
                "cause": failure.cause,
            }
            for teacher, failure in line.reasons.items()
        ],
    }


def table(lines: Sequence[FailedClip]) -> Table:
    """Renders a table: one row per clip and reason, with the teachers that share it."""
    shown = Table(title="Clips without targets", box=box.SIMPLE_HEAD, padding=0)
    shown.add_column("clip", overflow="fold")
    shown.add_column("stage and reason", overflow="fold")
    shown.add_column("message", overflow="fold")
    shown.add_column("by", overflow="fold")
    for line in lines[:SHOWN]:
        teachers_by_failure: dict[Failure, list[str]] = {}
        for teacher, failure in line.reasons.items():
            teachers_by_failure.setdefault(replace(failure, clip_id=""), []).append(
                teacher.partition("@")[0]
            )
        for failure, teachers in teachers_by_failure.items():
            message = failure.message or ""
            if line.clip.uri not in message:
                message = f"{message} ({line.clip.uri})"
            shown.add_row(
                line.clip.clip_id,
                f"{failure.stage}: {failure.error}",
                message,
                "all" if len(teachers) == len(line.reasons) > 1 else ", ".join(teachers),
            )
    if len(lines) > SHOWN:
        shown.caption = f"{len(lines) - SHOWN:,} more: --json or --export FILE list all"
    return shown


def export(lines: Sequence[FailedClip], path: Path) -> None:
    """Writes the clips as a manifest that `coat-corpus build` reads."""
    with path.open("w", encoding="utf-8") as file:
        for line in lines:
            row: dict[str, Any] = {"id": line.clip.clip_id, "audio_filepath": line.clip.uri}
            if line.clip.offset:
                row["offset"] = line.clip.offset
            if line.clip.duration is not None:
                row["duration"] = line.clip.duration
            if line.clip.text is not None:
                row["text"] = line.clip.text
            reasons = {
                teacher: f"{failure.stage}: {failure.error}: {failure.message}"
                for teacher, failure in line.reasons.items()
            }
            row["labels"] = {**line.clip.labels, "failures": reasons}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
