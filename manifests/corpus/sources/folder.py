"""Reads a folder of audio files: one clip per file, with its transcript if there is one.

    speech/a.flac
    speech/a.txt             what is said in it
    speech/metadata.csv      or .jsonl or .parquet: file_name, and text and labels of that file

Files are selected by their extension and sorted within each folder; skipped files are counted by
extension and reported. The length in a file's header is kept as an estimate. Each linked folder is
visited once, so links may form loops.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from manifests.audio_address import check_file_name
from manifests.clips import Clip, stable_id
from manifests.corpus.source_index import SourceIndex
from manifests.corpus.sources import json_lines
from manifests.corpus.sources.folder_table import METADATA, read_table, read_text
from manifests.errors import UserError
from manifests.storage import Folder, name_state
from manifests.wording import number_of

log = logging.getLogger(__name__)

AUDIO = (
    ".3g2", ".3gp", ".aac", ".ac3", ".adts", ".aif", ".aifc", ".aiff", ".amr", ".ape", ".asf",
    ".au", ".avi", ".avr", ".bwf", ".caf", ".dsf", ".dts", ".eac3", ".f4a", ".flac", ".flv",
    ".ircam", ".m2ts", ".m4a", ".m4b", ".m4r", ".m4v", ".mka", ".mkv", ".mov", ".mp1", ".mp2",
    ".mp3", ".mp4", ".mpc", ".mpeg", ".mpg", ".mpga", ".mts", ".nist", ".oga", ".ogg", ".ogv",
    ".ogx", ".opus", ".paf", ".pvf", ".ra", ".rf64", ".rm", ".sf", ".snd", ".sph", ".spx", ".svx",
    ".tak", ".ts", ".tta", ".voc", ".w64", ".wav", ".wave", ".weba", ".webm", ".wma", ".wmv", ".wv",
)  # fmt: skip
"""Extensions of audio files, in lower case; decoders detect the format from the content."""


def clips(source: str, index: SourceIndex | None = None) -> Iterator[Clip]:
    """Yields the clips of a folder and all its subfolders, without hidden ones.

    An id depends only on the path, so that a file that was replaced by a longer one is detected.

    Args:
        source: Path or address of the folder.
        index: It is told the state of each file.

    Raises:
        UserError: the folder has no audio, a name that is not Unicode, or an invalid table.
    """
    count = 0
    walk = _Walk(index or SourceIndex())
    for count, clip in enumerate(walk.clips(Folder(source)), 1):  # noqa: B007 (counts)
        yield clip
    for suffix, instead in (
        (".tar", "a folder that holds tars alone, or a pattern 'FOLDER/{a,b}/{000..012}.tar'"),
        (".parquet", "a folder that holds Parquet files itself, or hf:FOLDER for all of them"),
    ):
        if not count and walk.others[suffix]:
            raise UserError(
                f"{source} holds no audio files, and {suffix} files in folders within it; give "
                f"{instead}"
            )
    if not count:
        raise UserError(
            f"{source} holds no audio files (looked for {' '.join(AUDIO)}; skipped "
            f"{walk.passed_over() or 'nothing'}); give a folder of audio, a JSON-lines manifest, a "
            "lhotse cut manifest or hf:DATASET"
        )
    if walk.passed_over():
        log.warning("%s: skipped %s", source, walk.passed_over())
    if walk.unused_rows:
        log.warning(
            "%s: %s no audio file that is there, the first: %s", source,
            number_of(len(walk.unused_rows), "row of its tables names", "rows of its tables name"),
            next(iter(walk.unused_rows)),
        )  # fmt: skip


class _Walk:
    """One walk through a folder and its subfolders."""

    def __init__(self, index: SourceIndex) -> None:
        self._index = index
        self.others: Counter[str] = Counter()
        """Extension -> files that were skipped."""
        self.unused_rows: dict[str, None] = {}
        """Files that a table names, and that the walk has not met."""
        self._visited: set[str] = set()

    def passed_over(self) -> str:
        """Lists the files that were skipped."""
        every = sorted((+self.others).items(), key=lambda item: (-item[1], item[0]))
        return ", ".join(f"{count:,} {name or 'without an extension'}" for name, count in every)

    def clips(
        self, folder: Folder, rows: Mapping[str, dict[str, Any]] | None = None
    ) -> Iterator[Clip]:
        """Yields the clips of a folder.

        Args:
            folder: The folder.
            rows: File -> row of the tables in the parent folders.
        """
        if folder.path("") in self._visited:
            return
        self._visited.add(folder.path(""))
        try:
            stamps = folder.stamps()
            names = [name for name in stamps if not name.startswith(".")]
            folders = [name for name in folder.folders() if not name.startswith(".")]
        except UnicodeDecodeError as error:
            raise UserError(
                f"{folder.uri} contains the name {error.object!r}, which is not Unicode; rename it"
            ) from None
        rows = dict(rows or {})
        for table in METADATA:
            if table in names:
                own = read_table(folder, table)
                self.unused_rows |= dict.fromkeys(own)
                rows |= {path: row for path, (_, row) in own.items()}
        texts = {name for name in names if name.endswith(".txt")}
        used: set[str] = set(METADATA)
        for name in names:
            if PurePosixPath(name).suffix.lower() in AUDIO:
                used.add(f"{PurePosixPath(name).stem}.txt")
                clip = _clip(folder, name, texts, rows)
                self.unused_rows.pop(folder.path(name), None)
                self._index.note_identity(clip.uri, name_state(*stamps[name]))
                yield clip
        for name in names:
            suffix = PurePosixPath(name).suffix.lower()
            if suffix not in AUDIO and name not in used:
                self.others[suffix] += 1
        specials = [name for name in folder.others() if not name.startswith(".")]
        self.others["pipes, devices or broken links"] += len(specials)
        named_like_audio = [name for name in folders if PurePosixPath(name).suffix.lower() in AUDIO]
        self.others["folders named like audio files"] += len(named_like_audio)
        for name in folders:
            yield from self.clips(folder.child(name), rows)


def _clip(folder: Folder, name: str, texts: set[str], rows: Mapping[str, dict[str, Any]]) -> Clip:
    uri = folder.path(name) if folder.is_local else f"{folder.uri}/{name}"
    check_file_name(uri)
    row = dict(rows.get(folder.path(name), {}))
    text_name = f"{PurePosixPath(name).stem}.txt"
    text_key = next((key for key in json_lines.TEXT_KEYS if isinstance(row.get(key), str)), "")
    text = row.pop(text_key, None) or None
    if text is None and text_name in texts:
        text = read_text(folder, text_name).strip()
    clip_id = json_lines.given_id(row) or stable_id(uri, 0.0, None)
    no_labels = {"file_name", *json_lines.ID_KEYS}
    return Clip(
        clip_id=clip_id,
        uri=uri,
        text=text,
        labels={
            key: value for key, value in row.items() if key not in no_labels and value is not None
        },
    )
