"""Compares a plain LoRA by transformers and PEFT with the arm `sft` on the same data.

    python -m benchmarks.baseline_lora               # the miniature's quick corpus, a small student

This is what one would do without this project, after transformers' documentation of audio-text
models: the checkpoint's own processor and chat template, a collator that masks the prompt,
`Trainer`, and LoRA by short names of layers (which adapts the audio tower's attention, too). Both
start from the same checkpoint and see the same clips, questions, batch size, rank, rate and number
of steps; both are asked the same questions by `coat-student eval`.

The checkpoint is a small student that is trained in full for a few steps first, on all tasks of the
study, so that there is something to adapt; both sides then go on with the tasks of `TASKS`.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import soundfile
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from rich.console import Console
from transformers import (
    AutoProcessor,
    Qwen2AudioForConditionalGeneration,
    Trainer,
    TrainingArguments,
    set_seed,
)

from benchmarks import hardware
from benchmarks.miniature import corpus, steps
from student.config import LoraSettings, StageConfig, TaskConfig
from student.evaluation.comparison import build_table, compare
from student.evaluation.question_files import read_questions
from student.evaluation.results import read_answers
from student.recipe_files import load_recipe, save_recipe

OUT = Path("build/baseline_lora")
RESULT = Path("benchmarks/results/baseline_lora.txt")
STUDY = "labels"
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RATE = 16000
LABELS_IGNORED = -100
TASKS = ("drum", "instrument", "melody")


def main() -> None:
    """Prepares the data, trains both sides, and writes the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.baseline_lora")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of data and runs")
    parser.add_argument("--base-steps", type=int, default=200)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    options = parser.parse_args()
    out: Path = options.out

    if not (out / "questions" / "sources.jsonl").is_file():
        corpus.make(out, corpus.QUICK, STUDY)
    if not (out / "corpora" / "train").is_dir():
        steps.run("coat-corpus", "build", out / "source/train.jsonl", "--out",
                  out / "corpora/train", "--clips-per-shard", "64")  # fmt: skip
    if not (out / "base").is_dir():
        make_base(out, options.base_steps)
    recipe = load_recipe(steps.HERE / "recipe.yaml")
    stage = StageConfig(train="lora", max_steps=options.steps, batch_size=options.batch_size,
                        lr=options.lr, log_steps=20, save_steps=options.steps)  # fmt: skip
    recipe = replace(
        recipe,
        arm="sft",
        streams={},
        model=replace(recipe.model, build=None, path=str(out / "base"), cache_audio_tower=False),
        data=replace(recipe.data, tasks=task_configs(TASKS)),
        joint=stage,
    )
    save_recipe(recipe, out / "sft.yaml")
    train_recipe(out, "sft")
    if not (out / "plain").is_dir():
        train_plain(out, stage, recipe.lora)

    path = out / "questions" / "new.jsonl"
    asked = read_lines(out / "questions" / "test.jsonl")
    chosen = [row for row in asked if row["task"] in TASKS]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in chosen), encoding="utf-8")
    folders = [out / name for name in ("base", "plain", "sft")]
    waiting = [each for each in folders if not (each / "eval" / "new.json").is_file()]
    if waiting:
        steps.run("coat-student", "eval", *waiting, "--questions", path, "--batch-size", "32")
    write_result(out, stage, path)


def make_base(out: Path, num_steps: int) -> None:
    """Trains a small student in full on all tasks, and exports it."""
    recipe = load_recipe(steps.HERE / "recipe.yaml")
    assert recipe.joint is not None
    recipe = replace(
        recipe,
        arm="sft",
        streams={},
        data=replace(recipe.data, tasks=corpus.task_configs(STUDY)),
        joint=replace(recipe.joint, max_steps=num_steps),
    )
    save_recipe(recipe, out / "first.yaml")
    train_recipe(out, "first")
    steps.run("coat-student", "export", out / "first", out / "base")


def train_recipe(out: Path, name: str) -> None:
    """Runs `coat-student train` on the recipe of that name; a finished run is kept."""
    if not (out / name / "joint" / "student.safetensors").is_file():
        steps.run("coat-student", "train", "--config", out / f"{name}.yaml", "--corpus",
                  out / "corpora/train", "--out", out / name)  # fmt: skip


def task_configs(names: Sequence[str]) -> list[TaskConfig]:
    """Returns the named tasks of the study as a recipe states them."""
    configs = zip(corpus.STUDIES[STUDY], corpus.task_configs(STUDY), strict=True)
    return [config for name, config in configs if name in names]


def examples(out: Path) -> list[dict[str, Any]]:
    """Returns questions about the training clips that `coat-student train` does not hold out."""
    rows = read_lines(out / "source" / "train.jsonl")
    held_out = {row["id"] for row in corpus.validation_rows(rows)}
    asked = corpus.questions([row for row in rows if row["id"] not in held_out], STUDY)
    return [row for row in asked if row["task"] in TASKS]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the objects of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Collator:
    """Conversations as padded inputs, with the answers as labels."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        turns = [
            [
                {"role": "user", "content": [{"type": "audio", "audio_url": row["audio"]},
                                             {"type": "text", "text": row["question"]}]},
                {"role": "assistant", "content": [{"type": "text", "text": row["answer"]}]},
            ]
            for row in rows
        ]  # fmt: skip
        render = self.processor.apply_chat_template
        # The token that ends the turn is the last label; no base has learnt the line end after it.
        whole = [render(each, tokenize=False).rstrip() for each in turns]
        prompts = [render(each[:1], tokenize=False, add_generation_prompt=True) for each in turns]
        waves = [soundfile.read(row["audio"], dtype="float32")[0] for row in rows]
        batch = self.processor(
            text=whole, audio=waves, sampling_rate=RATE, padding=True, return_tensors="pt"
        )
        labels = torch.full_like(batch["input_ids"], LABELS_IGNORED)
        for row, (text, prompt) in enumerate(zip(whole, prompts, strict=True)):
            answer = self.processor.tokenizer(text[len(prompt) :])["input_ids"]
            end = int(batch["attention_mask"][row].nonzero().max()) + 1
            labels[row, end - len(answer) : end] = batch["input_ids"][row, end - len(answer) : end]
        return {**batch, "labels": labels}


def train_plain(out: Path, stage: StageConfig, settings: LoraSettings) -> None:
    """Trains and merges the plain LoRA; writes a checkpoint and the seconds that it took."""
    set_seed(0)
    processor = AutoProcessor.from_pretrained(out / "base")
    processor.tokenizer.padding_side = "right"
    model = Qwen2AudioForConditionalGeneration.from_pretrained(out / "base")
    lora = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout,
                      target_modules=LAYERS)  # fmt: skip
    adapted = get_peft_model(model, lora)
    rows = examples(out)
    random.Random(0).shuffle(rows)
    arguments = TrainingArguments(
        output_dir=str(out / "plain-trainer"),
        max_steps=stage.max_steps,
        per_device_train_batch_size=stage.batch_size,
        learning_rate=stage.lr,
        remove_unused_columns=False,
        logging_steps=stage.log_steps,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=adapted, args=arguments, train_dataset=rows, data_collator=Collator(processor)
    )  # pyright: ignore
    seconds = trainer.train().metrics["train_runtime"]
    assert isinstance(adapted, PeftModel)
    merged: Any = adapted.merge_and_unload()
    merged.save_pretrained(out / "plain")
    processor.save_pretrained(out / "plain")
    (out / "plain" / "seconds.json").write_text(json.dumps(seconds))


def write_result(out: Path, stage: StageConfig, path: Path) -> None:
    """Writes the table of scores, and seconds per step of both."""
    questions = read_questions(path)
    names = {"base": "base", "plain LoRA": "plain", "sft": "sft"}
    answers = {
        label: [read_answers(out / folder, questions, "new")] for label, folder in names.items()
    }
    logs = (out / "sft" / "metrics.jsonl").read_text().splitlines()
    ours = next(log["train_runtime"] for log in map(json.loads, logs) if "train_runtime" in log)
    plain = json.loads((out / "plain" / "seconds.json").read_text())
    steps_taken = stage.max_steps or 1
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    with RESULT.open("w", encoding="utf-8") as file:
        console = Console(width=140, file=file)
        console.print(
            f"python -m benchmarks.baseline_lora; {hardware.describe()}; {stage.max_steps} steps "
            f"of {stage.batch_size}, one seed",
            soft_wrap=True,
        )
        console.print(build_table(compare(answers, against=("plain LoRA",))))
        console.print(
            f"seconds per step, audio loading included: plain LoRA {plain / steps_taken:.2f}, "
            f"sft {ours / steps_taken:.2f}"
        )
    print(RESULT.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
