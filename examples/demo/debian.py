"""Reads files of Debian packages, without root and without installing them.

`apt-get download` checks a package against the signed package lists and `dpkg-deb -x` unpacks it
into a cache folder. This works on Debian and its derivatives; on other systems the demo
uses synthetic audio.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


class PackageUnavailable(Exception):
    """Raised if a package is not available; the message gives the reason."""


def downloads() -> Path:
    """Returns the folder of downloaded packages: $COAT_DEMO_DOWNLOADS, or a folder in ~/.cache."""
    default = Path.home() / ".cache" / "coat-distill" / "demo"
    return Path(os.environ.get("COAT_DEMO_DOWNLOADS", default)).absolute()


def unpack(package: str) -> Path:
    """Returns the root of a package's files; downloads and unpacks it if necessary.

    Raises:
        PackageUnavailable: there is no apt, or apt cannot find or download the package.
    """
    folder = downloads()
    folder.mkdir(parents=True, exist_ok=True)
    if not list(folder.glob(f"{package}_*.deb")):
        print(f"downloading the Debian package {package} ...", flush=True)
        _run(["apt-get", "download", package], folder)
    deb = sorted(folder.glob(f"{package}_*.deb"))[-1]
    root = folder / "unpacked" / deb.stem
    if not root.exists():
        partial = root.with_name(f"{root.name}.{os.getpid()}")
        partial.mkdir(parents=True)
        _run(["dpkg-deb", "-x", str(deb), str(partial)], folder)
        partial.rename(root)
    return root / "usr" / "share"


def _run(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise PackageUnavailable(f"this machine has no {command[0]}") from None
    if done.returncode:
        message = (done.stderr.strip() or "no message").splitlines()[-1]
        raise PackageUnavailable(f"{' '.join(command[:3])} failed: {message}")
