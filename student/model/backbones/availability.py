"""Checks where a checkpoint is: in a folder, in the hub's cache, or still on the hub.

This module imports no large libraries, so that command lines report a wrong path before they import
PyTorch.
"""

from __future__ import annotations

import functools
from pathlib import Path

from manifests import hub
from manifests.errors import UserError
from student.model.backbones.families import HUB_ID


def bytes_to_download(path: str) -> int | None:
    """Returns the size of a checkpoint's weights on the hub, or None if it is on this machine.

    Args:
        path: Folder or hub id.

    Raises:
        UserError: there is no such folder, it is not a checkpoint, or the hub cannot provide it.
    """
    folder = Path(path)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(
                f"model.path: the folder {path} has no config.json, so it is not a checkpoint; "
                "coat-student export writes one, coat-student fetch downloads one"
            )
        return None
    if not HUB_ID.fullmatch(path):
        raise UserError(f"model.path: there is no folder {path}")
    from huggingface_hub import try_to_load_from_cache

    if isinstance(try_to_load_from_cache(path, "config.json"), str):
        return None
    return _bytes_on_hub(path)


@functools.cache
def _bytes_on_hub(model: str) -> int:
    """The size of a model's weights on the hub.

    Raises:
        UserError: the hub cannot be reached or has no such model. There is only one request;
            transformers would retry each file five times, with pauses.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(model, files_metadata=True, timeout=10)
    except hub.failures() as error:
        raise UserError(
            f"model.path: there is no folder {model}, and no model of this name in the hub's cache "
            f"here; {hub.endpoint()} could not provide it ({type(error).__name__}). Correct the "
            "path of a folder; for a model of the hub, run on a machine with a connection: "
            f"coat-student fetch {model} --out models; then set model.path to models/{model}"
        ) from None
    return sum(
        sibling.size or 0
        for sibling in info.siblings or []
        if sibling.rfilename.endswith(".safetensors")
        and not sibling.rfilename.startswith("consolidated")  # a copy for Mistral's own loader
    )
