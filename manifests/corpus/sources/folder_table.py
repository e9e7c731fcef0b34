"""Reads the table of a folder in Hugging Face's AudioFolder: metadata.csv, .jsonl or .parquet.

Each row names a file and states its text and labels. As in datasets, a column of a CSV file whose
values are all numbers, or all truth values, is one of numbers or truth values. Numbers with leading
zeros, such as those of speakers, stay text.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.corpus.sources import json_lines
from manifests.corpus.sources.label_values import to_labels
from manifests.corpus.sources.parquet_columns import in_microseconds
from manifests.errors import UserError, not_utf8
from manifests.storage import Folder

METADATA_PARQUET = "metadata.parquet"
METADATA = ("metadata.csv", "metadata.jsonl", METADATA_PARQUET)
"""Names of the table of a folder."""
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?")
_TRUTH = {text: text.lower() == "true" for word in ("true", "false") for text in
          (word, word.capitalize(), word.upper())}  # fmt: skip


def read_table(folder: Folder, name: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Returns the path of each file with the place of its row, for messages, and the row.

    Raises:
        UserError: the table cannot be read, or a row names no file or one that another row names.
    """
    rows: dict[str, tuple[str, dict[str, Any]]] = {}
    for place, row in _rows(folder, name):
        file = row.get("file_name")
        if not isinstance(file, str) or not file:
            keys = f"the keys {', '.join(map(str, row)) or 'none'}"
            what = repr(file or "") if "file_name" in row else keys
            raise UserError(
                f"{place}: expected file_name with a path below {folder.uri}, found {what}"
            )
        path = folder.path(str(PurePosixPath(file)))
        if path in rows:
            raise UserError(f"{place}: {file} is also in {rows[path][0]}; remove one of the rows")
        rows[path] = place, row
    return rows


def read_text(folder: Folder, name: str) -> str:
    """Returns the content of a text file.

    Raises:
        UserError: it is not UTF-8.
    """
    try:
        return folder.read_bytes(name).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_utf8(f"{folder.uri}/{name}", error) from None


def _rows(folder: Folder, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    where = f"{folder.uri}/{name}"
    if name.endswith(".jsonl"):
        yield from json_lines.rows(folder.path(name) if folder.is_local else where)
    elif name.endswith(".csv"):
        yield from _csv_rows(where, read_text(folder, name))
    else:
        try:
            with folder.open(name) as file:
                rows = in_microseconds(pq.read_table(file)).to_pylist()
        except (pa.ArrowException, OSError, OverflowError, ValueError) as error:
            raise UserError(f"{where} cannot be read ({error}); write it again") from None
        for number, row in enumerate(rows):
            yield f"{where}, row {number}", to_labels(row, set())


def _csv_rows(where: str, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    lines = csv.DictReader(io.StringIO(text, newline=""))
    rows = list(lines)
    for number, row in enumerate(rows, 2):
        if None in row:
            raise UserError(
                f"{where}:{number}: the row has more fields than the header; put quotation marks "
                "around values with commas"
            )
    for column in lines.fieldnames or ():
        if column in ("file_name", *json_lines.ID_KEYS, *json_lines.TEXT_KEYS):
            continue
        for row, value in zip(rows, _values([row[column] for row in rows]), strict=True):
            row[column] = value
    for number, row in enumerate(rows, 2):
        yield f"{where}:{number}", row


def _values(texts: Sequence[str | None]) -> list[Any]:
    """The values of a column; None for an empty field."""
    stated = [text for text in texts if text]
    kind: Any = str
    if all(text in _TRUTH for text in stated):
        kind = _TRUTH.__getitem__
    elif all(map(_WHOLE.fullmatch, stated)):
        kind = int
    elif all(map(_DECIMAL.fullmatch, stated)):
        kind = float
    return [kind(text) if text else None for text in texts]
