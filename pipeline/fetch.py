"""`coat-cache fetch`: downloads checkpoints of the hub into a folder and pins them.

Clusters often have no internet access, and the hub's `main` changes. Therefore one machine
downloads only the files that the adapters read, at one commit, to `DIR/org/name`, and writes the
commit and the SHA-256 of every file to `DIR/pins.json`. Fetching again repairs changed files and
keeps the pinned commit; `--newest` updates it. Builds then run offline, and reject files that
differ from the pins.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests import hub
from manifests.errors import UserError
from manifests.packaged_weights import sha256
from pipeline.config import FetchConfig, TeacherConfig, listed_names
from teachers import registry
from teachers.toolkit import checkpoints

SMALL = re.compile(r"[^/]*\.(json|txt|model|jinja)|README\.md|LICENSE[^/]*")
"""Configuration, tokenizers, the model card with its licence."""
NOT_WANTED = re.compile(r".*(optimizer|scheduler|trainer_state|training_args|\.index\.json).*")
CODE = re.compile(r"[^/]*\.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubCheckpoint:
    """One checkpoint."""

    model: str
    revision: str
    code: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A downloaded and pinned checkpoint."""

    model: str
    revision: str
    license: str
    files: int
    size: int
    """Bytes."""


def fetch(config: FetchConfig) -> list[Fetched]:
    """Downloads and pins the checkpoints.

    Raises:
        UserError: the hub cannot be reached, or has no such model, revision or weights.
    """
    base = Path(config.weights_dir).expanduser()
    base.mkdir(parents=True, exist_ok=True)
    return [_fetch_one(each, base, newest=config.newest) for each in checkpoints_to_fetch(config)]


def checkpoints_to_fetch(config: FetchConfig) -> list[HubCheckpoint]:
    """The checkpoints that a configuration names, without local folders."""
    if config.model:
        named = [name.partition("@") for name in listed_names(config.model)]
        return [
            HubCheckpoint(model=model, revision=revision, code=config.remote_code)
            for model, _, revision in named
        ]
    chosen = {
        name: TeacherConfig(family=family, settings=settings)
        for name, (family, settings) in registry.preset(config.preset).items()
    }
    for name, changes in config.teacher.items():
        base = chosen.get(name, TeacherConfig())
        chosen[name] = TeacherConfig(
            family=changes.family or base.family,
            settings={**base.settings, **changes.settings},
        )
    names = listed_names(config.teachers) or list(chosen)
    fetched = []
    for name in names:
        if name not in chosen:
            raise UserError(f"unknown teacher {name!r}; there are {', '.join(chosen)}")
        fetched += _checkpoints_of_teacher(chosen[name])
    return list(dict.fromkeys(fetched))


def _checkpoints_of_teacher(config: TeacherConfig) -> list[HubCheckpoint]:
    """The checkpoint of one teacher, if it can be on the hub."""
    settings_class = registry.settings_class(config.family)
    if not hasattr(settings_class, "weights_dir"):
        return []
    given = dict(config.settings)
    if config.family.startswith(registry.GENERIC):
        given.setdefault("model", config.family.removeprefix(registry.GENERIC))
    defaults = settings_class()
    model = given.get("model", getattr(defaults, "model", ""))
    if not model or Path(model).expanduser().exists():
        return []
    code = bool(given.get("trust_remote_code", False))
    return [HubCheckpoint(model=model, revision=given.get("revision", ""), code=code)]


def _fetch_one(each: HubCheckpoint, base: Path, *, newest: bool) -> Fetched:
    from huggingface_hub import HfApi, snapshot_download

    pins = checkpoints.read_pins(base)
    pin = pins.get(each.model, {})
    asked = each.revision or (not newest and pin.get("revision")) or "main"
    folder = base / each.model
    with hub.fetching(f"{each.model}@{asked}"):
        info = HfApi().model_info(each.model, revision=asked, files_metadata=True)
        remote = {sibling.rfilename: sibling for sibling in info.siblings or []}
        names = files(list(remote), code=each.code)
        if not any(name.endswith((".safetensors", ".bin")) for name in names):
            raise UserError(f"{each.model} has no weights in safetensors or PyTorch's format")
        _drop_changed(folder, pin)
        snapshot_download(each.model, revision=info.sha, local_dir=folder, allow_patterns=names)
    sha256.cache_clear()
    digests = {name: sha256(folder / name) for name in sorted(names)}
    for name, digest in digests.items():
        stated = getattr(remote[name].lfs, "sha256", None)
        if stated and stated != digest:
            (folder / name).unlink()
            raise UserError(
                f"{folder / name} was damaged in transfer and is deleted; run the command again"
            )
    card = checkpoints.Checkpoint(each.model, folder, ())
    pins[each.model] = {
        "revision": info.sha,
        "requested": each.revision or asked,
        "license": card.license(""),
        "files": digests,
    }
    temporary = base / f"{checkpoints.PINS}.new"
    temporary.write_text(json.dumps(pins, indent=1, sort_keys=True))
    temporary.replace(base / checkpoints.PINS)
    return Fetched(
        model=each.model, revision=str(info.sha), license=pins[each.model]["license"],
        files=len(names), size=sum((folder / name).stat().st_size for name in names),
    )  # fmt: skip


def files(names: Collection[str], *, code: bool) -> list[str]:
    """Selects the files of a repository that adapters read: one set of weights, and small files."""
    small = [name for name in names if SMALL.fullmatch(name) and not NOT_WANTED.fullmatch(name)]
    if code:
        small += [name for name in names if CODE.fullmatch(name)]
    return sorted({*small, *_weights(names)})


def _weights(names: Collection[str]) -> Sequence[str]:
    for single, shard in (
        ("model.safetensors", r"model-\d+-of-\d+\.safetensors"),
        ("pytorch_model.bin", r"pytorch_model-\d+-of-\d+\.bin"),
        ("model.bin", r"(?!)"),
    ):
        if single in names:
            return [single]
        if f"{single}.index.json" in names:
            return [f"{single}.index.json", *(n for n in names if re.fullmatch(shard, n))]
    return []


def _drop_changed(folder: Path, pin: dict[str, Any]) -> None:
    """Deletes pinned files whose content has changed, so that they are fetched again."""
    sha256.cache_clear()
    for name, digest in pin.get("files", {}).items():
        path = folder / name
        if path.is_file() and sha256(path) != digest:
            path.unlink()
