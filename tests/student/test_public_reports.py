"""Tests for faults from public reports on other projects; each test names its report."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from manifests.clips import Clip
from manifests.errors import UserError
from student.batch import IGNORE, Grid, collate
from student.config import StageConfig
from student.data.dataset import ExampleDataset
from student.data.examples import ask, build_examples
from student.data.prompts import Prompter
from student.inference.generate import TrainedStudent
from student.model.student import load_backbone
from student.train import train
from student.training.trainer import StudentTrainer
from tests.student.conftest import TASKS, launch, model_config, states

PLAIN = {"report_to": [], "disable_tqdm": True, "optim": "sgd", "use_cpu": True}
STAGE = {"save_steps": 1, "log_steps": 1, "warmup": 0.0}


def options(toy_data: Any, checkpoints: Any, out: Path, **changes: Any) -> Any:
    """Returns the options of a training without dropout."""
    lora = dataclasses.replace(toy_data.options(out).lora, dropout=0.0)
    fields = {"model": model_config(checkpoints, "qwen2_audio"), "lora": lora, "align": None,
              "trainer": PLAIN}  # fmt: skip
    return toy_data.options(out, **(fields | changes))


def assert_same_weights(first: Path, second: Path) -> None:
    expected, result = (states(path)["joint"] for path in (first, second))
    for name, value in expected.items():
        torch.testing.assert_close(result[name], value, rtol=1e-3, atol=1e-5)


def test_last_accumulation_window_is_normalised_by_its_own_size(
    toy_data: Any, checkpoints: Any, tmp_path: Path
) -> None:
    """modelscope/ms-swift#10084: the last step of an epoch was divided by the full window. With
    steps of 40, 62 examples leave 22: three batches of 8 must give the step of one batch."""
    for name, batch_size, accumulation in (("one", 40, 1), ("window", 8, 5)):
        stage = StageConfig(train="lora", batch_size=batch_size, accumulation=accumulation,
                            max_steps=2, **STAGE)  # fmt: skip
        train(options(toy_data, checkpoints, tmp_path / name, joint=stage))
    assert_same_weights(tmp_path / "one", tmp_path / "window")


class _Stopped(Exception):
    pass


def test_run_resumed_in_a_later_epoch_uses_the_order_of_that_epoch(
    toy_data: Any, checkpoints: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """modelscope/ms-swift#10050, huggingface/accelerate#4071: the first epoch's order was repeated.
    This test uses the block shuffle; other tests resume the other orders."""
    stage = StageConfig(train="lora", batch_size=16, max_steps=7, **STAGE)
    data = dataclasses.replace(toy_data.options(tmp_path).data, shuffle="blocks")
    train(options(toy_data, checkpoints, tmp_path / "whole", joint=stage, data=data))
    step = StudentTrainer.training_step

    def stopped_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 5:
            raise _Stopped
        return step(self, *args, **kwargs)

    broken = options(toy_data, checkpoints, tmp_path / "broken", joint=stage, data=data)
    with monkeypatch.context() as patch:
        patch.setattr(StudentTrainer, "training_step", stopped_step)
        with pytest.raises(_Stopped):
            train(broken)
    train(broken)
    expected, result = (states(tmp_path / name)["joint"] for name in ("whole", "broken"))
    assert all(torch.equal(result[name], value) for name, value in expected.items())


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_run_resumed_with_another_number_of_processes_takes_the_same_steps(
    toy_data: Any, checkpoints: Any, tmp_path: Path, before: int, after: int
) -> None:
    """huggingface/transformers#22580: the epoch was wrong, and examples were seen twice."""
    stage = StageConfig(train="lora", batch_size=8, max_steps=6, **STAGE)
    train(options(toy_data, checkpoints, tmp_path / "whole", joint=stage))
    own = dataclasses.replace(stage, batch_size=8 // before)
    broken = options(toy_data, checkpoints, tmp_path / "broken", joint=own)
    killed_at = tmp_path / "broken" / "joint" / "checkpoint-2" / "files.json"
    launch(broken, processes=before, killed_at=killed_at)
    launch(broken, processes=after)
    assert_same_weights(tmp_path / "whole", tmp_path / "broken")


@pytest.fixture(scope="module")
def prepared(toy_data: Any, checkpoints: Any) -> tuple[Any, Any]:
    """A backbone with its processor, and its Prompter."""
    config = model_config(checkpoints, "qwen2_audio")
    backbone, model, processor = load_backbone(config, config.path or "")
    return (backbone, model, processor), Prompter(backbone, processor)


def make_dataset(prepared: Any, clips: list[Clip]) -> ExampleDataset:
    (backbone, model, _), prompter = prepared
    examples = list(build_examples(clips, TASKS[1:]))
    return ExampleDataset(
        examples, {clip.clip_id: clip for clip in clips}, prompter,
        Grid(streams={}, num_frames=4), audio_token_id=backbone.audio_token_id(model),
    )  # fmt: skip


def test_labels_of_a_batch_are_the_answers_with_any_padding(toy_data: Any, prepared: Any) -> None:
    """QwenLM/Qwen3-ASR#212, teamtee/Qwen2-Audio-finetune#3: the mask of the prompt was shifted by
    the padding, so parts of prompts were trained on."""
    dataset = make_dataset(prepared, toy_data.clips[:6])
    rows = [dataset[number] for number in range(6)]
    assert len({len(row.ids_S) for row in rows}) > 1
    tokenizer: Any = prepared[1].tokenizer
    grid = Grid(streams={}, num_frames=4)
    batch = collate(rows, grid=grid, pad_id=tokenizer.pad_token_id, packed=False)
    for number, example in enumerate(dataset.examples):
        answer_S = batch.labels_BS[number][batch.labels_BS[number] != IGNORE]
        assert tokenizer.decode(answer_S).startswith(example.answer)
        assert len(answer_S) == len(prepared[1].answer(example.answer))


def test_each_recording_is_resampled_from_its_own_rate(prepared: Any, tmp_path: Path) -> None:
    """huggingface/datasets#3662 (the first file's rate was kept), Blaizzy/mlx-vlm#2258 (stereo was
    resampled along its channels): one second must always give 25 audio tokens."""
    clips = []
    for rate, channels in ((48_000, 2), (8_000, 1), (44_100, 2), (16_000, 1)):
        path = tmp_path / f"{rate}.wav"
        soundfile.write(path, np.random.default_rng(0).uniform(-0.1, 0.1, (rate, channels)), rate)
        clips.append(Clip(clip_id=path.stem, uri=str(path), labels={"note": "low"}))
    dataset = make_dataset(prepared, clips)
    (backbone, model, _), _ = prepared
    token = backbone.audio_token_id(model)
    assert [int((dataset[number].ids_S == token).sum()) for number in range(4)] == [25] * 4


def test_prompt_of_training_equals_the_prompt_of_generation(toy_data: Any, runs: Any) -> None:
    """alexkroman/tiny-audio#55: the prompt of inference was not that of training."""
    trained = TrainedStudent(runs("qwen2_audio"))
    model: Any = trained.student.base
    token = trained.student.backbone.audio_token_id(model)
    clip = toy_data.clips[1]
    (example,) = build_examples([clip], [dataclasses.replace(TASKS[1], questions=["Which note?"])])
    prompter = Prompter(trained.student.backbone, trained.processor)
    dataset = ExampleDataset([example], {clip.clip_id: clip}, prompter,
                             Grid(streams={}, num_frames=8), audio_token_id=token)  # fmt: skip
    row = dataset[0]
    prompt_S = row.ids_S[row.labels_S == IGNORE]
    inputs = trained.inputs([ask("Which note?")], [[trained.load_audio(clip)]])
    assert torch.equal(prompt_S, inputs["input_ids"][0])


def test_template_without_audio_raises_an_error(checkpoints: Any) -> None:
    """huggingface/transformers#38640: Qwen2-Audio's template put no placeholder into the prompt, so
    the model answered without any audio."""
    config = model_config(checkpoints, "qwen2_audio")
    backbone, _, processor = load_backbone(config, config.path or "")
    template: Any = processor
    template.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m.content %}"
        "{{ part.text }}{% endfor %}<|im_end|>\n{% endfor %}"
    )
    wave = np.zeros(16_000, np.float32)
    with pytest.raises(UserError, match="the chat template"):
        Prompter(backbone, processor).prompt(ask("What is it?"), [wave])
