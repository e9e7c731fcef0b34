"""Tests the plug-in for lmms-eval, with the harness or a substitute for its interface."""

from __future__ import annotations

import sys
import tomllib
import types
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from student.inference.generate import TrainedStudent
from student.train import train

ROOT = Path(__file__).parents[3]


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> None:
    """Substitutes the parts of lmms-eval 0.7 that the plug-in uses, if it is not installed."""
    if find_spec("lmms_eval"):
        return

    class Base:
        def __init__(self) -> None:
            self.task_dict: dict = {}

    @dataclass(frozen=True)
    class Manifest:
        model_id: str
        simple_class_path: str
        aliases: tuple[str, ...]

    for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.models"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    for name, key, value in (
        ("lmms_eval.api.model", "lmms", Base),
        ("lmms_eval.models.registry_v2", "ModelManifest", Manifest),
    ):
        module = types.ModuleType(name)
        setattr(module, key, value)
        monkeypatch.setitem(sys.modules, name, module)


@dataclass
class Request:
    """A request with the fields of the harness."""

    args: tuple


@pytest.mark.usefixtures("harness")
def test_plug_in_gives_the_students_replies(toy_data: Any, tmp_path: Path) -> None:
    train(toy_data.options(tmp_path / "run"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, factory = project["entry-points"]["lmms_eval.models"]["coat_distill"].partition(":")
    manifest = getattr(import_module(module), factory)()
    assert manifest.model_id == "coat_distill"
    path, _, name = manifest.simple_class_path.rpartition(".")
    model = getattr(import_module(path), name)(
        run=str(tmp_path / "run"), batch_size=2, max_batch_size=None, device="cuda"
    )

    clips = toy_data.clips[2:5]
    docs = []
    for clip in clips:
        samples, rate = soundfile.read(clip.uri, dtype="float32")
        stereo = np.stack([samples, samples])
        docs.append({"audio": {"array": stereo, "sampling_rate": rate}})
    model.task_dict = {"toy": {"test": docs}}
    lengths = (6, 2, 6)
    requests = [
        Request(("Which note?", {"max_new_tokens": length, "until": ["\x00"]},
                 lambda doc: [doc["audio"]], index, "toy", "test"))
        for index, length in enumerate(lengths)
    ]  # fmt: skip
    replies = model.generate_until(requests)
    student = TrainedStudent(tmp_path / "run")
    for clip, length, text in zip(clips, lengths, replies, strict=True):
        (single,) = student.answer([clip.uri], "Which note?", max_tokens=length)
        assert text == single.partition("\x00")[0].strip()
    sys.modules.pop(path, None)


@pytest.mark.usefixtures("harness")
def test_replies_end_at_the_stop_strings_of_the_task() -> None:
    module = import_module("student.evaluation.lmms")
    assert module._cut("B\n\nbecause", ["\n\n", ""]) == "B"
    assert module._settings(Request(("", {"until": "x"}))) == (module.MAX_TOKENS, ("x",))
    sys.modules.pop("student.evaluation.lmms", None)
