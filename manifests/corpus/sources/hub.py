"""Reads a data set of the hub in place: its Parquet files or tars, through their addresses.

    hf:openslr/librispeech_asr?name=clean&split=test

The package datasets lists the files of each split. Their addresses contain the hub's commit, so
that a corpus does not change with the data set. Data sets in other formats are copied row by row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from manifests.clips import Clip
from manifests.corpus.source_index import SourceIndex
from manifests.corpus.sources import hugging_face, parquet, webdataset
from manifests.errors import UserError
from manifests.storage import Folder


def clips(source: str, audio: Folder, index: SourceIndex) -> Iterator[Clip]:
    """Yields the rows of a data set as clips: all its splits in order, or the requested one.

    Args:
        source: Hub id, then `?name=CONFIGURATION&split=SPLIT` or either.
        audio: Folder for audio that cannot be read in place.
        index: Index of the corpus, which remembers what was read.

    Raises:
        UserError: the data set is not available, has no audio column, or a row cannot be used.
    """
    path, options = hugging_face.parse(source)
    builder = _builder(path, options.get("name"))
    splits = {str(split): list(files) for split, files in (builder.config.data_files or {}).items()}
    chosen = options.get("split")
    if builder.name not in ("parquet", "webdataset"):
        return hugging_face.clips(source, audio)
    if chosen not in (None, *splits):
        raise UserError(f"{path} has no split {chosen!r}; it has {', '.join(splits)}")
    files = [file for split in splits if chosen in (None, split) for file in splits[split]]
    if builder.name == "parquet":
        features = builder.info.features
        return parquet.clips(files, index, features=features.to_dict() if features else None)
    return webdataset.clips(f"hf:{path}", files, index, ids_by_tar=options.get("ids") == "tar")


def _builder(path: str, name: str | None) -> Any:
    try:
        import datasets
    except ModuleNotFoundError:
        raise hugging_face.lacks_package() from None
    try:
        return datasets.load_dataset_builder(path, name)
    except (OSError, ValueError) as error:
        raise hugging_face.cannot_open(path, error) from None
