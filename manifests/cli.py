"""The command line `coat-corpus`, which builds corpora and prints statistics of them.

Each command imports the modules that read audio or Parquet itself, so that `--help` is fast.
"""

from __future__ import annotations

import json as json_format
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, TypeVar

from manifests.console import as_fields, console, messages, run_command
from manifests.errors import UserError
from manifests.wording import number_of

Item = TypeVar("Item")


def build(
    source: str,
    out: str = "corpus",
    name: str | None = None,
    clips_per_shard: int | None = None,
    update_labels: bool = False,
    accept_changed_files: bool = False,
) -> None:
    """Create a corpus, or add the new clips of the source to an existing corpus.

    Args:
        source: A JSON-lines manifest (audio_filepath, duration, offset, text; other fields become
            labels), a lhotse cut manifest, a folder of audio files, WebDataset tars (their folder
            or a pattern such as 'a-{000..012}.tar'), Parquet with audio, a Kaldi data folder, or a
            Hugging Face dataset (its folder, or hf:NAME, to which
            ?name=CONFIGURATION&split=SPLIT can be appended). docs/corpora.md describes all sources.
        out: Folder or address of the corpus.
        name: Name of a new corpus, which caches use; the name of the folder if null.
        clips_per_shard: Most clips of a new corpus that are extracted and committed together. If
            null, 256, or about 4 hours of long clips. With smaller shards, a killed job loses less
            work; larger shards give fewer files.
        update_labels: Take new texts and labels from the source for clips that are already in the
            corpus. Their audio must be unchanged. No targets are recomputed.
        accept_changed_files: Accept files that were repaired or replaced, and whose header states
            another length than before.
    """
    from manifests.clips import describe_ids
    from manifests.corpus import corpus
    from manifests.corpus.build_folder import AUDIO, open_build
    from manifests.corpus.corpus_index import INDEX_FILE
    from manifests.corpus.sources import detect
    from manifests.storage import Folder

    began = time.monotonic()
    folder = Folder(out)
    _check_apart(source, out)
    with open_build(folder) as opened:
        before = corpus.Corpus(out).num_clips if folder.exists(INDEX_FILE) else 0
        clips = _watched(detect.clips(source, folder.child(AUDIO), opened.index), "clips read")
        made = corpus.build(
            clips, out, name=name, clips_per_shard=clips_per_shard,
            update_labels=update_labels, accept_changed_files=accept_changed_files,
            check_held=opened.check_held,
        )  # fmt: skip
    if made.relabelled:
        clips = number_of(len(made.relabelled), "clip has", "clips have")
        ids = describe_ids(made.relabelled)
        console.print(f"{clips} new texts or labels: {ids}", soft_wrap=True)
    console.print(
        f"{out}: corpus {made.name!r}, {number_of(made.num_clips, 'clip')} "
        f"({made.num_clips - before:,} new) in {number_of(made.num_shards, 'shard')}, "
        f"{made.seconds / 3600:.3f} h of known length, {time.monotonic() - began:.1f} s"
    )


def segment(
    path: str,
    out: str = "segments",
    max_seconds: float = 30.0,
    by: Literal["silence", "fixed"] = "silence",
    name: str | None = None,
) -> None:
    """Cut the long clips of a corpus into short ones, as a new corpus of the same files.

    Args:
        path: Folder or address of the corpus.
        out: Folder or address of the new corpus.
        max_seconds: Length of the longest clip.
        by: `silence` cuts at the quietest place in the second half of the longest allowed clip,
            `fixed` at equal distances.
        name: Name of the new corpus; the name of its folder if null.
    """
    from manifests.corpus import corpus
    from manifests.corpus import segment as cutting
    from manifests.corpus.build_folder import open_build
    from manifests.corpus.corpus_index import INDEX_FILE
    from manifests.storage import Folder

    if not 1.0 <= max_seconds <= 3600.0:
        raise UserError(f"max_seconds must be 1 to 3600, found {max_seconds}")
    long = corpus.Corpus(path)
    _check_apart(path, out)
    folder = Folder(out)
    with open_build(folder) as opened:
        before = corpus.Corpus(out).num_clips if folder.exists(INDEX_FILE) else 0
        parts = cutting.segment(long.clips(), opened.index, max_seconds=max_seconds, by=by)
        made = corpus.build(
            _watched(parts, "clips cut"), out, name=name, check_held=opened.check_held
        )
    if before:
        console.print(
            f"{out}: {number_of(made.num_clips, 'clip')} ({made.num_clips - before:,} new) of at "
            f"most {max_seconds:g} s"
        )
    elif made.num_clips == long.num_clips:
        console.print(
            f"{out}: {long.num_clips:,} clips, none of them longer than {max_seconds:g} s"
        )
    else:
        console.print(
            f"{out}: {number_of(long.num_clips, 'clip')} became {made.num_clips:,} of at most "
            f"{max_seconds:g} s; texts were cut where words have times, other clips that were cut "
            "have no text"
        )


def corpus_stats(path: str, json: bool = False) -> None:
    """Show statistics of a corpus: clips, hours, durations, texts, languages, labels.

    Args:
        path: Folder or address of the corpus.
        json: Print JSON instead of a table.
    """
    from manifests.corpus import corpus, stats

    opened = corpus.Corpus(path)
    result = stats.collect(_watched(opened.tables(), "shards read"))
    if json:
        head = {"name": opened.name, "digest": opened.digest, "shards": opened.num_shards}
        print(json_format.dumps(head | as_fields(result), indent=1, ensure_ascii=False))
        return
    console.print(
        f"corpus {opened.name}, {number_of(opened.num_shards, 'shard')}, digest {opened.digest}"
    )
    console.print(stats.build_table(result))


def _check_apart(source: str, out: str) -> None:
    """Rejects the source as the folder of the new corpus, which would become a part of itself."""
    is_remote = "://" in source or "://" in out
    same = source.rstrip("/") == out.rstrip("/")
    if same or (not is_remote and Path(source).resolve() == Path(out).resolve()):
        raise UserError(f"--out {out} is the source itself; choose another folder")


def _watched(items: Iterable[Item], what: str) -> Iterator[Item]:
    """Yields the items and shows their number; the total is unknown."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from manifests.progress import LogPace

    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} " + what), TimeElapsedColumn())
    pace = LogPace()
    with Progress(*columns, console=messages, disable=not messages.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        for count, item in enumerate(items, 1):
            yield item
            progress.update(task, completed=count)
            if not messages.is_terminal and pace.is_due():
                messages.print(f"{count:,} {what}")


def main() -> None:
    """Entry point of `coat-corpus`."""
    run_command(
        "coat-corpus",
        {"build": build, "segment": segment, "stats": corpus_stats},
        description="Build corpora: the clips that teachers process and students train on.",
    )
