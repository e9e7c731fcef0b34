"""Tests for answers: batches, block tokens, several turns, and the command line."""

from __future__ import annotations

import io
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from transformers import GenerationConfig

from manifests.errors import UserError
from student import cli
from student.data.examples import ask
from student.inference.conversations import about, answers, read_conversations, talk
from student.inference.generate import TrainedStudent, reply_ends
from student.train import train
from tests.student.conftest import RATE


def load_waves(toy_data: Any, trained: TrainedStudent, count: int = 3) -> list[np.ndarray]:
    return [trained.load_audio(clip) for clip in toy_data.clips[:count]]


def test_batched_answers_equal_single_answers(toy_data: Any, trained: TrainedStudent) -> None:
    """The prompts have different lengths, so the batch is padded on the left."""
    audio = load_waves(toy_data, trained)
    assert len({len(wave) for wave in audio}) == 3
    together = trained.answer(audio, "What is said?", max_tokens=8)
    single = [trained.answer([wave], "What is said?", max_tokens=8)[0] for wave in audio]
    assert together == single


def test_answers_depend_on_the_audio(toy_data: Any, trained: TrainedStudent) -> None:
    """Other audio of the same length must give other logits."""
    wave = load_waves(toy_data, trained, 1)[0]
    logits = []
    for audio in (wave, wave[::-1].copy()):
        inputs = trained.inputs([ask("?")], [[audio]])
        with torch.no_grad():
            logits.append(trained.student.base(**inputs).logits[:, -1])
    assert not torch.allclose(logits[0], logits[1], atol=1e-4)


def test_answer_has_no_block_tokens(toy_data: Any, trained: TrainedStudent) -> None:
    block = trained.student.block
    assert block is not None
    head = trained.student.base.lm_head.weight
    kept = head.detach().clone()
    with torch.no_grad():  # the model prefers the tokens of the block
        head[list(block.ids)] = 100 * head[list(block.ids)]
    inputs = trained.inputs([ask("?")], [load_waves(toy_data, trained, 1)])
    model: Any = trained.student.base
    unrestricted = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    unrestricted = unrestricted[0, inputs["input_ids"].shape[1] :]
    answer = trained.answer(load_waves(toy_data, trained, 1), "?", max_tokens=6)
    with torch.no_grad():
        head.copy_(kept)
    assert set(unrestricted.tolist()) & set(block.ids)
    assert "audio_think" not in answer[0]


def test_reply_accepts_several_turns(toy_data: Any, trained: TrainedStudent) -> None:
    first, second = load_waves(toy_data, trained, 2)
    turns = [
        *ask("one?"),
        {"role": "assistant", "content": [{"type": "text", "text": "low"}]},
        {"role": "user", "content": [{"type": "text", "text": "sure?"}]},
    ]
    assert len(trained.reply([turns], [[first]], max_tokens=3)) == 1
    both = [*turns[:2], *ask("and this?")]
    if "flamingo" in str(type(trained.student.backbone)).lower():
        with pytest.raises(UserError, match="one audio per conversation"):
            trained.inputs([both], [[first, second]])
    else:
        assert len(trained.reply([both], [[first, second]], max_tokens=3)) == 1


def test_missing_audio_file_raises_an_error(trained: TrainedStudent) -> None:
    with pytest.raises(UserError, match="there is no audio file"):
        trained.answer(["/nowhere.wav"], "What is said?")


def test_folder_of_audio_is_answered_in_batches(toy_data: Any, trained: TrainedStudent) -> None:
    folder = str(Path(toy_data.clips[0].uri).parent)
    questions = about(folder, "What is said?")[:5]
    together = list(answers(trained, questions, batch_size=2, max_tokens=4))
    single = list(answers(trained, questions, batch_size=1, max_tokens=4))
    assert together == single
    assert [Path(line["audio"]).suffix for line in together] == [".wav"] * 5


def test_unreadable_recordings_of_a_folder_have_an_error_and_the_others_answers(
    toy_data: Any, trained: TrainedStudent, tmp_path: Path
) -> None:
    """One such file ended the command, and the rest of the folder was not answered."""
    for number in range(5):
        shutil.copy(toy_data.clips[number].uri, tmp_path / f"{number}.wav")
    (tmp_path / "1.wav").write_bytes(b"no audio")
    questions = about(str(tmp_path), "What is said?")
    lines = list(answers(trained, questions, batch_size=2, max_tokens=3))
    assert [Path(line["audio"]).name for line in lines] == [f"{n}.wav" for n in range(5)]
    assert [line["answer"] is None for line in lines] == [False, True, False, False, False]
    assert "1.wav cannot be read" in lines[1]["error"]
    with pytest.raises(UserError, match="cannot be read"):
        list(answers(trained, questions[1:2], batch_size=2, max_tokens=3))
    with pytest.raises(UserError, match="--batch-size must be at least 1"):
        list(answers(trained, questions, batch_size=0, max_tokens=3))


@pytest.mark.parametrize(
    ("size", "advice"), [(2, "a batch of 2: lower --batch-size"), (1, "use shorter audio")]
)
def test_lack_of_memory_raises_an_error_with_advice(
    size: int, advice: str, toy_data: Any, trained: TrainedStudent, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(trained.student.base, "generate", fail)
    with pytest.raises(UserError, match=f"out of memory with .*{advice}"):
        trained.answer(load_waves(toy_data, trained, size), "What is said?", max_tokens=3)


def test_chat_about_a_folder_raises_an_error(toy_data: Any) -> None:
    """Only its first recording was answered."""
    folder = str(Path(toy_data.clips[0].uri).parent)
    with pytest.raises(UserError, match=r"--chat is about one recording, and .* is a folder of"):
        cli.generate(folder, "What is said?", chat=True)


def test_conversations_are_read_from_a_file(
    toy_data: Any, trained: TrainedStudent, tmp_path: Path
) -> None:
    audio = {"type": "audio", "audio": toy_data.clips[0].uri}
    first = [{"role": "user", "content": [audio, {"type": "text", "text": "which?"}]}]
    second = [*first, {"role": "assistant", "content": "low"}, {"role": "user", "content": "sure?"}]
    path = tmp_path / "chats.jsonl"
    rows = [{"id": number, "messages": turns} for number, turns in enumerate((first, second))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = list(answers(trained, read_conversations(str(path)), batch_size=2, max_tokens=3))
    assert [
        row | {"answer": line["answer"]} for row, line in zip(rows, lines, strict=True)
    ] == lines
    path.write_text(json.dumps({"messages": second[:2]}) + "\n")
    with pytest.raises(UserError, match=r"line 1: not a conversation: the last message must be"):
        read_conversations(str(path))
    # A missing file costs the answer of its own conversation.
    gone = [{"role": "user", "content": [{"type": "audio", "audio": "gone.wav"}]}]
    path.write_text("".join(json.dumps({"messages": turns}) + "\n" for turns in (gone, first)))
    lines = list(answers(trained, read_conversations(str(path)), batch_size=2, max_tokens=3))
    assert [line["answer"] is None for line in lines] == [True, False]
    assert str(tmp_path / "gone.wav") in lines[0]["error"]
    path.write_text(json.dumps({"turns": first}) + "\n")
    with pytest.raises(UserError, match=r"line 1: not a conversation: it has no 'messages'"):
        read_conversations(str(path))


def test_warning_of_a_long_recording_names_it(
    trained: TrainedStudent, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "long.wav"
    seconds = trained.prompter.window_s + 1
    if seconds > 600:
        return  # Such a recording of Voxtral's takes too long here.
    soundfile.write(path, np.zeros(int(seconds * 16_000)), 16_000)
    for sources in ([str(path)], about(str(path), "?"), about(str(tmp_path), "?")):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            if isinstance(sources[0], str):
                trained.answer([path], "?", max_tokens=1)
            else:
                list(answers(trained, sources, batch_size=1, max_tokens=1))
        assert f"{path} lasts {seconds:.2f} s" in caplog.text


def test_talk_keeps_earlier_turns(
    toy_data: Any, trained: TrainedStudent, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second answer equals the reply to the whole conversation."""
    (questions,) = about(toy_data.clips[0].uri, "which?")
    first, second = talk(trained, questions, io.StringIO("sure?\n\nnever asked\n"), max_tokens=3)
    turns = [
        *ask("which?"),
        {"role": "assistant", "content": [{"type": "text", "text": first}]},
        {"role": "user", "content": [{"type": "text", "text": "sure?"}]},
    ]
    wave = trained.load_audio(toy_data.clips[0])
    assert [second] == trained.reply([turns], [[wave]], max_tokens=3)
    assert first.strip() in capsys.readouterr().out


def test_generate_command_prints_only_the_answer(
    toy_data: Any, runs: Callable[[str], Path]
) -> None:
    """Progress bars and warnings of libraries must not appear."""
    done = subprocess.run(
        [sys.executable, "-m", "student.cli", "generate", toy_data.clips[0].uri, "What is said?",
         "--run", str(runs("qwen2_audio")), "--max-tokens", "4"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    expected = TrainedStudent(runs("qwen2_audio")).answer(
        [toy_data.clips[0].uri], "What is said?", max_tokens=4
    )
    assert done.stdout == f"{expected[0]}\n"


def test_folder_that_is_not_a_run_raises_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run"):
        TrainedStudent(tmp_path)


def test_run_whose_last_stage_is_unfinished_is_reported(
    toy_data: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(toy_data.options(tmp_path / "run"))
    (tmp_path / "run" / "joint" / "student.safetensors").unlink()
    TrainedStudent(tmp_path / "run")
    assert "the stage joint is not finished; these are the weights of align" in caplog.text


def test_replies_end_with_the_end_of_turn_of_the_template(
    trained: TrainedStudent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise, a checkpoint whose generation config names another end token generates up to the
    limit of tokens, also on a server."""
    tokenizer = trained.processor.tokenizer
    end = tokenizer.convert_tokens_to_ids(trained.student.backbone.special_tokens[2])
    other = tokenizer.pad_token_id
    assert trained.prompter.turn_end == end
    model: Any = trained.student.base
    monkeypatch.setattr(model.generation_config, "eos_token_id", other)
    monkeypatch.setattr(
        model, "generate",
        lambda **inputs: torch.cat([inputs["input_ids"], torch.tensor([[5, end]])], 1),
    )  # fmt: skip
    inputs = trained.inputs([ask("?")], [[np.zeros(RATE, np.float32)]])
    (reply,) = trained.generate(inputs, max_tokens=2)
    assert not reply.is_cut
    assert reply_ends(model.generation_config, end) == [other, end]
    assert reply_ends(GenerationConfig(eos_token_id=None), end) == [end]
    assert reply_ends(GenerationConfig(eos_token_id=[end, other]), end) == [end, other]
    assert reply_ends(GenerationConfig(eos_token_id=other), None) == [other]
