"""Reads the versions of libraries that affect stored results: decoders, resamplers, networks."""

from __future__ import annotations

import functools
import platform
from importlib import metadata

LIBRARIES = (
    "coat-distill", "numpy", "soxr", "av", "soundfile", "torch", "transformers", "tokenizers",
    "safetensors", "onnxruntime", "ctranslate2", "faster-whisper", "openai-whisper", "opensmile",
)  # fmt: skip
"""Distributions whose versions are recorded, if they are installed."""


@functools.cache
def library_versions() -> dict[str, str]:
    """Returns the versions of libraries in this process, including FFmpeg and libsndfile."""
    import av
    import soundfile

    versions = {
        "python": platform.python_version(),
        "ffmpeg": av.ffmpeg_version_info,
        "libsndfile": soundfile.__libsndfile_version__,
    }
    for package in LIBRARIES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
