"""Converts values of table columns into labels, which are stored as JSON.

Dates and times become ISO 8601 text, decimal numbers become text with all their digits, and spans
of time become seconds. Bytes, images and numbers that are not finite have no such form.
"""

from __future__ import annotations

import math
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID


def to_label(value: Any, name: str, left_out: set[str]) -> Any:
    """Returns the JSON form of a value; None if it has none.

    Args:
        value: Value of a column, as pyarrow and datasets give it.
        name: Name of the column.
        left_out: Receives the name if the value, or a part of it, has no JSON form.
    """
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal) and value.is_finite():
        return f"{value:f}"
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, dict):
        return {str(key): to_label(each, f"{name}.{key}", left_out) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [to_label(each, name, left_out) for each in value]
    left_out.add(name)
    return None


def to_labels(row: dict[str, Any], left_out: set[str]) -> dict[str, Any]:
    """Returns the columns of a row that have a value in JSON."""
    labels = {name: to_label(value, name, left_out) for name, value in row.items()}
    return {name: value for name, value in labels.items() if value is not None}


def to_seconds(value: Any) -> Any:
    """Returns a duration as a number of seconds, and what is not a duration unchanged."""
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, timedelta):
        value = value.total_seconds()
    return None if isinstance(value, float) and not math.isfinite(value) else value
