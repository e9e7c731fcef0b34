"""The house rules that no linter sees: one root, no experts in the student, examples that run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from examples.own_teacher import SAMPLE_RATE, Loudness, LoudnessSettings

ROOT = Path(__file__).parents[1]
PACKAGES = ("manifests", "teachers", "pipeline", "student")


def test_the_four_packages_share_one_root():
    import manifests
    import pipeline
    import student
    import teachers

    roots = {Path(p.__path__[0]).parent for p in (manifests, teachers, pipeline, student)}
    assert roots == {ROOT}


@pytest.mark.parametrize(
    ("module", "strangers"),
    [
        ("student.train", ("ray", "teachers", "pipeline", "faster_whisper", "opensmile")),
        ("manifests.cache.reader", ("torch", "transformers", "ray")),
        ("pipeline.job", ("torch", "transformers", "student")),
    ],
)
def test_importing_one_room_loads_no_other(module: str, strangers: tuple[str, ...]):
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert set(done.stdout.split()).isdisjoint(strangers)


def test_inits_hold_a_docstring_and_nothing_else():
    for package in PACKAGES:
        for path in (ROOT / package).rglob("__init__.py"):
            text = path.read_text().strip()
            assert text.startswith('"""'), path
            assert text.endswith('"""'), path
            assert text.count('"""') == 2, path


def test_nothing_pulls_torchaudio_or_tensorflow():
    from importlib import metadata

    installed = {str(d.metadata["Name"]).lower() for d in metadata.distributions()}
    assert installed.isdisjoint({"torchaudio", "tensorflow"})


def test_the_example_teacher_hears_a_step():
    wave = np.zeros(SAMPLE_RATE, np.float32)
    wave[SAMPLE_RATE // 2 :] = 0.5
    (heard,) = Loudness("loudness", LoudnessSettings()).extract([wave])
    level_T = heard.frames["level"][:, 0]
    assert len(level_T) == 100
    assert np.allclose(level_T[:50], -80)
    assert np.allclose(level_T[50:], 20 * np.log10(0.5), atol=0.01)
