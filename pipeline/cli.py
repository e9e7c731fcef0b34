"""`coat-cache`: builds a teacher cache and looks into it. Parses and calls, nothing else."""

from __future__ import annotations

from json import dumps
from pathlib import Path

from rich.table import Table

from manifests.console import as_fields, console, messages, run_command
from manifests.corpus import Corpus
from manifests.layout import Layout
from manifests.reader import CacheReader
from pipeline import job, plan, setup, show, status
from pipeline.config import BuildConfig


def build(config: BuildConfig) -> None:
    """Run the teachers over a corpus and fill the cache with what it lacks."""
    outcome = job.build(config, messages)
    if not outcome.clips:
        console.print(f"{config.cache} has everything already; nothing was computed")
        return
    heard = max(outcome.audio_seconds.values())
    failed = max(outcome.failures.values())
    console.print(
        f"{max(outcome.clips.values()):,} clips, {heard / 3600:.3f} h of audio by "
        f"{len(outcome.clips)} teachers in {outcome.working_seconds:.1f} s "
        f"({heard / max(outcome.working_seconds, 1e-9):.1f} x real time; start-up "
        f"{outcome.startup_seconds:.1f} s), {sum(outcome.cache_bytes.values()) / 1e6:.1f} MB, "
        f"{failed} failed"
    )


def plan_build(config: BuildConfig) -> None:
    """Say what `build` would run: clips, hours, bytes, worker hours."""
    corpus = Corpus(config.corpus)
    layout = Layout(config.cache)
    teachers = setup.teachers(config)
    lacking = plan.missing(layout, corpus, [teacher.spec for teacher in teachers])
    shown = Table("teacher", "version", title=f"To do for corpus {corpus.name}")
    for heading in ("shards", "clips", "audio hours", "cache GB", "worker hours"):
        shown.add_column(heading, justify="right")
    for teacher in teachers:
        todo = plan.estimate(layout, corpus, teacher.spec, lacking[teacher.name])
        shown.add_row(
            teacher.name,
            teacher.spec.fingerprint,
            f"{todo.shards:,}",
            f"{todo.clips:,}",
            f"{todo.audio_hours:,.2f}",
            f"{todo.cache_bytes / 1e9:,.3f}",
            "not yet measured" if todo.worker_hours is None else f"{todo.worker_hours:,.3f}",
        )
    console.print(shown)


def cache_status(cache: str = "cache", json: bool = False) -> int:
    """Show what the cache holds, per teacher: clips, failures by reason, hours, bytes.

    Args:
        cache: Folder or address of the cache.
        json: Print JSON instead of a table.
    """
    lines = status.status(Layout.open(cache))
    if json:
        _print_json([as_fields(line) for line in lines])
    else:
        console.print(status.table(lines))
    return 0 if all(line.complete for line in lines) else 1


def show_clip(
    clip_id: str, cache: str = "cache", picture: str | None = None, json: bool = False
) -> None:
    """Show one clip's targets: as numbers, and as a picture of all streams over time.

    Args:
        clip_id: Id of the clip.
        cache: Folder or address of the cache.
        picture: PNG file to draw; CLIP_ID.png if None.
        json: Print the numbers alone, as JSON.
    """
    reader = CacheReader(cache)
    clip = show.find_clip(reader, clip_id)
    found = show.numbers(reader, clip)
    if json:
        _print_json(found)
        return
    shown = Table("stream", "kind", title=f"{clip_id}  {clip.text or ''}")
    for heading in ("frames", "dim", "Hz", "min", "mean", "max"):
        shown.add_column(heading, justify="right")
    for name, teacher in found["teachers"].items():
        if "absent" in teacher:
            shown.add_row(name, f"no targets: {teacher['absent']}")
            continue
        for stream, facts in teacher["streams"].items():
            numbers = [facts[key] for key in ("frames", "dim", "frame_rate_hz")]
            numbers += [facts[key] for key in ("min", "mean", "max")]
            shown.add_row(f"{name}.{stream}", facts["kind"], *(f"{value:g}" for value in numbers))
    console.print(shown)
    path = Path(picture or f"{clip_id}.png")
    show.picture(reader, clip, path)
    console.print(f"picture: {path}")


def _print_json(value: object) -> None:
    print(dumps(value, indent=1, ensure_ascii=False))


def main() -> None:
    """Entry point of `coat-cache`."""
    run_command(
        "coat-cache",
        {"build": build, "plan": plan_build, "status": cache_status, "show": show_clip},
        description="Stage 1: a teacher cache of what audio experts hear in a corpus.",
    )
