"""Compares the experts of the embedded preset with alternatives from wheels, and selects one.

    python -m benchmarks.embedded_choice

It reads the committed results of `benchmarks.embedded_experts` and `benchmarks.pitch_mixtures` and
runs no expert. Another expert or setting replaces the preset's if it is better or
equal in every measured quality, better in at least one, and at most a tenth slower, which is the
variation of repeated measurements on a busy machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
NOISE = 1.1
"""Ratio of costs that counts as equal."""
CANDIDATES = {
    "speech": ("Whisper tiny.en, float32", "Whisper tiny.en, int8"),
    "pitch": ("CREPE tiny", "SwiftF0"),
    "events": ("YAMNet, every 0.48 s", "YAMNet, every 0.24 s"),
    "notes": ("Basic Pitch, onset_threshold 0.5", "Basic Pitch, onset_threshold 0.6"),
}
"""Task -> (expert of the preset at the time of the comparison, best alternative)."""
MIXTURES = ("+ speech", "+ drums", "+ speech + drums")


@dataclass(frozen=True, slots=True)
class Measurements:
    """Qualities of an expert (larger is better), and its cost."""

    qualities: Mapping[str, float]
    cost: float
    """CPU seconds per second of audio."""


def main() -> None:
    """Prints the table."""
    table = Table(title="embedded preset: better in every quality and not slower wins")
    for heading in ("task", "preset", "other", "qualities, preset -> other", "cost", "choice"):
        table.add_column(heading)
    for task, (first, second) in CANDIDATES.items():
        ours, other = read_measurements(task, first), read_measurements(task, second)
        qualities = "\n".join(
            f"{name} {value:.3f} -> {other.qualities[name]:.3f}"
            for name, value in ours.qualities.items()
        )
        cost = f"{ours.cost:.3f} -> {other.cost:.3f}"
        table.add_row(
            task, first, second, qualities, cost, second if should_replace(other, ours) else first
        )
    Console(highlight=False, width=150).print(table)


def should_replace(other: Measurements, ours: Measurements) -> bool:
    """Returns whether the other expert replaces the preset's."""
    differences = [other.qualities[name] - value for name, value in ours.qualities.items()]
    better = min(differences) >= 0 and max(differences) > 0
    return better and other.cost <= NOISE * ours.cost


def read_measurements(task: str, expert: str) -> Measurements:
    """Reads the numbers of one expert from the committed results."""
    text = (RESULTS / "embedded_experts.txt").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines()]
    (row,) = (row for row in rows if row[:2] == [task, expert])
    numbers = [float(number) for number in re.findall(r"\d+\.\d+", row[2])]
    if task == "speech":
        qualities = {"words right": 1 - numbers[0] / 100}
    elif task == "pitch":
        qualities = {"single notes": numbers[0], **_in_mixtures(expert)}
    elif task == "events":
        qualities = {"right first": numbers[0], "among five": numbers[1]}
    else:
        qualities = {"single notes": numbers[0], "chords": numbers[1]}
    return Measurements(qualities, float(row[3]))


def _in_mixtures(expert: str) -> dict[str, float]:
    """Returns mixture -> share of frames within 50 cents."""
    text = (RESULTS / "pitch_mixtures.txt").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("│")] for line in text.splitlines()]
    return {row[1]: float(row[4]) for row in rows if row[2:3] == [expert] and row[1] in MIXTURES}


if __name__ == "__main__":
    main()
