"""Fixtures of the pipeline's tests: a small corpus of real files, and a local Ray cluster."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import ray
import soundfile

from manifests.clips import Clip
from manifests.corpus.corpus import Corpus, build

ROOT = Path(__file__).parents[2]
ENERGY = "tests.pipeline.fakes:Energy"

MakeCorpus = Callable[..., Corpus]


@pytest.fixture(scope="session", autouse=True)
def importable_tests() -> None:
    """Makes the fake teachers importable in Ray's workers."""
    os.environ["PYTHONPATH"] = str(ROOT)


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A local Ray cluster of two cores, shared by the tests that do not damage it."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init("local", num_cpus=2, **quiet)
    yield
    ray.shutdown()


@pytest.fixture
def make_corpus(tmp_path: Path) -> MakeCorpus:
    """Makes corpora with `noise_corpus` in the temporary folder of the test."""
    return functools.partial(noise_corpus, tmp_path)


def noise_corpus(
    folder: Path, count: int, *, loud: Sequence[int] = (), shard: int = 4, seed: int = 0
) -> Corpus:
    """Writes clips of noise (peak below 0.5, one loud clip at each of `loud`) as a corpus."""
    audio = folder / "audio"
    audio.mkdir(exist_ok=True)
    clips = []
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        samples = rng.uniform(-0.4, 0.4, int(16_000 * rng.uniform(0.2, 1.0)))
        path = audio / f"{index:04d}.wav"
        if not path.exists():
            soundfile.write(path, samples * (2.4 if index in loud else 1.0), 16_000)
        duration = len(samples) / 16_000
        clips.append(Clip(clip_id=f"clip{index:04d}", uri=str(path), duration=duration))
    return build(clips, folder / "corpus", clips_per_shard=shard)
