"""Reads JSON lines with NeMo's and ESPnet's keys: one JSON object per clip, gzipped or not.

    {"audio_filepath": "a/b.flac", "duration": 3.2, "offset": 0.0, "text": "...", "speaker": "x"}

Unknown keys become labels. A malformed line stops the build: a corpus that silently lacks rows
might be noticed months later, if ever.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from typing import Any

from manifests.clips import Clip, has_value, stable_id
from manifests.errors import UserError
from manifests.storage import filesystem

ID_KEYS = ("id", "clip_id", "utt_id")
TEXT_KEYS = ("text", "transcription", "transcript", "sentence")
"""Names of the transcript in tables of public data sets."""


def clips(source: str) -> Iterator[Clip]:
    """Yields the clips of a manifest in order.

    Args:
        source: Path or address of the file; relative audio paths are relative to its folder.

    Raises:
        UserError: a line cannot be used; the message begins with FILE:LINE.
    """
    for where, row in rows(source):
        try:
            yield clip_from_row(row, source)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None


def rows(source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (FILE:LINE, object) of every line that is not blank.

    Raises:
        UserError: a line is not a JSON object, or the file's compression is damaged.
    """
    system, path = filesystem(source)
    number = 0
    try:
        with system.open_input_stream(path) as stream:
            for number, line in enumerate(io.BufferedReader(stream), 1):
                if line.strip():
                    yield f"{source}:{number}", _object(line.removeprefix(b"\xef\xbb\xbf"))
    except ValueError as error:
        if number == 1 and b"\0" in line:
            raise UserError(
                f"{source} is not UTF-8 text; expected a JSON-lines manifest or a folder of audio"
            ) from None
        raise UserError(
            f"{source}:{number}: not a JSON object ({error}); expected one for each line, such as "
            '{"audio_filepath": "a.wav", "duration": 3.2}'
        ) from None
    except FileNotFoundError:
        raise UserError(f"there is no {source}; check the path") from None
    except OSError as error:
        raise UserError(
            f"{source}:{number + 1}: cannot be read ({error}); copy the file again"
        ) from None


def resolve(path: str, source: str) -> str:
    """Converts an audio path to a clip's uri: absolute, or unchanged if it has a scheme."""
    if "://" in path:
        return path
    if "://" in source:
        return f"{source.rpartition('/')[0]}/{path}"
    return os.path.abspath(os.path.join(os.path.dirname(source), os.path.expanduser(path)))


def number(row: dict[str, Any], key: str) -> float | None:
    """Reads a field in seconds; None if it is absent or null.

    Raises:
        UserError: the field is not a number.
    """
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{key} must be a number of seconds, found {value!r}; correct the line")
    try:
        return float(value)
    except OverflowError:
        raise UserError(f"{key} is beyond any number of seconds; correct the line") from None


def given_id(row: dict[str, Any]) -> str | None:
    """The first of the id keys that the row has."""
    return next((str(row[key]) for key in ID_KEYS if has_value(row.get(key))), None)


def _object(line: bytes) -> dict[str, Any]:
    row = json.loads(line)
    if b"\\u" in line:
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start].encode(errors="backslashreplace").decode()
            raise ValueError(f"half a character, {half}; its other half is missing") from None
    if not isinstance(row, dict):
        raise ValueError(f"a JSON {type(row).__name__}")
    return row


def clip_from_row(row: dict[str, Any], source: str) -> Clip:
    """Builds the clip of one line; a relative path is relative to the folder of `source`.

    Raises:
        UserError: the line cannot be used.
    """
    path = row.get("audio_filepath")
    if not isinstance(path, str) or not path:
        has_key = "audio_filepath" in row
        given = repr(path) if has_key else f"the keys {', '.join(row) or 'none'}"
        raise UserError(f"expected the key audio_filepath with a path, found {given}")
    text, nested = row.get("text"), row.get("labels") or {}
    if not isinstance(text, str | None):
        raise UserError(f"text must be a string or null, found {text!r}; correct the line")
    if not isinstance(nested, dict):
        raise UserError(f"labels must be an object, found {nested!r}; correct the line")
    uri = resolve(path, source)
    offset, duration = number(row, "offset") or 0.0, number(row, "duration")
    known = {"audio_filepath", "duration", "offset", "text", "labels", *ID_KEYS}
    return Clip(
        clip_id=given_id(row) or stable_id(uri, offset, duration),
        uri=uri,
        offset=offset,
        duration=duration,
        text=text,
        labels={key: value for key, value in row.items() if key not in known} | nested,
    )
