"""Counts the rows and columns of a table that are not in its clips, for one warning at the end."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from manifests.errors import UserError
from manifests.wording import number_of

log = logging.getLogger(__name__)


@dataclass(slots=True)
class SkippedRows:
    """Rows and columns of a source that are not in its clips."""

    rows: int = 0
    """Rows without audio."""
    first_row: str = ""
    columns: set[str] = field(default_factory=set)
    """Columns without a form as labels."""

    def add_row(self, where: str) -> None:
        """Counts a row without audio."""
        self.rows += 1
        self.first_row = self.first_row or where

    def log(self, source: str, *, has_clips: bool) -> None:
        """Warns about the rows and columns.

        Raises:
            UserError: all rows are without audio.
        """
        rows = (
            f"{number_of(self.rows, 'row')} without audio (0 bytes, or neither bytes nor a path), "
            f"the first: {self.first_row}"
        )
        if self.rows and not has_clips:
            raise UserError(f"{source} holds no audio, only {rows}; write the data set again")
        if self.rows:
            log.warning("%s: skipped %s", source, rows)
        if self.columns:
            log.warning(
                "%s: left out the columns %s; labels can be texts, numbers, dates, and lists and "
                "structs of these, not bytes",
                source, ", ".join(sorted(self.columns)),
            )  # fmt: skip
