"""Tests for examples, conversations, labels and batches."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manifests.clips import Clip
from manifests.corpus.corpus import build
from manifests.errors import UserError
from student.batch import IGNORE, Grid, collate
from student.config import ModelConfig, StreamConfig, TaskConfig
from student.data.dataset import ExampleDataset
from student.data.examples import Example, ask, build_examples, read_chats
from student.data.length_grouping import ByLength
from student.data.prompts import Prompter
from student.distill.streams import RECONSTRUCTION, open_streams
from student.model.student import build_student, load_backbone
from tests.student.conftest import SPEC, targets, write_cache

TASKS = [
    TaskConfig(questions=["What is said?"], answer=["text"]),
    TaskConfig(questions=["A?", "B?", "C?"], answer=["labels.event", "labels.note"]),
]


def make_clips(count: int = 200) -> list[Clip]:
    return [
        Clip(clip_id=f"c{n}", uri="/x.wav", duration=1.0, text="words" if n % 4 == 0 else None,
             labels={"note": ["a", "b"]} if n % 2 else {})
        for n in range(count)
    ]  # fmt: skip


def test_templates_make_examples_only_for_clips_with_the_field() -> None:
    examples = list(build_examples(make_clips(), TASKS))
    transcriptions = [example for example in examples if example.answer == "words"]
    label_questions = [example for example in examples if example.answer == "a, b"]
    assert (len(transcriptions), len(label_questions), len(examples)) == (50, 100, 150)
    wordings = {example.messages[0]["content"][1]["text"] for example in label_questions}
    assert wordings == {"A?", "B?", "C?"}
    assert examples == list(build_examples(make_clips(), TASKS))


def test_task_weight_repeats_or_drops_examples() -> None:
    half = TaskConfig(questions=["?"], answer=["labels.note"], weight=0.5)
    twice = TaskConfig(questions=["?"], answer=["labels.note"], weight=2)
    assert 30 < len(list(build_examples(make_clips(), [half]))) < 70
    assert len(list(build_examples(make_clips(), [twice]))) == 200


def test_multiple_choice_includes_the_correct_answer() -> None:
    task = TaskConfig(questions=["Which?"], answer=["labels.note"], choices=3)
    labelled_clips = [
        Clip(clip_id=f"c{n}", uri="/x.wav", duration=1.0, labels={"note": f"note {n % 7}"})
        for n in range(100)
    ]
    examples = list(build_examples(labelled_clips, [task]))
    assert len(examples) == 100
    for clip, example in zip(labelled_clips, examples, strict=True):
        question, *choices = example.messages[0]["content"][1]["text"].split("\n")
        assert question == "Which?"
        assert [choice[:4] for choice in choices] == ["(A) ", "(B) ", "(C) "]
        assert len({choice[4:] for choice in choices}) == 3
        assert example.answer in choices
        assert example.answer[4:] == clip.labels["note"]
    assert {example.answer[:3] for example in examples} == {"(A)", "(B)", "(C)"}
    assert examples == list(build_examples(labelled_clips, [task]))
    with pytest.raises(UserError, match=r"'Which\?' offers 3 choices.*only one answer, 'note 0'"):
        list(build_examples(labelled_clips[:1], [task]))


def test_task_with_more_choices_than_answers_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    task = TaskConfig(questions=["Which?"], answer=["labels.note"], choices=5)
    labelled_clips = [
        Clip(clip_id=f"c{n}", uri="/x.wav", duration=1.0, labels={"note": f"note {n % 2}"})
        for n in range(4)
    ]
    examples = list(build_examples(labelled_clips, [task]))
    assert {len(example.choices) for example in examples} == {2}
    assert "'Which?' offers 5 choices, but the corpus has only 2 answers" in caplog.text


def test_conversations_are_read_from_json_lines(tmp_path: Path) -> None:
    audio = {"type": "audio", "clip_id": "c1"}
    user = {"role": "user", "content": [audio, {"type": "text", "text": "hm?"}]}
    good = {"messages": [user, {"role": "assistant", "content": "yes"}]}
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps(good) + "\n")
    ((line, example),) = read_chats(path)
    assert (line, example.clip_ids, example.answer) == (1, ("c1",), "yes")
    assert (example.task, example.question) == ("chats", "hm?")
    for wrong, message in (
        ({"messages": [user]}, "the last message must be the assistant's"),
        ({"messages": good["messages"][1:]}, "it contains no audio"),
    ):
        path.write_text(json.dumps(good) + "\n" + json.dumps(wrong) + "\n")
        with pytest.raises(UserError, match=f"line 2.*{message}"):
            list(read_chats(path))
    path.write_text((json.dumps(good) + "\n") * 40)
    assert len(list(read_chats(path, weight=2))) == 80
    chosen = len(list(read_chats(path, weight=0.5)))
    assert 10 < chosen < 30
    moved = path.rename(tmp_path / "moved.jsonl")
    assert len(list(read_chats(moved, weight=0.5))) == chosen


def test_conversations_in_other_encodings_raise_an_error_or_are_read(tmp_path: Path) -> None:
    """A file in Latin-1 used to end in a traceback, and one with a byte order mark was rejected."""
    path = tmp_path / "chats.jsonl"
    audio = {"type": "audio", "clip_id": "c1"}
    turns = [
        {"role": "user", "content": [audio]},
        {"role": "assistant", "content": "s\u00ed\u2028"},
    ]
    line = json.dumps({"messages": turns}, ensure_ascii=False)
    path.write_bytes(f"{line}\r\n\n{line}".encode("utf-8-sig"))
    lines = [(number, example.answer) for number, example in read_chats(path)]
    assert lines == [(1, "s\u00ed\u2028"), (3, "s\u00ed\u2028")]
    path.write_bytes(b"\n" + line.replace("\u2028", "").encode("latin-1"))
    with pytest.raises(UserError, match=r"chats.jsonl is not UTF-8 \(line 2, byte \d+: "):
        list(read_chats(path))


def test_labels_of_a_conversation_are_its_last_turn(toy_data: Any, dataset: Any) -> None:
    data, _, _, tokenizer = dataset
    first, second = ({"type": "audio", "clip_id": f"clip{n}"} for n in (5, 6))
    turns = [
        {"role": "user", "content": [first, {"type": "text", "text": "one?"}]},
        {"role": "assistant", "content": "low"},
        {"role": "user", "content": [second, {"type": "text", "text": "two?"}]},
        {"role": "assistant", "content": "high"},
    ]
    path = toy_data.corpus.parent / "turns.jsonl"
    path.write_text(json.dumps({"messages": turns}))
    ((_, example),) = read_chats(path)
    data.examples = [example]
    row = data[0]
    assert tokenizer.decode(row.labels_S[row.labels_S != IGNORE]) == "high<|im_end|>"
    text = tokenizer.decode(row.ids_S)
    assert text.count("<|audio_think_start|>") == 1
    assert text.index("<|audio_think_start|>") > text.index("two?") > text.index("low<|im_end|>")
    expected = data._grid.streams["toy.events"].frames("clip6", 8)
    assert torch.equal(row.targets["toy.events"], torch.from_numpy(expected))


def test_examples_of_similar_length_are_batched_together() -> None:
    lengths = [10 * (n % 10) + 10 for n in range(200)]
    sampler = ByLength(lengths, 10, seed=3)
    first = list(sampler)
    assert sorted(first) == list(range(200))
    assert first == list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first
    batches = [
        [lengths[position] for position in first[begin : begin + 10]] for begin in range(0, 200, 10)
    ]
    assert np.mean([max(batch) - min(batch) for batch in batches]) < 30


def test_streams_are_opened_from_several_caches(toy_data: Any, tmp_path: Path) -> None:
    """A stream comes from the first cache with its teacher; clips are matched by their ids."""
    renamed = tmp_path / "other"
    spec = dataclasses.replace(SPEC, name="second")
    make_clips = [clip for clip in toy_data.clips if clip.clip_id != "clip7"]
    labelled_clips = {
        clip.clip_id: targets(np.zeros(16_000, np.float32), np.zeros(100, int))
        for clip in make_clips
    }
    write_cache(renamed, build(toy_data.clips, tmp_path / "corpus"), labelled_clips, spec)
    streams = open_streams(
        [str(toy_data.cache), str(renamed)],
        {"toy.events": StreamConfig(), "second.events": StreamConfig()},
    )
    assert streams["toy.events"].covers("clip7")
    assert not streams["second.events"].covers("clip7")
    assert not streams["toy.events"].covers("clip0")
    assert streams["second.events"].covers("clip0")
    assert streams["second.events"].frames("clip8", 4).argmax(1).tolist() == [0] * 4
    assert set(open_streams([str(toy_data.cache), str(renamed)], None)) == {
        f"{teacher}.{name}"
        for teacher in ("toy", "second")
        for name in ("bands", "events", "class", "salience")
    }


@pytest.fixture
def dataset(
    toy_data: Any, checkpoints: Any, tmp_path: Path
) -> tuple[ExampleDataset, Grid, Any, Any]:
    options = toy_data.options(tmp_path / "run")
    path = checkpoints("qwen2_audio")
    backbone, model, processor = load_backbone(ModelConfig(path=path, dtype="float32"), path)
    streams = open_streams([str(toy_data.cache)], options.streams)
    student = build_student(options.recipe(), backbone, model, processor, streams)
    grid = Grid(streams=streams, num_frames=8)
    examples = list(build_examples(toy_data.clips, options.data.tasks))
    by_id = {clip.clip_id: clip for clip in toy_data.clips}
    token = backbone.audio_token_id(model)
    data = ExampleDataset(
        examples, by_id, Prompter(backbone, processor), grid, audio_token_id=token
    )
    return data, grid, student, processor.tokenizer


def test_labels_are_only_the_answer(dataset: Any) -> None:
    data, _, student, tokenizer = dataset
    row = data[0]
    answer = row.labels_S[row.labels_S != IGNORE]
    assert tokenizer.decode(answer) == data.examples[0].answer + "<|im_end|>"
    assert torch.equal(row.ids_S[-len(answer) :], answer)
    in_block = torch.isin(row.ids_S, torch.tensor(student.block.ids))
    assert in_block.sum() == 6
    assert (row.labels_S[in_block] == IGNORE).all()


def test_clip_without_targets_is_masked_in_its_batch(dataset: Any) -> None:
    data, grid, _, _ = dataset
    missing = next(position for position, e in enumerate(data.examples) if e.clip_ids == ("clip1",))
    present = next(position for position, e in enumerate(data.examples) if e.clip_ids == ("clip5",))
    batch = collate([data[missing], data[present]], grid=grid, pad_id=0)
    for name in ("toy.bands", "toy.events", "toy.class", "toy.salience"):
        assert batch.covered[name].all(1).tolist() == [False, True]
        assert batch.covered[name].any(1).tolist() == [False, True]
        assert batch.targets[name].shape[:2] == (2, 8)
    assert RECONSTRUCTION not in batch.targets
    assert batch.audio_weights_BNS.shape[:2] == (2, 8)
    torch.testing.assert_close(batch.audio_weights_BNS.sum(-1), torch.ones(2, 8))


def test_heads_without_a_block_read_averaged_audio_tokens(
    toy_data: Any, checkpoints: Any, tmp_path: Path
) -> None:
    """The inputs are audio tokens at the head layer, averaged over K equal spans."""
    options = toy_data.options(tmp_path / "run", arm="distill")
    path = checkpoints("qwen2_audio")
    backbone, model, processor = load_backbone(ModelConfig(path=path, dtype="float32"), path)
    streams = open_streams([str(toy_data.cache)], options.streams)
    student = build_student(options.recipe(), backbone, model, processor, streams).eval()
    token = backbone.audio_token_id(model)
    grid = Grid.from_recipe(options.recipe(), {})
    data = ExampleDataset(
        [Example(("clip0",), ask(question, "clip0"), "low") for question in ("?", "Or which?")],
        {clip.clip_id: clip for clip in toy_data.clips},
        Prompter(backbone, processor),
        grid,
        audio_token_id=token,
    )
    batch = collate([data[position] for position in range(len(data))], grid=grid, pad_id=0)
    read = []
    head = next(iter(student.heads.values()))
    head.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    with torch.no_grad():
        student(batch.inputs, batch.labels_BS, batch.audio_weights_BNS)
        layer_BSH = student.base.model(**batch.inputs, output_hidden_states=True).hidden_states[
            student.head_layer
        ]
    audio_AH = layer_BSH[0, batch.inputs["input_ids"][0] == token]
    assert len(audio_AH) == 15
    # Each of four spans is 15 / 4 tokens long.
    fine_NH = audio_AH.repeat_interleave(4, dim=0)
    expected_KH = fine_NH.unflatten(0, (4, 15)).mean(1)
    torch.testing.assert_close(read[0][0], expected_KH, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(read[0][1], expected_KH, rtol=1e-4, atol=1e-5)


def test_features_are_standardised_with_the_caches_statistics(toy_data: Any) -> None:
    """Averaging over frames lowers the variance, so it may be below 1."""
    stream = open_streams([str(toy_data.cache)], {"toy.bands": StreamConfig()})["toy.bands"]
    frames = [torch.from_numpy(stream.frames(f"clip{n}", 20)) for n in range(2, 48)]
    all_frames_TD = torch.cat(frames)
    assert all_frames_TD.mean(0).abs().max() < 0.25
    assert 0.5 < all_frames_TD.std(0).mean() < 1.1
