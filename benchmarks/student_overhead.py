"""Measures the cost of the block: training step and memory against sft, prefill and decoding
against base.

    python -m benchmarks.student_overhead

Qwen2-Audio with random weights: on a GPU at its true size; on a CPU at about 1/8 of its width and
1/4 of its depth, where the tower's share of a prefill and the length of the prompt (a clip of 10 s:
250 audio tokens, 35 of text) are those of the 7B model, because the ratios depend on them. Both
sides of a ratio are measured alternately, and the fastest round counts, because other work on the
machine can only slow a round down. Memory on a CPU is what the forward pass saves for the backward
pass; on a GPU, it is the peak.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.hardware import describe
from benchmarks.student_setup import (
    ANSWER,
    POSITIONS,
    QUESTION,
    SECONDS,
    STREAMS,
    SYSTEM,
    build_batch,
    build_streams,
    wave,
)
from student.config import BlockConfig, HeadConfig, ModelConfig, Recipe, TinyConfig
from student.data.dataset import TOKENS_PER_SECOND
from student.data.examples import ask
from student.data.prompts import Prompter
from student.model.backbones.registry import named_backbone
from student.model.student import Student, build_student
from student.model.tiny import train_tokenizer
from student.quiet import quiet_libraries
from student.train import count_targets, step_losses

# Legend: S tokens, N frames (K * R), D columns.

console = Console(highlight=False, width=110)
ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
SIZES = (
    TinyConfig(hidden_size=3584, layers=28, attention_heads=28, feed_forward=18944,
               tower_width=1280, tower_layers=32, window_s=30, whisper_weights=False)
    if ON_GPU
    else TinyConfig(hidden_size=448, layers=7, attention_heads=7, feed_forward=2368,
                    tower_width=192, tower_layers=8, window_s=15, whisper_weights=False)
)  # fmt: skip
ROWS = 152_064 if ON_GPU else 19_008
"""Rows of the embedding table."""
HEADS = HeadConfig() if ON_GPU else HeadConfig(width=32)
ROUNDS = 9 if ON_GPU else 12
"""Number of repetitions on a quiet machine."""
THOUGHTS = (32, 128, 512)
"""Number of tokens of a text chain of thought with which the block is compared."""


def build_recipe(arm: str) -> Recipe:
    """Returns a recipe with K positions and the heads' sizes."""
    return Recipe(model=ModelConfig(build="tiny"), arm=arm, heads=HEADS,
                  block=BlockConfig(tokens=POSITIONS))  # fmt: skip # pyright: ignore[reportArgumentType]


def build_student_for(arm: str | None) -> tuple[Student | Any, Prompter]:
    """Returns an arm's student with random weights, or the bare model if `arm` is None."""
    backbone = named_backbone("qwen2_audio")
    torch.manual_seed(0)
    tokenizer = train_tokenizer([QUESTION, SYSTEM], 900, backbone.special_tokens)
    with torch.device(DEVICE):
        model, processor = backbone.tiny(SIZES, tokenizer)
    model.resize_token_embeddings(ROWS, mean_resizing=False)
    model.to(DEVICE, torch.bfloat16 if ON_GPU else torch.float32).requires_grad_(False).eval()
    if arm is None:
        return model, Prompter(backbone, processor)
    recipe = build_recipe(arm)
    student = build_student(recipe, backbone, model, processor, build_streams(recipe)).to(DEVICE)
    student.train_only("lora")
    return student, Prompter(backbone, processor)


def prompt(prompter: Prompter) -> dict[str, torch.Tensor]:
    """Returns the inputs of one clip and question."""
    inputs = prompter.prompt(ask(QUESTION), [wave()])
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    return {name: value.to(DEVICE) for name, value in inputs.items()}


def make_step(arm: str) -> tuple[Callable[[], float], Callable[[], float]]:
    """Returns functions for the seconds and the bytes of one optimizer step of an arm."""
    student, prompter = build_student_for(arm)
    student.train()
    recipe = build_recipe(arm)
    batch, streams = build_batch(student, prompter, recipe, 2).to(DEVICE), build_streams(recipe)
    counts = count_targets(batch, streams=streams)
    learning = [each for each in student.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-4)

    def loss() -> torch.Tensor:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=ON_GPU):
            return step_losses(student, batch, counts, recipe=recipe, streams=streams,
                               stage="joint")[1]  # fmt: skip

    def seconds() -> float:
        start = read_clock()
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()
        return read_clock() - start

    def memory() -> float:
        if ON_GPU:
            torch.cuda.reset_peak_memory_stats()
            seconds()
            return float(torch.cuda.max_memory_allocated())
        saved_bytes: dict[int, int] = {}
        weights = {each.untyped_storage().data_ptr() for each in student.parameters()}

        def record_storage(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                saved_bytes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(record_storage, lambda tensor: tensor):
            loss()
        return float(sum(saved_bytes.values()))

    return seconds, memory


def make_answer(arm: str | None) -> tuple[Callable[[], tuple[float, float]], int]:
    """Returns a function for (seconds to the first token, seconds of an answer), and a length."""
    student, prompter = build_student_for(arm)
    model = student if arm is None else student.model.merge_and_unload().eval()
    inputs = prompt(prompter)

    @torch.no_grad()
    def seconds() -> tuple[float, float]:
        durations = []
        for tokens in (1, ANSWER):
            start = read_clock()
            model.generate(**inputs, do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens)
            durations.append(read_clock() - start)
        return durations[0], durations[1]

    return seconds, inputs["input_ids"].shape[1]


def read_clock() -> float:
    """Returns wall-clock seconds after synchronising a GPU, or CPU seconds of this thread."""
    if ON_GPU:
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of which the fastest counts")
    rounds = parser.parse_args().rounds
    quiet_libraries()
    torch.set_num_threads(1 if not ON_GPU else torch.get_num_threads())
    console.print(torch.cuda.get_device_name() if ON_GPU else describe())
    table = Table(title=f"{SECONDS} s of audio, K = {POSITIONS}, {len(STREAMS)} streams")
    for heading in ("", "without block", "with block", "ratio", "target"):
        table.add_column(heading, justify="left" if not heading else "right")

    sides = {arm: make_step(arm) for arm in ("sft", "coat")}
    times = defaultdict(list)
    for _ in range(rounds + 1):
        for arm, (seconds, _) in sides.items():
            times[arm].append(seconds())
    sft, coat = (min(times[arm][1:]) for arm in sides)
    row(table, "training step, LoRA (sft)", sft, coat, "s", "1.15")
    sft, coat = (memory() / 1e6 for _, memory in sides.values())
    row(table, "training memory (sft)", sft, coat, "MB", "")
    del sides

    answer_functions = {"base": make_answer(None), "coat": make_answer("coat")}
    first, whole_answer = defaultdict(list), defaultdict(list)
    for _ in range(rounds + 1):
        for side, (seconds, _) in answer_functions.items():
            prefill, answer = seconds()
            first[side].append(prefill)
            whole_answer[side].append(answer)
    ttft = {side: min(first[side][1:]) for side in answer_functions}
    whole = {side: min(whole_answer[side][1:]) for side in answer_functions}
    step = {side: (whole[side] - ttft[side]) / (ANSWER - 1) for side in answer_functions}
    row(table, "time to first token (base)", ttft["base"], ttft["coat"], "s", "1.10")
    row(table, "per further token (base)", step["base"], step["coat"], "s", "1.00")
    row(table, f"answer of {ANSWER} tokens (base)", whole["base"], whole["coat"], "s", "")
    for thoughts in THOUGHTS:
        chain = whole["base"] + thoughts * step["base"]
        row(
            table,
            f"the same after {thoughts} tokens of text thought",
            chain,
            whole["coat"],
            "s",
            "",
        )
    console.print(table)
    lengths = {side: length for side, (_, length) in answer_functions.items()}
    audio_tokens = SECONDS * TOKENS_PER_SECOND
    console.print(
        f"prompt: {lengths['base']} tokens ({audio_tokens} of audio), {lengths['coat']} with the "
        f"block; generated tokens are as many. LLM {SIZES.hidden_size} x {SIZES.layers}, tower "
        f"{SIZES.tower_width} x {SIZES.tower_layers}, window {SIZES.window_s} s"
    )
    for name, window in (("Qwen2-Audio, Audio Flamingo 3 (30 s windows)", 30), ("Omni", SECONDS)):
        prefill, step = operations_ratio(lengths["base"], window)
        console.print(f"at 7B by operations, {name}: prefill {prefill:.3f}, LoRA step {step:.3f}")


def row(table: Table, what: str, without: float, with_block: float, unit: str, target: str) -> None:
    """Adds the row of one ratio."""
    table.add_row(what, f"{without:,.3f} {unit}", f"{with_block:,.3f} {unit}",
                  f"{with_block / without:.3f}", target)  # fmt: skip


def operations_ratio(tokens: int, window_s: float) -> tuple[float, float]:
    """Computes the ratio of multiplications of a 7B model with and without the block.

    The tower (Whisper large-v3's size: 1280 wide, 32 deep) processes the whole window at 50 Hz, and
    has no backward pass; that of a frozen language model costs what its forward pass costs.
    """

    def layers(count: int, width: int, inner: float, length: float) -> float:
        return count * length * (4 * width**2 + inner + 2 * length * width)

    tower = layers(32, 1280, 2 * 1280 * 5120, 50 * window_s)
    without, with_block = (
        layers(28, 3584, 3 * 3584 * 18944, length) for length in (tokens, tokens + POSITIONS + 2)
    )
    prefill = (tower + with_block) / (tower + without)
    return prefill, (tower + 2 * with_block) / (tower + 2 * without)


if __name__ == "__main__":
    main()
