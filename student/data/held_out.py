"""Selects held-out examples and those used for validation, and reads and writes their file.

No recording is on both sides. A recording consists of all clips of one audio file and all clips
with the same `group` label. It is drawn by a hash of its first clip's id, so every run, arm and
backbone holds out the same recordings, a growing corpus keeps its split, and each task has its
share. Prefixes are not used, because the clips of a corpus are ordered by speaker, source and task.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from manifests.clips import Clip
from manifests.console import as_fields
from manifests.errors import UserError
from student.data.examples import Example

logger = logging.getLogger(__name__)

# Legend: C clips, R recordings, E examples, L links (one for each clip of each example).

HELD_OUT_FILE = "held_out.jsonl"
LEARNT, HELD_OUT, LEFT_OUT = 0, 1, 2
"""Sides of a split. Examples are left out if they share a clip with a held-out conversation."""
GROUP = "group"
"""Label of clips that belong together, e.g. those of one speaker or one concert."""
FAR_ABOVE = 3.0
"""Multiple of the requested share above which a warning is logged."""
SMALL_TASK = 16
"""Number of examples that are drawn from each task before the rest is divided by size."""


def recordings(file_C: np.ndarray, group_C: np.ndarray | None) -> np.ndarray:
    """Determines the recording of each clip, numbered by first clip.

    Args:
        file_C: A number for each audio file.
        group_C: A number for each `group` label, negative for clips without one; None if no clip
            has one.

    Returns:
        recording_C: the row of the first clip of the clip's recording, int32.
    """
    first_C = _first_alike(file_C)
    labelled = np.flatnonzero(group_C >= 0) if group_C is not None else np.zeros(0, int)
    if not len(labelled):
        return first_C
    assert group_C is not None
    # Clips of one file and clips of one label are connected through their first clips.
    first_labelled = labelled[_first_alike(group_C[labelled])]
    links = (np.ones(len(labelled), bool), (first_C[labelled], first_C[first_labelled]))
    graph = sparse.coo_array(links, shape=(len(file_C), len(file_C)))
    return _first_alike(csgraph.connected_components(graph, directed=False)[1][first_C])


def _first_alike(value_N: np.ndarray) -> np.ndarray:
    """Finds the first position with the same value, for each position; int32."""
    order_N = np.argsort(value_N, kind="stable").astype(np.int32)
    sorted_N = value_N[order_N]
    begins = np.flatnonzero(np.concatenate([[True], sorted_N[1:] != sorted_N[:-1]]))
    first_N = np.empty(len(value_N), np.int32)
    lengths = np.diff(np.append(begins, len(value_N)))
    first_N[order_N] = np.repeat(order_N[begins], lengths)
    return first_N


def split(
    recording_L: np.ndarray,
    example_L: np.ndarray,
    task_E: np.ndarray,
    draw_R: np.ndarray,
    share: float,
) -> np.ndarray:
    """Determines the side of each example.

    An example is held out if any of its recordings is drawn. Examples that share a clip with a
    held-out conversation are not trained on either. If all recordings of a task were drawn, the one
    with the largest number is kept for training; if no recording of several was drawn, the one with
    the smallest number is drawn, unless it is the last one that another task is trained on.

    Args:
        recording_L: For each link, the recording of the clip.
        example_L: For each link, the example; ascending.
        task_E: A number for each task.
        draw_R: A number in [0, 1) for each recording.
        share: Recordings with a smaller number are drawn.

    Returns:
        side_E: LEARNT, HELD_OUT or LEFT_OUT.
    """
    num_examples = len(task_E)
    drawn_R = draw_R < share
    task_L = task_E[example_L]
    candidates_of = [np.unique(recording_L[task_L == task]) for task in np.unique(task_E)]
    candidates_of.append(np.unique(recording_L))
    for candidates in candidates_of:
        if share < 1 and drawn_R[candidates].all():
            drawn_R[candidates[draw_R[candidates].argmax()]] = False
    for candidates in candidates_of:
        if len(candidates) > 1 and not drawn_R[candidates].any():
            _draw_one(candidates[draw_R[candidates].argsort()], drawn_R, candidates_of)
    held_E = np.zeros(num_examples, bool)
    held_E[example_L[drawn_R[recording_L]]] = True
    heard_R = drawn_R.copy()
    heard_R[recording_L[held_E[example_L]]] = True
    met_E = np.zeros(num_examples, bool)
    met_E[example_L[heard_R[recording_L]]] = True
    side_E = np.full(num_examples, LEARNT, np.uint8)
    side_E[met_E] = LEFT_OUT
    side_E[held_E] = HELD_OUT
    return side_E


def _draw_one(
    ordered: np.ndarray, drawn_R: np.ndarray, candidates_of: Sequence[np.ndarray]
) -> None:
    """Draws the first recording that no task needs as its last one to train on, if there is one."""
    left_of = [candidates[~drawn_R[candidates]] for candidates in candidates_of]
    needed = {int(left[0]) for left in left_of if len(left) == 1}
    for recording in ordered.tolist():
        if recording not in needed:
            drawn_R[recording] = True
            return


def check_sides(learning: Mapping[str, int], held_out: Mapping[str, int], share: float) -> None:
    """Rejects a task whose examples are all held out, and warns if far more is held out than
    requested.

    Args:
        learning: Task -> number of examples to train on.
        held_out: Task -> number of held-out examples.
        share: `data.validation`.

    Raises:
        UserError: all examples of a task are held out.
    """
    for task, count in held_out.items():
        if count and not learning.get(task):
            raise UserError(
                f"{task}: all {count} examples are held out and none is left for training; clips "
                f"of one audio file, and of one `{GROUP}` label, are never on both sides, so a "
                f"label like the name of a source holds all of it out: give each recording or "
                "speaker a label of its own, or leave the label out"
            )
    num_held_out = sum(held_out.values())
    num_examples = num_held_out + sum(learning.values())
    if num_held_out > FAR_ABOVE * share * num_examples and num_held_out > SMALL_TASK:
        logger.warning(
            "%d of %d examples (%.0f %%) are held out, where data.validation asks for %.3g %%: "
            "clips of one file, and of one `%s` label, stay together, and a large one was drawn",
            num_held_out, num_examples, 100 * num_held_out / num_examples, 100 * share, GROUP,
        )  # fmt: skip


def mixed(key_E: np.ndarray, task: int, repeat_E: np.ndarray) -> np.ndarray:
    """A hash of clip, task and repeat, uint64 (the finaliser of splitmix64)."""
    with np.errstate(over="ignore"):
        salt = np.uint64(task + 1) * np.uint64(0x9E3779B97F4A7C15)
        value = key_E + salt + repeat_E.astype(np.uint64) * np.uint64(0xD1B54A32D192ED03)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))


def draw_by_task(key_E: np.ndarray, task_E: np.ndarray, limit: int) -> np.ndarray:
    """Selects the positions of at most `limit` examples that represent all tasks, ascending.

    Of each task, the examples with the smallest keys are selected: 16 (fewer if there are many
    tasks), plus a number proportional to the task's share of the examples.

    Args:
        key_E: A hash of each example, uint64.
        task_E: A number for each task.
        limit: Maximum number of examples.
    """
    if len(key_E) <= limit:
        return np.arange(len(key_E))
    tasks, sizes = np.unique(task_E, return_counts=True)
    floor = np.minimum(sizes, min(SMALL_TASK, limit // len(sizes)))
    rest = limit - floor.sum()
    shares = (sizes - floor) * (rest / max((sizes - floor).sum(), 1))
    quotas = floor + shares.astype(int)
    by_remainder = np.argsort(-(shares % 1), kind="stable")
    quotas[by_remainder[: limit - quotas.sum()]] += 1
    drawn = [
        _smallest(key_E, np.flatnonzero(task_E == task), quota)
        for task, quota in zip(tasks, quotas.tolist(), strict=True)
    ]
    return np.sort(np.concatenate(drawn))


def _smallest(key_E: np.ndarray, places: np.ndarray, count: int) -> np.ndarray:
    """The `count` positions with the smallest keys."""
    if count >= len(places) or not count:
        return places[:count]
    keys = key_E[places]
    near = np.flatnonzero(keys <= np.partition(keys, count - 1)[count - 1])
    return places[near[np.argsort(keys[near], kind="stable")[:count]]]


def write_held_out(run: Path, examples: Iterable[Example], clips: Mapping[str, Clip]) -> None:
    """Writes the held-out examples and their clips, for use after training.

    A line contains the fields for scoring a reply (`id`, `task`, `kind`, `question`, `choices`,
    `answer`), the conversation as used in training (`messages`, `response`), and the clips.
    """
    part = run / f"{HELD_OUT_FILE}.part"
    with part.open("w", encoding="utf-8") as file:
        for example in examples:
            row = {
                "id": example.id,
                "task": example.task,
                "kind": example.kind,
                "question": example.question,
                "choices": list(example.choices),
                "answer": example.bare_answer,
                "messages": example.messages,
                "response": example.answer,
                "clips": [as_fields(clips[clip_id]) for clip_id in example.clip_ids],
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    part.rename(run / HELD_OUT_FILE)


def read_held_out(run: Path) -> Iterator[tuple[Example, list[Clip]]]:
    """Reads the held-out examples of a run with their clips. Any prefix is representative.

    Runs of older versions have only `messages`, `answer` and `clips`, in the corpus' order.
    """
    with (run / HELD_OUT_FILE).open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            clips = [Clip(**fields) for fields in row["clips"]]
            ids = tuple(clip.clip_id for clip in clips)
            if "response" not in row:
                yield Example(ids, row["messages"], row["answer"]), clips
                continue
            yield (
                Example(
                    ids, row["messages"], row["response"], task=row["task"], kind=row["kind"],
                    question=row["question"], choices=tuple(row["choices"]), id=row["id"],
                ),
                clips,
            )  # fmt: skip
