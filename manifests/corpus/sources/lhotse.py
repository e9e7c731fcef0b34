"""Lhotse cut manifests (JSON lines, gzipped or not), read without lhotse.

A cut is one stretch of one recording with what is said in it. Cuts that are more than a stretch of
a file (mixes, padding, one channel of several, changed speed) are refused rather than bent: their
audio exists only once lhotse has saved it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from manifests.clips import Clip, stable_id
from manifests.corpus.sources.json_lines import number, resolve, rows
from manifests.errors import UserError

SAVE = "save such cuts as audio first (lhotse: cuts.save_audios), then use the manifest it returns"


def is_cut(row: dict[str, Any]) -> bool:
    """Whether a JSON object is a cut."""
    return str(row.get("type", "")).endswith("Cut") or "recording" in row


def clips(source: str) -> Iterator[Clip]:
    """The cuts of a manifest as clips, in its order.

    The text is the supervisions' in order of time. One supervision gives its other fields as
    labels; several become the label `supervisions`.

    Args:
        source: Path or address of the file; relative audio paths are relative to its folder.

    Raises:
        UserError: a cut cannot be used; the message begins with FILE:LINE.
    """
    for where, row in rows(source):
        try:
            yield _clip(row, source)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        except (AttributeError, KeyError, TypeError) as error:
            raise UserError(
                f"{where}: not a cut as lhotse writes it ({error!r}); write the manifest again"
            ) from None


def _clip(cut: dict[str, Any], source: str) -> Clip:
    if cut.get("type", "MonoCut") != "MonoCut":
        raise UserError(f"expected a MonoCut, found a {cut['type']}; {SAVE}")
    uri = resolve(_file(cut), source)
    offset, duration = number(cut, "start") or 0.0, number(cut, "duration")
    said = sorted(cut.get("supervisions") or [], key=lambda one: number(one, "start") or 0.0)
    labels = dict(cut.get("custom") or {})
    if len(said) == 1:
        labels |= _labels(said[0])
    elif said:
        labels["supervisions"] = said
    return Clip(
        clip_id=str(cut["id"]) if cut.get("id") else stable_id(uri, offset, duration),
        uri=uri,
        offset=offset,
        duration=duration,
        text=" ".join(one["text"] for one in said if one.get("text")) or None,
        labels=labels,
    )


def _file(cut: dict[str, Any]) -> str:
    """Path or address of the one file that holds the cut's audio and nothing beside it."""
    recording = cut.get("recording")
    if not recording:
        raise UserError("the cut has no recording, only features perhaps; expected audio")
    changes = [change.get("name", "?") for change in recording.get("transforms") or []]
    if changes not in ([], ["Resample"]):
        raise UserError(f"the recording is changed by {', '.join(changes)}; {SAVE}")
    channel = cut.get("channel", 0)
    holding = [one for one in recording["sources"] if channel in one["channels"]]
    if len(holding) != 1 or len(holding[0]["channels"]) != 1:
        found = [one["channels"] for one in recording["sources"]]
        raise UserError(
            f"the cut is channel {channel} of a recording with the channels {found} in its files, "
            f"expected one file with that channel alone; {SAVE}"
        )
    kind = holding[0]["type"]
    if kind not in ("file", "url"):
        raise UserError(f"the recording is of type {kind!r}, expected 'file' or 'url'; {SAVE}")
    return holding[0]["source"]


def _labels(supervision: dict[str, Any]) -> dict[str, Any]:
    apart = ("id", "recording_id", "start", "duration", "channel", "text", "custom", "alignment")
    kept = {key: value for key, value in supervision.items() if key not in apart}
    return {key: value for key, value in kept.items() if value is not None} | (
        supervision.get("custom") or {}
    )
