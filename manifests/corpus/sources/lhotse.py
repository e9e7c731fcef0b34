"""Reads lhotse cut manifests (JSON lines, gzipped or not) without lhotse.

A cut is a part of a recording with its text. Cuts that are more than a part of a file (mixes,
padding, one channel of several, changed speed) are errors, because their audio exists only after
lhotse has saved it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from manifests.clips import Clip, stable_id
from manifests.corpus.sources.json_lines import number, resolve, rows
from manifests.errors import UserError, explain

TOLERANCE_S = 0.05
"""A supervision may exceed its cut by this much (rounding) and keep its whole text."""
PARTIAL = "(partial)"
"""Marks a supervision that lies partly outside its cut, where the words inside are unknown."""
SAVE = "save such cuts as audio first (lhotse: cuts.save_audios), then use the manifest it returns"


def is_cut(row: dict[str, Any]) -> bool:
    """Whether a JSON object is a cut."""
    has_type = str(row.get("type", "")).endswith("Cut") and "audio_filepath" not in row
    return has_type or isinstance(row.get("recording"), dict)


def clips(source: str) -> Iterator[Clip]:
    """Yields the cuts of a manifest as clips, in order.

    The text joins the supervisions' texts in order of time. The other fields of a single
    supervision become labels; several supervisions become the label `supervisions`. If a
    supervision exceeds its cut, only the words inside are kept, by its alignment; without an
    alignment, the clip has no text.

    Args:
        source: Path or address of the file; relative audio paths are relative to its folder.

    Raises:
        UserError: a cut cannot be used; the message begins with FILE:LINE.
    """
    for where, row in rows(source):
        yield clip_from_cut(where, row, source)


def clip_from_cut(where: str, cut: dict[str, Any], source: str, uri: str | None = None) -> Clip:
    """Builds the clip of a cut.

    Args:
        where: FILE:LINE, for messages.
        cut: The cut as lhotse writes it.
        source: The manifest, to which paths are relative.
        uri: Address of the cut's audio, if the cut does not state it.

    Raises:
        UserError: the cut cannot be used.
    """
    try:
        return _clip(cut, source, uri)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{where}: not a cut as lhotse writes it ({explain(error)}); write the manifest again"
        ) from None


def _clip(cut: dict[str, Any], source: str, uri: str | None) -> Clip:
    if cut.get("type", "MonoCut") != "MonoCut":
        raise UserError(f"expected a MonoCut, found a {cut['type']}; {SAVE}")
    uri = uri or resolve(_file(cut), source)
    offset, duration = number(cut, "start") or 0.0, number(cut, "duration")
    stated = [_with_words_on_cut(each, offset) for each in cut.get("supervisions") or []]
    supervisions = [_within(each, duration) for each in stated]
    ordered = sorted(filter(None, supervisions), key=lambda each: number(each, "start") or 0.0)
    is_partial = any(each.pop(PARTIAL, False) for each in ordered)
    custom = cut.get("custom") or {}
    labels = {key: value for key, value in custom.items() if not _is_stored_data(value)}
    if len(ordered) == 1:
        labels |= _labels(ordered[0])
    elif ordered:
        labels["supervisions"] = ordered
    return Clip(
        clip_id=str(cut["id"]) if cut.get("id") else stable_id(uri, offset, duration),
        uri=uri,
        offset=offset,
        duration=duration,
        text=None if is_partial else " ".join(filter(None, map(_text, ordered))) or None,
        labels=labels,
    )


def _is_stored_data(value: Any) -> bool:
    """Whether a field of a cut describes an array, features or a recording that lhotse stores."""
    if not isinstance(value, dict):
        return False
    is_array = "storage_type" in value or _is_stored_data(value.get("array"))
    return is_array or {"sources", "sampling_rate"} <= value.keys()


def _file(cut: dict[str, Any]) -> str:
    """Returns the path or address of the one file with exactly the cut's recording."""
    recording = cut.get("recording")
    if not recording:
        raise UserError("the cut has no recording, only features perhaps; expected audio")
    changes = [change.get("name", "?") for change in recording.get("transforms") or []]
    if changes not in ([], ["Resample"]):
        raise UserError(f"the recording is changed by {', '.join(changes)}; {SAVE}")
    channel = cut.get("channel", 0)
    holding = [source for source in recording["sources"] if channel in source["channels"]]
    if len(holding) != 1 or len(holding[0]["channels"]) != 1:
        channels = [source["channels"] for source in recording["sources"]]
        raise UserError(
            f"the cut is channel {channel} of a recording with the channels {channels} in its "
            f"files, expected one file with that channel alone; {SAVE}"
        )
    kind = holding[0]["type"]
    if kind not in ("file", "url"):
        raise UserError(f"the recording is of type {kind!r}, expected 'file' or 'url'; {SAVE}")
    return holding[0]["source"]


def _text(supervision: dict[str, Any]) -> str | None:
    return supervision.get("text")


def _with_words_on_cut(supervision: dict[str, Any], cut_start: float) -> dict[str, Any]:
    """A supervision whose word times count from the cut's start, like its own start.

    lhotse leaves them on the recording's timeline (`Cut.trim_to_alignments`); other programs move
    them. The times that lie within the supervision are taken; where none do, the words are not.
    """
    alignment = supervision.get("alignment") or {}
    if not alignment.get("word"):
        return supervision
    words = [(word[0], float(word[1]), *word[2:]) for word in alignment["word"] if word[0].strip()]
    start, length = number(supervision, "start") or 0.0, number(supervision, "duration")
    first, last = start - TOLERANCE_S, start + (length or 0.0) + TOLERANCE_S
    for shift in (cut_start, 0.0):
        moved = [[text, round(time - shift, 6), *rest] for text, time, *rest in words]
        ends = [float(word[1]) + float(word[2]) for word in moved]
        is_inside = all(
            first <= word[1] and end <= last for word, end in zip(moved, ends, strict=True)
        )
        if length is None or is_inside:
            return {**supervision, "alignment": {**alignment, "word": moved}}
    kept = {name: items for name, items in alignment.items() if name != "word"}
    return {**supervision, "alignment": kept}


def _within(supervision: dict[str, Any], duration: float | None) -> dict[str, Any] | None:
    """The part of a supervision that lies within its cut (times count from the cut's start)."""
    start, length = number(supervision, "start") or 0.0, number(supervision, "duration")
    if duration is None or length is None:
        return dict(supervision)
    end = start + length
    if start >= -TOLERANCE_S and end <= duration + TOLERANCE_S:
        return dict(supervision)
    first, last = max(start, 0.0), min(end, duration)
    if last <= first:
        return None
    part = {**supervision, "start": first, "duration": last - first, "text": None}
    words = (supervision.get("alignment") or {}).get("word")
    if words:
        inside = [word for word in words if _is_inside(word, duration)]
        part["text"] = " ".join(word[0] for word in inside)
        part["alignment"] = {**supervision["alignment"], "word": inside}
    elif supervision.get("text"):
        part[PARTIAL] = True
    return part


def _is_inside(word: list[Any], duration: float) -> bool:
    start, length = float(word[1]), float(word[2])
    return start >= -TOLERANCE_S and start + length <= duration + TOLERANCE_S


def _labels(supervision: dict[str, Any]) -> dict[str, Any]:
    no_labels = (
        "id",
        "recording_id",
        "start",
        "duration",
        "channel",
        "text",
        "custom",
        "alignment",
    )
    kept = {key: value for key, value in supervision.items() if key not in no_labels}
    words = (supervision.get("alignment") or {}).get("word")
    if words:
        times = [(text, float(start), float(length)) for text, start, length, *_ in words]
        kept["words"] = [
            [text, round(start, 3), round(start + length, 3)] for text, start, length in times
        ]
    return {key: value for key, value in kept.items() if value is not None} | (
        supervision.get("custom") or {}
    )
