"""A folder of audio files: one clip for each, and beside it the transcript where there is one.

    speech/a.flac
    speech/a.txt        what is said in it

Files are taken by their extension and sorted within each folder. The length comes from the file's
header where libsndfile knows the format, and stays unknown otherwise: decoding will tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO

import soundfile

from manifests.clips import Clip, stable_id
from manifests.errors import UserError
from manifests.storage import Folder

AUDIO = (
    ".aac", ".aif", ".aiff", ".amr", ".au", ".caf", ".flac", ".m4a", ".mka", ".mp2", ".mp3", ".mp4",
    ".oga", ".ogg", ".opus", ".sph", ".w64", ".wav", ".webm", ".wma",
)  # fmt: skip
"""Extensions that are taken for audio, in lower case."""


def clips(source: str) -> Iterator[Clip]:
    """The clips of a folder and all folders below it, hidden ones left out.

    An id depends on the path alone, so that a file that is replaced by a longer one is noticed.

    Args:
        source: Path or address of the folder.

    Raises:
        UserError: it holds no audio, or a name that is not Unicode.
    """
    count = 0
    for count, clip in enumerate(_walk(Folder(source)), 1):  # noqa: B007 (counts)
        yield clip
    if not count:
        raise UserError(
            f"{source} holds no audio files (looked for {' '.join(AUDIO)}); give a folder "
            "of audio, a JSON-lines manifest, a lhotse cut manifest or hf:DATASET"
        )


def _walk(folder: Folder) -> Iterator[Clip]:
    try:
        names = [name for name in folder.names() if not name.startswith(".")]
        folders = [name for name in folder.folders() if not name.startswith(".")]
    except UnicodeDecodeError as error:
        raise UserError(
            f"{folder.uri} holds the name {error.object!r}, which is not Unicode; rename it"
        ) from None
    texts = {name for name in names if name.endswith(".txt")}
    for name in names:
        if PurePosixPath(name).suffix.lower() in AUDIO:
            yield _clip(folder, name, texts)
    for name in folders:
        yield from _walk(folder.child(name))


def _clip(folder: Folder, name: str, texts: set[str]) -> Clip:
    uri = folder.path(name) if folder.is_local else f"{folder.uri}/{name}"
    beside = f"{PurePosixPath(name).stem}.txt"
    return Clip(
        clip_id=stable_id(uri, 0.0, None),
        uri=uri,
        duration=header_duration(uri) if folder.is_local else None,
        text=_transcript(folder, beside) if beside in texts else None,
    )


def header_duration(file: str | BinaryIO) -> float | None:
    """Seconds that a file's header states; None where libsndfile reads none."""
    try:
        info = soundfile.info(file)
    except soundfile.LibsndfileError:
        return None
    return info.frames / info.samplerate if info.frames > 0 else None


def _transcript(folder: Folder, name: str) -> str:
    try:
        return folder.read_bytes(name).decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{folder.uri}/{name} is not UTF-8 text ({error.reason} at byte {error.start}); "
            "save it as UTF-8"
        ) from None
