"""Finds the adapter of a checkpoint: `model_type` of its config -> adapter, imported on demand."""

from __future__ import annotations

from importlib import import_module

from transformers import AutoConfig, PretrainedConfig

from manifests.console import messages
from manifests.errors import UserError
from student.config import ModelConfig
from student.model.backbones.availability import bytes_to_download
from student.model.backbones.families import BACKBONES
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
    size = bytes_to_download(path)
    if size is None:
        try:
            return AutoConfig.from_pretrained(path, local_files_only=True)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"model.path: {path} is not a checkpoint that can be read: {reason}"
            ) from None
    if with_weights:
        messages.print(
            f"{path} is not on this machine: {size / 1e9:.1f} GB of weights are downloaded into "
            "the hub's cache (HF_HOME); coat-student fetch puts them into a folder instead"
        )
    return AutoConfig.from_pretrained(path)


def backbone_window(config: ModelConfig) -> float:
    """Longest audio of a recipe's backbone in seconds; does not load weights."""
    if config.build == "small":
        return config.small.window_s
    if config.path is None:
        return named_backbone(config.tiny.family).tiny_window_s(config.tiny)
    backbone = backbone_for(config.path)
    return backbone.window_s(backbone.load_processor(config.path))
