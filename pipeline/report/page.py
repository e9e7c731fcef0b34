"""Creates the report: survey, sample, audio checks, findings, gallery, and one HTML file.

The page does not depend on the time: the same cache gives the same page, except for the serial
numbers of libsndfile's Ogg streams.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from manifests.cache.layout import Layout
from manifests.cache.stream_sums import Statistics, Sums
from manifests.clips import to_table
from manifests.corpus import stats
from manifests.errors import UserError
from manifests.page import assemble, track_kinds
from manifests.storage import Folder
from pipeline.config import ReportConfig
from pipeline.report import audio_check, gallery, quality_checks
from pipeline.report.clip_summary import Summarizer
from pipeline.report.histogram import Histogram
from pipeline.report.sampling import Sampler, draw
from pipeline.report.survey import (
    TeacherSurvey,
    audio_warnings,
    durations,
    reasons,
    survey,
    throughput,
)

SECTIONS = {
    "corpus": "Corpus",
    "teachers": "Teachers",
    "distributions": "Distributions",
    "suspicious": "Suspicious clips",
    "clips": "Clips",
}
SCRIPTS = ("sections.js", "main.js")


def write(config: ReportConfig, console: Console) -> assemble.WrittenPage:
    """Inspects a cache and writes the page.

    Args:
        config: The options.
        console: Progress is shown here.

    Returns:
        The page.

    Raises:
        UserError: there is no cache, nothing in it, a shard that cannot be read, or no free place
            for the page.
    """
    assemble.check_place(config.out)
    layout = Layout.open(config.cache)
    Folder(config.out).check_bucket()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        surveys = survey(layout)
        if not surveys:
            raise UserError(f"{config.cache} has no targets yet; run: coat-cache build")
        statistics = _statistics(layout, surveys)

        sampler = Sampler(layout)
        corpora = [layout.corpus(name) for name in layout.corpora()]
        places = draw(corpora, max(config.sample, config.clips), config.seed)
        streams = {
            name: [stream.name for stream in spec.streams if track_kinds.is_summarized(stream)]
            for name, spec in sampler.teachers.items()
        }
        observer = Summarizer(sampler.teachers, statistics)
        reading = progress.track(sampler.read(places, streams), len(places), description="reading")
        summaries = [observer.summarize(sampled) for sampled in reading]

        decoded = gallery.spread(summaries, config.listen)
        listening = progress.track(
            audio_check.measure_clips(each.clip for each in decoded),
            len(decoded),
            description="listening",
        )
        # By place, because corpora can have ids in common.
        sounds = dict(zip((each.place for each in decoded), listening, strict=True))
        findings = quality_checks.find(summaries, sounds)

        shown = gallery.pick(summaries, findings, config.clips)
        shown_streams = {
            name: [stream.name for stream in spec.streams]
            for name, spec in sampler.teachers.items()
        }
        clips = sampler.read(shown, shown_streams)
        drawing = gallery.gallery_clips(clips, sampler.teachers, statistics, findings)
        gallery_clips = list(progress.track(drawing, len(shown), description="drawing"))

    facts = {
        "where": layout.root.uri,
        "as_of": max(commit[0] for line in surveys for commit in line.commits),
        "corpora": [
            {"name": each.name, "clips": each.num_clips, "hours": each.seconds / 3600}
            for each in corpora
        ],
        "durations": _durations(np.concatenate([durations(corpus) for corpus in corpora])),
        "teachers": [
            _teacher(line, is_default=line.spec in sampler.teachers.values()) for line in surveys
        ],
        "not_run": [
            key for key in layout.teachers() if all(line.spec.key != key for line in surveys)
        ],
        "reasons": reasons(layout, surveys, config.seed),
        "audio_warnings": audio_warnings(
            surveys, [(each.clip.clip_id, each.audio_warnings) for each in summaries]
        ),
        "sampled": len(summaries),
        "labels": stats.collect([to_table([each.clip for each in summaries])]),
        "charts": observer.charts(summaries),
        "listened": sum(not sound.problem for sound in sounds.values()),
        "unheard": [sound.problem for sound in sounds.values() if sound.problem][:3],
        "checks": quality_checks.CHECKS,
        "applicable": quality_checks.applicable(summaries, sounds),
        "finding_counts": Counter(each.kind for each in findings),
        "findings": quality_checks.select_listed(findings, set(shown)),
        "clips": gallery_clips,
    }
    return assemble.write(
        config.out, sections=SECTIONS, package="pipeline.report", scripts=SCRIPTS, facts=facts
    )


def _statistics(layout: Layout, surveys: list[TeacherSurvey]) -> dict[str, Statistics]:
    """Computes statistics of current versions over all corpora, by TEACHER.STREAM."""
    totals: dict[str, Sums] = {}
    for name, spec in layout.current().items():
        for stream in spec.streams:
            total = totals[f"{name}.{stream.name}"] = Sums.zero(stream.dim)
            for line in surveys:
                if line.spec == spec and stream.name in line.sums:
                    total.add(line.sums[stream.name])
    return {key: total.statistics() for key, total in totals.items()}


def _durations(seconds: np.ndarray) -> dict[str, Any]:
    if not len(seconds):
        return {"known": 0}
    histogram = Histogram.nice(0.0, float(np.quantile(seconds, 0.99)))
    histogram.add(seconds)
    quantiles = np.quantile(seconds, [0.0, 0.05, 0.5, 0.95, 1.0]).round(3).tolist()
    return {"known": len(seconds), "quantiles": quantiles, **histogram.to_json()}


def _teacher(line: TeacherSurvey, *, is_default: bool) -> dict[str, Any]:
    return {
        "name": line.spec.name,
        "key": line.spec.key,
        "corpus": line.corpus,
        "is_default": is_default,
        "license": line.spec.license,
        "clips": line.corpus_clips,
        "rows": line.rows,
        "failed": line.failures.total(),
        "missing": line.missing,
        "hours": line.seconds / 3600,
        "bytes": line.data_bytes,
        "worker_seconds": line.extract_seconds,
        "throughput": throughput(line),
        "streams": [
            {
                "name": stream.name,
                "kind": stream.kind,
                "dim": stream.dim,
                "rate": stream.frame_rate,
                "codec": stream.codec,
                "frames": line.sums[stream.name].num_frames,
                "loss": line.sums[stream.name].codec_loss(stream),
            }
            for stream in line.spec.streams
            if stream.name in line.sums
        ],
    }
