"""Computes statistics of a corpus in one pass and bounded memory."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from rich.table import Table

from manifests.clips import has_value, likely_durations
from manifests.wording import number_of

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
LANGUAGE_KEYS = ("language", "lang")
"""Labels that state the language of a clip; the first one that a clip has counts."""
NO_LANGUAGE = ("und", "mul", "mis", "zxx", "unknown")
"""Labels that name no language: codes of ISO 639-2 for undetermined, multiple, uncoded and none."""
DISTINCT = 10_000
"""Number of distinct values that are counted per label key: the first ones."""
SHOWN = 5
"""Number of most common values, and of ids, that are shown."""
LANGUAGES_SHOWN = 20
"""Number of most common languages that are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One label key."""

    clips: int
    """Clips that have a value of it."""
    distinct: int
    """Number of values; `DISTINCT` means that there may be more."""
    common: dict[str, int]
    """The most common values (as JSON, unless strings) -> clips."""


@dataclass(slots=True, kw_only=True)
class Stats:
    """The statistics of a corpus."""

    clips: int = 0
    hours: float = 0.0
    """Total duration of the clips whose duration is stated or estimated, in hours."""
    unknown_durations: int = 0
    estimated_durations: int = 0
    """Clips whose duration is estimated from a file's header."""
    quantiles: dict[str, float] = field(default_factory=dict)
    """Quantiles of the known durations: `0.5` -> the median in seconds, and so on."""
    with_text: int = 0
    words: int = 0
    """Number of words in all texts: parts between white space that have a letter or a digit."""
    languages: dict[str, int] = field(default_factory=dict)
    """Most common languages, from the label `language` or `lang` -> clips."""
    labels: dict[str, Label] = field(default_factory=dict)
    some_ids: list[str] = field(default_factory=list)


def labelled_language(labels: Mapping[str, Any]) -> str:
    """The language that a clip's labels state; empty if there is none, or if it is not known."""
    stated = (str(labels[key]) for key in LANGUAGE_KEYS if has_value(labels.get(key)))
    language = next(stated, "")
    return "" if language.casefold() in NO_LANGUAGE else language


def is_same_language(language: str, other: str) -> bool:
    """Whether two language codes are equal without region and case: `de-AT` and `DE` are."""
    return language[:2].casefold() == other[:2].casefold()


def _num_words(text: str) -> int:
    return sum(any(map(str.isalnum, part)) for part in text.split())


def collect(tables: Iterable[pa.Table]) -> Stats:
    """Computes the statistics of tables with `manifests.clips.SCHEMA`."""
    stats = Stats()
    durations = [np.empty(0)]
    having: Counter[str] = Counter()
    values: defaultdict[str, Counter[str]] = defaultdict(Counter)
    languages: Counter[str] = Counter()
    for table in tables:
        stats.clips += len(table)
        known = likely_durations(table)
        durations.append(known.drop_null().to_numpy())
        stats.estimated_durations += table["duration"].null_count - known.null_count
        texts = [text for text in table["text"].to_pylist() if text]
        stats.with_text += len(texts)
        stats.words += sum(map(_num_words, texts))
        for labels in map(json.loads, table["labels"].to_pylist()):
            if language := labelled_language(labels):
                _count(languages, language)
            for key, value in labels.items():
                if has_value(value):
                    having[key] += 1
                    _count(values[key], value)
        missing = SHOWN - len(stats.some_ids)
        stats.some_ids += table["clip_id"].slice(0, missing).to_pylist()
    known = np.concatenate(durations)
    stats.unknown_durations = stats.clips - len(known)
    stats.hours = float(known.sum()) / 3600
    if len(known):
        lengths = np.quantile(known, QUANTILES).tolist()
        stats.quantiles = {f"{q:g}": length for q, length in zip(QUANTILES, lengths, strict=True)}
    stats.languages = dict(languages.most_common(LANGUAGES_SHOWN))
    stats.labels = {
        key: Label(clips=count, distinct=len(values[key]), common=_common(values[key]))
        for key, count in sorted(having.items())
    }
    return stats


def build_table(stats: Stats) -> Table:
    """Renders the statistics as a table."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("clips", f"{stats.clips:,}")
    notes = []
    if stats.estimated_durations:
        notes.append(f"{number_of(stats.estimated_durations, 'clip')} estimated from the header")
    if stats.unknown_durations:
        notes.append(f"and {number_of(stats.unknown_durations, 'clip')} of unknown length")
    noted = f" ({', '.join(notes)})" if notes else ""
    table.add_row("hours", f"{stats.hours:,.3f}{noted}")
    lengths = "  ".join(f"{q}: {value:.2f}" for q, value in stats.quantiles.items())
    table.add_row("duration quantiles (s)", lengths or "-")
    share = stats.with_text / max(stats.clips, 1)
    table.add_row(
        "with text", f"{stats.with_text:,} ({share:.0%}), {number_of(stats.words, 'word')}"
    )
    table.add_row("languages", _listed(stats.languages) or "-")
    for key, label in stats.labels.items():
        over = "at least " if label.distinct == DISTINCT else ""
        many = f"{number_of(label.clips, 'clip')}, {over}{number_of(label.distinct, 'value')}"
        several = max(label.common.values()) > 1
        others = ", ..." if label.distinct > len(label.common) else ""
        listed = f"{many}: {_listed(label.common)}{others}"
        table.add_row(f"label {key}", listed if several else many)
    table.add_row("some ids", ", ".join(stats.some_ids))
    return table


def _count(values: Counter[str], value: Any) -> None:
    name = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(values) < DISTINCT or name in values:
        values[name] += 1


def _common(values: Counter[str]) -> dict[str, int]:
    return dict(values.most_common(SHOWN))


def _listed(values: dict[str, int]) -> str:
    return ", ".join(f"{_short(name)} {count:,}" for name, count in values.items())


def _short(text: str) -> str:
    return text if len(text) <= 32 else f"{text[:31]}…"
