"""Updates texts, labels, estimated lengths and positions in tars of clips that are already in a
corpus.

Targets depend only on audio, so no expert has to run again for a corrected transcript. An estimated
length comes from a file's header and limits nothing; it changes if a file is repaired. Members of a
tar move if it is written again, with a longer text for example. Parts with
changed rows are rewritten under new names, with the same clips in the same shards, and corpus.json
is updated to list them. The replaced files stay until the next update, because a running training
may still read them.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from manifests.clips import Clip

if TYPE_CHECKING:
    from manifests.corpus.corpus import Corpus

Change = TypeVar("Change")

AUDIO_COLUMNS = ("clip_id", "uri", "offset", "duration")
"""The columns of a corpus that identify the audio of a clip; targets depend only on these."""


def update_table(
    table: pa.Table,
    changed: Mapping[int, Clip],
    lengths: Mapping[int, float],
    uris: Mapping[int, str],
) -> pa.Table:
    """Returns a part's table with new texts and labels, lengths, or addresses in some of its rows.

    Args:
        table: The part, in any format; its other columns stay as they are.
        changed: Row of the table -> the clip whose text and labels it gets.
        lengths: Row of the table -> its new estimated length in seconds.
        uris: Row of the table -> its new address.
    """
    # Format 1 has a single column of lengths.
    estimated = "estimated_duration" if "estimated_duration" in table.column_names else "duration"
    seconds = table[estimated].to_pylist()
    for row, length in lengths.items():
        seconds[row] = length
    places = table["uri"].to_pylist()
    for row, uri in uris.items():
        places[row] = uri
    texts, labels = table["text"].to_pylist(), table["labels"].to_pylist()
    for row, clip in changed.items():
        texts[row] = clip.text
        labels[row] = json.dumps(dict(clip.labels), ensure_ascii=False, sort_keys=True)
    updated = {"uri": places, "text": texts, "labels": labels, estimated: seconds}
    for name, values in updated.items():
        column = table.schema.get_field_index(name)
        field = table.schema.field(column)
        table = table.set_column(column, field, pa.array(values, field.type))
    return table


def same_audio(ours: pa.Table, theirs: pa.Table) -> bool:
    """Whether two tables of clips have the same audio under the same ids, row by row.

    The place of a member in its tar is not compared.
    """
    if ours.column_names != theirs.column_names:
        return False
    columns = [name for name in AUDIO_COLUMNS if name in ours.column_names and name != "uri"]
    if not ours.select(columns).equals(theirs.select(columns)):
        return False
    files = (
        pc.replace_substring_regex(  # pyright: ignore[reportAttributeAccessIssue]
            table["uri"], r"(?i)(\.tar)#bytes=[0-9]+-[0-9]+$", r"\1"
        )
        for table in (ours, theirs)
    )
    return next(files).equals(next(files))


def rows_by_part(corpus: Corpus, changed: Mapping[int, Change]) -> dict[int, dict[int, Change]]:
    """The changed rows of a corpus, by ordinal of the part and by row of that part."""
    firsts = list(accumulate((part.clips for part in corpus.parts), initial=0))
    placed: dict[int, dict[int, Change]] = {}
    for row in sorted(changed):
        ordinal = bisect_right(firsts, row) - 1
        placed.setdefault(ordinal, {})[row - firsts[ordinal]] = changed[row]
    return placed
