"""Tests that examples on disk equal those in memory, need little memory, and skip bad clips."""

from __future__ import annotations

import dataclasses
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manifests.cache.clip_index import clip_keys
from manifests.clips import Clip
from manifests.corpus.corpus import build
from manifests.errors import UserError
from manifests.file_list import write_file_list
from student.config import DataConfig, ModelConfig, StreamConfig, TaskConfig, TinyConfig
from student.data.build_table import open_examples
from student.data.example_table import ExampleTable
from student.data.examples import build_examples, find_answer
from student.distill.streams import open_streams
from student.model.backbones.registry import backbone_window
from tests.student.conftest import FAMILIES, SPEC, STREAMS, TASKS, ToyData, write_cache

TRANSCRIBE = TaskConfig(questions=["What is said?"], answer=["text"])


def make_clips(count: int) -> list[Clip]:
    return [
        Clip(clip_id=f"c{n}", uri=f"/{n}.wav", duration=1.0 + n % 7,
             text="words" if n % 4 == 0 else None, labels={"note": f"n{n % 5}"} if n % 2 else {})
        for n in range(count)
    ]  # fmt: skip


def make_transcribed_clips(count: int) -> list[Clip]:
    """Returns clips of 1, 2, ... seconds with a text."""
    return [
        Clip(clip_id=f"s{n}", uri=f"/s{n}.wav", duration=1.0 + n, text="words")
        for n in range(count)
    ]


def test_table_contains_the_examples_of_the_templates(tmp_path: Path) -> None:
    corpus = build(make_clips(700), tmp_path / "corpus")
    tasks = [
        TRANSCRIBE,
        TaskConfig(questions=["A?", "B?"], answer=["labels.note"], choices=3, weight=1.5),
        TaskConfig(questions=["What is said?"], answer=["labels.note"], weight=2),
    ]
    table = open_examples(tmp_path / "examples", corpus, {}, DataConfig(tasks=tasks))
    expected = list(build_examples(make_clips(700), tasks))
    assert list(table) == expected
    assert [example.task for example in table[::300]] == [e.task for e in expected[::300]]
    seconds = [table.clips[example.clip_ids[0]].duration or 0 for example in expected]
    lengths = [round(25 * s) + len(e.answer) // 4 for s, e in zip(seconds, expected, strict=True)]
    assert table.lengths().tolist() == lengths
    assert len({example.id for example in expected}) == len(expected)
    shards = {clip_id: n for n in range(corpus.num_shards) for clip_id in corpus.shard_ids(n)}
    assert table.shards().tolist() == [shards[example.clip_ids[0]] for example in expected]


def test_held_out_clips_are_asked_about_once_whatever_the_weight(tmp_path: Path) -> None:
    """Repeated questions used to count as several, and intervals were too narrow."""
    corpus = build(make_clips(200), tmp_path / "corpus")
    tasks = [TaskConfig(questions=["A?", "B?"], answer=["labels.note"], choices=3, weight=3.0)]
    folder, data = tmp_path / "examples", DataConfig(tasks=tasks, validation=0.2)
    table = open_examples(folder, corpus, {}, data)
    assert len(table) == 3 * 100
    held, learnt = ([e.clip_ids[0] for e in side] for side in (table.held_out(), table.learning()))
    assert len(held) == len(set(held)) > 10
    assert len(learnt) == 3 * len(set(learnt)) == 3 * (100 - len(held))
    for side, ids in ((table.held_out(), held), (table.learning(), learnt)):
        assert set(side.clip_keys().tolist()) == set(clip_keys(ids).tolist())
    # A run of an earlier version keeps its held-out examples.
    fields = json.loads((folder / "summary.json").read_text())
    del fields["asks_once"]
    (folder / "summary.json").write_text(json.dumps(fields))
    write_file_list(folder)
    older = open_examples(folder, corpus, {}, data, begun=True, had_table=True)
    assert len(older.held_out()) == 3 * len(held)


def test_table_is_rebuilt_only_when_its_sources_change(tmp_path: Path) -> None:
    def opened(count: int, **data: Any) -> tuple[ExampleTable, float]:
        corpus = build(make_clips(count), tmp_path / "corpus")
        table = open_examples(
            tmp_path / "examples", corpus, {}, DataConfig(tasks=[TRANSCRIBE], **data)
        )
        return table, (tmp_path / "examples" / "summary.json").stat().st_mtime_ns

    first, clips_with_lengths = opened(100)
    assert opened(100)[1] == clips_with_lengths
    assert opened(100, workers=2)[1] == clips_with_lengths
    shorter, changed = opened(100, max_duration=3.0)
    assert changed > clips_with_lengths
    assert 0 < len(shorter) < len(first)
    assert len(opened(300)[0]) == 75
    assert len(first) == 25  # a mapped table stays valid after its folder was replaced


def test_table_is_pickled_as_its_path(tmp_path: Path) -> None:
    corpus = build(make_clips(3000), tmp_path / "corpus")
    table = open_examples(
        tmp_path / "examples", corpus, {}, DataConfig(tasks=[TRANSCRIBE])
    ).learning()
    packed = pickle.dumps(table)
    assert len(packed) < 5 * len(table) + 2000
    assert list(pickle.loads(packed)) == list(table)


def test_unusable_clips_and_their_conversations_are_skipped(tmp_path: Path, caplog: Any) -> None:
    short = Clip(clip_id="short", uri="/x.wav", duration=0.05)
    long = Clip(clip_id="long", uri="/x.wav", duration=31.0)
    corpus = build([*make_clips(9), short, long], tmp_path / "corpus")
    path = tmp_path / "chats.jsonl"

    def write(*names: str) -> None:
        lines = []
        for name in names:
            content = [{"type": "audio", "clip_id": name}, {"type": "text", "text": "hm?"}]
            turns = [{"role": "user", "content": content}, {"role": "assistant", "content": "yes"}]
            lines.append(json.dumps({"messages": turns}))
        path.write_text("\n".join(lines) + "\n")

    data = DataConfig(tasks=[TRANSCRIBE], chats={str(path): 2.0})
    write("c1", "long", "c2")
    table = open_examples(tmp_path / "examples", corpus, {}, data)
    assert [e.clip_ids[0] for e in table if e.task == "chats"] == ["c1", "c1", "c2", "c2"]
    assert [e.id for e in table][-2:] == ["chats:3", "chats:3/1"]
    assert set(table.clips) == {f"c{n}" for n in range(9)}
    with pytest.raises(KeyError):
        table.clips["long"]
    assert "1 of 11 clips are skipped: shorter than 0.1 s: short" in caplog.text
    assert "1 of 11 clips are skipped: longer than 30 s, data.max_duration: long" in caplog.text
    assert "1 conversations with skipped clips are skipped, too" in caplog.text
    write("c1", "nowhere")
    with pytest.raises(UserError, match=r"chats.jsonl, line 2.*no clip 'nowhere'"):
        open_examples(tmp_path / "examples", corpus, {}, data)
    only = build([short], tmp_path / "only")
    with pytest.raises(UserError, match=r"none of the corpus' 1 clips can be used: .* than 30 s"):
        open_examples(tmp_path / "examples", only, {}, DataConfig(tasks=[TRANSCRIBE]))


def test_task_without_examples_raises_an_error(tmp_path: Path) -> None:
    """The task used to be left out silently; a run that was started that way continues."""
    corpus = build(make_clips(16), tmp_path / "corpus")
    bird_task = TaskConfig(questions=["Which bird?"], answer=["labels.bird", "labels.animal"])
    data = DataConfig(tasks=[TRANSCRIBE, bird_task])
    expected = (
        r"'Which bird\?' has no example: no usable clip has labels.bird or labels.animal, and "
        r"the fields of the clips are labels.note \(8 clips\), text \(4 clips\)"
    )
    with pytest.raises(UserError, match=expected):
        open_examples(tmp_path / "examples", corpus, {}, data)
    table = open_examples(tmp_path / "examples", corpus, {}, data, begun=True)
    assert table.task_counts() == {"What is said?": 4, "Which bird?": 0}


def test_fewer_answers_than_choices_are_reported_as_text(tmp_path: Path, caplog: Any) -> None:
    """The answers of a corpus are values of pyarrow."""
    corpus = build(make_clips(16), tmp_path / "corpus")
    task = TaskConfig(questions=["Which?"], answer=["labels.note"], choices=9)
    open_examples(tmp_path / "examples", corpus, {}, DataConfig(tasks=[task]))
    assert "'Which?' offers 9 choices, but the corpus has only 5 answers (n0, n1," in caplog.text
    single = TaskConfig(questions=["Which?"], answer=["text"], choices=2)
    with pytest.raises(UserError, match="has only one answer, 'words'; remove"):
        open_examples(tmp_path / "other", corpus, {}, DataConfig(tasks=[single]))


@pytest.mark.parametrize(("window_s", "kept"), [(10, 7), (3, 3), (30, 8)])
def test_clips_longer_than_the_window_are_skipped(
    tmp_path: Path, caplog: Any, window_s: int, kept: int
) -> None:
    """Clips of up to 30 s used to be accepted for a window of 10 s: targets covered the whole clip,
    and audio its first 10 s. A run that was started that way keeps its examples."""
    long = Clip(clip_id="long", uri="/x.wav", duration=12.0, text="words")
    corpus = build([*make_transcribed_clips(7), long], tmp_path / "corpus")
    data = DataConfig(tasks=[TRANSCRIBE])
    model = ModelConfig(build="tiny", tiny=TinyConfig(window_s=window_s))
    folder = tmp_path / "examples"
    table = open_examples(folder, corpus, {}, data, window_s=backbone_window(model))
    assert len(table) == len(table.clips) == kept
    expected = f"{8 - kept} of 8 clips are skipped: longer than {window_s} s, the window of the"
    assert (expected in caplog.text) == (kept < 8)
    begun = open_examples(folder, corpus, {}, data, window_s=window_s, begun=True)
    assert len(begun) == kept
    older = tmp_path / "older"
    assert len(open_examples(older, corpus, {}, data, window_s=window_s, begun=True)) == 8


def test_skipped_clips_are_named_with_the_reason(tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "notes.wav").write_text("no audio")
    bad = [
        Clip(clip_id=f"bad-{number}", uri=str(tmp_path / "notes.wav"), text="a")
        for number in range(7)
    ]
    short = Clip(clip_id="tiny", uri="/x.wav", duration=0.005, text="a")
    long = Clip(clip_id="hour", uri="/x.wav", duration=3600.0, text="a")
    corpus = build([*make_transcribed_clips(7), *bad, short, long], tmp_path / "corpus")
    open_examples(tmp_path / "examples", corpus, {}, DataConfig(tasks=[TRANSCRIBE]))
    named = "bad-0, bad-1, bad-2, bad-3, bad-4 and 2 more"
    assert f"7 of 16 clips are skipped: their audio cannot be read: {named}\n" in caplog.text
    assert "1 of 16 clips are skipped: shorter than 0.1 s: tiny\n" in caplog.text
    assert "1 of 16 clips are skipped: longer than 30 s, data.max_duration: hour\n" in caplog.text


def test_clips_that_the_cache_records_as_unreadable_are_skipped(
    toy_data: ToyData, tmp_path: Path, caplog: Any
) -> None:
    """They used to become examples, and training stopped at the eleventh example of one file."""
    corpus = build(toy_data.clips, tmp_path / "toy")
    frames = {spec.name: np.ones((4, spec.dim), np.float32) for spec in STREAMS}
    ids = [clip.clip_id for clip in toy_data.clips]
    write_cache(tmp_path / "first", corpus, dict.fromkeys(ids[3:], frames), stage="decode")
    data = DataConfig(tasks=TASKS)
    first = open_streams([str(tmp_path / "first")], {"toy.bands": StreamConfig()})
    table = open_examples(tmp_path / "examples", corpus, first, data)
    assert set(table.clips) == set(ids[3:])
    assert "3 of 48 clips are skipped: their audio cannot be read" in caplog.text
    assert f": {ids[0]}, {ids[1]}, {ids[2]}\n" in caplog.text
    # The expert failed on the others, not the decoder: their answers are trained on.
    extracted = open_streams([str(toy_data.cache)], {"toy.bands": StreamConfig()})
    assert len(open_examples(tmp_path / "all", corpus, extracted, data).clips) == 48
    # A repaired file was read by another teacher.
    other = dataclasses.replace(SPEC, name="other")
    write_cache(tmp_path / "second", corpus, dict.fromkeys(ids[2:], frames), other, stage="decode")
    names = {"toy.bands": StreamConfig(), "other.bands": StreamConfig()}
    both = open_streams([str(tmp_path / "first"), str(tmp_path / "second")], names)
    assert set(open_examples(tmp_path / "both", corpus, both, data).clips) == set(ids[2:])


def test_clips_of_exactly_one_window_are_used(tmp_path: Path) -> None:
    """Manifests state starts and ends, and some differences are 30.000000000000004 instead of 30;
    these clips used to be skipped."""
    starts = [round(0.37 * number, 2) for number in range(1000)]
    lengths = [start + 30.0 - start for start in starts]
    assert any(length > 30 for length in lengths)
    clips_with_lengths = [
        Clip(clip_id=f"c{number}", uri=f"/{number}.wav", duration=length, text="a")
        for number, length in enumerate([*lengths, 30.01])
    ]
    corpus = build(clips_with_lengths, tmp_path / "corpus")
    table = open_examples(
        tmp_path / "examples", corpus, {}, DataConfig(tasks=[TRANSCRIBE]), window_s=30
    )
    assert len(table) == 1000


def test_backbone_window_is_known_without_loading_a_model(checkpoints: Any) -> None:
    assert backbone_window(ModelConfig(build="tiny")) == 10
    for family, window_s in zip(FAMILIES, (2, 2, 2400, 600, 1200, 2400), strict=True):
        assert backbone_window(ModelConfig(path=checkpoints(family))) == window_s
        tiny = TinyConfig(family=family, window_s=2)
        assert backbone_window(ModelConfig(build="tiny", tiny=tiny)) == window_s


def test_unknown_durations_are_read_from_the_cache_without_its_frames(
    toy_data: ToyData, tmp_path: Path, monkeypatch: Any
) -> None:
    """Reading the frames of a whole stream at every start would be slow.

    The duration of a clip without targets is measured from its audio.
    """
    unmeasured = [
        Clip(clip_id=clip.clip_id, uri=clip.uri, text=clip.text, labels=clip.labels)
        for clip in toy_data.clips
    ]
    lost = Clip(clip_id="gone", uri=str(tmp_path / "gone.wav"), text="gone")
    corpus = build([*unmeasured, lost], tmp_path / "corpus")
    streams = open_streams([str(toy_data.cache)], {"toy.bands": StreamConfig()})
    reader = streams["toy.bands"].reader
    assert reader is not None
    monkeypatch.setattr(reader.teacher, "row", None)
    table = open_examples(tmp_path / "examples", corpus, streams, DataConfig(tasks=TASKS))
    known = {clip.clip_id: clip.duration for clip in toy_data.clips}
    assert set(table.clips) == set(known)  # the missing file is skipped
    by_example = zip(table, table.column("seconds"), strict=True)
    for example, seconds in by_example:
        assert seconds == pytest.approx(known[example.clip_ids[0]], abs=1e-3)
    assert table.summary.covered == {"toy.bands": 46}
    assert table.summary.hours == pytest.approx(
        sum(clip.duration or 0.0 for clip in toy_data.clips) / 3600, rel=1e-3
    )


MEASURE = """
import sys
from pathlib import Path
from manifests.corpus.corpus import Corpus
from student.config import DataConfig, TaskConfig
from student.data.build_table import open_examples
from student.data.example_table import ExampleTable
TASKS = [TaskConfig(questions=["What is said?"], answer=["text"]),
         TaskConfig(questions=["What is heard?"], answer=["labels.note"])]

def private():
    fields = dict(line.split(":") for line in Path("/proc/self/smaps_rollup").read_text()
                  .splitlines()[1:])
    return sum(int(fields[name].split()[0]) for name in ("Private_Dirty", "Private_Clean"))

folder, before = Path(sys.argv[1]), private()
table = open_examples(folder / "examples", Corpus(folder / "corpus"), {}, DataConfig(tasks=TASKS))
learning = table.learning()
for place in range(0, len(learning), 7):
    learning[place]
print(len(table), private() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux")
def test_mapped_table_needs_little_private_memory(tmp_path: Path) -> None:
    """Examples as Python objects took 2.2 kB for each clip, in every worker that had read them."""
    many_clips = [
        Clip(clip_id=f"clip-{n:09d}", uri=f"/data/recordings/{n}.wav", duration=9.0,
             text=f"some words of the clip with the number {n}", labels={"note": f"n{n % 5}"})
        for n in range(20_000)
    ]  # fmt: skip
    build(many_clips, tmp_path / "corpus")
    owned = []
    for _ in range(2):  # the first run builds the table
        ran = subprocess.run(
            [sys.executable, "-c", MEASURE, str(tmp_path)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        count, kilobytes = map(int, ran.stdout.split())
        assert count == 40_000
        owned.append(1024 * kilobytes / 20_000)
    assert owned[1] < 500  # bytes for each clip; most are pyarrow's and do not grow


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (None, "speech"),
        ("", "speech"),
        ([], "speech"),
        ([""], "speech"),
        ([None], "speech"),
        (["a", "b"], "a, b"),
        (0, "0"),
        (False, "False"),
    ],
)
def test_answer_is_the_first_field_that_has_a_value(label: object, expected: str) -> None:
    """Null in a list used to be the answer `None`."""
    task = TaskConfig(questions=["What?"], answer=["labels.event", "text"])
    assert find_answer("speech", {"event": label}, task) == expected
