"""Fixtures of the student's tests: a corpus of tones and noise with a cache, and trained runs.

The toy teacher computes its targets from the known content of the waveforms, so that a student can
learn them from audio. Corpus and cache are written by the code of this project.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from manifests.cache import shards
from manifests.cache.encoded_frames import encode
from manifests.cache.layout import Layout
from manifests.cache.stream_sums import Sums
from manifests.clips import Clip
from manifests.corpus import corpus as corpora
from manifests.streams.specs import StreamSpec, TeacherSpec
from student.config import (
    BlockConfig,
    DataConfig,
    HeadConfig,
    ModelConfig,
    StageConfig,
    StreamConfig,
    TaskConfig,
    TinyConfig,
)
from student.inference.generate import TrainedStudent
from student.model.tiny import build_tiny
from student.recipe_files import save_recipe
from student.run_options import TrainOptions
from student.train import train

RATE = 16000
NOTES = ("low", "middle", "high", "top")
NOTE_HZ = (220.0, 330.0, 494.0, 740.0)
STREAMS = tuple(
    StreamSpec(name=name, kind=kind, dim=dim, start_s=start_s, hop_s=hop_s, window_s=0.05,
               codec=codec)
    for name, kind, dim, start_s, hop_s, codec in (
        ("bands", "features", 24, 0.02, 0.04, "int8"),
        ("events", "multilabel", 5, 0.05, 0.1, "uint8"),
        ("class", "distribution", 5, 0.25, 0.5, "uint8"),
        ("salience", "pitch", 361, 0.0, 0.01, "pitch"),
        ("f0", "curve", 1, 0.0, 0.01, "fp16"),
    )
)  # fmt: skip
SPEC = TeacherSpec(
    name="toy", family="tests:Toy", revision=1, settings={}, weights={}, sample_rate=RATE,
    streams=STREAMS, license="none",
)  # fmt: skip


torch.set_num_threads(
    1
)  # the matrices are tiny, and results must not depend on the number of cores

NUM_MISSING = 2
"""Number of clips without targets in the cache."""
STREAM_NAMES = ("toy.bands", "toy.events", "toy.class", "toy.salience", "reconstruction")
TASKS = [
    TaskConfig(questions=["What is said?"], answer=["text"]),
    TaskConfig(questions=["Which note?", "Name the note."], answer=["labels.note"]),
]
FAMILIES = (
    "qwen2_audio", "qwen2_5_omni", "qwen3_omni_moe", "audioflamingo3", "musicflamingo", "voxtral",
)  # fmt: skip
PLACEHOLDERS = {
    "qwen2_audio": "<|AUDIO|>", "qwen2_5_omni": "<|AUDIO|>", "audioflamingo3": "<sound>",
    "musicflamingo": "<sound>", "voxtral": "[AUDIO]", "qwen3_omni_moe": "<|audio_pad|>",
}  # fmt: skip
"""Family -> the placeholder for one audio in a rendered prompt."""
TINY = TinyConfig(
    window_s=2, hidden_size=64, layers=3, feed_forward=96, vocabulary=400,
    tower_width=64, tower_layers=2, whisper_weights=False,
)  # fmt: skip


def make_tone(rng: np.random.Generator, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns (wave, note for each 10 ms); one half is a tone, the other is noise with note 4."""
    note = int(rng.integers(4))
    times = np.arange(int(seconds * RATE)) / RATE
    tone = 0.4 * np.sin(2 * np.pi * NOTE_HZ[note] * times)
    first = bool(rng.integers(2))
    is_tone = (times < seconds / 2) == first
    noise = 0.1 * rng.standard_normal(len(times))
    wave = np.where(is_tone, tone, noise).astype(np.float32)
    return wave, np.where(is_tone[:: RATE // 100], note, 4)


def targets(wave: np.ndarray, note_T: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the toy teacher's targets, each stream on its own grid."""
    hop = int(0.04 * RATE)
    windows = wave[: len(wave) // hop * hop].reshape(-1, hop)
    power = np.log(np.abs(np.fft.rfft(windows * np.hanning(hop)))[:, 1:241] ** 2 + 1e-4)
    one_hot = np.eye(5, dtype=np.float32)
    cents = 1200 * np.log2(np.array([*NOTE_HZ, 100.0]) / 32.70)
    peaks = np.exp(-(((np.arange(360) * 20)[None] - cents[note_T, None]) ** 2) / (2 * 25**2))
    voiced = (note_T < 4).astype(np.float32)[:, None]
    return {
        "bands": power.reshape(len(power), 24, 10).mean(2).astype(np.float32),
        "events": one_hot[note_T[::10]],
        "class": one_hot[note_T[::50]],
        "salience": np.concatenate([peaks * voiced, voiced], 1).astype(np.float32),
        "f0": voiced,
    }


def write_cache(
    cache: Path,
    corpus: corpora.Corpus,
    targets_by_clip: dict[str, dict[str, np.ndarray]],
    spec: TeacherSpec = SPEC,
    *,
    stage: str = "extract",
) -> None:
    """Commits targets; clips that are not in `targets_by_clip` are recorded as failures of a
    stage."""
    layout = Layout.create(cache)
    layout.register(corpus)
    layout.add_teacher(spec)
    for number in range(corpus.num_shards):
        clips = corpus.shard(number)
        sums = {stream.name: Sums.zero(stream.dim) for stream in STREAMS}
        rows, failures = [], []
        for clip in clips:
            if clip.clip_id not in targets_by_clip:
                failures.append(
                    shards.Failure(clip_id=clip.clip_id, stage=stage, error="lost", message="")
                )
                continue
            frames = {}
            for stream in STREAMS:
                values = targets_by_clip[clip.clip_id][stream.name]
                frames[stream.name] = encode(values, stream)
                sums[stream.name].add(Sums.from_frames(values, frames[stream.name]))
            rows.append(
                shards.Row(clip_id=clip.clip_id, duration=clip.duration or 0.0, audio_digest="-",
                           metadata={}, frames=frames)
            )  # fmt: skip
        shards.write(layout.shards(spec, corpus.name), spec, shard=number,
                     clip_ids=[clip.clip_id for clip in clips], rows=rows, failures=failures,
                     sums=sums, extract_seconds=0.0, finished="")  # fmt: skip


def digest(folder: Path) -> str:
    """Returns a digest of every file's name, content and modification time."""
    state = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        state.update(f"{path.relative_to(folder)} {path.stat().st_mtime_ns}".encode())
        state.update(path.read_bytes() if path.is_file() else b"")
    return state.hexdigest()


class ToyData:
    """The folders of the toy corpus and its cache."""

    def __init__(self, root: Path, num_clips: int) -> None:
        rng = np.random.default_rng(0)
        self.corpus, self.cache = root / "toy", root / "cache"
        self.clips: list[Clip] = []
        targets_by_clip = {}
        for number in range(num_clips):
            seconds = 0.6 + 0.1 * (number % 8)
            wave, note_T = make_tone(rng, seconds)
            path = root / f"{number}.wav"
            soundfile.write(path, wave, RATE)
            name = NOTES[note_T[note_T < 4][0]]
            text = f"a {name} tone" if number % 2 else None
            clip = Clip(
                clip_id=f"clip{number}", uri=str(path), duration=seconds, text=text,
                labels={"note": name},
            )  # fmt: skip
            self.clips.append(clip)
            if number >= NUM_MISSING:
                targets_by_clip[clip.clip_id] = targets(wave, note_T)
        write_cache(self.cache, corpora.build(self.clips, self.corpus), targets_by_clip)
        self.cache_digest = digest(self.cache)

    def options(self, out: Path, **changes: Any) -> TrainOptions:
        """Returns the options of a short training: every stream, two steps of each stage."""
        stage = {"batch_size": 4, "max_steps": 2, "save_steps": 1, "log_steps": 1, "warmup": 0.0}
        fields: dict[str, Any] = {
            "model": ModelConfig(build="tiny", tiny=TINY),
            "block": BlockConfig(tokens=4),
            "heads": HeadConfig(frames_per_position=2, width=32, layers=1),
            "streams": {name: StreamConfig() for name in STREAM_NAMES},
            "data": DataConfig(tasks=TASKS, validation=0.25, keep_in_memory=True),
            "align": StageConfig(train="embeddings", **stage),
            "joint": StageConfig(train="lora", **stage),
            "trainer": {"report_to": [], "disable_tqdm": True},
        }
        return TrainOptions(
            corpus=str(self.corpus), cache=str(self.cache), out=str(out), **(fields | changes)
        )


def model_config(checkpoints: Callable[[str], str], family: str) -> ModelConfig:
    """Returns the model options for a family's small checkpoint."""
    return ModelConfig(path=checkpoints(family), dtype="float32")


def states(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Returns stage -> its trained state."""
    return {path.parent.name: load_file(path) for path in run.glob("*/student.safetensors")}


def launch(
    options: TrainOptions,
    module: str = "student.cli",
    *,
    processes: int = 1,
    environment: Mapping[str, str] | None = None,
    killed_at: Path | None = None,
) -> None:
    """Starts one process of `coat-student train` per rank.

    The ranks are started directly and not by torchrun. Its workers have separate sessions, so
    killing its process group would leave them training to the end.

    Args:
        options: Options of the run.
        module: The module that `python -m` runs.
        processes: Number of ranks.
        environment: Variables in addition to those of this process.
        killed_at: A file of a checkpoint. Once it exists, every rank is killed in the middle of
            that checkpoint's stage.
    """
    recipe = Path(f"{options.out}.yaml")
    save_recipe(options.recipe(), recipe)
    common = os.environ | {"OMP_NUM_THREADS": "1"} | dict(environment or {})
    if processes > 1:
        common |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}  # fmt: skip
    ranks: list[subprocess.Popen[bytes]] = []
    logs = [Path(f"{options.out}.{rank}.log") for rank in range(processes)]
    for rank, log in enumerate(logs):
        rank_variables = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
        with log.open("wb") as output:
            ranks.append(
                subprocess.Popen(
                    [sys.executable, "-m", module, "train", "--config", str(recipe), "--corpus",
                     options.corpus, "--cache", options.cache, "--out", options.out],
                    stdout=subprocess.DEVNULL, stderr=output, env=common | rank_variables,
                    start_new_session=True,
                )
            )  # fmt: skip
    try:
        while any(rank.poll() is None for rank in ranks):
            if any(rank.poll() for rank in ranks) or (killed_at and killed_at.is_file()):
                break
            time.sleep(0.01)
    finally:
        for rank in ranks:
            if rank.poll() is None:
                os.killpg(rank.pid, signal.SIGKILL)
    codes = [rank.wait() for rank in ranks]
    expected = -signal.SIGKILL if killed_at else 0
    output = "\n".join(log.read_text()[-3000:] for log in logs)
    assert codes == [expected] * processes, output
    if killed_at:
        assert killed_at.is_file(), output
        assert not (killed_at.parents[1] / "student.safetensors").exists(), (
            "the stage had finished before the kill"
        )


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> ToyData:
    """48 clips of about a second; two of them have no targets in the cache."""
    return ToyData(tmp_path_factory.mktemp("world"), 48)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Returns family -> path of a small checkpoint of the real class with random weights."""

    @functools.cache
    def make(family: str) -> str:
        folder = tmp_path_factory.mktemp(family)
        config = dataclasses.replace(TINY, family=family)
        build_tiny(folder, config, ["What is said? a low middle high top tone"], seed=0)
        return str(folder)

    return make


@pytest.fixture(scope="session")
def runs(
    toy_data: ToyData, checkpoints: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Returns family -> a finished run whose adapters and embedding rows have changed."""

    @functools.cache
    def make(family: str) -> Path:
        out = tmp_path_factory.mktemp("runs") / family
        stage = {"batch_size": 4, "max_steps": 12, "save_steps": 12, "warmup": 0.0}
        train(
            toy_data.options(
                out,
                model=model_config(checkpoints, family),
                align=StageConfig(train="embeddings", embeddings_lr=0.03, **stage),
                joint=StageConfig(train="lora", embeddings_lr=0.03, lr=0.01, **stage),
            )
        )
        return out

    return make


@pytest.fixture(scope="session", params=FAMILIES)
def run(request: Any, runs: Callable[[str], Path]) -> Path:
    """A finished run of each family."""
    return runs(request.param)


@pytest.fixture(scope="session")
def trained(run: Path) -> TrainedStudent:
    """The loaded student of each family's run."""
    return TrainedStudent(run)
