"""Notices a codec that loses too much of a stream.

The loss is judged against the spread of each column over the version so far, and at least against a
share of the column's own size: a steady tone has hardly any spread, and its loss means nothing.
One shard never ends a build, because its loss is recorded in its marker; a codec that loses too
much of shard after shard does. A shard is never stored by a wider codec than its version's: whether
it needs one depends on the shards before it, and two builds of one shard must write the same bytes.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from manifests.cache import marker_index
from manifests.cache.shards import Marker
from manifests.cache.stream_sums import Sums
from manifests.errors import UserError
from manifests.storage import Folder
from manifests.streams.codecs import CODECS, SAFEST_CODEC
from manifests.streams.kinds import KINDS
from manifests.streams.specs import StreamSpec, TeacherSpec

log = logging.getLogger(__name__)

MAX_COLUMN_LOSS = 0.5
"""RMS error of the worst column in units of its spread. A column that the codec drops has 1."""
MIN_SHARE = 1e-3
"""A column whose spread is below this share of the widest column's is judged by that share."""
BAD_SHARDS = 3
"""Shards over the limit before a build may end."""


class CodecGate:
    """Judges the shards of a build as they are committed.

    Args:
        specs: The teachers' versions.
        folders: Teacher -> folder of its shards. Sums over those that other builds have committed
            are read in threads, so that the build does not wait for them.
    """

    def __init__(
        self, specs: Mapping[str, TeacherSpec], folders: Mapping[str, Folder] | None = None
    ) -> None:
        self._specs = specs
        self._totals: dict[str, Sums] = {}
        self._readers = ThreadPoolExecutor(max_workers=8, thread_name_prefix="codec-gate")
        self._before = {
            name: self._readers.submit(marker_index.read_sums, folder)
            for name, folder in (folders or {}).items()
        }
        self._readers.shutdown(wait=False)
        self._shards: Counter[str] = Counter()
        self._bad: Counter[str] = Counter()

    def add(self, teacher: str, marker: Marker) -> None:
        """Judges a committed shard.

        Raises:
            UserError: most shards so far, and all of them together, have lost too much by a codec
                in whose place a wider one could be set.
        """
        self._add_before(teacher)
        for stream in self._specs[teacher].streams:
            fields = marker.sums.get(stream.name)
            if fields is None or not fields["num_frames"]:
                continue
            part, key = Sums.from_json(fields), f"{teacher}.{stream.name}"
            total = self._totals.setdefault(key, Sums.zero(stream.dim))
            total.add(part)
            self._shards[key] += 1
            fault = _fault(part, total, stream)
            if not fault:
                continue
            self._bad[key] += 1
            if self._bad[key] == 1:
                log.warning(
                    "codec %s loses %s of %s in shard %d; the shard's marker records the loss",
                    stream.codec, fault, key, marker.shard,
                )  # fmt: skip
            most = 2 * self._bad[key] > self._shards[key]
            fault = _fault(total, total, stream)
            if self._bad[key] >= BAD_SHARDS and most and fault and stream.codec != SAFEST_CODEC:
                raise UserError(
                    f"codec {stream.codec} loses {fault} of {key} over {self._shards[key]} shards; "
                    f"set teacher.{teacher}.codecs.{stream.name}: {SAFEST_CODEC}, which makes a "
                    "new version of the teacher"
                )

    def _add_before(self, teacher: str) -> None:
        """Adds what the version held before this build, once."""
        known = self._before.pop(teacher, None)
        if known is None:
            return
        try:
            sums = known.result()
        except (OSError, UserError) as error:
            # A broken marker is for `verify` to report; the build's own shards are judged anyway.
            log.warning("what %s holds already is not compared with: %s", teacher, error)
            return
        for stream, total in sums.items():
            self._totals.setdefault(f"{teacher}.{stream}", Sums.zero(len(total.total_D))).add(total)


def _fault(part: Sums, total: Sums, spec: StreamSpec) -> str:
    """The part of a loss that is too large, in words; empty if none is."""
    limit = CODECS[spec.codec].max_loss
    if not KINDS[spec.kind].is_physical:
        # Probabilities and salience: relative to their size, over all columns.
        size = max(part.square_D.sum() / part.num_frames, total.square_D.sum() / total.num_frames)
        loss = float(np.sqrt(part.lost_D.sum() / part.num_frames / max(size, 1e-12)))
        return f"{loss:.3f} (the limit is {limit})" if loss > limit else ""
    rms_D = np.sqrt(part.lost_D / part.num_frames)
    relative_D = rms_D / _spread(total, spec)
    loss, worst = float(relative_D.mean()), int(relative_D.argmax())
    if loss > limit:
        return f"{loss:.3f} of the deviation (the limit is {limit})"
    if relative_D[worst] > MAX_COLUMN_LOSS:
        name = spec.names[worst] if spec.names else f"column {worst}"
        return (
            f"{relative_D[worst]:.2f} of the deviation of {name} (the limit for a column is "
            f"{MAX_COLUMN_LOSS})"
        )
    return ""


def _spread(total: Sums, spec: StreamSpec) -> np.ndarray:
    """The deviation of every column, with a floor."""
    mean_D = total.total_D / total.num_frames
    square_D = total.square_D / total.num_frames
    deviation_D = np.sqrt((square_D - mean_D**2).clip(0))
    kind = KINDS[spec.kind]
    floor_D = kind.smallest_spread * np.sqrt(square_D)
    # Columns that hardly ever differ from zero are judged by what the others are worth.
    widest = float(deviation_D.max(initial=0.0))
    if kind.is_standardised:
        floor_D = np.maximum(floor_D, MIN_SHARE * widest)
    return np.maximum(np.maximum(deviation_D, floor_D), 1e-12)
