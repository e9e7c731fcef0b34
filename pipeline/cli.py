"""The command line `coat-cache`, which builds and inspects teacher caches.

Each command imports the modules that read Parquet or audio itself, so that `--help`, completion and
errors in options are fast.
"""

from __future__ import annotations

import sys

from rich.table import Table

from manifests.console import as_fields, console, messages, run_command
from manifests.errors import UserError
from manifests.wording import number_of
from pipeline.config import BuildConfig, FetchConfig, PlanOptions, ReportConfig
from pipeline.inspect.cli import (
    audit_cache,
    cache_status,
    compact,
    coverage,
    list_failures,
    list_versions,
    print_json,
    print_line,
    remove_corpus,
    remove_version,
    show_clip,
    use_version,
    verify_cache,
)
from pipeline.teacher_options import merge_teacher_options


def build(config: BuildConfig) -> None:
    """Run the teachers on a corpus and add the missing targets to the cache."""
    from pipeline import job

    outcome = job.build(config, messages)
    if not outcome.clips:
        summary = f"{config.cache} is already complete; nothing was computed"
        if outcome.corpus_parts:
            summary += ", and its copy of the corpus is up to date again"
        if outcome.earlier_failures:
            summary += (
                f"; {number_of(outcome.earlier_failures, 'clip')} failed earlier, and coat-cache "
                "retry-failures with the same options runs them again"
            )
        _say(summary, config.cache, failed=outcome.earlier_failures > 0)
        return
    _say(outcome.summary, config.cache, failed=any(outcome.failures.values()))


def report(config: ReportConfig) -> None:
    """Write an HTML report of the cache: coverage, distributions, suspicious clips, a gallery."""
    from pipeline.report import page

    print_line(str(page.write(config, messages)))


def retry_failures(config: BuildConfig) -> int:
    """Retry the failed clips of each teacher's default version, or of the version in the options.

    The exit code is 1 if failures remain because their teacher cannot be run here.
    """
    from pipeline import job

    outcome = job.build(config, messages, retry_failures=True)
    if outcome.clips:
        _say(outcome.summary, config.cache, failed=any(outcome.failures.values()))
    elif not outcome.left_failures:
        print_line(f"{config.cache} has no failures of this corpus to retry")
    if not outcome.left_failures:
        return 0
    clips = number_of(outcome.left_failures, "clip was", "clips were")
    print_line(f"{clips} not retried, because the teachers left out cannot be run here")
    return 1


def _say(summary: str, cache: str, *, failed: bool) -> None:
    # jsonargparse imports what a signature names, so BuildResult stays out of it.
    print_line(summary)
    if failed:
        print_line(f"to list the failed clips and the reasons: coat-cache failures --cache {cache}")


def plan_build(config: PlanOptions) -> None:
    """Estimate the work of a build: clips, hours, bytes, worker hours."""
    from manifests.cache.layout import Layout, check_teacher_name
    from manifests.corpus.corpus import Corpus
    from pipeline.build import plan, setup
    from pipeline.build.languages import warn_of_languages

    corpus = Corpus(config.corpus)
    layout = Layout.planned(config.cache)
    layout.compare(corpus)
    teachers = setup.teachers(config)
    for teacher in teachers:
        check_teacher_name(teacher.name)
    warn_of_languages(corpus, [teacher.spec for teacher in teachers])
    missing = plan.missing(layout, corpus, [teacher.spec for teacher in teachers])
    unknown = plan.unknown_lengths(corpus)
    estimates = [
        (
            teacher.spec,
            plan.estimate(
                layout,
                corpus,
                teacher.spec,
                missing[teacher.name],
                unknown=unknown,
                num_cpus=teacher.resources.num_cpus,
                price_per_core_hour=config.price_per_core_hour,
            ),
        )
        for teacher in teachers
    ]
    if config.json:
        print_json([{"version": spec.key} | as_fields(todo) for spec, todo in estimates])
        return
    console.print(plan.table(corpus.name, estimates))


def list_teachers(weights_dir: str = "", json: bool = False) -> None:
    """List the families of experts: streams, rates, licences, memory, and missing requirements.

    Args:
        weights_dir: Folder of checkpoints written by `coat-cache fetch`.
        json: Print JSON instead of a table.
    """
    from pipeline.inspect import families
    from teachers import catalogue, registry

    rows = []
    for family in catalogue.CATALOGUE:
        state, spec = registry.availability(family, weights_dir)
        rows.append(as_fields(family) | {"here": state, "spec": as_fields(spec) if spec else None})
    if json:
        print_json(rows)
        return
    console.print(families.table(rows))
    unavailable = [row for row in rows if not row["spec"]]
    if unavailable:
        console.print("Missing requirements of the other families:")
    for row in unavailable:
        print_line(f"  {row['name']}: {row['here']}")


def fetch(config: FetchConfig) -> None:
    """Download the checkpoints of a preset or of hub ids, and pin their commits."""
    from pipeline import fetch as downloads

    shown = Table(title=f"In {config.weights_dir}, pinned")
    for heading in ("checkpoint", "commit", "licence"):
        shown.add_column(heading, overflow="fold")
    shown.add_column("files", justify="right")
    shown.add_column("GB", justify="right")
    for done in downloads.fetch(config):
        size = f"{done.size / 1e9:.2f}"
        shown.add_row(done.model, done.revision[:12], done.license, str(done.files), size)
    console.print(shown)


def main() -> None:
    """Entry point of `coat-cache`."""
    try:
        arguments = merge_teacher_options(sys.argv[1:])
    except UserError as error:
        print(f"coat-cache: error: {error}", file=sys.stderr)
        sys.exit(2)
    run_command(
        "coat-cache",
        {
            "build": build,
            "plan": plan_build,
            "status": cache_status,
            "coverage": coverage,
            "show": show_clip,
            "report": report,
            "failures": list_failures,
            "retry-failures": retry_failures,
            "verify": verify_cache,
            "audit": audit_cache,
            "ls": list_versions,
            "rm": remove_version,
            "rm-corpus": remove_corpus,
            "use": use_version,
            "compact": compact,
            "teachers": list_teachers,
            "fetch": fetch,
        },
        description="Stage 1: cache the outputs of audio experts for a corpus.",
        arguments=arguments,
    )
