"""Tests for resuming runs: same data, one training at a time, damaged checkpoints, and errors."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from manifests.corpus.corpus import Corpus, build
from manifests.errors import StoreError, UserError
from student.config import STAGE_SEEDS, StageConfig, StreamConfig
from student.recipe_files import save_recipe
from student.run_options import ArmsOptions
from student.runs.folder import Run
from student.runs.identity import Identity, fit_stage
from student.train import step_losses, train
from student.training.reading import SkippingDataset
from student.training.trainer import StudentTrainer, training_arguments
from tests.student.conftest import SPEC, digest, model_config, write_cache

STAGE = {"batch_size": 4, "max_steps": 4, "save_steps": 1, "log_steps": 1, "warmup": 0.0}


class _Stopped(Exception):
    pass


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends a training like a kill after a step that was saved."""
    original = StudentTrainer.training_step

    def training_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == step:
            raise _Stopped
        return original(self, *args, **kwargs)

    monkeypatch.setattr(StudentTrainer, "training_step", training_step)


def joint_only(toy_data: Any, out: Path, checkpoints: Any, **changes: Any) -> Any:
    return toy_data.options(
        out,
        model=model_config(checkpoints, "qwen2_audio"),
        align=None,
        joint=StageConfig(train="lora", **STAGE),
        **changes,
    )


def stopped_run(toy_data: Any, out: Path, checkpoints: Any, **changes: Any) -> Any:
    options = dataclasses.replace(joint_only(toy_data, out, checkpoints), **changes)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(2, patch)
        with pytest.raises(_Stopped):
            train(options)
    return options


def test_joint_stage_has_the_same_seed_in_every_arm(
    toy_data: Any, tmp_path: Path, checkpoints: Any
) -> None:
    """This holds although the arm sft has no stage `align`."""
    orders = {}
    for arm in ("sft", "coat"):
        seeds = []
        original = StudentTrainer.__init__

        def record_seeds(
            self: Any, *args: Any, _original: Any = original, _seeds: Any = seeds, **kw: Any
        ) -> None:
            _original(self, *args, **kw)
            _seeds.append((self.args.seed, self.args.data_seed))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(StudentTrainer, "__init__", record_seeds)
            train(
                toy_data.options(
                    tmp_path / arm, arm=arm, model=model_config(checkpoints, "qwen2_audio")
                )
            )
        orders[arm] = seeds
    assert orders["sft"] == orders["coat"][1:] == [(STAGE_SEEDS["joint"],) * 2]


def test_changed_corpus_of_a_run_raises_an_error(
    toy_data: Any, tmp_path: Path, checkpoints: Any
) -> None:
    options = stopped_run(toy_data, tmp_path / "run", checkpoints)
    build(toy_data.clips[:40], tmp_path / "toy")
    other = dataclasses.replace(options, corpus=str(tmp_path / "toy"))
    kept = digest(tmp_path / "run")
    with pytest.raises(UserError, match="started with other data: the corpus has got other clips"):
        train(other)
    assert digest(tmp_path / "run") == kept, "the rejected training changed the run"


@pytest.mark.parametrize("how", ["grown", "corrected", "damaged"])
def test_run_goes_on_after_its_corpus_has_grown_or_was_corrected(
    toy_data: Any, tmp_path: Path, checkpoints: Any, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such runs were refused, and the refusal replaced their examples by those of the new corpus,
    although docs/corpora.md says that a started run keeps its own copy."""
    shutil.copytree(toy_data.corpus, tmp_path / "toy")
    changes = {"corpus": str(tmp_path / "toy")}
    whole = dataclasses.replace(joint_only(toy_data, tmp_path / "whole", checkpoints), **changes)
    train(whole)
    options = stopped_run(toy_data, tmp_path / "run", checkpoints, **changes)
    before = digest(tmp_path / "run" / "examples")
    clips = toy_data.clips
    if how == "corrected":
        clips = [dataclasses.replace(clip, text="a wrong text") for clip in clips]
    else:
        clips = [*clips, *(dataclasses.replace(c, clip_id=f"new-{c.clip_id}") for c in clips)]
    build(clips, tmp_path / "toy", update_labels=True)
    if how == "damaged":
        (tmp_path / "run" / "examples" / "clips.arrow").unlink()
        with pytest.raises(UserError, match="started with other data"):
            train(options)
        return
    train(options)
    printed = capsys.readouterr()
    assert "the run goes on with the examples that it was started with" in " ".join(
        (printed.out + printed.err).split()
    )
    assert digest(tmp_path / "run" / "examples") == before
    assert Run(options.out).report()["joint"] == Run(whole.out).report()["joint"]
    # A run that has trained nothing starts anew with the new clips.
    fresh = dataclasses.replace(joint_only(toy_data, tmp_path / "fresh", checkpoints), **changes)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(0, patch)
        with pytest.raises(_Stopped):
            train(fresh)
    build([*clips, dataclasses.replace(clips[0], clip_id="last")], tmp_path / "toy")
    train(fresh)
    assert Run(fresh.out).identity.corpus == Corpus(tmp_path / "toy").digest


def test_log_has_every_step_of_a_resumed_stage_once(
    toy_data: Any, tmp_path: Path, checkpoints: Any
) -> None:
    options = stopped_run(toy_data, tmp_path / "run", checkpoints)
    run = Run(options.out)
    shutil.rmtree(run.checkpoints("joint")[-1])
    assert [line["step"] for line in run.log()] == [1, 2]
    train(options)
    steps = [line["step"] for line in run.log() if "loss" in line]
    assert steps == [1, 2, 3, 4]


def test_run_keeps_the_teacher_version_that_it_started_with(
    toy_data: Any, tmp_path: Path, checkpoints: Any
) -> None:
    """A newer version in the cache is ignored."""
    import numpy as np

    from tests.student.conftest import make_tone, targets

    rng = np.random.default_rng(0)
    received = {clip.clip_id: targets(*make_tone(rng, clip.duration)) for clip in toy_data.clips}
    cache = tmp_path / "cache"
    corpus = Corpus(str(toy_data.corpus))
    write_cache(cache, corpus, received)
    options = dataclasses.replace(
        joint_only(toy_data, tmp_path / "run", checkpoints), cache=str(cache)
    )
    with pytest.MonkeyPatch.context() as patch:
        stop_at(2, patch)
        with pytest.raises(_Stopped):
            train(options)
    newer = dataclasses.replace(SPEC, revision=2, created="2030-01-01T00:00:00+00:00")
    write_cache(cache, corpus, received, newer)
    train(options)
    assert [teacher.key for teacher in Run(options.out).sources.teachers] == [SPEC.key]


@pytest.mark.parametrize(
    ("processes", "expected"), [(1, (4, 4)), (2, (4, 2)), (8, (2, 1)), (16, (1, 1))]
)
def test_batch_size_is_fitted_to_the_number_of_processes(
    processes: int, expected: tuple[int, int]
) -> None:
    stage = fit_stage("joint", StageConfig(batch_size=4), 16, num_processes=processes)
    assert (stage.batch_size, stage.accumulation) == expected
    assert stage.batch_size * stage.accumulation * processes == 16


def test_indivisible_number_of_processes_raises_an_error() -> None:
    with pytest.raises(UserError, match="16 examples per step, which 3 processes cannot share"):
        fit_stage("joint", StageConfig(batch_size=4), 16, num_processes=3)


def test_fields_missing_in_an_older_run_are_not_compared() -> None:
    Identity(corpus="x", teachers=["a@1"]).check_same(Identity(teachers=["a@1"]))
    with pytest.raises(UserError, match="the teachers were a@1 and are a@2"):
        Identity(corpus="x", teachers=["a@2"]).check_same(Identity(teachers=["a@1"]))


def test_second_training_in_a_folder_raises_an_error(toy_data: Any, tmp_path: Path) -> None:
    with Run(tmp_path / "run").lock(), pytest.raises(UserError, match="another training"):
        train(toy_data.options(tmp_path / "run"))
    assert not (tmp_path / "run").exists(), "the rejected training created the folder"


def test_out_path_that_is_a_file_raises_an_error(toy_data: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match="cannot be used as a folder"):
            train(toy_data.options(out))


FILES = ("student.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth",
         "trainer_state.json", "files.json")  # fmt: skip


def damage(file: Path, how: str) -> None:
    """Damages a file like a full disk, a kill or a power cut."""
    content = file.read_bytes()
    if how == "missing":
        file.unlink()
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "one byte":
        file.write_bytes(content[:1])
    elif how == "half":
        file.write_bytes(content[: len(content) // 2])
    else:
        file.write_bytes(content[:-1])


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("how", ["missing", "empty", "one byte", "half", "all but a byte"])
def test_checkpoint_with_a_damaged_file_is_not_used(
    stopped: Path, tmp_path: Path, how: str, listed: bool
) -> None:
    """Earlier versions wrote no list of a checkpoint's files."""
    for name in FILES:
        run = Run(shutil.copytree(stopped, tmp_path / name))
        first, last = run.checkpoints("joint")
        assert set(FILES) <= {file.name for file in last.iterdir()}
        damage(last / name, how)
        if not listed:
            (last / "files.json").unlink(missing_ok=True)
        # Without a list, only two of the files are known to be required; and the last byte of that
        # JSON file is a newline.
        unknown = not listed and (
            (how == "missing" and name not in FILES[::4])
            or (how == "all but a byte" and name == "trainer_state.json")
        )
        is_list = name == "files.json"
        assert run.checkpoints("joint") == ([first, last] if unknown or is_list else [first]), name
        run.remove_unfinished("joint")
        assert last.exists() == (unknown or is_list)


@pytest.fixture(scope="module")
def stopped(toy_data: Any, checkpoints: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that was stopped after two steps, each with a checkpoint."""
    return Path(stopped_run(toy_data, tmp_path_factory.mktemp("stopped") / "run", checkpoints).out)


def test_incomplete_checkpoint_does_not_block_resuming(
    toy_data: Any, tmp_path: Path, checkpoints: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk leaves one twice; each time, the run resumes from the checkpoint before it."""
    joint = tmp_path / "run" / "joint"
    for _ in range(2):
        options = stopped_run(toy_data, tmp_path / "run", checkpoints)
        partial = joint / "checkpoint-3"
        partial.mkdir()
        (partial / "trainer_state.json").write_text('{"half":')
    (joint / "unfinished-checkpoint-3").mkdir()
    damage(joint / "checkpoint-2" / "optimizer.pt", "half")
    capsys.readouterr()
    train(options)
    output = capsys.readouterr().out
    assert "joint: checkpoint-2 is removed: its optimizer.pt is missing or was not" in output
    assert "resuming from step 1 of 4" in output
    left = {path.name for path in joint.iterdir()}
    assert left == {"checkpoint-3", "checkpoint-4", "student.safetensors"}


def test_stage_killed_while_writing_its_state_is_not_finished(
    toy_data: Any, tmp_path: Path, checkpoints: Any
) -> None:
    """The state of a stage is written to a temporary file first."""
    seen: list[list[str]] = []

    def cut(tensors: Any, path: Path) -> None:
        save_file(tensors, path)
        if path.parent.name == "joint":
            path.write_bytes(path.read_bytes()[:1000])
            seen.append([file.name for file in path.parent.glob("student*")])
            raise _Stopped

    options = joint_only(toy_data, tmp_path / "run", checkpoints)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("student.training.trainer.save_file", cut)
        with pytest.raises(_Stopped):
            train(options)
    assert seen == [["student.safetensors.part"]]
    run = Run(options.out)
    assert run.finished_stages() == []
    assert train(options).keys() == {"before", "joint"}
    assert run.finished_stages() == ["joint"]


def test_truncated_log_line_is_skipped(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.append_log({"step": 1})
    with run.log_file.open("a") as file:
        file.write('{"step": 2, "lo')
    run.append_log({"step": 3})
    assert run.log() == [{"step": 1}, {"step": 3}]


def test_recipe_may_change_until_the_first_checkpoint(
    toy_data: Any, tmp_path: Path, checkpoints: Any
) -> None:
    options = joint_only(toy_data, tmp_path / "run", checkpoints)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(0, patch)
        with pytest.raises(_Stopped):
            train(options)
    changed = dataclasses.replace(options, seed=7)
    stopped_run_options = changed
    with pytest.MonkeyPatch.context() as patch:
        stop_at(2, patch)
        with pytest.raises(_Stopped):
            train(stopped_run_options)
    assert Run(options.out).recipe.seed == 7
    with pytest.raises(UserError, match="seed: 7 in the run, 0 now"):
        train(options)


def test_checkpoint_is_written_in_time_between_those_of_save_steps(
    toy_data: Any, tmp_path: Path, checkpoints: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("student.training.trainer.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    options = toy_data.options(
        tmp_path / "run", model=model_config(checkpoints, "qwen2_audio"), align=None,
        joint=StageConfig(train="lora", **(STAGE | {"save_steps": 9})),
    )  # fmt: skip
    stop_at(2, monkeypatch)
    with pytest.raises(_Stopped):
        train(options)
    assert Run(tmp_path / "run").checkpoints("joint")


def test_divergence_raises_an_error_and_keeps_checkpoints(
    toy_data: Any, tmp_path: Path, checkpoints: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Complete checkpoints are kept, and log lines contain no NaN."""

    def diverging(*args: Any, **options: Any) -> tuple[Any, Tensor]:
        parts, total = step_losses(*args, **options)
        diverging.calls += 1
        return parts, total * (float("nan") if diverging.calls > 2 else 1)

    diverging.calls = 0
    monkeypatch.setattr("student.train.step_losses", diverging)
    with pytest.raises(UserError, match="joint has diverged: the loss is nan at step 3"):
        train(joint_only(toy_data, tmp_path / "run", checkpoints))
    run = Run(tmp_path / "run")
    assert [path.name for path in run.checkpoints("joint")] == ["checkpoint-1", "checkpoint-2"]
    assert "NaN" not in run.log_file.read_text()
    assert not run.state("joint").exists()


def test_undefined_numbers_are_null_in_json(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.append_log({"loss": float("inf"), "step": 1})
    run.write_report({"before": {"a/metric": float("nan"), "answer_loss": 1.0}})
    assert run.log() == [{"loss": None, "step": 1}]
    assert "NaN" not in run.report_file.read_text()
    assert str(run.report()["before"]) == "{'a/metric': nan, 'answer_loss': 1.0}"


def test_full_disk_prints_one_line(
    toy_data: Any, tmp_path: Path, checkpoints: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"the disk of .*run is full; free some space"):
        train(joint_only(toy_data, tmp_path / "run", checkpoints))


class _Examples:
    """A data set in which some examples fail always, and others fail once with a busy store."""

    def __init__(self, bad: set[int], busy: set[int]) -> None:
        self.bad, self.busy = bad, busy

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> Any:
        if index in self.bad:
            raise UserError(f"clip {index} cannot be read")
        if index in self.busy:
            self.busy.remove(index)
            raise StoreError("the store is busy")
        return index


def test_unreadable_clips_are_skipped_up_to_a_limit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("student.training.reading.RETRY_SECONDS", (0.0, 0.0))
    data = SkippingDataset(_Examples({3, 4}, {7}))  # pyright: ignore[reportArgumentType]
    assert [data[index] for index in (2, 3, 7)] == [2, 5, 7]
    assert data.num_skipped == 2
    assert [data[3] for _ in range(20)] == [5] * 20
    assert data.num_skipped == 2, "one example counts once, in whatever epoch it fails"
    assert data[4] == 5
    assert data.num_skipped == 2, "it was replaced on the way from 3"
    warnings = [text for text in caplog.messages if "is skipped" in text]
    assert len(warnings) == 2, "each clip is reported once, not in every epoch"
    data = SkippingDataset(_Examples(set(range(100)), set()))  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="11 examples could not be prepared, more than the 10"):
        data[0]


def test_single_process_uses_one_gpu(
    toy_data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The original trainer would wrap the student in DataParallel."""
    from transformers import TrainingArguments

    recipe = toy_data.options(tmp_path).recipe()
    arguments = training_arguments(recipe, StageConfig(), tmp_path / "joint", seed=0)
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 8))
    assert arguments.n_gpu == 1


def test_wrong_trainer_argument_raises_an_error(toy_data: Any, tmp_path: Path) -> None:
    options = dataclasses.replace(toy_data.options(tmp_path), trainer={"bf61": True})
    with pytest.raises(UserError, match=r"recipe: trainer: .*bf61"):
        training_arguments(options.recipe(), StageConfig(), tmp_path / "joint", seed=0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs: a machine without GPU")
def test_bf16_without_a_gpu_raises_an_error(toy_data: Any, tmp_path: Path) -> None:
    options = dataclasses.replace(toy_data.options(tmp_path / "run"), trainer={"bf16": True})
    with pytest.raises(UserError, match=r"trainer.bf16 needs a GPU"):
        train(options)


def test_broken_recipe_file_prints_one_line(toy_data: Any, tmp_path: Path) -> None:
    """The file RUN/recipe.yaml has a tab."""
    options = toy_data.options(tmp_path / "run")
    save_recipe(options.recipe(), tmp_path / "recipe.yaml")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("model:\n\tbuild: tiny\n")
    done = subprocess.run(
        [sys.executable, "-m", "student.cli", "train", "--config", str(tmp_path / "recipe.yaml"),
         "--corpus", options.corpus, "--cache", options.cache, "--out", options.out],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "recipe.yaml is not YAML" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_resumed_run_prints_its_step(
    toy_data: Any, tmp_path: Path, checkpoints: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    options = stopped_run(toy_data, tmp_path / "run", checkpoints)
    examples = Run(options.out).examples_folder
    before = (examples / "examples.npy").read_bytes()
    shutil.rmtree(examples)  # the examples are rebuilt with the same split
    train(options)
    assert (examples / "examples.npy").read_bytes() == before
    assert "joint: resuming from step 2 of 4" in capsys.readouterr().out
    train(options)
    assert "joint: finished earlier, its weights are loaded" in capsys.readouterr().out
    lines = [json.loads(line) for line in Run(options.out).log_file.read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]


@pytest.mark.parametrize("arm", ["coat", "distill"])
def test_arm_with_heads_and_without_targets_raises_an_error(
    toy_data: Any, tmp_path: Path, arm: str
) -> None:
    """`coat` used to train without any distillation, silently; `distill` ended in a traceback."""
    options = dataclasses.replace(toy_data.options(tmp_path / "run", arm=arm), cache=[])
    for streams, message in (
        (None, f"the arm {arm} learns from the outputs of teachers.*pass --cache"),
        ({"toy.bands": StreamConfig()}, "the targets of 'toy.bands' are in a teacher cache: pass"),
    ):
        with pytest.raises(UserError, match=message):
            train(dataclasses.replace(options, streams=streams))
    fields = {item.name: getattr(options, item.name) for item in dataclasses.fields(options)}
    with pytest.raises(UserError, match=f"arm {arm}: the arm {arm} learns"):
        ArmsOptions(**(fields | {"streams": None}), arms=["sft", arm])  # type: ignore[list-item]
    assert not (tmp_path / "run").exists()
