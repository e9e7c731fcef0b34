"""Reads Energon's WebDatasets: tars, and a folder `.nv-meta` that assigns the tars to splits.

    set/.nv-meta/split.yaml      split_parts: {train: [parts/a-{00..11}.tar], val: [parts/b.tar]}

The tars are read like any WebDataset; the decoding options in `dataset.yaml` are ignored.
"""

from __future__ import annotations

import yaml

from manifests.corpus.sources.tar_index import expand
from manifests.errors import UserError
from manifests.storage import Folder

META = ".nv-meta"


def is_energon(folder: Folder) -> bool:
    """Whether a folder was prepared with Energon."""
    return folder.exists(f"{META}/split.yaml")


def tars(folder: Folder, split: str | None) -> tuple[list[str], set[str]]:
    """Lists the tars of a split, or of all splits in order, and the samples to leave out.

    Returns:
        Paths or addresses of the tars, and TAR/KEY of each sample that is excluded.

    Raises:
        UserError: the splits cannot be read, or there is no such split.
    """
    place = f"{folder.uri}/{META}/split.yaml"
    try:
        stated = yaml.safe_load(folder.read_bytes(f"{META}/split.yaml"))
        parts = dict(stated["split_parts"])
        excluded = [each for pattern in stated.get("exclude") or () for each in expand(pattern)]
        names = {
            name: [each for part in listed for each in expand(part)]
            for name, listed in parts.items()
        }
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{place} is not what Energon writes ({error}); run `energon prepare` again"
        ) from None
    if split is not None and split not in names:
        raise UserError(f"{folder.uri} has no split {split!r}; it has {', '.join(names)}")
    lists = list(names.values()) if split is None else [names[split]]
    kept_names = dict.fromkeys(name for listed in lists for name in listed if name not in excluded)

    def address(name: str) -> str:
        return folder.path(name) if folder.is_local else f"{folder.uri}/{name}"

    return list(map(address, kept_names)), set(map(address, excluded))
