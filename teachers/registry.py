"""Creates teachers from the families of `teachers.catalogue` or from addresses; defines presets.

A family is one adapter class, named `module:Class` and imported on first use, so that a build
imports only the experts that it runs. Your own teacher needs no entry here: its address,
`my_module:MyTeacher`, is a valid family name.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib
import importlib.util
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from manifests.errors import UserError
from manifests.streams.specs import TeacherSpec
from teachers.catalogue import CATALOGUE, Family
from teachers.protocol import Teacher
from teachers.settings import check_settings

FAMILIES: dict[str, str] = {family.name: family.address for family in CATALOGUE}
"""Family -> `module:Class`."""

MUSIC = [
    "singing", "a choir", "an acoustic guitar", "an electric guitar", "a bass guitar", "a piano",
    "an organ", "a synthesizer", "strings", "a violin", "a cello", "a trumpet", "a saxophone",
    "a flute", "a clarinet", "drums", "hand percussion", "a harp", "an accordion", "no instrument",
]  # fmt: skip
"""Labels of music that the hub preset scores."""

GENERIC = "transformers:"
"""`transformers:MODEL_ID` is the family `encoder` with that model."""

PRESETS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "embedded": {
        "asr": ("whisper_ct2", {}),
        "emotion": ("egemaps", {}),
        "pitch": ("crepe", {}),
        "sound_event": ("yamnet", {}),
        # Its own threshold is 0.5: benchmarks/embedded_choice.py.
        "music": ("basic_pitch", {"onset_threshold": 0.6}),
    },
    "hub": {
        "asr": (
            "whisper",
            {"model": "openai/whisper-large-v3", "dtype": "float16", "frame_rate": 25.0},
        ),
        "emotion": (
            "audio_classifier",
            {"model": "superb/hubert-large-superb-er", "dtype": "float16", "frame_rate": 12.5},
        ),
        "pitch": ("crepe", {"model": "full"}),
        "sound_event": (
            "pe_audio_frame",
            {"model": "facebook/pe-a-frame-large", "dtype": "bfloat16"},
        ),
        "phones": (
            "ctc",
            {
                "model": "facebook/wav2vec2-lv-60-espeak-cv-ft",
                "dtype": "float16",
                "frame_rate": 25.0,
            },
        ),
        "music": (
            "clap",
            {
                "model": "laion/larger_clap_music",
                "dtype": "float16",
                "labels": MUSIC,
                "prompt": "This is music with {}.",
            },
        ),
    },
    "none": {},
}
"""Preset -> teacher's name -> (family, settings)."""


def preset(name: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Returns the teachers of a preset.

    Raises:
        UserError: there is no such preset.
    """
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}; the presets are {', '.join(PRESETS)}")
    return PRESETS[name]


def settings_class(family: str) -> type:
    """Returns the settings dataclass of a family.

    Raises:
        UserError: no such family or class.
    """
    return _class(family).Settings


def is_own(family: str) -> bool:
    """Whether a family is one of this project's adapters, by its name or as `module:Class`."""
    return family.startswith(GENERIC) or family in FAMILIES or family in FAMILIES.values()


def source_of(family: str) -> tuple[str, str]:
    """Returns the path of the file that defines a family's class, and its SHA-256.

    Both are empty if the class has no source file, such as one typed into a session.

    Raises:
        UserError: there is no such family.
    """
    try:
        path = inspect.getsourcefile(_class(family))
        content = Path(path).read_bytes() if path else b""
    except (TypeError, OSError):
        return "", ""
    return (path or "", hashlib.sha256(content).hexdigest()) if content else ("", "")


def check_family(name: str, family: str) -> None:
    """Checks the name of a teacher's family, without importing its adapter.

    Raises:
        UserError: it is neither a known family nor an address.
    """
    if family not in FAMILIES and ":" not in family:
        raise UserError(f"teacher {name}: {_unknown(family)}")


def make(name: str, family: str, settings: Mapping[str, Any]) -> Teacher:
    """Creates a teacher named `name`, without loading it.

    Args:
        name: Its name in the cache.
        family: A registered family, `transformers:MODEL_ID`, or `module:Class`.
        settings: Fields of the family's settings dataclass (its `Settings` attribute).

    Raises:
        UserError: no such family, class or setting, or a value of another type.
    """
    if family.startswith(GENERIC):
        family, settings = "encoder", {"model": family.removeprefix(GENERIC), **settings}
    try:
        cls = _class(family)
    except UserError as error:
        raise UserError(f"teacher {name}: {error}") from None
    known = [field.name for field in dataclasses.fields(cls.Settings)]
    for setting in settings:
        if setting not in known:
            raise UserError(
                f"teacher {name}: {family} has no setting {setting!r}; it has {', '.join(known)}"
            )
    try:
        check_settings(cls.Settings, settings)
    except UserError as error:
        raise UserError(f"teacher {name}: settings.{error}") from None
    # YAML and JSON have lists; settings are hashed and have tuples.
    fields = {
        key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()
    }
    return cls(name, cls.Settings(**fields))


def settings_from_spec(spec: TeacherSpec) -> dict[str, Any]:
    """Settings that reproduce a version, including earlier revisions that its family supports."""
    from_revision = getattr(settings_class(spec.family), "from_revision", None)
    return {**spec.settings, **(from_revision(spec.revision) if from_revision else {})}


def _unknown(family: str) -> str:
    nearest = difflib.get_close_matches(family, FAMILIES, n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    return (
        f"unknown family {family!r}{hint}; the families are {', '.join(FAMILIES)}, "
        f"{GENERIC}MODEL_ID, or one of your own as my_module:MyTeacher"
    )


def _class(family: str) -> Any:
    address = FAMILIES["encoder"] if family.startswith(GENERIC) else FAMILIES.get(family, family)
    module_name, colon, class_name = address.partition(":")
    if not colon:
        raise UserError(_unknown(family))
    try:
        return getattr(importlib.import_module(module_name), class_name)
    except ModuleNotFoundError as error:
        if error.name != module_name.partition(".")[0]:
            raise UserError(f"cannot load {address}: {error}") from None
        raise UserError(
            f"cannot load {address}: there is no module {module_name!r} on Python's path; install "
            "its package, set PYTHONPATH to the folder that contains it, or, on a Ray cluster, "
            f"name it with --py-modules: {_file_of(module_name)}"
        ) from None
    except AttributeError as error:
        raise UserError(f"cannot load {address}: {error}") from None


def _file_of(module: str) -> str:
    """Where a module's code is, as `--py-modules` takes it."""
    package, dot, _ = module.partition(".")
    return f"the folder {package}" if dot else f"the file {package}.py, or the package's folder"


INSTALL = {
    "transformers": "pip install -e '.[hub]'",
    "whisper": "pip install -e '.[openai-whisper]'",
}
"""Module -> command that installs it; all others are part of the pipeline extra."""


def availability(family: Family, weights_dir: str = "") -> tuple[str, TeacherSpec | None]:
    """Describes whether a family can run on this machine, and returns its spec if it can."""
    for module in family.needs:
        if importlib.util.find_spec(module) is None:
            return INSTALL.get(module, "pip install -e '.[pipeline]'"), None
    settings = {"model": family.model} if family.model else {}
    if weights_dir and hasattr(settings_class(family.name), "weights_dir"):
        settings["weights_dir"] = weights_dir
    try:
        return "yes", make(family.name, family.name, settings).spec()
    except UserError as error:
        return str(error).rpartition("run: ")[2], None
