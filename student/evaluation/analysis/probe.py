"""`coat-student probe`: where in a student does what the experts hear, and what is asked, live?

Every layer x every position group (audio, thinking, decision) x every stream and label, for one or
several runs on the same clips. Streams are probed frame by frame (a position's state against its
time span's target), the decision against the clip's mean target; labels from the mean state.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from manifests.console import console
from manifests.errors import UserError
from student.data.examples import fraction
from student.distill.streams import RECONSTRUCTION, Stream, open_streams
from student.evaluation.analysis.linear_probes import choose_ridge, coded, explained
from student.evaluation.analysis.states import collect
from student.evaluation.answering import QuestionRunner
from student.evaluation.questions import Question

# Legend: L layers + 1, C clips, K positions, N rows, H width, D target columns.

FILE = "probes.json"
TEST_SHARE = 0.3
MAX_COLUMNS = 64
"""Wide streams are probed on their most varied columns."""
NEUTRAL = "What is heard?"


def probe(
    runs: Sequence[str | Path],
    questions: Sequence[Question],
    *,
    caches: Sequence[str] = (),
    num_spans: int = 16,
    batch_size: int = 16,
) -> dict[str, dict]:
    """Probes runs on the same clips and writes RUN/probes.json.

    Args:
        runs: Runs or plain checkpoints.
        questions: Their clips are probed; an answer of kind `label` or `choice` is a label of the
            clip, named by the task. Streams need clip ids of the caches.
        caches: Teacher caches; without, labels alone are probed.
        num_spans: Time spans that audio tokens are averaged to.
        batch_size: Clips per forward pass.

    Returns:
        Run -> `arm`, `seed`, `layers`, `targets`: target -> metric, floor, n and `scores`, group ->
        one score per layer (the embeddings first).

    Raises:
        UserError: there are too few clips.
    """
    clips, labels = _by_clip(questions)
    testing_C = np.array([fraction("probe", clip.id) < TEST_SHARE for clip in clips])
    if min(testing_C.sum(), (~testing_C).sum()) < 8:
        raise UserError(
            f"{len(clips)} clips are too few to probe; 30 at least, better 300: --questions FILE "
            "asks of more than the first run held out"
        )
    streams = open_streams(caches, None) if caches else {}
    streams = {name: stream for name, stream in streams.items() if name != RECONSTRUCTION}
    found = {}
    for run in runs:
        examinee = QuestionRunner(run, batch_size=batch_size)
        block = examinee.trained.student.block
        spans = len(block.content_ids) if block else num_spans
        groups = collect(examinee, clips, num_spans=spans)
        targets = _label_targets(labels)
        targets |= _stream_targets(streams, clips, spans)
        recipe = examinee.trained.recipe
        is_run = (Path(run) / "recipe.yaml").is_file()
        report = {
            "arm": recipe.arm if is_run else "base",
            "seed": recipe.seed,
            "clips": len(clips),
            "tapped_layer": examinee.trained.student.tap,
            "targets": {
                name: target
                | {
                    "scores": {
                        group: [
                            round(float(_score(values_CKH, target, testing_C)), 4)
                            for values_CKH in states.values_LCKH
                        ]
                        for group, states in groups.items()
                    }
                }
                for name, target in targets.items()
            },
        }
        for target in report["targets"].values():
            del target["values"]
        (Path(run) / FILE).write_text(json.dumps(report, indent=1))
        console.print(f"{run}: {len(report['targets'])} targets probed")
        found[str(run)] = report
    return found


def _by_clip(questions: Sequence[Question]) -> tuple[list[Question], dict[str, list[str | None]]]:
    """One neutral question per clip, and the clips' labels by task."""
    clips: dict[str, Question] = {}
    answers: dict[str, dict[str, str]] = {}
    for question in questions:
        key = question.clip.clip_id
        clips.setdefault(key, replace(question, id=key, kind="label", question=NEUTRAL, task="all"))
        if question.kind != "transcription":
            answers.setdefault(question.task, {})[key] = question.answer
    labels = {task: [by_clip.get(key) for key in clips] for task, by_clip in answers.items()}
    return list(clips.values()), labels


def _label_targets(labels: Mapping[str, list[str | None]]) -> dict[str, dict]:
    targets = {}
    for task, values in labels.items():
        known = [value for value in values if value is not None]
        commonest = max(map(known.count, set(known))) / len(known)
        targets[task] = {"metric": "accuracy", "floor": round(commonest, 4), "n": len(known),
                         "values": values}  # fmt: skip
    return targets


def _stream_targets(
    streams: Mapping[str, Stream], clips: Sequence[Question], spans: int
) -> dict[str, dict]:
    targets = {}
    for name, stream in streams.items():
        values = [
            stream.frames(clip.clip.clip_id, spans) if stream.covers(clip.clip.clip_id) else None
            for clip in clips
        ]
        covered = [value for value in values if value is not None]
        if len(covered) < 8:
            continue
        columns = np.argsort(-np.concatenate(covered).var(0))[:MAX_COLUMNS]
        values = [None if value is None else value[:, np.sort(columns)] for value in values]
        targets[name] = {"metric": "R2", "floor": 0.0, "n": len(covered), "values": values}
    return targets


def _score(values_CKH: np.ndarray, target: Mapping, testing_C: np.ndarray) -> float:
    """Score on the testing clips of a probe fitted on the others."""
    known = [at for at, value in enumerate(target["values"]) if value is not None]
    values = [target["values"][at] for at in known]
    states_CKH, testing_C = values_CKH[known], testing_C[known]
    if target["metric"] == "accuracy":
        classes = sorted(set(values))
        states_NH, wanted_ND = states_CKH.mean(1), coded(values, classes)
        repeats = 1
    else:
        per_frame_CKD = np.stack(values)
        repeats = states_CKH.shape[1]
        if repeats == 1:
            per_frame_CKD = per_frame_CKD.mean(1, keepdims=True)
        states_NH = states_CKH.reshape(-1, states_CKH.shape[-1])
        wanted_ND = per_frame_CKD.reshape(len(states_NH), -1)
    testing_N, groups_N = np.repeat(testing_C, repeats), np.repeat(np.arange(len(known)), repeats)
    learning_N = ~testing_N
    states_NH, wanted_ND = states_NH.astype(np.float64), wanted_ND.astype(np.float64)
    order = np.unique(groups_N[learning_N], return_inverse=True)[1]
    ridge = choose_ridge(states_NH[learning_N], wanted_ND[learning_N], order)
    predicted_ND = ridge(states_NH[testing_N])
    if target["metric"] == "accuracy":
        hits = predicted_ND.argmax(1) == wanted_ND[testing_N].argmax(1)
        return float(hits.mean())
    return explained(predicted_ND, wanted_ND[testing_N], wanted_ND[learning_N].mean(0))
