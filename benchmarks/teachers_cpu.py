"""How many times real time each teacher runs on this CPU, and Whisper against a plain loop.

    python -m benchmarks.teachers_cpu --corpus demo/corpus [--whisper FOLDER]

The same clips for all, mixed in kind and length, all cores as threads of one process. Experts whose
weights no package carries run at their true size with random weights: that costs what the real ones
cost, and hears nothing. Whisper (a folder with real weights) runs on the spoken clips, against
transformers' own pipeline, one clip after the other, with word times as ours and without.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import time
from collections.abc import Callable, Sequence
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
from manifests.corpus import Corpus
from teachers import registry

console = Console(highlight=False, width=120)
THREADS = len(os.sched_getaffinity(0))


def tried(name: str, family: str, settings: dict[str, Any], clips: Sequence[Any]) -> list[Any]:
    """Runs a teacher over clips; prints nothing. [x real time, seconds, targets]."""
    teacher = registry.make(name, family, settings)
    teacher.load(device="cpu", num_threads=THREADS)
    rate = teacher.spec().sample_rate
    waves = [audio.load(clip, rate) for clip in clips]
    teacher.extract(waves[:1])
    began = time.perf_counter()
    heard = [
        targets
        for at in range(0, len(waves), 16)
        for targets in teacher.extract(waves[at : at + 16])
    ]
    taken_s = time.perf_counter() - began
    return [sum(map(len, waves)) / rate / taken_s, taken_s, heard]


def true_sizes(folder: Path) -> dict[str, tuple[str, dict[str, Any]]]:
    """Checkpoints of the published sizes with random weights: name -> family, settings."""
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
    found = {}
    for name, (model, extractor, family, settings) in made.items():
        place = folder / name.replace(" ", "")
        model().save_pretrained(place)
        extractor.save_pretrained(place)
        found[name] = (family, {"model": str(place), **settings})
    return found


def words(text: str) -> str:
    """Lower case, without punctuation."""
    return " ".join(re.sub(r"[^a-z0-9' ]", " ", text.lower()).split())


def plain_loop(folder: str, clips: Sequence[Any], **options: Any) -> tuple[float, list[str]]:
    """Seconds and texts of transformers' own pipeline, clip by clip."""
    stock = transformers.pipeline("automatic-speech-recognition", model=folder, **options)
    waves = [audio.load(clip, 16_000) for clip in clips]
    stock(waves[0].copy())
    began = time.perf_counter()
    texts = [stock(wave.copy())["text"] for wave in waves]
    return time.perf_counter() - began, texts


def whisper(folder: str, clips: Sequence[Any]) -> None:
    """Prints Whisper by our family against the plain loop."""
    said = [words(clip.text) for clip in clips]
    seconds = sum(clip.duration for clip in clips)
    loop_s, texts = plain_loop(folder, clips, return_timestamps="word")
    bare_s, bare = plain_loop(folder, clips)
    rows = [("pipeline, clip by clip, word times", loop_s, texts, None),
            ("pipeline, clip by clip, text alone", bare_s, bare, None)]  # fmt: skip
    reference: np.ndarray | None = None
    for step in (1, 2, 4):
        settings = {"model": folder, "silence_step": step, "batch_seconds": 240}
        _, taken_s, heard = tried("asr", "whisper", settings, clips)
        frames_TD = np.concatenate([targets.frames["encoder"] for targets in heard])
        reference = frames_TD if reference is None else reference
        mean_D, deviation_D = reference.mean(0), reference.std(0)
        first, second = (reference - mean_D) / deviation_D, (frames_TD - mean_D) / deviation_D
        norms_T = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        kept = "all silence" if step == 1 else f"every {step}. frame of silence"
        rows.append((f"ours, {kept}: frames and word times", taken_s,
                     [targets.metadata["text"] for targets in heard],
                     (first * second).sum(1) / norms_T))  # fmt: skip
    shown = Table("Whisper", title=f"{len(clips)} spoken clips, {seconds:.0f} s, {folder}")
    for heading in ("s", "x real time", "of the loop", "of text alone", "word errors", "cosine"):
        shown.add_column(heading, justify="right")
    for name, taken_s, texts, cosine_T in rows:
        error = jiwer.wer(said, [words(text) for text in texts])
        cosine = "-" if cosine_T is None else f"{cosine_T.mean():.4f}"
        shown.add_row(
            name, f"{taken_s:.1f}", f"{seconds / taken_s:.1f}", f"{loop_s / taken_s:.2f}",
            f"{bare_s / taken_s:.2f}", f"{error:.1%}", cosine,
        )  # fmt: skip
    console.print(shown)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description="x real time of every teacher on this CPU.")
    parser.add_argument("--corpus", default="demo/corpus", help="folder of a corpus")
    parser.add_argument("--clips", type=int, default=16, help="clips, drawn evenly")
    parser.add_argument("--spoken", type=int, default=32, help="clips with a text, for Whisper")
    parser.add_argument("--whisper", default="", help="folder of a Whisper checkpoint")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(THREADS)
    clips = [clip for clip in Corpus(options.corpus).clips() if clip.duration]
    spoken = [clip for clip in clips if clip.text and len(clip.text.split()) > 2]
    if options.whisper:
        whisper(options.whisper, spoken[:: max(1, len(spoken) // options.spoken)][: options.spoken])
    mixed = clips[:: max(1, len(clips) // options.clips)][: options.clips]
    shown = Table("teacher", title=f"{len(mixed)} mixed clips, {THREADS} threads")
    shown.add_column("x real time", justify="right")
    for name, (family, settings) in registry.preset("embedded").items():
        shown.add_row(f"{family} ({name})", f"{tried(name, family, settings, mixed)[0]:.1f}")
    shown.add_row("swift_f0", f"{tried('pitch', 'swift_f0', {}, mixed)[0]:.1f}")
    shown.add_row("crepe, full", f"{tried('pitch', 'crepe', {'model': 'full'}, mixed[:2])[0]:.2f}")
    with tempfile.TemporaryDirectory() as folder:
        for name, (family, settings) in true_sizes(Path(folder)).items():
            times = tried("t", family, settings, mixed[:6])[0]
            shown.add_row(f"{name}, random weights", f"{times:.1f}")
    console.print(shown)
    console.print(describe())


if __name__ == "__main__":
    main()
