"""Opens the streams of a run in caches, for predictions that are compared with cached targets."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from manifests.errors import UserError
from student.distill.streams import Stream, open_streams
from student.runs.folder import Run

log = logging.getLogger(__name__)


def open_run_streams(run: Run, caches: Sequence[str]) -> dict[str, Stream]:
    """Opens a run's streams, from the versions of the teachers that it was trained on.

    Caches without one of these versions are read by their default versions, with a warning.

    Args:
        run: The run.
        caches: Folders or addresses of caches.

    Raises:
        UserError: no cache has one of the streams.
    """
    settings, versions = run.pinned_streams(run.recipe)
    try:
        return open_streams(caches, settings, versions=versions)
    except UserError as error:
        streams = open_streams(caches, settings)
        log.warning(
            "%s: predictions are compared with other versions of teachers than it was trained on "
            "(%s)", run.folder, error,
        )  # fmt: skip
        return streams
