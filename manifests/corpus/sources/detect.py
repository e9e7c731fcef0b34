"""Detects the type of a source and opens it, so that the command line has one argument for all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pyarrow import fs

from manifests.clips import Clip
from manifests.corpus import lengths
from manifests.corpus.corpus_index import CACHE_FILE, INDEX_FILE
from manifests.corpus.source_index import SourceIndex
from manifests.corpus.sources import (
    energon,
    folder,
    hub,
    hugging_face,
    json_lines,
    kaldi,
    lhotse,
    nemo,
    parquet,
    shar,
    webdataset,
)
from manifests.corpus.sources.tar_index import expand
from manifests.errors import UserError
from manifests.storage import Folder, filesystem

IDS_BY_TAR = "?ids=tar"
"""Suffix of a source of tars: the tar's name becomes a part of each clip's id."""


def clips(source: str, audio: Folder, index: SourceIndex | None = None) -> Iterator[Clip]:
    """Streams the clips of a source, with lengths from headers if the source states none.

    Args:
        source: See `open_source`.
        audio: Folder for audio that a dataset stores as bytes.
        index: Index of the corpus, which remembers what was read.

    Raises:
        UserError: the source does not exist or cannot be used.
    """
    index = index or SourceIndex()
    return lengths.fill(open_source(source, audio, index), source, index)


def open_source(source: str, audio: Folder, index: SourceIndex) -> Iterator[Clip]:
    """Streams the clips of a source.

    Args:
        source: A JSON-lines manifest, a lhotse cut manifest, a folder of audio files or of tars, a
            tar or a pattern of tars (`a-{000..012}.tar`), a folder that is a Hugging Face dataset,
            or `hf:` and the name of one.
        audio: Folder for audio that a dataset stores as bytes.
        index: Index of the corpus, which remembers what was read.

    Raises:
        UserError: the source does not exist or cannot be used.
    """
    if source.startswith("hf:") and not source.startswith("hf://"):
        named = source.removeprefix("hf:")
        if Path(named).is_dir() and not hugging_face.is_dataset(Path(named)):
            return folder.clips(named, index)  # an AudioFolder
        # A corpus that was begun with copies of the audio goes on with copies.
        is_local = Path(named.partition("?")[0]).exists()
        if is_local or audio.folders():
            return hugging_face.clips(named, audio)
        return hub.clips(named, audio, index)
    if nemo.is_pattern(source) and not Path(source).exists():
        return nemo.clips(source, index)
    ids_by_tar = source.endswith(IDS_BY_TAR)
    source = source.removesuffix(IDS_BY_TAR)
    source, _, split = source.partition("?split=")
    split = split or None
    if webdataset.IS_TAR.search(source) and not Path(source).is_dir():
        return webdataset.clips(source, expand(source), index, ids_by_tar=ids_by_tar)
    system, path = filesystem(source)
    try:
        kind = system.get_file_info(path).type
    except OSError as error:
        raise UserError(f"{source} cannot be reached ({error}); check the address") from None
    if kind == fs.FileType.NotFound:
        Folder(source).check_bucket()
        raise UserError(
            f"there is no {source}; expected a folder of audio files, a JSON-lines or lhotse "
            "manifest, tars, Parquet files, a Kaldi folder or hf:DATASET (docs/corpora.md)"
        )
    if kind == fs.FileType.Directory and Folder(source).exists(INDEX_FILE):
        raise UserError(
            f"{source} is a corpus, expected a source of one; use it as it is: coat-cache build "
            f"--corpus {source}. If a build wrote it into a folder of recordings, delete its "
            "corpus.json, clips-*.parquet and source_index"
        )
    if kind == fs.FileType.Directory and Folder(source).exists(CACHE_FILE):
        raise UserError(
            f"{source} is a teacher cache, expected a source of a corpus; its corpora are in "
            f"{source}/corpora: coat-corpus stats {source}/corpora/NAME"
        )
    if kind == fs.FileType.Directory and kaldi.is_data_folder(Folder(source)):
        return kaldi.clips(source)
    if kind == fs.FileType.Directory:
        files = [] if _is_saved_dataset(source) else parquet.files_within(Folder(source))
        if files and not audio.folders():
            return parquet.clips(files, index)
        # A corpus that was begun with copies of the audio goes on with copies.
        if "://" not in source and hugging_face.is_dataset(Path(source)):
            return hugging_face.clips(source, audio)
        if energon.is_energon(Folder(source)):
            tars, excluded = energon.tars(Folder(source), split)
            return webdataset.clips(source, tars, index, ids_by_tar=ids_by_tar, excluded=excluded)
        if shar.is_shar(Folder(source)):
            return shar.clips(source, index)
        if tars := webdataset.tars_within(Folder(source)):
            return webdataset.clips(source, tars, index, ids_by_tar=ids_by_tar)
        return folder.clips(source, index)
    if source.lower().endswith(".parquet"):
        return parquet.clips([source], index)
    first = next(json_lines.rows(source), None)
    if first is None:
        raise UserError(f"{source} is empty; expected one JSON object for each line")
    if nemo.is_tarred(first[1], source):
        return nemo.clips(source, index)
    return lhotse.clips(source) if lhotse.is_cut(first[1]) else json_lines.clips(source)


def _is_saved_dataset(source: str) -> bool:
    """Whether a local folder was made by `save_to_disk`."""
    marks = ("dataset_info.json", "dataset_dict.json")
    return "://" not in source and any((Path(source) / mark).exists() for mark in marks)
