"""From a build's configuration to the teachers it runs, each with the version it will write."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from manifests.errors import UserError
from manifests.streams.codecs import CODECS
from manifests.streams.specs import TeacherSpec
from pipeline.build.libraries import library_versions
from pipeline.config import BuildConfig, Resources, TeacherConfig
from teachers import registry
from teachers.protocol import Teacher


@dataclass(frozen=True, slots=True)
class TeacherSetup:
    """All that a worker needs to run one teacher, and all that the driver needs to place it."""

    name: str
    family: str
    settings: dict[str, Any]
    spec: TeacherSpec
    resources: Resources

    def make(self) -> Teacher:
        """The teacher, not yet loaded."""
        return registry.make(self.name, self.family, self.settings)


def teachers(config: BuildConfig) -> list[TeacherSetup]:
    """The teachers of a build, in the preset's order.

    Raises:
        UserError: an unknown preset, teacher, family, setting, stream or codec.
    """
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
    wanted = [name.strip() for name in config.teachers.split(",") if name.strip()] or list(chosen)
    for name in wanted:
        if name not in chosen:
            raise UserError(
                f"unknown teacher {name!r}; preset {config.preset} and the configuration have "
                f"{', '.join(chosen)}"
            )
    return [_setup(name, chosen[name], config.weights_dir) for name in wanted]


def _setup(name: str, config: TeacherConfig, weights_dir: str) -> TeacherSetup:
    if not config.family:
        raise UserError(f"teacher {name} needs a family, e.g. teacher.{name}.family: whisper_ct2")
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
    return TeacherSetup(name, config.family, settings, spec, config.resources)


def _codec(config: TeacherConfig, stream: str) -> str | None:
    name = config.codecs.get(stream)
    if name is None:
        return None
    if name not in CODECS:
        raise UserError(f"unknown codec {name!r}; the codecs are {', '.join(CODECS)}")
    return name
