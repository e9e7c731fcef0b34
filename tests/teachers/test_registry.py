"""Tests for families, presets and settings, and for errors about unknown ones."""

from __future__ import annotations

import dataclasses
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from manifests.errors import UserError
from teachers import registry
from teachers.catalogue import CATALOGUE

EMBEDDED = registry.preset("embedded")


def fingerprint(name: str, **settings) -> str:
    family, preset = EMBEDDED[name]
    return registry.make(name, family, {**preset, **settings}).spec().fingerprint


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: registry.preset("emmbedded"), "the presets are embedded"),
        (lambda: registry.make("asr", "whisperr", {}), "the families are whisper_ct2"),
        (lambda: registry.make("asr", "whisper_ct2", {"beams": 5}), "it has model, compute_type"),
        (lambda: registry.make("mine", "no_such_module:Mine", {}), "no_such_module"),
        (
            lambda: registry.make("mine", "teachers.adapters.crepe:Mine", {}),
            "teachers.adapters.crepe:Mine",
        ),
        (lambda: registry.make("pitch", "crepe", {"model": "huge"}), "'tiny', 'full'"),
        (lambda: registry.make("asr", "whisper_ct2", {"model": "/nowhere"}), "model.bin"),
        (lambda: registry.make("asr", "whisper_ct2", {"window_step_s": 7}), "10, 15 or 30"),
        (lambda: registry.make("events", "yamnet", {"hop_s": 0.123}), "multiple of 0.01"),
    ],
)
def test_unknown_names_and_invalid_settings_raise_an_error(make, message: str):
    with pytest.raises(UserError, match=message):
        make()


def test_teacher_class_of_another_module_can_be_used():
    teacher = registry.make("mine", "tests.pipeline.fakes:Energy", {"gain": 2.0})
    assert teacher.spec().settings == {"gain": 2.0}


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("asr", {"batch_windows": 3}),
        ("pitch", {"batch_frames": 100}),
        ("music", {"batch_windows": 3}),
    ],
)
def test_runtime_options_do_not_change_the_fingerprint(name: str, option: dict):
    assert fingerprint(name, **option) == fingerprint(name)


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("asr", {"window_step_s": 10}),
        ("asr", {"compute_type": "int8"}),
        ("pitch", {"model": "full"}),
        ("sound_event", {"hop_s": 0.24}),
        ("music", {"onset_threshold": 0.4}),
    ],
)
def test_settings_change_the_fingerprint(name: str, setting: dict):
    assert fingerprint(name, **setting) != fingerprint(name)


def test_spec_is_made_without_loading_a_model():
    code = (
        "import sys; from teachers import registry\n"
        "for name, (family, settings) in registry.preset('embedded').items():\n"
        "    spec = registry.make(name, family, settings).spec()\n"
        "    assert spec.license and spec.streams and spec.name == name\n"
        "print(*{'torch', 'onnxruntime', 'ctranslate2', 'opensmile'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_document_lists_every_family_with_its_licence_and_memory():
    """docs/teachers.md must agree with the table of families."""
    text = (Path(__file__).parents[2] / "docs" / "teachers.md").read_text()
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| `")]
    documented = {row[1].strip().strip("`"): row for row in rows}
    for family in CATALOGUE:
        row = documented["transformers:MODEL_ID" if family.name == "encoder" else family.name]
        licence = family.license.partition(":")[0]
        assert licence in row[4], (family.name, row[4])
        assert (f"{family.memory_gb}" if family.memory_gb else "-") == row[5].strip(), family.name


def test_each_family_of_the_table_has_a_settings_class():
    for family in CATALOGUE:
        if all(importlib.util.find_spec(module) for module in family.needs):
            settings = registry.settings_class(family.name)
            assert dataclasses.is_dataclass(settings), family.name


def test_music_with_the_earlier_onset_threshold_can_be_reproduced():
    """The preset used to have Basic Pitch's threshold, which is still the family's default."""
    before = registry.make("music", "basic_pitch", {}).spec()
    assert fingerprint("music") != before.fingerprint == "a289082294af"
    assert fingerprint("music", onset_threshold=0.5) == before.fingerprint
    again = registry.make("music", before.family, registry.settings_from_spec(before)).spec()
    assert again.fingerprint == before.fingerprint


def test_egemaps_of_revision_1_can_be_reproduced():
    """Caches of revision 1 can be grown, retried and audited."""
    old = registry.make("emotion", "egemaps", {"revision": 1}).spec()
    new = registry.make("emotion", "egemaps", {}).spec()
    assert old.fingerprint == "869abf8001bf" != new.fingerprint
    for version in (old, new):
        settings = registry.settings_from_spec(version)
        assert registry.make("emotion", version.family, settings).spec().key == version.key
