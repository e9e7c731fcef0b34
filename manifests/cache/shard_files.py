"""Names the files of a teacher's shards over one corpus, as docs/cache_format.md describes them.

There is a folder for each kind of file, so that files of one kind are listed at once.
"""

from __future__ import annotations

import re

DATA = "data"
"""Folder of the Parquet files with rows."""
FAILURES = "failures"
"""Folder of the Parquet files with failures, which caches of format 1 have."""
MARKERS = "markers"
"""Folder of the commit markers."""
INDEX = "index"
"""Folder of the marker index."""
QUARANTINE = "quarantine"
"""Folder of files that were set aside as damaged."""
DATA_NAME = re.compile(r"\d{7,}-[0-9a-f]{8}\.parquet")
"""Names of files in `DATA` and `FAILURES`. A marker with any other name in it is invalid."""
MARKER_NAME = re.compile(r"(\d{7,})\.json")
"""Names of files in `MARKERS`; the group is the shard's number."""


def marker_name(shard: int) -> str:
    """Returns the file name of a shard's marker."""
    return f"{shard:07d}.json"


def marker_file(shard: int) -> str:
    """Returns folder and name of a shard's marker."""
    return f"{MARKERS}/{marker_name(shard)}"


def data_file(name: str) -> str:
    """Returns folder and name of a file with rows."""
    return f"{DATA}/{name}"


def failures_file(name: str) -> str:
    """Returns folder and name of a file with failures."""
    return f"{FAILURES}/{name}"


def index_file(name: str) -> str:
    """Returns folder and name of a file of the marker index."""
    return f"{INDEX}/{name}"
