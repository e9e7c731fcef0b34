"""Publishes an exported checkpoint on a hub.

Without `upload`, the files are only listed and nothing is sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HFValidationError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage] (of whichever httpx it has)
    LocalTokenNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from manifests.errors import UserError

NEEDED = ("config.json", "README.md")
KEPT_HERE = ("eval/*", "*.part.jsonl", "probes.states/*", "ablation*", "probes*", "reading*")
"""Files of an export that are not published: questions and answers of its evaluations, and those of
unfinished evaluations."""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """The result of a push, or of a dry run."""

    files: dict[str, int]
    """Name in the repository -> bytes."""
    url: str | None
    """Address of the uploaded files; None if nothing was uploaded."""


def push(
    checkpoint: str | Path,
    repo: str,
    *,
    upload: bool = False,
    private: bool = True,
    endpoint: str | None = None,
) -> Upload:
    """Publishes an exported checkpoint, or lists the files that would be published.

    Args:
        checkpoint: Folder written by `export`.
        repo: `OWNER/NAME` on the hub; created if it does not exist.
        upload: Upload the files instead of only listing them.
        private: Make a new repository private.
        endpoint: Address of the hub, if it is not the public one (or `HF_ENDPOINT`).

    Raises:
        UserError: the folder is not an export, the name is invalid, or the hub rejects the upload.
    """
    folder = Path(checkpoint)
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder} is not an exported checkpoint: it has no {missing[0]}; make one with "
            "coat-student export"
        )
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"{repo!r} cannot be a repository: {error}") from None
    paths = sorted(
        path for path in folder.rglob("*")
        if path.is_file()
        and not any(fnmatch(path.relative_to(folder).as_posix(), kept) for kept in KEPT_HERE)
    )  # fmt: skip
    files = {str(path.relative_to(folder)): path.stat().st_size for path in paths}
    if not upload:
        return Upload(files=files, url=None)
    hub = HfApi(endpoint=endpoint)
    try:
        hub.create_repo(repo, private=private, exist_ok=True)
        commit = hub.upload_folder(
            repo_id=repo,
            folder_path=folder,
            ignore_patterns=[*KEPT_HERE],
            commit_message="Exported by coat-student",
        )
    except LocalTokenNotFoundError:
        raise UserError("the hub requires a login: set HF_TOKEN, or run hf auth login") from None
    except (HTTPError, OSError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise UserError(f"the hub refused {repo}: {first_line}") from None
    return Upload(files=files, url=str(commit.repo_url))


def describe(upload: Upload, repo: str) -> str:
    """Describes the result in lines of text."""
    total = sum(upload.files.values()) / 1e6
    lines = [f"  {name}  {size / 1e6:,.1f} MB" for name, size in upload.files.items()]
    head = (
        f"uploaded to {upload.url}:"
        if upload.url
        else f"would go to {repo} ({total:,.1f} MB; --upload does it):"
    )
    return "\n".join([head, *lines])
