"""Detects codecs that lose too much of a stream.

The loss is compared with the spread of each column over the version so far, and at least with a
share of the column's own size: a constant tone has hardly any spread, so a loss relative to it
would be meaningless. A single shard never stops a build, because its loss is recorded in its
marker; a codec that loses too much of most shards does. A shard is never stored with a wider codec
than its version's: whether it needs one would depend on earlier shards, but two builds of a shard
must write equal bytes.
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
"""Maximum RMS error of a column in units of its spread. A column that the codec drops has 1."""
MIN_SHARE = 1e-3
"""Minimum spread of a column, as a share of the widest column's spread."""
BAD_SHARDS = 3
"""Number of shards over the limit before a build can stop."""


class CodecGate:
    """Checks the codec losses of committed shards.

    Args:
        specs: The teachers' versions.
        folders: Teacher -> folder of its shards. Sums over shards of earlier builds are read in
            threads, so that the build does not wait for them.
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
        """Checks a committed shard.

        Raises:
            UserError: most shards so far, and all of them together, have lost too much, and a wider
                codec is available.
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
        """Adds the sums of earlier builds, once."""
        known = self._before.pop(teacher, None)
        if known is None:
            return
        try:
            sums = known.result()
        except (OSError, UserError) as error:
            # `verify` reports broken markers; the build's own shards are still checked.
            log.warning("the check of codecs leaves out existing shards of %s: %s", teacher, error)
            return
        for stream, total in sums.items():
            self._totals.setdefault(f"{teacher}.{stream}", Sums.zero(len(total.total_D))).add(total)


def _fault(part: Sums, total: Sums, spec: StreamSpec) -> str:
    """Describes the part of a loss that is too large; empty if none is."""
    limit = CODECS[spec.codec].max_loss
    if not KINDS[spec.kind].is_physical:
        # Losses of probabilities and salience are relative to their size, over all columns.
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
    """The deviation of every column, with a minimum."""
    mean_D = total.total_D / total.num_frames
    square_D = total.square_D / total.num_frames
    deviation_D = np.sqrt((square_D - mean_D**2).clip(0))
    kind = KINDS[spec.kind]
    floor_D = kind.smallest_spread * np.sqrt(square_D)
    # Columns that are nearly always zero are compared with the size of the others.
    widest = float(deviation_D.max(initial=0.0))
    if kind.is_standardised:
        floor_D = np.maximum(floor_D, MIN_SHARE * widest)
    return np.maximum(np.maximum(deviation_D, floor_D), 1e-12)
