"""Stage 1 from top to bottom: plan what the cache lacks, decode, extract, commit.

    corpus shard --decode--> blocks of audio --extract, each teacher--> rows --commit--> cache

The steps run in worker processes on a Ray cluster (`pipeline.build.worker`). The scheduler assigns
them to workers (`pipeline.build.scheduler`). The commit markers of the cache are the only state:
after a kill at any time, the same command resumes from them.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from manifests.cache import marker_index
from manifests.cache.clip_index import CommonIds, CorpusClips
from manifests.cache.layout import Layout
from manifests.corpus.corpus import Corpus
from manifests.errors import UserError
from manifests.storage import cannot_write
from manifests.streams.specs import TeacherSpec
from manifests.wording import number_of
from pipeline.build import environment, plan, setup
from pipeline.build.languages import warn_of_languages
from pipeline.build.progress import BuildProgress
from pipeline.build.scheduler import Scheduler
from pipeline.build.setup import TeacherSetup
from pipeline.config import BuildConfig, listed_names

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """The figures of a finished build. Dicts are keyed by teacher."""

    startup_seconds: float
    """Seconds until the first worker had loaded its teachers."""
    working_seconds: float
    """Seconds from then to the last commit."""
    clips: dict[str, int]
    audio_seconds: dict[str, float]
    failures: dict[str, int]
    cache_bytes: dict[str, int]
    extract_seconds: dict[str, float]
    """Worker seconds of each teacher."""
    corpus_parts: int = 0
    """Number of parts of the corpus that the cache copied, because they were new or changed."""
    left_failures: int = 0
    """In `retry_failures`: the number of clips that were not retried, because their teachers cannot
    be run here."""
    earlier_failures: int = 0
    """If there was nothing to do: the number of clips that have failed in earlier builds."""

    @property
    def summary(self) -> str:
        """Summarises the build in one line."""
        seconds, failed = max(self.audio_seconds.values()), max(self.failures.values())
        return (
            f"{number_of(max(self.clips.values()), 'clip')}, {seconds / 3600:.3f} h of audio by "
            f"{number_of(len(self.clips), 'teacher')} in {self.working_seconds:.1f} s "
            f"({seconds / max(self.working_seconds, 1e-9):.1f} x real time; start-up "
            f"{self.startup_seconds:.1f} s), {sum(self.cache_bytes.values()) / 1e6:.1f} MB, "
            f"{failed} failed"
        )


def build(config: BuildConfig, console: Console, *, retry_failures: bool = False) -> BuildResult:
    """Adds the missing targets of the corpus to the cache.

    Args:
        config: The options of the build.
        console: Progress is shown here.
        retry_failures: Only retry the clips that failed before.

    Raises:
        UserError: an error that the user can correct; committed shards are kept.
        Interrupted: SIGINT or SIGTERM was received.
    """
    config = _with_absolute_paths(config)
    corpus = Corpus(config.corpus)
    if retry_failures:
        layout = Layout.open(config.cache)
        if corpus.name not in layout.corpora():
            raise UserError(
                f"{config.cache} has no targets of corpus {corpus.name!r}, so it has no failures "
                f"of it; its corpora: {', '.join(layout.corpora()) or 'none'}"
            )
        setups = setup.existing_teachers(layout, config)
        layout, copied = _prepared(config.cache, corpus, [])
    else:
        setups = setup.teachers(config)
        warn_of_languages(corpus, [teacher.spec for teacher in setups])
        layout, copied = _prepared(config.cache, corpus, setups)

    specs = [teacher.spec for teacher in setups]
    left: list[TeacherSpec] = []
    if retry_failures:
        if not listed_names(config.teachers):
            ours = {spec.name for spec in specs}
            left = [spec for name, spec in layout.current().items() if name not in ours]
        failures = plan.failed(layout, corpus, specs)
        failed = {
            name: {number: by_shard[number] for number in config.shards_of_part(by_shard)}
            for name, by_shard in failures.items()
        }
        work = plan.rework(corpus, failed)
        totals = {name: sum(map(len, by_shard.values())) for name, by_shard in failed.items()}
    else:
        missing = plan.missing(layout, corpus, specs)
        selected = {name: config.shards_of_part(numbers) for name, numbers in missing.items()}
        work = plan.work(corpus, selected)
        sizes = corpus.shard_sizes()
        totals = {
            name: sum(sizes[shard] for shard in numbers) for name, numbers in selected.items()
        }
    totals = {name: clips for name, clips in totals.items() if clips}
    setups = [teacher for teacher in setups if teacher.name in totals]
    folders = {teacher.name: layout.shards(teacher.spec, corpus.name) for teacher in setups}
    known = corpus.num_clips - plan.unknown_lengths(corpus)
    mean_seconds = corpus.seconds / known if known else None
    with BuildProgress(totals, console, mean_seconds=mean_seconds) as progress:
        if setups:
            stop = environment.StopSignal()
            environment.prepare(local=not config.ray_address)
            # Ray reads its environment variables on import.
            from pipeline.build.cluster import connected

            with (
                stop.installed(),
                marker_index.kept_up_to_date(list(folders.values())),
                connected(config, stop) as cluster,
            ):
                Scheduler(
                    cluster,
                    setups,
                    work=work,
                    folders=folders,
                    config=config,
                    listener=progress,
                    accept_failures=retry_failures,
                    check_stop=stop.check,
                ).run()
        if progress.warnings:
            counts = ", ".join(f"{kind} ({n})" for kind, n in progress.warnings.most_common())
            console.print(f"audio that was decoded with warnings: {counts}")
        return BuildResult(
            startup_seconds=progress.startup_seconds if setups else 0.0,
            working_seconds=progress.working_seconds,
            clips=progress.clips,
            audio_seconds=progress.seconds,
            failures=progress.failures,
            cache_bytes=progress.cache_bytes,
            extract_seconds=progress.extract_seconds,
            corpus_parts=copied,
            left_failures=_count_failed(layout, corpus, left),
            earlier_failures=0
            if totals or retry_failures
            else _count_failed(layout, corpus, specs),
        )


def _count_failed(layout: Layout, corpus: Corpus, specs: Sequence[TeacherSpec]) -> int:
    """Counts the clips on which a teacher has failed."""
    by_teacher = plan.failed(layout, corpus, specs).values()
    return len({clip_id for shards in by_teacher for ids in shards.values() for clip_id in ids})


def _prepared(cache: str, corpus: Corpus, setups: Sequence[TeacherSetup]) -> tuple[Layout, int]:
    """The cache, with everything that a build writes except shards; the number of copied parts."""
    try:
        layout = Layout.create(cache)
        new_parts = layout.register(corpus)
        for teacher in setups:
            layout.add_teacher(teacher.spec)
    except OSError as error:
        raise cannot_write(str(error)) from None
    if new_parts:
        _warn_of_common_ids(layout)
    return layout, new_parts


def _warn_of_common_ids(layout: Layout) -> None:
    corpora = {name: layout.corpus(name) for name in layout.corpora()}
    if len(corpora) > 1:
        try:
            CorpusClips(corpora)
        except CommonIds as error:
            log.warning("%s", error)


def _with_absolute_paths(config: BuildConfig) -> BuildConfig:
    """Resolves relative paths on the driver, because workers on a cluster have other working
    folders."""
    return dataclasses.replace(
        config,
        corpus=_absolute(config.corpus),
        cache=_absolute(config.cache),
        weights_dir=_absolute(config.weights_dir) if config.weights_dir else "",
    )


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).expanduser().absolute())
