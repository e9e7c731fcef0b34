"""Which families of experts there are, and which of them a preset runs.

A family is one adapter class, named `module:Class` and imported when it is used, so that no build
pays for experts that it does not run. A teacher of one's own needs no entry here: its
`my_module:MyTeacher` is a family's name too.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

from manifests.errors import UserError
from teachers.protocol import Teacher

FAMILIES: dict[str, str] = {
    "whisper_ct2": "teachers.whisper_ct2:WhisperCT2",
    "egemaps": "teachers.egemaps:EGeMAPS",
    "crepe": "teachers.crepe:Crepe",
    "yamnet": "teachers.yamnet:YAMNet",
    "basic_pitch": "teachers.basic_pitch:BasicPitch",
    "whisper": "teachers.whisper_hf:Whisper",
    "ctc": "teachers.ctc:CTC",
    "audio_classifier": "teachers.audio_classifier:AudioClassifier",
    "audeering": "teachers.audio_classifier:AudEERING",
    "clap": "teachers.clap:CLAP",
    "mert": "teachers.encoder:MERT",
    "encoder": "teachers.encoder:Encoder",
}

PRESETS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "embedded": {
        "asr": ("whisper_ct2", {}),
        "emotion": ("egemaps", {}),
        "pitch": ("crepe", {}),
        "sound_event": ("yamnet", {}),
        "music": ("basic_pitch", {}),
    },
    "none": {},
}
"""Preset -> teacher's name -> (family, settings)."""


def preset(name: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """The teachers of a preset.

    Raises:
        UserError: there is no such preset.
    """
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}; the presets are {', '.join(PRESETS)}")
    return PRESETS[name]


def make(name: str, family: str, settings: Mapping[str, Any]) -> Teacher:
    """A teacher called `name`, not yet loaded.

    Args:
        name: Its name in the cache.
        family: A registered family, or `module:Class`.
        settings: Fields of the family's settings dataclass (its `Settings` attribute).

    Raises:
        UserError: no such family, class or setting.
    """
    address = FAMILIES.get(family, family)
    module_name, colon, class_name = address.partition(":")
    if not colon:
        raise UserError(
            f"teacher {name}: unknown family {family!r}; the families are "
            f"{', '.join(FAMILIES)}, or give one of your own as my_module:MyTeacher"
        )
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise UserError(f"teacher {name}: cannot load {address}: {error}") from None
    known = [field.name for field in dataclasses.fields(cls.Settings)]
    for setting in settings:
        if setting not in known:
            raise UserError(
                f"teacher {name}: {family} has no setting {setting!r}; it has {', '.join(known)}"
            )
    return cls(name, cls.Settings(**settings))
