"""Stage 1 from top to bottom: plan what the cache lacks, decode, extract, commit.

    corpus shard --decode--> blocks of audio --extract, each teacher--> rows --commit--> cache

The steps run in worker processes on a Ray cluster (`pipeline.build.worker`), the scheduler decides
which worker does which (`pipeline.build.scheduler`), and the cache's commit markers are the only
memory: the same command, after a kill at any moment, goes on from them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import ray
from rich.console import Console

import manifests
import pipeline
import teachers
from manifests.cache.layout import Layout
from manifests.corpus.corpus import Corpus
from manifests.errors import UserError
from manifests.storage import cannot_write
from pipeline.build import plan, setup
from pipeline.build.progress import BuildProgress
from pipeline.build.scheduler import Scheduler
from pipeline.build.setup import TeacherSetup
from pipeline.config import BuildConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """What a build did, by teacher where it is a dict."""

    startup_seconds: float
    """Until the first worker had loaded its teachers."""
    working_seconds: float
    """From then to the last commit."""
    clips: dict[str, int]
    audio_seconds: dict[str, float]
    failures: dict[str, int]
    cache_bytes: dict[str, int]
    extract_seconds: dict[str, float]
    """Worker seconds that each teacher took."""


def build(config: BuildConfig, console: Console, *, retry_failures: bool = False) -> BuildResult:
    """Fills the cache with what it lacks of the corpus.

    Args:
        config: What to build.
        console: Where progress is shown.
        retry_failures: Try the clips that failed before, and nothing else.

    Raises:
        UserError: something the user can mend; what is committed by then is kept.
    """
    corpus = Corpus(config.corpus)
    setups = setup.teachers(config)
    layout = _prepared(config.cache, corpus, setups)

    specs = [teacher.spec for teacher in setups]
    if retry_failures:
        failed = plan.failed(layout, corpus, specs)
        work = plan.rework(corpus, failed)
        totals = {name: sum(map(len, by_shard.values())) for name, by_shard in failed.items()}
    else:
        lacking = plan.missing(layout, corpus, specs)
        work = plan.work(corpus, lacking)
        sizes = corpus.shard_sizes()
        totals = {name: sum(sizes[at] for at in numbers) for name, numbers in lacking.items()}
    totals = {name: clips for name, clips in totals.items() if clips}
    setups = [teacher for teacher in setups if teacher.name in totals]
    with BuildProgress(totals, console) as progress:
        if setups:
            with cluster(config):
                Scheduler(
                    setups,
                    work=work,
                    folders={
                        teacher.name: layout.shards(teacher.spec, corpus.name) for teacher in setups
                    },
                    config=config,
                    memory_bytes=_object_store_bytes() * config.memory_fraction,
                    watcher=progress,
                ).run()
        return BuildResult(
            startup_seconds=progress.startup_seconds if setups else 0.0,
            working_seconds=progress.working_seconds,
            clips=progress.clips,
            audio_seconds=progress.seconds,
            failures=progress.failures,
            cache_bytes=progress.cache_bytes,
            extract_seconds=progress.extract_seconds,
        )


def _prepared(cache: str, corpus: Corpus, setups: Sequence[TeacherSetup]) -> Layout:
    """The cache, with all that a build writes but shards."""
    try:
        layout = Layout.create(cache)
        layout.register(corpus)
        for teacher in setups:
            layout.add_teacher(teacher.spec)
    except OSError as error:
        raise cannot_write(str(error)) from None
    return layout


@contextlib.contextmanager
def cluster(config: BuildConfig) -> Iterator[None]:
    """A Ray cluster: the one at `config.ray_address`, or a local one for the time of the build.

    On another's cluster the code reaches the workers as Ray's `py_modules`.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    if ray.is_initialized():
        yield
        return
    if not config.ray_address:
        # "local", for without an address Ray would join whatever cluster was last started here.
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    else:
        ours = [str(Path(package.__path__[0])) for package in (manifests, teachers, pipeline)]
        try:
            ray.init(
                address=config.ray_address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"py_modules": [*ours, *config.py_modules]},
            )
        except ConnectionError as error:
            raise UserError(
                f"no Ray cluster answers at {config.ray_address!r} ({error}); start one with `ray "
                "start --head`, set RAY_AUTH_MODE=token if it asks for Ray's token, or leave "
                "--ray-address out for a local one"
            ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _object_store_bytes() -> float:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = ray.cluster_resources().get("object_store_memory")
        if found:
            return found
        time.sleep(0.2)
    raise UserError("the Ray cluster has no object store memory; is any node of it alive?")
