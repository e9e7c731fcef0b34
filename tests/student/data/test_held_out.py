"""Tests that held-out examples are representative, and share no recording with training."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from manifests.clips import Clip
from manifests.corpus.corpus import Corpus, build
from manifests.errors import UserError
from student.config import DataConfig, TaskConfig
from student.data.build_table import open_examples
from student.data.example_table import ExampleTable
from student.data.examples import fraction
from student.data.held_out import (
    check_sides,
    draw_by_task,
    read_held_out,
    recordings,
    write_held_out,
)

TRANSCRIBE = TaskConfig(questions=["What is said?"], answer=["text"])
NAME_SOUND = TaskConfig(questions=["What is heard?", "Name it."], answer=["labels.sound"])
CHOOSE_SOUND = TaskConfig(questions=["Which sound?"], answer=["labels.sound"], choices=3)


def clip(number: int, **fields: object) -> Clip:
    values = {"clip_id": f"c{number}", "uri": f"/{number}.wav", "duration": 1.0, **fields}
    return Clip(**values)  # pyright: ignore[reportArgumentType]


def speech_then_sounds(speech: int, sounds: int) -> list[Clip]:
    """Returns clips of speech followed by clips of sounds."""
    names = ("dog", "rain", "bell", "car")
    return [clip(n, text=f"words {n}") for n in range(speech)] + [
        clip(speech + n, labels={"sound": names[n % 4]}) for n in range(sounds)
    ]


def open_table(tmp_path: Path, clips: list[Clip] | Corpus, **data: object) -> ExampleTable:
    corpus = clips if isinstance(clips, Corpus) else build(clips, tmp_path / "corpus")
    return open_examples(tmp_path / "run" / "examples", corpus, {}, DataConfig(**data))  # pyright: ignore


def write_chats(path: Path, pairs: list[tuple[int, ...]]) -> Path:
    with path.open("w") as file:
        for pair in pairs:
            parts = [{"type": "audio", "clip_id": f"c{number}"} for number in pair]
            user = {"role": "user", "content": [*parts, {"type": "text", "text": "same?"}]}
            line = {"messages": [user, {"role": "assistant", "content": "no"}]}
            file.write(json.dumps(line) + "\n")
    return path


def used_clips(table: ExampleTable) -> set[str]:
    return {clip_id for example in table for clip_id in example.clip_ids}


def test_validation_and_calibration_sample_every_task(tmp_path: Path) -> None:
    """Taking prefixes would only give the first clips of the first task."""
    table = open_table(
        tmp_path, speech_then_sounds(1500, 500), tasks=[TRANSCRIBE, NAME_SOUND], validation=0.2
    )
    held = table.held_out()
    assert 330 < len(held) < 470
    validated = held.drawn(64)
    assert len(validated) == 64
    count = Counter(example.task for example in validated)
    assert 40 < count["What is said?"] < 52  # three quarters
    numbers = [int(clip_id[1:]) for clip_id in used_clips(validated) if int(clip_id[1:]) < 1500]
    assert np.mean(numbers) == pytest.approx(
        750, abs=200
    )  # from the whole corpus, not the first clips
    calibrated = table.learning().drawn(256)
    count = Counter(example.task for example in calibrated)
    assert 170 < count["What is said?"] < 215
    assert count["What is heard?"] == 256 - count["What is said?"]


def test_held_out_file_is_complete_and_its_prefixes_are_balanced(tmp_path: Path) -> None:
    table = open_table(
        tmp_path, speech_then_sounds(600, 600), tasks=[TRANSCRIBE, CHOOSE_SOUND], validation=0.2
    )
    held = table.held_out()
    write_held_out(tmp_path, held, table.clips)
    rows = list(read_held_out(tmp_path))
    assert [example for example, _ in rows] == list(held)
    assert len({example.id for example, _ in rows}) == len(rows) > 150
    first = Counter(example.task for example, _ in rows[:60])
    assert min(first.values()) > 15
    for example, (source,) in rows:
        if example.kind == "choice":
            assert example.bare_answer in example.choices
            assert len(example.choices) == 3
            assert example.question == "Which sound?"
            assert example.bare_answer == source.labels["sound"]
        else:
            assert (example.kind, example.bare_answer) == ("transcription", source.text)
    line = json.loads((tmp_path / "held_out.jsonl").read_text().splitlines()[0])
    assert set(line) == {
        "id", "task", "kind", "question", "choices", "answer", "messages", "response", "clips",
    }  # fmt: skip
    assert {"clip_id", "uri", "offset", "duration"} <= set(line["clips"][0])


def test_held_out_file_of_an_older_run_is_read(tmp_path: Path) -> None:
    clips = [{"clip_id": "c1", "uri": "/1.wav", "offset": 0.0, "duration": 1.0, "text": "a",
              "labels": {}}]  # fmt: skip
    row = {"messages": [{"role": "user", "content": []}], "answer": "(A) dog", "clips": clips}
    (tmp_path / "held_out.jsonl").write_text(json.dumps(row) + "\n")
    ((example, (source,)),) = read_held_out(tmp_path)
    assert (example.answer, example.bare_answer, source.clip_id) == ("(A) dog", "(A) dog", "c1")


def test_conversation_is_held_out_if_any_of_its_clips_is(tmp_path: Path) -> None:
    """Checking only the last clip would train on held-out clips."""
    rng = np.random.default_rng(0)
    pairs = [tuple(rng.choice(2000, 2, replace=False).tolist()) for _ in range(1700)]
    chats = write_chats(tmp_path / "pairs.jsonl", pairs)
    clips = [clip(n) for n in range(2000)]
    table = open_table(tmp_path, clips, tasks=[], chats={str(chats): 1.0}, validation=0.02)
    held, learning = table.held_out(), table.learning()
    assert 40 < len(held) < 100
    drawn = {f"c{n}" for n in range(2000) if fraction("validation", f"c{n}") < 0.02}
    assert all(set(example.clip_ids) & drawn for example in held)
    assert not used_clips(learning) & used_clips(held)
    assert not used_clips(learning) & drawn
    assert len(learning) > 1450
    assert {example.task for example in held} == {"pairs"}


@pytest.mark.parametrize("by", ["file", "group"])
def test_clips_of_one_recording_are_on_the_same_side(tmp_path: Path, by: str) -> None:
    """A recording consists of the segments of one file, or of the clips of one `group`."""

    def segment(n: int) -> Clip:
        if by == "file":
            return clip(n, uri=f"/{n // 10}.wav", offset=float(n % 10), text="a")
        return clip(n, labels={"group": f"speaker {n // 10}"}, text="a")

    table = open_table(
        tmp_path, [segment(n) for n in range(1000)], tasks=[TRANSCRIBE], validation=0.2
    )
    sides = [
        {int(clip_id[1:]) // 10 for clip_id in used_clips(side)}
        for side in (table.held_out(), table.learning())
    ]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 100
    assert 10 < len(sides[0]) < 32
    assert len(table.held_out()) == 10 * len(sides[0])


def test_one_recording_of_each_task_stays_for_training(tmp_path: Path) -> None:
    """By their hashes, both recordings of the task would be held out."""
    clips = [clip(n, labels={"group": f"session {n // 50}"}, text="a") for n in range(100)]
    share = max(fraction("validation", f"c{n}") for n in (0, 50)) + 1e-6
    table = open_table(tmp_path, clips, tasks=[TRANSCRIBE], validation=share)
    assert len(table.learning()) == len(table.held_out()) == 50


def test_tiny_tasks_and_partial_groups_are_split_correctly(tmp_path: Path) -> None:
    """Forty random corpora have tasks of one to nine clips, missing, empty or numeric groups, and
    files of several clips. No recording is on both sides, and every task has training examples."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        clips: list[Clip] = []
        names: list[str] = []
        for task in range(int(rng.integers(1, 5))):
            for _ in range(int(rng.integers(1, 10))):
                number = len(clips)
                labels: dict[str, object] = {f"task{task}": "x"}
                group = ["", None, 1, "1", f"speaker {rng.integers(6)}"][int(rng.integers(5))]
                if group is not None:
                    labels["group"] = group
                uri = f"/{int(rng.integers(2 * number + 1))}.wav"
                clips.append(clip(number, uri=uri, labels=labels))
                names.append(uri)
        tasks = [TaskConfig(questions=[f"Task {n}?"], answer=[f"labels.task{n}"]) for n in range(5)]
        used = [task for task in tasks if any(task.answer[0][7:] in c.labels for c in clips)]
        table = open_table(tmp_path / str(seed), clips, tasks=used, validation=0.3)
        sides = used_clips(table.learning()), used_clips(table.held_out())
        assert not sides[0] & sides[1]
        for key in (lambda c: c.uri, lambda c: str(c.labels.get("group") or c.clip_id)):
            kept, held = ({key(c) for c in clips if c.clip_id in side} for side in sides)
            assert not kept & held, seed
        trained_tasks = {example.task for example in table.learning()}
        assert trained_tasks == {task.questions[0] for task in used}, seed


def test_completely_held_out_task_raises_an_error() -> None:
    with pytest.raises(UserError, match=r"How is it said\?: all 151 examples .* label"):
        check_sides({"Where?": 700, "How is it said?": 0}, {"How is it said?": 151}, 0.12)


def test_far_more_held_out_than_requested_gives_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    check_sides({"a": 368, "b": 900}, {"a": 2089, "b": 0}, 0.03)
    assert "2089 of 3357 examples (62 %) are held out" in caplog.text
    caplog.clear()
    check_sides({"a": 900, "b": 80}, {"a": 40, "b": 2}, 0.03)
    check_sides({"a": 5}, {"a": 5}, 0.03)
    assert not caplog.text


def test_overlapping_files_and_groups_are_one_recording() -> None:
    uri_C = np.array([7, 7, 8, 9, 9, 10])
    group_C = np.array([-1, 3, 3, -1, 4, -1])
    assert recordings(uri_C, group_C).tolist() == [0, 0, 0, 3, 3, 5]
    assert recordings(uri_C, np.full(6, -1)).tolist() == [0, 0, 2, 3, 3, 5]


def test_split_of_a_clip_does_not_change_when_the_corpus_grows(tmp_path: Path) -> None:
    clips = [clip(n, text="a") for n in range(1000)]
    small = open_table(tmp_path / "small", clips[:500], tasks=[TRANSCRIBE], validation=0.2)
    large = open_table(tmp_path / "large", clips, tasks=[TRANSCRIBE], validation=0.2)
    assert used_clips(small.held_out()) < used_clips(large.held_out())
    assert used_clips(large.held_out()) == {
        each.clip_id for each in clips if fraction("validation", each.clip_id) < 0.2
    }


def test_small_corpus_has_one_held_out_clip_of_each_task(tmp_path: Path) -> None:
    for count in range(2, 9):
        clips = speech_then_sounds(count, count)
        table = open_table(
            tmp_path / str(count), clips, tasks=[TRANSCRIBE, NAME_SOUND], validation=1e-6
        )
        tasks = Counter(example.task for example in table.held_out())
        assert tasks == {"What is said?": 1, "What is heard?": 1}
        assert len(table.learning()) == 2 * count - 2


def test_draw_by_task_gives_each_task_its_share() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        sizes = rng.integers(1, 400, rng.integers(1, 6))
        task_E = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
        limit = int(rng.integers(1, 300))
        places = draw_by_task(rng.integers(0, 2**63, len(task_E)).astype("u8"), task_E, limit)
        assert len(places) == min(limit, len(task_E))
        assert (np.diff(places) > 0).all()
        if limit < len(task_E):
            counts = np.bincount(task_E[places], minlength=len(sizes))
            floor = np.minimum(sizes, min(16, limit // len(sizes)))
            assert (counts >= floor).all()
            rest = limit - floor.sum()
            shares = floor + (sizes - floor) * (rest / max((sizes - floor).sum(), 1))
            assert (np.abs(counts - shares) <= 1 + 1e-9).all()


@pytest.mark.parametrize("how", ["folder", "summary.json", "examples.npy", "clips.arrow"])
def test_run_with_lost_or_truncated_examples_keeps_its_split(tmp_path: Path, how: str) -> None:
    """The examples must not be rebuilt with the split of an older version, because held-out clips
    would then be trained on."""
    chats = write_chats(tmp_path / "pairs.jsonl", [(n, n + 1) for n in range(0, 300, 2)])
    corpus = build([clip(n, text=f"a {n}") for n in range(301)], tmp_path / "corpus")
    data = DataConfig(tasks=[TRANSCRIBE], chats={str(chats): 1.0}, validation=0.1)
    folder = tmp_path / "examples"
    first = open_examples(folder, corpus, {}, data)
    expected = [[each.id for each in side] for side in (first.learning(), first.held_out())]
    if how == "folder":
        shutil.rmtree(folder)
    else:
        (folder / how).write_bytes((folder / how).read_bytes()[:-9])
    again = open_examples(folder, corpus, {}, data, begun=True, had_table=True)
    assert [[each.id for each in side] for side in (again.learning(), again.held_out())] == expected


def test_run_of_an_older_version_keeps_its_split(tmp_path: Path) -> None:
    chats = write_chats(tmp_path / "pairs.jsonl", [(n, n + 1) for n in range(300)])
    corpus = build([clip(n, uri="/same.wav") for n in range(301)], tmp_path / "corpus")
    data = DataConfig(tasks=[TRANSCRIBE], chats={str(chats): 1.0}, validation=0.1)
    for begun_again in range(2):
        table = open_examples(tmp_path / "examples", corpus, {}, data, begun=True)
        held = [fraction("validation", each.clip_ids[-1]) < 0.1 for each in table.held_out()]
        trained_tasks = [
            fraction("validation", each.clip_ids[-1]) < 0.1 for each in table.learning()
        ]
        assert (all(held), any(trained_tasks), len(held) + len(trained_tasks)) == (
            True,
            False,
            300,
        ), begun_again
        first = [example.clip_ids[-1] for example in table.held_out().drawn(9)]
        drawn = [f"c{n}" for n in range(1, 301) if fraction("validation", f"c{n}") < 0.1]
        assert first == drawn[:9]
