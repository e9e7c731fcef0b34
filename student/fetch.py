"""`coat-student fetch`: downloads a backbone's checkpoint from a hub after printing its size.

Clusters often have no internet access, and a checkpoint has many gigabytes. This command runs on a
machine with a connection: it lists the download, checks the free space, and resumes an interrupted
download. Only weights in safetensors and configuration files are fetched, no other files and no
code.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from manifests import hub
from manifests.errors import UserError
from student.model.backbones.families import BACKBONES, HUB_ID

FILES = re.compile(
    r"(?!consolidated)[^/]*\.(safetensors|json|txt|jinja|model)|README\.md|LICENSE[^/]*"
)
"""The files of a checkpoint, without `consolidated.safetensors`, a copy for Mistral's loader."""
ROOM = 1.05
"""Required free space, as a multiple of the download's size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """A checkpoint on the hub: its files, and the folder for them."""

    model: str
    revision: str
    """The commit."""
    family: str
    """`model_type` of its config."""
    license: str
    files: dict[str, int]
    """File -> bytes."""
    folder: Path

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())

    @property
    def missing(self) -> int:
        """Bytes of the files that are missing or incomplete in the folder."""
        return sum(
            size
            for name, size in self.files.items()
            if not (path := self.folder / name).is_file() or path.stat().st_size != size
        )


def look_up(model: str, out: str | Path, *, revision: str = "main") -> Download:
    """Lists the files of a checkpoint on the hub; only its config is downloaded.

    Raises:
        UserError: the hub cannot be reached, has no such model, or the model has no adapter.
    """
    from huggingface_hub import HfApi, hf_hub_download

    if not HUB_ID.fullmatch(model):
        raise UserError(f"{model!r} is not a hub id; expected OWNER/NAME, e.g. Qwen/Qwen2-Audio-7B")
    folder = Path(out).expanduser() / model
    with hub.fetching(f"{model}@{revision}"):
        info = HfApi().model_info(model, revision=revision, files_metadata=True)
        files = {
            sibling.rfilename: sibling.size or 0
            for sibling in info.siblings or []
            if FILES.fullmatch(sibling.rfilename)
        }
        if "config.json" not in files:
            raise UserError(
                f"{model} has no config.json, so it is not a checkpoint of transformers"
            )
        path = hf_hub_download(model, "config.json", revision=info.sha)
        family = json.loads(Path(path).read_text("utf-8")).get("model_type", "")
    if family not in BACKBONES:
        raise UserError(
            f"{model} is a {family or 'nameless'} model; there are adapters for "
            f"{', '.join(BACKBONES)}"
        )
    if not any(name.endswith(".safetensors") for name in files):
        raise UserError(f"{model} has no weights in safetensors")
    return Download(
        model=model, revision=str(info.sha), family=family,
        license=getattr(info.card_data, "license", None) or "not stated",
        files=dict(sorted(files.items())), folder=folder,
    )  # fmt: skip


def download(checkpoint: Download) -> None:
    """Downloads missing files; the folder can then be used as `model.path`.

    Raises:
        UserError: the disk does not have enough space, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download

    checkpoint.folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(checkpoint.folder).free
    if free < checkpoint.missing * ROOM:
        raise UserError(
            f"{checkpoint.folder} has {free / 1e9:.1f} GB free, and {checkpoint.missing / 1e9:.1f} "
            "GB are to be downloaded; make room, or choose another folder with --out"
        )
    with hub.fetching(f"{checkpoint.model}@{checkpoint.revision}"):
        snapshot_download(
            checkpoint.model,
            revision=checkpoint.revision,
            local_dir=checkpoint.folder,
            allow_patterns=list(checkpoint.files),
        )
    for name, size in checkpoint.files.items():
        size_on_disk = (checkpoint.folder / name).stat().st_size
        if size and size_on_disk != size:
            raise UserError(
                f"{checkpoint.folder / name} has {size_on_disk} bytes, the hub states {size}; "
                "delete it and fetch once more"
            )


def describe(checkpoint: Download) -> list[str]:
    """Describes the download: family, licence, each file with its size, the sum."""
    return [
        f"{checkpoint.model}@{checkpoint.revision[:12]}: {checkpoint.family}, "
        f"licence {checkpoint.license}",
        *(f"  {size / 1e6:10,.1f} MB  {name}" for name, size in checkpoint.files.items()),
        f"  {checkpoint.size / 1e6:10,.1f} MB in all, {checkpoint.missing / 1e6:,.1f} MB of them "
        f"missing in {checkpoint.folder}",
    ]
