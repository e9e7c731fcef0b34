"""Reads a Hugging Face dataset with an Audio column, from the hub or from a local folder.

    hf:openslr/librispeech_asr?name=clean&split=test
    hf:/data/my_dataset

Rows are streamed, and audio is not decoded here. The audio bytes of a row are written beside the
corpus unchanged; a row that only names an existing file refers to that file. The copy takes disk
space once, and lets workers on any machine read single clips. A clip consists of all its bytes, so
a column `duration` is an estimate, like the length in a header.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qsl

from manifests.clips import Clip, stable_id
from manifests.corpus.sources.folder_table import METADATA_PARQUET
from manifests.corpus.sources.json_lines import ID_KEYS, TEXT_KEYS, given_id, number
from manifests.corpus.sources.label_values import to_labels, to_seconds
from manifests.corpus.sources.skipped_rows import SkippedRows
from manifests.decoders import probe
from manifests.decoders.files import AudioFile
from manifests.errors import UserError
from manifests.storage import Folder

FILES_PER_FOLDER = 1000


def is_dataset(folder: Path) -> bool:
    """Whether a local folder is a dataset: written by `save_to_disk`, or of Parquet files."""
    marks = ("dataset_info.json", "dataset_dict.json", "*.parquet", "data/*.parquet")
    files = (file for mark in marks for file in folder.glob(mark))
    return any(file.name != METADATA_PARQUET for file in files)


def clips(source: str, audio: Folder) -> Iterator[Clip]:
    """Yields the rows of a dataset as clips: all its splits in order, or the requested one.

    Args:
        source: Folder or hub id, then `?name=CONFIGURATION&split=SPLIT` or either.
        audio: Folder for audio that is stored as bytes.

    Raises:
        UserError: the dataset is not available, has no audio column, or a row cannot be used.
    """
    skipped, count = SkippedRows(), 0
    try:
        for split, rows in _splits(source).items():
            column = _audio_column(source, rows.features or {})
            for index, row in enumerate(rows.decode(False)):
                where = f"{split} row {index}"
                named = _named(row, rows.features)
                stored = named.pop(column) or {}
                if stored.get("bytes") == b"" or not (stored.get("bytes") or stored.get("path")):
                    skipped.add_row(where)
                    continue
                try:
                    clip = _clip(named, stored, (split, index), audio, skipped.columns)
                except UserError as error:
                    raise UserError(f"hf:{source}, {where}: {error}") from None
                count += 1
                yield clip
    except ImportError as error:
        raise UserError(f"cannot read hf:{source}: {error}") from None
    skipped.log(f"hf:{source}", has_clips=count > 0)


def parse(source: str) -> tuple[str, dict[str, str]]:
    """Splits a source into its path or hub id, and its options.

    Raises:
        UserError: there is an option other than name, split and ids.
    """
    path, _, query = source.partition("?")
    options = dict(parse_qsl(query))
    if unknown := options.keys() - {"name", "split", "ids"}:
        raise UserError(f"hf:{source} has {', '.join(unknown)}; only name and split are options")
    return path, options


def lacks_package() -> UserError:
    """The error to raise if the package datasets is not installed."""
    return UserError("reading hf: sources needs the package datasets; pip install -e '.[datasets]'")


def cannot_open(path: str, error: Exception) -> UserError:
    """The error to raise if the package datasets cannot open a data set."""
    return UserError(
        f"cannot open the dataset {path!r}: {str(error).splitlines()[0]}; check the name and "
        "the network, or give a local folder"
    )


def _splits(source: str) -> Mapping[str, Any]:
    """Opens the streaming datasets by split."""
    path, options = parse(source)
    try:
        import datasets
    except ModuleNotFoundError:
        raise lacks_package() from None
    try:
        if any(Path(path).glob("dataset_*.json")):
            saved: Any = datasets.load_from_disk(path)
            splits = saved if isinstance(saved, dict) else {str(saved.split or "train"): saved}
            loaded = {split: rows.to_iterable_dataset() for split, rows in splits.items()}
        else:
            loaded: Any = datasets.load_dataset(path, options.get("name"), streaming=True)
    except (OSError, ValueError) as error:
        raise cannot_open(path, error) from None
    chosen = options.get("split")
    if chosen not in (None, *loaded):
        raise UserError(f"{path} has no split {chosen!r}; it has {', '.join(loaded)}")
    return loaded if chosen is None else {chosen: loaded[chosen]}


def _audio_column(source: str, features: Mapping[str, Any]) -> str:
    """Returns the name of the audio column: of type Audio, or a struct of bytes and path."""
    from datasets import Audio

    candidates = [
        name
        for name, feature in features.items()
        if isinstance(feature, Audio)
        or (isinstance(feature, dict) and {"bytes", "path"} == {*feature})
    ]
    if "audio" in candidates:
        return "audio"
    if len(candidates) != 1:
        raise UserError(
            f"hf:{source} should have one audio column, or one named audio; found "
            f"{', '.join(candidates) or 'none'} among the columns {', '.join(features) or '(none)'}"
        )
    return candidates[0]


def _named(row: dict[str, Any], features: Mapping[str, Any]) -> dict[str, Any]:
    """The row with class numbers replaced by class names; -1 means no class."""
    named = dict(row)
    for name, feature in features.items():
        classes = getattr(feature, "names", None)
        if classes:
            named[name] = None if row[name] in (None, -1) else classes[row[name]]
    return named


def _clip(
    row: dict[str, Any],
    stored: dict[str, Any],
    place: tuple[str, int],
    audio: Folder,
    left_out: set[str],
) -> Clip:
    """Builds the clip of a row, and copies its audio.

    Args:
        row: The columns other than the audio.
        stored: Bytes and path of the audio.
        place: Split and number of the row.
        audio: Folder for the audio.
        left_out: Receives the names of columns that cannot be labels.
    """
    split, index = place
    data, path = stored.get("bytes"), stored.get("path") or ""
    # Bytes take precedence, as in `datasets`: the path may be the recording they were cut from.
    if data:
        digest = hashlib.blake2b(data, digest_size=8).hexdigest()
        name = f"{split}/{index // FILES_PER_FOLDER:05d}/{index:08d}-{digest}"
        name += PurePosixPath(path).suffix
        # Earlier versions could leave a part of an object in a store when they were interrupted.
        if audio.size(name) != len(data):
            audio.write_atomic(name, data)
        uri = audio.path(name) if audio.is_local else f"{audio.uri}/{name}"
        estimate = probe.seconds(AudioFile(io.BytesIO(data), len(data)))
        stable = stable_id(f"{split}/{index}-{digest}", 0.0, None)
    elif os.path.isabs(path) and os.path.exists(path):
        uri, estimate = path, probe.estimate_seconds(path)
        stable = stable_id(uri, 0.0, None)
    elif "://" in path:
        uri, estimate, stable = path, None, stable_id(path, 0.0, None)
    else:
        raise UserError(f"no bytes, and no such file: {path!r}; the dataset lacks its audio")
    row = {**row, "duration": to_seconds(row.get("duration"))}
    labels = to_labels(row, left_out)
    worded = (key for key in TEXT_KEYS if key in row and isinstance(row[key], str | None))
    text_key = next(worded, "")
    no_labels = {"duration", text_key, *ID_KEYS}
    return Clip(
        clip_id=given_id(labels) or stable,
        uri=uri,
        estimated_duration=number(row, "duration") or estimate,
        text=row.get(text_key),
        labels={key: value for key, value in labels.items() if key not in no_labels},
    )
