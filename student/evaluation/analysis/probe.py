"""`coat-student probe`: measures where a student represents the experts' outputs and the answers.

Combines every layer, position group (audio, thinking, decision), stream and label, for one or
several runs on the same clips. Streams are probed frame by frame (the state of a position predicts
the target of its time span), and at the decision position with the clip's mean target; labels are
probed with the mean state. Recordings of one file or group are used either for fitting or for
scoring.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from manifests import audio
from manifests.cache.clip_index import clip_keys
from manifests.console import console
from manifests.progress import progress
from manifests.wording import number_of
from student.data.example_table import ExampleTable
from student.distill.streams import RECONSTRUCTION, Stream, open_streams
from student.evaluation.analysis.probe_targets import Target, label_targets, score, stream_targets
from student.evaluation.analysis.probed_clips import (
    by_clip,
    check_enough,
    is_scored,
    recording_keys,
)
from student.evaluation.analysis.state_edits import check_one_block
from student.evaluation.analysis.states import GROUPS, collect
from student.evaluation.answering import QuestionRunner
from student.evaluation.journal import Journal, build_identity, open_journal
from student.evaluation.questions import Question, digest
from student.evaluation.results import read_analysis, write_analysis
from student.runs.folder import Run

# Legend: C clips.

FILE = "probes"
STATES = "probes.states"
LAYER_SCORES = "layer scores"
NAMED = 5
"""Number of recordings that cannot be read that a message names."""


def probe(
    runs: Sequence[str | Path],
    questions: Sequence[Question],
    *,
    caches: Sequence[str] = (),
    num_spans: int = 16,
    batch_size: int = 16,
) -> dict[str, dict]:
    """Probes runs on the same clips and writes RUN/probes.json.

    States and scores are kept as they are made, so a killed probe resumes. Finished results with
    the same checkpoint, questions, targets and settings are returned as they are.

    Args:
        runs: Runs or plain checkpoints.
        questions: Their clips are probed; an answer of kind `label` or `choice` is a label of the
            clip, named by the task. Streams need clip ids of the caches.
        caches: Teacher caches; without them, only labels are probed.
        num_spans: Number of time spans to which audio tokens are averaged.
        batch_size: Clips per forward pass.

    Returns:
        Run -> `arm`, `seed`, `clips`, `held_out` and `learnt` (clips that the run held out, and
        that it was trained on; null if unknown) and `description` (the same as text), `head_layer`,
        `targets`: target -> metric, floor (the score of a constant prediction), n (the clips that
        are scored) and `scores`, group -> one score per layer (the embeddings first).

    Raises:
        UserError: there are too few clips whose audio can be read.
    """
    questions = _readable(questions)
    check_enough(questions)
    clips, labels = by_clip(questions)
    recordings = recording_keys(clips)
    testing_C = np.array([is_scored(recording) for recording in recordings])
    numbers = {recording: number for number, recording in enumerate(sorted(set(recordings)))}
    group_C = np.array([numbers[recording] for recording in recordings])
    streams = open_streams(caches, None) if caches else {}
    streams = {name: stream for name, stream in streams.items() if name != RECONSTRUCTION}
    reports = {}
    for run in runs:
        runner = QuestionRunner(run, batch_size=batch_size)
        check_one_block(runner.trained, clips)
        block = runner.trained.student.block
        spans = len(block.content_ids) if block else num_spans
        targets = label_targets(labels, testing_C) | stream_targets(
            streams, clips, spans, testing_C
        )
        if streams and not streams.keys() & targets.keys():
            console.print(
                "no stream is probed: the caches have targets of too few of these clips, which "
                "questions name by `clip_id`"
            )
        for name in [name for name, target in targets.items() if not target.num_scored]:
            del targets[name]
            console.print(
                f"{name} is not probed: none of its clips is among those for scoring", markup=False
            )
        origin = _origin(Run(run), clips, streams.values())
        identity = build_identity(
            run,
            digest(questions),
            spans=spans,
            origin=origin,
            targets={name: target.digest for name, target in targets.items()},
            recordings=recordings,
        )
        if finished := read_analysis(run, FILE, identity):
            reports[str(run)] = finished
            continue
        with open_journal(Run(run).unfinished_analysis_file(FILE), identity) as journal:
            report = {
                "arm": runner.trained.recipe.arm if Run(run).exists else "base",
                "seed": runner.trained.recipe.seed,
                "clips": len(clips),
                "digest": digest(questions),
                **origin,
                "head_layer": runner.trained.student.head_layer,
                "targets": _probed(runner, clips, targets, spans, testing_C, group_C, journal),
                "identity": identity,
            }
            report["description"] = describe_clips(report)
            write_analysis(run, FILE, report)
            shutil.rmtree(Path(run) / STATES)
        console.print(f"{run}: {len(targets)} targets probed", markup=False)
        reports[str(run)] = report
    return reports


def _readable(questions: Sequence[Question]) -> list[Question]:
    """Leaves out questions whose audio cannot be read, with a message."""
    clips = {question.recording: question.clip for question in questions}
    reasons: dict[object, str] = {}
    with progress("reading the audio", len(clips), "clips") as advance:
        for recording, clip in clips.items():
            try:
                audio.decode(clip)
            except audio.AudioError as error:
                reasons[recording] = f"{clip.uri} cannot be read: {error}"
            advance()
    if reasons:
        console.print(
            f"{number_of(len(reasons), 'clip is', 'clips are')} left out: "
            f"{'; '.join(list(reasons.values())[:NAMED])}"
            f"{'; ...' if len(reasons) > NAMED else ''}",
            markup=False,
        )
    return [question for question in questions if question.recording not in reasons]


def _probed(
    runner: QuestionRunner,
    clips: Sequence[Question],
    targets: Mapping[str, Target],
    spans: int,
    testing_C: np.ndarray,
    group_C: np.ndarray,
    journal: Journal,
) -> dict[str, dict]:
    """Computes the description and scores of each target, by its name.

    States and scores that the journal already has are not computed again.
    """
    scores: dict[str, dict[str, list[float]]] = {name: {} for name in targets}
    folder = Path(runner.path) / STATES
    groups = collect(runner, clips, folder, journal, num_spans=spans)
    kept = {(group, layer): values for group, layer, values in journal.entries(LAYER_SCORES)}
    total = sum(len(states.layers) for states in groups.values()) - len(kept)
    with progress(f"probes of {runner.path}", total, "layers") as advance:
        for group, states in groups.items():
            for layer, values_CKH in enumerate(states.layers):
                values = kept.get((group, layer))
                if values is None:
                    computed = score(values_CKH, targets, testing_C, group_C)
                    values = {name: round(value, 4) for name, value in computed.items()}
                    journal.append(LAYER_SCORES, [group, layer, values])
                    advance()
                for name, value in values.items():
                    scores[name].setdefault(group, []).append(value)
    return {
        name: {"metric": target.metric, "floor": target.floor, "n": target.num_scored,
               "scores": scores[name]}
        for name, target in targets.items()
    }  # fmt: skip


def _origin(
    run: Run, clips: Sequence[Question], streams: Iterable[Stream]
) -> dict[str, int | None]:
    """The number of clips that a run held out, and that it was trained on.

    Whether it was trained on a clip is unknown if its question has no clip id. A run without its
    examples counts as trained on all other clips of the caches.
    """
    if not run.held_out_file.is_file():
        return {"held_out": None, "learnt": None}
    held = {clip.clip_id for _, example_clips in run.held_out() for clip in example_clips}
    ids = [clip.clip.clip_id for clip in clips]
    others = [clip for clip, clip_id in zip(clips, ids, strict=True) if clip_id not in held]
    streams = list(streams)
    learnt: int | None = None
    if all(clip.clip_id is not None for clip in others):
        other_ids = [clip.clip.clip_id for clip in others]
        if run.has_examples():
            examples = ExampleTable(run.examples_folder, run.recipe.data.tasks).learning()
            learnt = int(np.isin(clip_keys(other_ids), examples.clip_keys()).sum())
        elif streams or not others:
            learnt = sum(any(stream.covers(clip_id) for stream in streams) for clip_id in other_ids)
    return {"held_out": len(ids) - len(others), "learnt": learnt}


def describe_clips(report: Mapping) -> str:
    """Describes for titles whether the probed clips were held out, trained on or new."""
    held, learnt, total = report.get("held_out"), report.get("learnt"), report["clips"]
    if held is None:
        return number_of(total, "clip")
    if held == total:
        return number_of(total, "held-out clip")
    if learnt is None:
        return f"{number_of(total, 'clip')}: {held:,} held out, the others possibly trained on"
    counts = {"held out": held, "trained on": learnt, "from elsewhere": total - held - learnt}
    parts = [f"{count:,} {what}" for what, count in counts.items() if count]
    return f"{number_of(total, 'clip')}: {', '.join(parts)}"


def build_table(reports: Mapping[str, Mapping]) -> Table:
    """Renders the best layer of each group for all runs."""
    first = next(iter(reports.values()))
    origins = list(dict.fromkeys(describe_clips(report) for report in reports.values()))
    title = f"linear probes on {' / '.join(origins)}: best layer of each group"
    table = Table("target", "metric", "n", "floor", title=title)
    labels = [f"{report['arm']}-{report['seed']}" for report in reports.values()]
    for run, label in zip(reports, labels, strict=True):
        heading = label if labels.count(label) == 1 else run
        table.add_column(f"{heading}: {', '.join(GROUPS)}")
    for name, target in first["targets"].items():
        cells = [
            ", ".join(
                f"{max(scores):.2f} @{scores.index(max(scores))}" if scores else "-"
                for group in GROUPS
                for scores in [report["targets"][name]["scores"].get(group, [])]
            )
            for report in reports.values()
        ]
        table.add_row(name, target["metric"], f"{target['n']:,}", f"{target['floor']:.2f}", *cells)
    return table
