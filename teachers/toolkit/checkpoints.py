"""Locates checkpoints of the model hub offline, and checks their files against pinned digests.

A model is a hub id (`openai/whisper-large-v3`) or a folder. Ids are looked up in a folder filled by
`coat-cache fetch` (`DIR/org/name`; `DIR/pins.json` has the revision and the SHA-256 of every file),
then in Hugging Face's own cache. A build never downloads anything. Weights are safetensors; a
checkpoint that has only `pytorch_model.bin` is read by torch's `weights_only` unpickler, which
rejects code. Describing a checkpoint imports neither torch nor transformers.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from manifests.errors import UserError
from manifests.packaged_weights import sha256
from teachers.settings import NonNegative
from teachers.toolkit.batching import BatchBudget
from teachers.toolkit.device import on_device

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
PINS = "pins.json"
DESCRIBING = (
    "config.json", "preprocessor_config.json", "generation_config.json", "tokenizer.json",
    "vocab.json", "merges.txt", "vocab.txt", "added_tokens.json", "special_tokens_map.json",
    "tokenizer_config.json", "normalizer.json", "*.model",
)  # fmt: skip
"""Small files that affect the output of a checkpoint; their digests count like the weights'."""
PROCESSOR = "processor_config.json"
"""Newer checkpoints keep the feature extractor's settings in this file. Its digest counts only if
no other file has them, so that existing teachers keep their versions."""
RUNTIME = ("batch_seconds", "weights_dir", "license")
"""Settings that do not change features."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSettings:
    """Settings that every family of hub checkpoints has."""

    model: str = ""
    """Hub id, or path of a local folder. A path is part of the version: prefer ids and
    `weights_dir`, whose location can change."""
    revision: str = ""
    """Commit or tag; the fetched one if empty."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Precision of weights and activations; half precision is for GPUs."""
    frame_rate: NonNegative = 0.0
    """Frames per second to store: native frames are averaged in groups. 0 keeps all frames."""
    license: str = ""
    """Licence of the weights, if the model card does not state it."""
    batch_seconds: NonNegative = 0.0
    """Padded audio per forward pass, in seconds; 0 means 60 on a CPU, 600 on a GPU. A batch that
    runs out of memory is run again in halves. Does not change the features."""
    weights_dir: str = ""
    """Folder that `coat-cache fetch` filled; $COAT_WEIGHTS_DIR if empty."""

    def recorded(self) -> dict[str, Any]:
        """Returns the settings that change features, as stored in a spec."""
        fields = {key: value for key, value in asdict(self).items() if key not in RUNTIME}
        return {key: list(value) if isinstance(value, tuple) else value
                for key, value in fields.items()}  # fmt: skip

    def budget(self, device: str) -> BatchBudget:
        """Returns the seconds per forward pass on `device`."""
        default = 600.0 if device.startswith("cuda") else 60.0
        return BatchBudget(self.batch_seconds or default)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The files of a checkpoint, checked against their digests if those are pinned."""

    model: str
    folder: Path
    weights: tuple[Path, ...]
    trusts_code: bool = False
    """Whether Python files of the folder are run, so that their digests count like weights."""

    @property
    def config(self) -> dict[str, Any]:
        """`config.json`."""
        return self.read("config.json")

    def read(self, name: str) -> dict[str, Any]:
        """Reads a JSON file of the checkpoint; empty if the file does not exist."""
        path = self.folder / name
        if not path.is_file():
            return {}
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path} is not JSON ({error}); fetch the checkpoint again") from None

    @property
    def encoder(self) -> dict[str, Any]:
        """The part of `config.json` that describes the audio encoder."""
        config = self.config
        parts = (config.get("encoder_config"), config.get("audio_config"))
        return next((part for part in parts if part), config)

    @property
    def extractor(self) -> dict[str, Any]:
        """Settings of the feature extractor: `preprocessor_config.json`, or the part of
        `processor_config.json` into which newer checkpoints write them."""
        own = self.read("preprocessor_config.json")
        return own or self.read(PROCESSOR).get("feature_extractor", {})

    def digests(self) -> dict[str, str]:
        """Computes the SHA-256 of weights and of small files about the network, by file name."""
        small = [path for name in DESCRIBING for path in sorted(self.folder.glob(name))]
        if not (self.folder / "preprocessor_config.json").is_file():
            small += sorted(self.folder.glob(PROCESSOR))
        code = sorted(self.folder.rglob("*.py")) if self.trusts_code else []
        return {path.name: sha256(path) for path in (*self.weights, *small)} | {
            path.relative_to(self.folder).as_posix(): sha256(path) for path in code
        }

    def license(self, stated: str) -> str:
        """Returns `stated`, or the licence in the model card's header."""
        card = self.folder / "README.md"
        if stated or not card.is_file():
            return stated or "not stated; see the model card"
        head = card.read_text(encoding="utf-8", errors="replace").split("\n---", 1)[0]
        try:
            fields = yaml.safe_load(head.removeprefix("---")) or {}
        except yaml.YAMLError:
            fields = {}
        license_name = fields.get("license_name") or fields.get("license") if isinstance(
            fields, Mapping) else None  # fmt: skip
        return str(license_name or "not stated; see the model card")


def find(settings: HubSettings, *, weights: Collection[str] = ()) -> Checkpoint:
    """Locates the checkpoint that `settings.model` names.

    Args:
        settings: The settings of a family.
        weights: Names of its weight files, if they differ from those of transformers.

    Raises:
        UserError: the checkpoint is missing, incomplete, or differs from the fetched one.
    """
    folder = _folder(settings.model, settings.revision, settings.weights_dir)
    if weights:
        files = [folder / name for name in weights]
        missing = [path.name for path in files if not path.is_file()]
    else:
        files, missing = weight_files(folder), []
    if missing or not files:
        expected = ", ".join(missing) or "model.safetensors (or its shards, or pytorch_model.bin)"
        raise UserError(f"{folder} has no {expected}; {_remedy(settings.model)}")
    trusts_code = bool(getattr(settings, "trust_remote_code", False))
    return Checkpoint(settings.model, folder, tuple(files), trusts_code)


def weight_files(folder: Path) -> list[Path]:
    """Lists the weight files that transformers would read in a folder, safetensors first; may be
    empty."""
    for single in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{single}.index.json"
        if (folder / single).is_file():
            return [folder / single]
        if index.is_file():
            shards = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
            missing = [shard for shard in shards if not (folder / shard).is_file()]
            if missing:
                raise UserError(f"{folder} lacks {', '.join(missing)}, which its index lists")
            return [folder / shard for shard in shards]
    return []


def load(
    cls: Any, checkpoint: Checkpoint, settings: HubSettings, *, device: str, num_threads: int,
    **options: Any,
) -> Any:  # fmt: skip
    """Loads a model of class `cls` (with `from_pretrained`), in evaluation mode on `device`.

    Raises:
        UserError: weights are missing in the checkpoint, or are a pickle with code in it.
    """
    import pickle

    import torch

    torch.set_num_threads(num_threads)
    try:
        model, info = cls.from_pretrained(
            checkpoint.folder,
            dtype=getattr(torch, settings.dtype),
            use_safetensors=checkpoint.weights[0].suffix == ".safetensors",
            weights_only=True,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    except pickle.UnpicklingError:
        raise UserError(
            f"{checkpoint.weights[0]} holds more than tensors and is not read; convert the "
            "checkpoint to safetensors, or take one that has them"
        ) from None
    if info["missing_keys"]:
        raise UserError(
            f"{checkpoint.model} has no weights for {', '.join(sorted(info['missing_keys'])[:3])} "
            f"of {type(model).__name__}: this family is for other checkpoints"
        )
    return model.eval().to(device)


def moved(prepared: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """Moves inputs to the model's device, and floating-point ones to its precision."""
    return {
        key: on_device(value, model.device).to(model.dtype if value.is_floating_point() else None)
        for key, value in prepared.items()
    }


def offline() -> None:
    """Keeps Hugging Face's libraries offline; call this before importing transformers."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def read_pins(weights_dir: Path) -> dict[str, dict[str, Any]]:
    """Reads hub id -> revision and digests (`files`), as written by `coat-cache fetch`."""
    path = weights_dir / PINS
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def _folder(model: str, revision: str, weights_dir: str) -> Path:
    if not model:
        raise UserError("say which checkpoint: model is a hub id (org/name) or a folder")
    weights_dir = weights_dir or os.environ.get("COAT_WEIGHTS_DIR", "")
    local = Path(model).expanduser()
    if local.is_dir():
        return local
    if local.is_absolute() or model.startswith(("~", ".")):
        raise UserError(f"there is no folder {local}; expected one that holds a checkpoint")
    base = Path(weights_dir).expanduser()
    for folder in (base / model, base / model.replace("/", "--")) if weights_dir else ():
        if folder.is_dir():
            _check(model, revision, folder, base)
            return folder
    if not _HUB_ID.fullmatch(model):
        raise UserError(
            f"{model!r} names no checkpoint here: it is not a folder, and a hub id is org/name, "
            "such as Systran/faster-whisper-large-v3"
        )
    if not weights_dir:
        return _cached(model, revision)
    raise UserError(f"{base} holds no {model}; {_remedy(model, base)}")


def _cached(model: str, revision: str) -> Path:
    """Finds the snapshot in Hugging Face's own cache."""
    offline()
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError:
        raise UserError(f"{model} needs the hub's packages; run: pip install -e '.[hub]'") from None

    try:
        return Path(snapshot_download(model, revision=revision or None, local_files_only=True))
    except (OSError, ValueError):
        raise UserError(f"{model} is not in Hugging Face's cache; {_remedy(model)}") from None


def _check(model: str, revision: str, folder: Path, weights_dir: Path) -> None:
    """Checks a fetched folder against its pins; a folder without pins is not checked."""
    pin = read_pins(weights_dir).get(model)
    if pin is None:
        return
    if revision and revision not in (pin["revision"], pin.get("requested")):
        raise UserError(
            f"{model} was fetched at revision {pin['revision']}, the build asks for {revision}; "
            f"{_remedy(f'{model}@{revision}', weights_dir)}"
        )
    for name, digest in pin["files"].items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing; {_remedy(model, weights_dir)}")
        actual = sha256(path)
        if actual != digest:
            raise UserError(
                f"{path} has SHA-256 {actual[:12]}..., it was fetched with {digest[:12]}...: it "
                f"has changed since; {_remedy(model, weights_dir)}"
            )


@functools.cache
def _remedy(model: str, weights_dir: Path | None = None) -> str:
    where = f"{weights_dir}" if weights_dir else "DIR"
    return (
        f"run: coat-cache fetch --model {model} --weights-dir {where}, and pass --weights-dir "
        f"{where} to this command, too"
    )
