"""Finds the adapter of a checkpoint: `model_type` of its config -> adapter, imported on demand."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from huggingface_hub import HfApi
from transformers import AutoConfig, PretrainedConfig

from manifests import hub
from manifests.console import messages
from manifests.errors import UserError
from student.config import ModelConfig
from student.model.backbones.families import BACKBONES, HUB_ID
from student.model.backbones.protocol import Backbone


def named_backbone(model_type: str) -> Backbone:
    """Imports the adapter of a family."""
    module, name = BACKBONES[model_type].split(":")
    return getattr(import_module(module), name)()


def backbone_for(path: str) -> Backbone:
    """Returns the adapter for a checkpoint: a folder or a hub id.

    Raises:
        UserError: the checkpoint cannot be read, or its family has no adapter.
    """
    model_type = read_config(path).model_type
    if model_type not in BACKBONES:
        known = ", ".join(BACKBONES)
        raise UserError(f"{path} is a {model_type} model; there are adapters for {known}")
    return named_backbone(model_type)


def read_config(path: str, *, with_weights: bool = True) -> PretrainedConfig:
    """Reads the config of a checkpoint: in a folder, in the local hub cache, or on the hub.

    Args:
        path: Folder or hub id.
        with_weights: Whether the weights are loaded, too, so that their download is announced.

    Raises:
        UserError: the checkpoint cannot be read.
    """
    is_folder = Path(path).is_dir()
    if is_folder and not (Path(path) / "config.json").is_file():
        raise UserError(
            f"model.path: the folder {path} has no config.json, so it is not a checkpoint; "
            "coat-student export writes one, coat-student fetch downloads one"
        )
    if not is_folder and not HUB_ID.fullmatch(path):
        raise UserError(f"model.path: there is no folder {path}")
    try:
        return AutoConfig.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError) as error:
        if is_folder:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"model.path: {path} is not a checkpoint that can be read: {reason}"
            ) from None
    _look_up(path, announce=with_weights)
    return AutoConfig.from_pretrained(path)


def _look_up(model: str, *, announce: bool) -> None:
    """Looks up a checkpoint on the hub, and announces the size of its download.

    Raises:
        UserError: the hub cannot be reached or has no such model. There is only one request;
            transformers would retry each file five times, with pauses.
    """
    try:
        info = HfApi().model_info(model, files_metadata=True, timeout=10)
    except hub.failures() as error:
        raise UserError(
            f"model.path: there is no folder {model}, and no model of this name in the hub's cache "
            f"here; {hub.endpoint()} could not provide it ({type(error).__name__}). Correct the "
            "path of a folder; for a model of the hub, run on a machine with a connection: "
            f"coat-student fetch {model} --out models; then set model.path to models/{model}"
        ) from None
    if not announce:
        return
    weights = [
        sibling.size or 0
        for sibling in info.siblings or []
        if sibling.rfilename.endswith(".safetensors")
        and not sibling.rfilename.startswith("consolidated")  # a copy for Mistral's own loader
    ]
    messages.print(
        f"{model} is not on this machine: {sum(weights) / 1e9:.1f} GB of weights are downloaded "
        "into the hub's cache (HF_HOME); coat-student fetch puts them into a folder instead"
    )


def backbone_window(config: ModelConfig) -> float:
    """Longest audio of a recipe's backbone in seconds; does not load weights."""
    if config.build == "small":
        return config.small.window_s
    if config.path is None:
        return named_backbone(config.tiny.family).tiny_window_s(config.tiny)
    backbone = backbone_for(config.path)
    return backbone.window_s(backbone.load_processor(config.path))
