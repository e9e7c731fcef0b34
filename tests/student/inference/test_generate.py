"""Tests answers: batches, no block tokens, several turns, and the command line."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from manifests.errors import UserError
from student.data.examples import ask
from student.inference.conversations import about, answers, read_conversations, talk
from student.inference.generate import TrainedStudent, reply_ends
from tests.student.conftest import RATE


def waves(world: Any, trained: TrainedStudent, count: int = 3) -> list[np.ndarray]:
    return [trained.load_audio(clip) for clip in world.clips[:count]]


def test_batched_answers_equal_single_ones(world: Any, trained: TrainedStudent) -> None:
    """Prompts of different lengths: the batch is padded on the left."""
    received = waves(world, trained)
    assert len({len(wave) for wave in received}) == 3
    together = trained.answer(received, "What is said?", max_tokens=8)
    alone = [trained.answer([wave], "What is said?", max_tokens=8)[0] for wave in received]
    assert together == alone


def test_answers_depend_on_the_audio(world: Any, trained: TrainedStudent) -> None:
    """Another audio of the same length gives other logits."""
    wave = waves(world, trained, 1)[0]
    logits = []
    for received in (wave, wave[::-1].copy()):
        inputs = trained.inputs([ask("?")], [[received]])
        with torch.no_grad():
            logits.append(trained.student.base(**inputs).logits[:, -1])
    assert not torch.allclose(logits[0], logits[1], atol=1e-4)


def test_an_answer_has_no_block_tokens(world: Any, trained: TrainedStudent) -> None:
    block = trained.student.block
    assert block is not None
    head = trained.student.base.lm_head.weight
    kept = head.detach().clone()
    with torch.no_grad():  # a model that wants nothing but the block
        head[list(block.ids)] = 100 * head[list(block.ids)]
    inputs = trained.inputs([ask("?")], [waves(world, trained, 1)])
    model: Any = trained.student.base
    free = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    free = free[0, inputs["input_ids"].shape[1] :]
    answer = trained.answer(waves(world, trained, 1), "?", max_tokens=6)
    with torch.no_grad():
        head.copy_(kept)
    assert set(free.tolist()) & set(block.ids)
    assert "audio_think" not in answer[0]


def test_several_turns(world: Any, trained: TrainedStudent) -> None:
    first, second = waves(world, trained, 2)
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


def test_no_such_audio(trained: TrainedStudent) -> None:
    with pytest.raises(UserError, match="there is no audio file"):
        trained.answer(["/nowhere.wav"], "What is said?")


def test_a_folder_is_answered_in_batches(world: Any, trained: TrainedStudent) -> None:
    folder = str(Path(world.clips[0].uri).parent)
    asked = about(folder, "What is said?")[:5]
    together = list(answers(trained, asked, batch_size=2, max_tokens=4))
    alone = list(answers(trained, asked, batch_size=1, max_tokens=4))
    assert together == alone
    assert [Path(line["audio"]).suffix for line in together] == [".wav"] * 5


def test_conversations_from_a_file(world: Any, trained: TrainedStudent, tmp_path: Path) -> None:
    audio = {"type": "audio", "audio": world.clips[0].uri}
    first = [{"role": "user", "content": [audio, {"type": "text", "text": "which?"}]}]
    second = [*first, {"role": "assistant", "content": "low"}, {"role": "user", "content": "sure?"}]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": turns}) + "\n" for turns in (first, second)))
    lines = list(answers(trained, read_conversations(str(path)), batch_size=2, max_tokens=3))
    assert [line["messages"] for line in lines] == [first, second]
    path.write_text(json.dumps({"messages": second[:2]}) + "\n")
    with pytest.raises(UserError, match=r"line 1.*the last message must be the user's"):
        read_conversations(str(path))


def test_a_conversation_keeps_its_earlier_turns(
    world: Any, trained: TrainedStudent, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second turn is answered as the same conversation would be at once, and streamed."""
    (asked,) = about(world.clips[0].uri, "which?")
    first, second = talk(trained, asked, io.StringIO("sure?\n\nnever asked\n"), max_tokens=3)
    turns = [
        *ask("which?"),
        {"role": "assistant", "content": [{"type": "text", "text": first}]},
        {"role": "user", "content": [{"type": "text", "text": "sure?"}]},
    ]
    wave = trained.load_audio(world.clips[0])
    assert [second] == trained.reply([turns], [[wave]], max_tokens=3)
    assert first.strip() in capsys.readouterr().out


def test_the_command_prints_only_the_answer(world: Any, runs: Callable[[str], Path]) -> None:
    """No bars, no warnings of libraries: what is on stdout can be piped."""
    done = subprocess.run(
        [sys.executable, "-m", "student.cli", "generate", world.clips[0].uri, "What is said?",
         "--run", str(runs("qwen2_audio")), "--max-tokens", "4"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    expected = TrainedStudent(runs("qwen2_audio")).answer(
        [world.clips[0].uri], "What is said?", max_tokens=4
    )
    assert done.stdout == f"{expected[0]}\n"


def test_a_folder_that_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run"):
        TrainedStudent(tmp_path)


def test_replies_end_where_the_template_ends_a_turn(
    trained: TrainedStudent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint whose generation config names another end went on to the limit of tokens, and so
    did its exports on a server."""
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
