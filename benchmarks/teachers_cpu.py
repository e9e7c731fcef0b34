"""Measures the speed of each teacher on this CPU, and compares Whisper with a plain loop.

    python -m benchmarks.teachers_cpu --corpus demo/corpus [--whisper FOLDER]

The same clips for all, mixed in kind and length, all cores as threads of one process. Wall time
shows the speed, CPU time the cost; on a shared machine, CPU time is more reliable. Experts whose
weights are not in a package run at their true size with random weights, which takes the same time.
Whisper (a folder with real weights) runs on the spoken clips, against transformers' own pipeline,
one clip after the other: with its defaults (the checkpoint's float16, five beams), and with its
best settings for a CPU, float32 and greedy like ours, with and without word times.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import torch
import transformers
from rich.console import Console
from rich.table import Table

from benchmarks.hardware import describe
from manifests import audio
from manifests.corpus.corpus import Corpus
from teachers import registry
from teachers.protocol import Targets

console = Console(highlight=False, width=130)
THREADS = len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class RunTimes:
    """Times of a run in seconds."""

    wall: float
    cpu: float
    audio: float


def measure_run(run: Callable[[], Any], audio_s: float) -> tuple[RunTimes, Any]:
    """Runs a function, and returns its times and its result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return RunTimes(time.perf_counter() - wall, time.process_time() - cpu, audio_s), result


def run_teacher(
    name: str, family: str, settings: dict[str, Any], clips: Sequence[Any]
) -> tuple[RunTimes, list[Targets]]:
    """Runs a teacher over clips, sixteen at a time."""
    teacher = registry.make(name, family, settings)
    teacher.load(device="cpu", num_threads=THREADS)
    rate = teacher.spec().sample_rate
    waves = [audio.load(clip, rate) for clip in clips]
    teacher.extract(waves[:1])
    blocks = [waves[first : first + 16] for first in range(0, len(waves), 16)]
    return measure_run(
        lambda: [targets for block in blocks for targets in teacher.extract(block)],
        sum(map(len, waves)) / rate,
    )


def make_full_size_checkpoints(folder: Path) -> dict[str, tuple[str, dict[str, Any]]]:
    """Saves checkpoints of the published sizes with random weights; name -> (family, settings)."""
    made: dict[str, tuple[Callable[[], Any], Any, str, dict[str, Any]]] = {
        "ctc, wav2vec2-base": (
            lambda: transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config()),
            transformers.Wav2Vec2FeatureExtractor(), "ctc", {},
        ),
        "mert, 95M": (
            lambda: transformers.HubertModel(transformers.HubertConfig()),
            transformers.Wav2Vec2FeatureExtractor(sampling_rate=24_000), "mert", {},
        ),
        "audio_classifier, AST": (
            lambda: transformers.ASTForAudioClassification(transformers.ASTConfig(num_labels=527)),
            transformers.ASTFeatureExtractor(), "audio_classifier", {"scores": "sigmoid"},
        ),
        "clap, HTSAT": (
            lambda: transformers.ClapModel(transformers.ClapConfig()),
            transformers.ClapFeatureExtractor(truncation="rand_trunc"), "clap", {},
        ),
    }  # fmt: skip
    result = {}
    for name, (model, extractor, family, settings) in made.items():
        place = folder / name.replace(" ", "")
        model().save_pretrained(place)
        extractor.save_pretrained(place)
        result[name] = (family, {"model": str(place), **settings})
    return result


def words(text: str) -> str:
    """Returns a text in lower case without punctuation."""
    return " ".join(re.sub(r"[^a-z0-9' ]", " ", text.lower()).split())


def plain_loop(folder: str, clips: Sequence[Any], **options: Any) -> tuple[RunTimes, list[str]]:
    """Runs transformers' own pipeline clip by clip; returns its times and texts."""
    stock = transformers.pipeline("automatic-speech-recognition", model=folder, **options)
    waves = [audio.load(clip, 16_000) for clip in clips]
    stock(waves[0].copy())
    seconds = sum(map(len, waves)) / 16_000
    return measure_run(lambda: [stock(wave.copy())["text"] for wave in waves], seconds)


def whisper(folder: str, clips: Sequence[Any]) -> None:
    """Prints the comparison of our Whisper family with the plain loop."""
    references = [words(clip.text) for clip in clips]
    greedy = {"dtype": torch.float32, "generate_kwargs": {"num_beams": 1}}
    loop, texts = plain_loop(folder, clips, return_timestamps="word", **greedy)
    rows: list[tuple[str, RunTimes, list[str], str]] = [
        ("pipeline, float32, greedy: words with times", loop, texts, "-"),
        ("pipeline, float32, greedy: text only", *plain_loop(folder, clips, **greedy), "-"),
        ("pipeline as it comes: text only", *plain_loop(folder, clips), "-"),
    ]
    reference = np.zeros(0)
    for step in (1, 2, 4):
        settings = {"model": folder, "silence_step": step, "batch_seconds": 240}
        times, results = run_teacher("asr", "whisper", settings, clips)
        frames_TD = np.concatenate([targets.frames["encoder"] for targets in results])
        reference = reference if len(reference) else frames_TD
        name = f"ours, silence_step {step}: frames, words with times"
        texts = [targets.metadata["text"] for targets in results]
        rows.append((name, times, texts, f"{cosine(reference, frames_TD):.4f}"))
    shown = Table("Whisper", title=f"{len(clips)} spoken clips, {loop.audio:.0f} s, {folder}")
    headings = ("wall s", "CPU s", "x real time", "loop: wall", "CPU", "errors", "cosine")
    for heading in headings:
        shown.add_column(heading, justify="right")
    for name, times, texts, similarity in rows:
        error = jiwer.wer(references, [words(text) for text in texts])
        shown.add_row(
            name, f"{times.wall:.1f}", f"{times.cpu:.1f}", f"{times.audio / times.wall:.1f}",
            f"{loop.wall / times.wall:.2f}", f"{loop.cpu / times.cpu:.2f}", f"{error:.1%}",
            similarity,
        )  # fmt: skip
    console.print(shown)


def cosine(first_TD: np.ndarray, second_TD: np.ndarray) -> float:
    """Returns the mean cosine over frames, with columns standardised by the first."""
    mean_D, deviation_D = first_TD.mean(0), first_TD.std(0)
    first_TD, second_TD = (first_TD - mean_D) / deviation_D, (second_TD - mean_D) / deviation_D
    norms_T = np.linalg.norm(first_TD, axis=1) * np.linalg.norm(second_TD, axis=1)
    return float(((first_TD * second_TD).sum(1) / norms_T).mean())


def main() -> None:
    """Runs the program."""
    parser = argparse.ArgumentParser(description="x real time of every teacher on this CPU.")
    parser.add_argument("--corpus", default="demo/corpus", help="folder of a corpus")
    parser.add_argument("--clips", type=int, default=16, help="clips, drawn evenly")
    parser.add_argument("--spoken", type=int, default=24, help="clips with a text, for Whisper")
    parser.add_argument("--whisper", default="", help="folder of a Whisper checkpoint")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(THREADS)
    clips = [clip for clip in Corpus(options.corpus).clips() if clip.likely_duration]
    spoken = [clip for clip in clips if clip.text and len(clip.text.split()) > 2]
    if options.whisper:
        whisper(options.whisper, spoken[:: max(1, len(spoken) // options.spoken)][: options.spoken])
    mixed = clips[:: max(1, len(clips) // options.clips)][: options.clips]
    shown = Table("teacher", title=f"{len(mixed)} mixed clips, {THREADS} threads")
    for heading in ("audio s", "x real time", "CPU s per audio s"):
        shown.add_column(heading, justify="right")

    def add(name: str, family: str, settings: dict[str, Any], results: Sequence[Any]) -> None:
        times, _ = run_teacher("t", family, settings, results)
        shown.add_row(
            name, f"{times.audio:.0f}", f"{times.audio / times.wall:.2f}",
            f"{times.cpu / times.audio:.3f}",
        )  # fmt: skip

    for family, settings in registry.preset("embedded").values():
        add(family, family, settings, mixed)
    add("swift_f0", "swift_f0", {}, mixed)
    add("crepe, full", "crepe", {"model": "full"}, mixed[:1])
    with tempfile.TemporaryDirectory() as folder:
        for name, (family, settings) in make_full_size_checkpoints(Path(folder)).items():
            add(f"{name}, random weights", family, settings, mixed[:6])
    console.print(shown)
    console.print(describe())


if __name__ == "__main__":
    main()
