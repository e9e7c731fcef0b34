"""Measures Whisper with windows other than 30 s: loss of frames and transcripts, and speed.

    python -m benchmarks.whisper_windows

Whisper was trained on windows of 30 s, and a 1 s clip padded to one costs as much as a full one.
Against that default: shorter windows (`window_step_s`), and several clips packed into one window
with silence between them. The same clips, English prompts of 1 to 6 s, for all; cosines are to the
default's frames, each column standardised by its mean and deviation, as in the student's loss.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from pathlib import Path

import jiwer
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.hardware import describe
from examples.demo.corpus import speech
from manifests import audio
from manifests.clips import Clip
from teachers import registry
from teachers.protocol import Teacher

# Legend: T frames, D encoder width.

RATE = 16_000
FRAME = 320
GAP_S = 3


def words(text: str) -> str:
    """Returns a text in lower case without punctuation."""
    return " ".join(re.sub(r"[^a-z0-9' ]", " ", text.lower()).split())


def load_whisper(**settings: int | bool) -> Teacher:
    """Loads the packaged Whisper with one thread."""
    teacher = registry.make("asr", "whisper_ct2", settings)
    teacher.load(device="cpu", num_threads=1)
    return teacher


def extract_packed(teacher: Teacher, waves: list[np.ndarray]) -> list[np.ndarray]:
    """Returns the frames of clips that are packed into windows of 30 s."""
    groups: list[list[int]] = [[]]
    filled = 0
    for place, wave in enumerate(waves):
        room = -(-len(wave) // FRAME) + GAP_S * RATE // FRAME
        if filled + room > 1500:
            groups.append([])
            filled = 0
        groups[-1].append(place)
        filled += room
    frames: list[np.ndarray] = []
    for group in groups:
        tape = [
            np.pad(waves[place], (0, -len(waves[place]) % FRAME + GAP_S * RATE)) for place in group
        ]
        starts = np.cumsum([0, *map(len, tape)]) // FRAME
        (results,) = teacher.extract([np.concatenate(tape)])
        for place, start in zip(group, starts, strict=False):
            frames.append(results.frames["encoder"][start:][: -(-len(waves[place]) // FRAME)])
    return frames


def main() -> None:
    """Runs the program."""
    parser = argparse.ArgumentParser(description="Windows of Whisper: fidelity against cost.")
    parser.add_argument("--clips", type=int, default=45, help="prompts, at most 45")
    count = parser.parse_args().clips
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "speech").mkdir()
        rows = list(speech(Path(folder)))[:count]
        clips = [
            Clip(clip_id=row["id"], uri=f"{folder}/{row['audio_filepath']}", text=row["text"])
            for row in rows
        ]
        waves = [audio.load(clip, RATE) for clip in clips]
    references = [words(clip.text or "") for clip in clips]

    table = Table("window", "cosine, mean", "5th percentile", "encoder time", "word error rate")
    mean_D = deviation_D = np.zeros(0)
    reference: list[np.ndarray] = []
    full_s = 0.0
    for step in (30, 15, 10, 0):
        teacher = load_whisper(window_step_s=step or 30, transcribe=False)
        start_s = time.perf_counter()
        if step:
            frames = [results.frames["encoder"] for results in teacher.extract(waves)]
        else:
            frames = extract_packed(teacher, waves)
        taken_s = time.perf_counter() - start_s
        if not reference:
            reference, full_s = frames, taken_s
            stacked_TD = np.concatenate(frames)
            mean_D, deviation_D = stacked_TD.mean(0), stacked_TD.std(0)
        first_TD, second_TD = (
            (np.concatenate(some) - mean_D) / deviation_D for some in (reference, frames)
        )
        norms_T = np.linalg.norm(first_TD, axis=1) * np.linalg.norm(second_TD, axis=1)
        cosine_T = (first_TD * second_TD).sum(1) / norms_T
        error = "-"
        if step:
            results = load_whisper(window_step_s=step).extract(waves)
            transcripts = [words(targets.metadata["text"]) for targets in results]
            error = f"{jiwer.wer(references, transcripts):.1%}"
        table.add_row(
            f"{step} s" if step else f"packed, {GAP_S} s apart",
            f"{cosine_T.mean():.4f}",
            f"{np.percentile(cosine_T, 5):.3f}",
            f"{taken_s / full_s:.0%}",
            error,
        )
    console = Console(highlight=False)
    console.print(table)
    seconds = sum(map(len, waves)) / RATE
    console.print(
        f"{len(waves)} clips, {seconds:.0f} s; 30 s windows: {full_s:.1f} s, one thread; "
        + describe()
    )


if __name__ == "__main__":
    main()
