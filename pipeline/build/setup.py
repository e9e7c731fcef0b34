"""Creates the teachers of a build from its configuration, each with the version that it writes."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from manifests.cache.layout import Layout
from manifests.errors import UserError
from manifests.streams.codecs import CODECS
from manifests.streams.specs import TeacherSpec
from pipeline.build.environment import find_modules
from pipeline.build.libraries import library_versions
from pipeline.config import BuildConfig, Resources, TeacherConfig, listed_names
from teachers import registry
from teachers.protocol import Teacher

log = logging.getLogger(__name__)

STEPS = ("decode", "commit")
"""Steps of a build, which are queued, measured and counted beside the teachers, by name."""


@dataclass(frozen=True, slots=True)
class TeacherSetup:
    """The data with which workers run a teacher and the driver places them."""

    name: str
    family: str
    settings: dict[str, Any]
    spec: TeacherSpec
    resources: Resources
    source: str = ""
    """SHA-256 of the file with the adapter's class on the driver; empty if it is unknown."""

    def make(self) -> Teacher:
        """Creates the teacher without loading it.

        Raises:
            UserError: the adapter's file on this node differs from the driver's, which described
                the version.
        """
        path, digest = registry.source_of(self.family)
        if self.source and digest and digest != self.source:
            raise UserError(
                f"teacher {self.name}: {self.family} is {path} on this node, which differs from "
                "the driver's file of this module; remove the other file, or send the driver's to "
                "the nodes with --py-modules"
            )
        return registry.make(self.name, self.family, self.settings)


def teachers(config: BuildConfig) -> list[TeacherSetup]:
    """The teachers of a build, in the preset's order.

    Raises:
        UserError: an unknown preset, teacher, family, setting, stream or codec, or an additional
            module that is not there.
    """
    find_modules(config.py_modules)
    chosen = _chosen(config)
    names = listed_names(config.teachers) or list(chosen)
    for name in names:
        if name not in chosen:
            raise UserError(
                f"unknown teacher {name!r}; preset {config.preset} and the configuration have "
                f"{', '.join(chosen)}"
            )
        if name in STEPS:
            raise UserError(
                f"a teacher cannot be named {name!r}, because a build has a step of that name; "
                "choose another name"
            )
    for name, teacher in chosen.items():
        _check_family(name, teacher, chosen)  # Also of those that do not run: a misspelt name.
    preset = registry.preset(config.preset)
    if left := [name for name in chosen if name not in names and name not in preset]:
        log.warning("not run, because `teachers` does not name them: %s", ", ".join(left))
    if not names:
        raise UserError(
            "there is no teacher to run: preset none has none, and the configuration names none; "
            "add one as teacher.NAME.family, or choose another preset"
        )
    return [_setup(name, chosen[name], config.weights_dir) for name in names]


def _chosen(config: BuildConfig) -> dict[str, TeacherConfig]:
    """The teachers of the preset and of the configuration."""
    chosen: dict[str, TeacherConfig] = {}
    for name, (family, settings) in registry.preset(config.preset).items():
        chosen[name] = TeacherConfig(family=family, settings=settings)
    for name, changes in config.teacher.items():
        base = chosen.get(name, TeacherConfig())
        chosen[name] = replace(
            changes,
            family=changes.family or base.family,
            settings={**base.settings, **changes.settings},
        )
    if isinstance(config.batch_seconds, float | int) and config.batch_seconds:
        for name, teacher in chosen.items():
            if not teacher.family:
                continue
            if hasattr(registry.settings_class(teacher.family), "batch_seconds"):
                runtime = {"batch_seconds": config.batch_seconds, **teacher.runtime}
                chosen[name] = replace(teacher, runtime=runtime)
    return chosen


def existing_teachers(layout: Layout, config: BuildConfig) -> list[TeacherSetup]:
    """The existing versions in a cache that can be run on this machine.

    For each teacher, this is the version that the options describe, if they describe one, and else
    the version that readers get. Teachers in the configuration have its run-time settings and
    resources; family and settings of the others come from the cache. Code that only the cache
    refers to (another project's adapter or a model's Python files) is not run.

    Raises:
        UserError: a requested teacher is not in the cache, or cannot be run here.
    """
    find_modules(config.py_modules)
    here: dict[str, TeacherSetup] = {}
    chosen = _chosen(config)
    current, versions = layout.current(), layout.teachers()
    for name, teacher in chosen.items():
        if name not in current:
            _check_family(name, teacher, chosen)
    names = listed_names(config.teachers) or list(current)
    for name in names:
        if name not in current:
            raise UserError(
                f"{layout.root.uri} has no teacher {name!r} to retry; it has {', '.join(current)}"
            )
        spec = current[name]
        known = chosen.get(name, TeacherConfig())
        same = None
        is_described = name in config.teacher or config.preset != BuildConfig.preset
        if known.family and is_described:
            try:
                same = _setup(name, known, config.weights_dir)
            except UserError:
                same = None
        if same is not None and same.spec.key in versions:
            here[name] = replace(same, spec=versions[same.spec.key])
            continue
        why = _untrusted_reason(spec, known)
        if why is None:
            codecs = {stream.name: stream.codec for stream in spec.streams}
            try:
                settings = registry.settings_from_spec(spec)
                stored = replace(known, family=spec.family, settings=settings, codecs=codecs)
                remade = _setup(name, stored, config.weights_dir)
            except UserError as error:
                why = str(error)
            else:
                if remade.spec.fingerprint == spec.fingerprint:
                    here[name] = replace(remade, spec=spec)
                    continue
                why = "its code or weights differ from those that created it"
        if config.teachers:
            raise UserError(f"{spec.key} cannot be run here: {why}")
        log.warning("%s is left out: %s", spec.key, why)
    return list(here.values())


def _untrusted_reason(spec: TeacherSpec, known: TeacherConfig) -> str | None:
    """The reason why a version's family and settings cannot be taken from the cache, if any."""
    trusted = known.settings.get("trust_remote_code", False)
    if spec.settings.get("trust_remote_code") and not trusted:
        return "it runs a model's own code; give its configuration (--config) to allow that"
    if not registry.is_own(spec.family) and known.family != spec.family:
        return f"its adapter {spec.family} is not this project's; give its configuration (--config)"
    return None


def _check_family(
    name: str, config: TeacherConfig, known: Mapping[str, TeacherConfig] | None = None
) -> None:
    if config.family:
        registry.check_family(name, config.family)
        return
    others = [other for other, teacher in (known or {}).items() if teacher.family]
    nearest = difflib.get_close_matches(name, others, n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    raise UserError(f"teacher {name} needs a family, e.g. teacher.{name}.family: whisper_ct2{hint}")


def _setup(name: str, config: TeacherConfig, weights_dir: str) -> TeacherSetup:
    _check_family(name, config)
    settings = {**config.settings, **config.runtime}
    if weights_dir and hasattr(registry.settings_class(config.family), "weights_dir"):
        settings.setdefault("weights_dir", weights_dir)
    spec = registry.make(name, config.family, settings).spec()
    spec = replace(
        spec,
        streams=tuple(
            replace(stream, codec=_codec(config, stream.name) or stream.codec)
            for stream in spec.streams
        ),
        versions=library_versions() | spec.versions,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    for stream in config.codecs:
        spec.stream(stream)
    _, source = registry.source_of(config.family)
    return TeacherSetup(name, config.family, settings, spec, config.resources, source)


def _codec(config: TeacherConfig, stream: str) -> str | None:
    name = config.codecs.get(stream)
    if name is None:
        return None
    if name not in CODECS:
        raise UserError(f"unknown codec {name!r}; the codecs are {', '.join(CODECS)}")
    return name
