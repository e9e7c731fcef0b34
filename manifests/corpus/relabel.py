"""Updates texts, labels and estimated lengths of clips that are already in a corpus.

Targets depend only on audio, so no expert has to run again for a corrected transcript. An estimated
length comes from a file's header and limits nothing; it changes if a file is repaired. Parts with
changed rows are rewritten under new names, with the same clips in the same shards, and corpus.json
is updated to list them. The replaced files stay until the next update, because a running training
may still read them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa

from manifests.clips import Clip

if TYPE_CHECKING:
    from manifests.corpus.corpus import Corpus

Change = TypeVar("Change")

AUDIO_COLUMNS = ("clip_id", "uri", "offset", "duration")
"""The columns of a corpus that identify the audio of a clip; targets depend only on these."""
LISTED = 5
"""Number of clip ids that a message lists."""


def update_table(
    table: pa.Table, changed: Mapping[int, Clip], lengths: Mapping[int, float]
) -> pa.Table:
    """Returns a part's table with new texts and labels, or lengths, in some of its rows.

    Args:
        table: The part, in any format; its other columns stay as they are.
        changed: Row of the table -> the clip whose text and labels it gets.
        lengths: Row of the table -> its new estimated length in seconds.
    """
    # Format 1 has a single column of lengths.
    estimated = "estimated_duration" if "estimated_duration" in table.column_names else "duration"
    seconds = table[estimated].to_pylist()
    for row, length in lengths.items():
        seconds[row] = length
    texts, labels = table["text"].to_pylist(), table["labels"].to_pylist()
    for row, clip in changed.items():
        texts[row] = clip.text
        labels[row] = json.dumps(dict(clip.labels), ensure_ascii=False, sort_keys=True)
    for name, values in (("text", texts), ("labels", labels), (estimated, seconds)):
        column = table.schema.get_field_index(name)
        field = table.schema.field(column)
        table = table.set_column(column, field, pa.array(values, field.type))
    return table


def same_audio(ours: pa.Table, theirs: pa.Table) -> bool:
    """Whether two tables of clips have the same audio under the same ids, row by row."""
    if ours.column_names != theirs.column_names:
        return False
    columns = [name for name in AUDIO_COLUMNS if name in ours.column_names]
    return ours.select(columns).equals(theirs.select(columns))


def rows_by_part(corpus: Corpus, changed: Mapping[int, Change]) -> dict[int, dict[int, Change]]:
    """The changed rows of a corpus, by ordinal of the part and by row of that part."""
    placed: dict[int, dict[int, Change]] = {}
    first = 0
    rows = sorted(changed)
    for ordinal, part in enumerate(corpus.parts):
        inside = {row - first: changed[row] for row in rows if first <= row < first + part.clips}
        if inside:
            placed[ordinal] = inside
        first += part.clips
    return placed


def describe_ids(clip_ids: Sequence[str], count: int | None = None) -> str:
    """Lists the first ids of `count` clips, and the number of further ones.

    Args:
        clip_ids: At least the first `LISTED` ids.
        count: Number of clips; None for the number of ids.
    """
    further = (len(clip_ids) if count is None else count) - LISTED
    more = f" and {further:,} more" if further > 0 else ""
    return ", ".join(clip_ids[:LISTED]) + more
