"""Reads Kaldi data folders: wav.scp, segments, text, utt2spk, spk2gender, utt2lang.

Each utterance of `segments` is a clip; without that file, each recording is one. Only audio files
can be read: commands (pipes) and offsets into an ark are errors.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from manifests.clips import Clip
from manifests.corpus.sources import json_lines
from manifests.errors import UserError
from manifests.storage import Folder

LABELS = {"utt2spk": "speaker", "utt2lang": "language"}
"""File -> label of each utterance."""
REWRITE = "write the audio as files first (lhotse or wav-copy), and name those in wav.scp"


def is_data_folder(folder: Folder) -> bool:
    """Whether a folder has a wav.scp."""
    return folder.exists("wav.scp")


def clips(source: str) -> Iterator[Clip]:
    """Yields the utterances of a data folder, in the order of its files.

    Args:
        source: Path or address of the folder. Audio paths are relative to it, or to the working
            folder, as in Kaldi.

    Raises:
        UserError: a line cannot be used; the message begins with FILE:LINE.
    """
    folder = Folder(source)
    recordings = {
        key: _audio(folder, where, path) for where, key, path in _lines(folder, "wav.scp")
    }
    texts = {key: text for _, key, text in _lines(folder, "text", may_be_empty=True)}
    labels = {
        label: {key: value for _, key, value in _lines(folder, file)}
        for file, label in LABELS.items()
    }
    genders = {key: value for _, key, value in _lines(folder, "spk2gender")}

    def build_clip(
        utterance: str, uri: str, offset: float = 0.0, duration: float | None = None
    ) -> Clip:
        own = {label: values[utterance] for label, values in labels.items() if utterance in values}
        if own.get("speaker") in genders:
            own["gender"] = genders[own["speaker"]]
        return Clip(
            clip_id=utterance,
            uri=uri,
            offset=offset,
            duration=duration,
            text=texts.get(utterance) or None,
            labels=own,
        )

    if not folder.exists("segments"):
        yield from (build_clip(key, uri) for key, uri in recordings.items())
        return
    for where, utterance, rest in _lines(folder, "segments"):
        match = re.fullmatch(r"(\S+)\s+(\S+)\s+(\S+)", rest)
        try:
            if not match:
                raise ValueError(rest)
            start, end = float(match[2]), float(match[3])
        except ValueError:
            raise UserError(
                f"{where}: expected UTTERANCE RECORDING START END with times in seconds, found "
                f"{utterance} {rest}"
            ) from None
        if match[1] not in recordings:
            raise UserError(f"{where}: the recording {match[1]} is not in wav.scp")
        try:
            # An end of -1 stands for the end of the recording.
            duration = None if end == -1 else round(end - start, 6)
            yield build_clip(utterance, recordings[match[1]], start, duration)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None


def _lines(
    folder: Folder, name: str, *, may_be_empty: bool = False
) -> Iterator[tuple[str, str, str]]:
    """Yields (FILE:LINE, key, rest) of each line of a file; nothing if the file does not exist."""
    if not folder.exists(name):
        return
    place = f"{folder.uri}/{name}"
    try:
        content = folder.read_bytes(name).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{place} is not UTF-8 text ({error.reason}); save it as UTF-8") from None
    known = set()
    for number, line in enumerate(content.split("\n"), 1):
        key, _, rest = line.strip().replace("\t", " ").partition(" ")
        if not key:
            continue
        if not rest.strip() and not may_be_empty:
            raise UserError(f"{place}:{number}: expected a key and a value, found {line.strip()}")
        if key in known:
            raise UserError(f"{place}:{number}: the key {key} occurs twice; remove one")
        known.add(key)
        yield f"{place}:{number}", key, rest.strip()


def _audio(folder: Folder, where: str, path: str) -> str:
    """The uri of a recording."""
    if path.endswith("|") or path.startswith("|"):
        raise UserError(f"{where}: found a command, {path}, which is not run; {REWRITE}")
    if re.search(r"\.ark:\d+(\[.*\])?$", path) or path == "-":
        raise UserError(f"{where}: found {path}, expected an audio file; {REWRITE}")
    uri = json_lines.resolve(path, f"{folder.uri}/wav.scp")
    if "://" in uri:
        return uri
    candidates = (uri, os.path.abspath(os.path.expanduser(path)))
    for each in candidates:
        if os.path.isfile(each):
            return each
    raise UserError(
        f"{where}: there is no {path}, looked for {' and '.join(dict.fromkeys(candidates))}; run "
        "the command in the folder that the paths are relative to"
    )
