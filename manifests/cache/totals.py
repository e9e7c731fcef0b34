"""The totals of a teacher's version over a corpus, summed over its markers once.

`status`, `ls`, `plan` and the report all show these numbers. They are read from the marker index if
there is one (`manifests.cache.marker_index`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from manifests.cache import marker_index
from manifests.cache.shards import Marker
from manifests.storage import Folder, in_parallel


@dataclass(slots=True)
class Totals:
    """Sums over the committed shards of one version for one corpus."""

    shards: int = 0
    clips: int = 0
    """Clips in these shards, with targets or with a recorded failure."""
    rows: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    """Error code -> clips."""
    warnings: Counter[str] = field(default_factory=Counter)
    """Fault of the audio -> number of clips that have targets despite it."""
    seconds: float = 0.0
    """Audio duration of the rows."""
    data_bytes: int = 0
    extract_seconds: float = 0.0
    """Worker time."""

    def add(self, marker: Marker) -> None:
        """Adds one shard."""
        self.shards += 1
        self.clips += marker.clips
        self.rows += marker.rows
        self.failures.update(marker.failures)
        self.warnings.update(marker.warnings)
        self.seconds += marker.seconds
        self.data_bytes += marker.data_bytes
        self.extract_seconds += marker.extract_seconds


def totals(folder: Folder) -> Totals:
    """The totals of one version over one corpus (`manifests.cache.layout.Layout.shards`)."""
    totals = Totals()
    for marker in marker_index.read_markers(folder):
        totals.add(marker)
    return totals


def totals_of_all(folders: Sequence[Folder]) -> list[Totals]:
    """The totals of several folders; their requests to an object store run in parallel."""
    return list(in_parallel(totals, folders, requests=8))
