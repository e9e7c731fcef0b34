"""Tests faults from public reports on other projects; each test names its report."""

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
from tests.student.conftest import TASKS, launch, model_of, states

PLAIN = {"report_to": [], "disable_tqdm": True, "optim": "sgd", "use_cpu": True}
STAGE = {"save_steps": 1, "log_steps": 1, "warmup": 0.0}


def options(world: Any, checkpoints: Any, out: Path, **changes: Any) -> Any:
    """A training without chance within its steps."""
    lora = dataclasses.replace(world.options(out).lora, dropout=0.0)
    fields = {"model": model_of(checkpoints, "qwen2_audio"), "lora": lora, "align": None,
              "trainer": PLAIN}  # fmt: skip
    return world.options(out, **(fields | changes))


def assert_same_weights(item: Path, two: Path) -> None:
    expected, result = (states(path)["joint"] for path in (item, two))
    for name, value in expected.items():
        torch.testing.assert_close(result[name], value, rtol=1e-3, atol=1e-5)


def test_a_last_window_of_fewer_batches_counts_as_what_it_is(
    world: Any, checkpoints: Any, tmp_path: Path
) -> None:
    """modelscope/ms-swift#10084: an epoch's rest was divided by the full window. 62 examples in
    steps of 40 leave 22: three batches of 8 in place of five give the step of one batch."""
    for name, batch_size, accumulation in (("one", 40, 1), ("window", 8, 5)):
        stage = StageConfig(train="lora", batch_size=batch_size, accumulation=accumulation,
                            max_steps=2, **STAGE)  # fmt: skip
        train(options(world, checkpoints, tmp_path / name, joint=stage))
    assert_same_weights(tmp_path / "one", tmp_path / "window")


class _Stopped(Exception):
    pass


def test_a_run_resumed_in_a_later_epoch_has_that_epoch_s_order(
    world: Any, checkpoints: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """modelscope/ms-swift#10050, huggingface/accelerate#4071: the first epoch's order came again.
    Here with the order by blocks; the order of examples, and by length, is resumed elsewhere."""
    stage = StageConfig(train="lora", batch_size=16, max_steps=7, **STAGE)
    data = dataclasses.replace(world.options(tmp_path).data, shuffle="blocks")
    train(options(world, checkpoints, tmp_path / "whole", joint=stage, data=data))
    step = StudentTrainer.training_step

    def stopped_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 5:
            raise _Stopped
        return step(self, *args, **kwargs)

    broken = options(world, checkpoints, tmp_path / "broken", joint=stage, data=data)
    with monkeypatch.context() as patch:
        patch.setattr(StudentTrainer, "training_step", stopped_step)
        with pytest.raises(_Stopped):
            train(broken)
    train(broken)
    expected, result = (states(tmp_path / name)["joint"] for name in ("whole", "broken"))
    assert all(torch.equal(result[name], value) for name, value in expected.items())


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_run_resumed_by_other_processes_takes_the_same_steps(
    world: Any, checkpoints: Any, tmp_path: Path, before: int, after: int
) -> None:
    """huggingface/transformers#22580: the epoch jumped, and examples were seen twice."""
    stage = StageConfig(train="lora", batch_size=8, max_steps=6, **STAGE)
    train(options(world, checkpoints, tmp_path / "whole", joint=stage))
    own = dataclasses.replace(stage, batch_size=8 // before)
    broken = options(world, checkpoints, tmp_path / "broken", joint=own)
    killed_at = tmp_path / "broken" / "joint" / "checkpoint-2" / "files.json"
    launch(broken, processes=before, killed_at=killed_at)
    launch(broken, processes=after)
    assert_same_weights(tmp_path / "whole", tmp_path / "broken")


@pytest.fixture(scope="module")
def prepared(world: Any, checkpoints: Any) -> tuple[Any, Any]:
    """A backbone with its processor, and its Prompter."""
    config = model_of(checkpoints, "qwen2_audio")
    backbone, model, processor = load_backbone(config, config.path or "")
    return (backbone, model, processor), Prompter(backbone, processor)


def dataset_of(prepared: Any, clips: list[Clip]) -> ExampleDataset:
    (backbone, model, _), prompter = prepared
    examples = list(build_examples(clips, TASKS[1:]))
    return ExampleDataset(
        examples, {clip.clip_id: clip for clip in clips}, prompter,
        Grid(streams={}, num_frames=4), audio_token_id=backbone.audio_token_id(model),
    )  # fmt: skip


def test_labels_of_a_batch_are_the_answers_whatever_the_padding(world: Any, prepared: Any) -> None:
    """QwenLM/Qwen3-ASR#212, teamtee/Qwen2-Audio-finetune#3: the mask of the prompt was shifted by
    the padding, and parts of prompts were learnt."""
    dataset = dataset_of(prepared, world.clips[:6])
    rows = [dataset[number] for number in range(6)]
    assert len({len(row.ids_S) for row in rows}) > 1
    tokenizer: Any = prepared[1].tokenizer
    grid = Grid(streams={}, num_frames=4)
    batch = collate(rows, grid=grid, pad_id=tokenizer.pad_token_id, packed=False)
    for number, example in enumerate(dataset.examples):
        learnt = batch.labels_BS[number][batch.labels_BS[number] != IGNORE]
        assert tokenizer.decode(learnt).startswith(example.answer)
        assert len(learnt) == len(prepared[1].answer(example.answer))


def test_each_recording_is_resampled_from_its_own_rate(prepared: Any, tmp_path: Path) -> None:
    """huggingface/datasets#3662 (the first file's rate was kept), Blaizzy/mlx-vlm#2258 (stereo was
    resampled along its channels): a second is 25 audio tokens, whatever it is stored as."""
    clips = []
    for rate, channels in ((48_000, 2), (8_000, 1), (44_100, 2), (16_000, 1)):
        path = tmp_path / f"{rate}.wav"
        soundfile.write(path, np.random.default_rng(0).uniform(-0.1, 0.1, (rate, channels)), rate)
        clips.append(Clip(clip_id=path.stem, uri=str(path), labels={"note": "low"}))
    dataset = dataset_of(prepared, clips)
    (backbone, model, _), _ = prepared
    token = backbone.audio_token_id(model)
    assert [int((dataset[number].ids_S == token).sum()) for number in range(4)] == [25] * 4


def test_what_is_trained_is_what_generation_continues(world: Any, runs: Any) -> None:
    """alexkroman/tiny-audio#55: the prompt of inference was not that of training."""
    trained = TrainedStudent(runs("qwen2_audio"))
    model: Any = trained.student.base
    token = trained.student.backbone.audio_token_id(model)
    clip = world.clips[1]
    (example,) = build_examples([clip], [dataclasses.replace(TASKS[1], questions=["Which note?"])])
    prompter = Prompter(trained.student.backbone, trained.processor)
    dataset = ExampleDataset([example], {clip.clip_id: clip}, prompter,
                             Grid(streams={}, num_frames=8), audio_token_id=token)  # fmt: skip
    row = dataset[0]
    prompt_S = row.ids_S[row.labels_S == IGNORE]
    asked = trained.inputs([ask("Which note?")], [[trained.load_audio(clip)]])
    assert torch.equal(prompt_S, asked["input_ids"][0])


def test_a_template_that_leaves_the_audio_out_is_one_line(checkpoints: Any) -> None:
    """huggingface/transformers#38640: Qwen2-Audio's template looked for audio in the wrong place
    and put no placeholder into the prompt, and the model answered without hearing anything."""
    config = model_of(checkpoints, "qwen2_audio")
    backbone, _, processor = load_backbone(config, config.path or "")
    template: Any = processor
    template.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m.content %}"
        "{{ part.text }}{% endfor %}<|im_end|>\n{% endfor %}"
    )
    wave = np.zeros(16_000, np.float32)
    with pytest.raises(UserError, match="the chat template"):
        Prompter(backbone, processor).prompt(ask("What is it?"), [wave])
