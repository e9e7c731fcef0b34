"""The house rules that no linter sees: one root, no experts in the student, examples that run."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
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


def test_skipped_tests_beyond_the_allowed_number_fail_the_run(tmp_path: Path):
    folder = tmp_path / "tests"
    folder.mkdir()
    (folder / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (folder / "test_it.py").write_text("import pytest\ndef test_it(): pytest.skip('no')\n")
    command = [sys.executable, "-m", "pytest", "-q", "--count-skips", "--rootdir", str(tmp_path)]
    for allowed, code in (("0", 1), ("1", 0)):
        (folder / "allowed_skips.txt").write_text(f"{allowed} tests/test_it.py  no reason\n")
        done = subprocess.run([*command, str(folder)], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == code, done.stdout


def test_no_file_is_longer_than_four_hundred_lines():
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert not {path: n for path in files if (n := len(path.read_text().splitlines())) > 400}


IMPORT_NAMES = {"pyyaml": "yaml", "huggingface-hub": "huggingface_hub", "mir_eval": "mir_eval"}


def imported_by(package: str) -> set[str]:
    """Top-level modules that a package imports at the head of its files."""
    pattern = re.compile(r"^(?:import|from) (\w+)", re.M)
    files = (ROOT / package).rglob("*.py")
    return {name for path in files for name in pattern.findall(path.read_text())}


def declared(requirements: list[str]) -> set[str]:
    """Modules that a list of requirements brings."""
    names = [re.split(r"[\[><=]", requirement)[0] for requirement in requirements]
    return {IMPORT_NAMES.get(name, name) for name in names}


def test_base_dependencies_are_what_the_contract_imports():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = declared(project["dependencies"])
    imported = imported_by("manifests") - set(sys.stdlib_module_names) - set(PACKAGES)
    assert imported <= base, "an import that no base dependency brings"
    everywhere = set().union(*(imported_by(package) for package in PACKAGES))
    lazily = "\n".join(
        path.read_text() for package in PACKAGES for path in (ROOT / package).rglob("*.py")
    )
    by_others = {"shtab"}  # jsonargparse makes shell completion with it
    unused = {name for name in base - everywhere - by_others if f"import {name}" not in lazily}
    assert not unused, "a base dependency that nothing imports"


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
