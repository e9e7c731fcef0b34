"""Estimates a file's length from its header. The estimate is used for planning and limits
nothing."""

from __future__ import annotations

from typing import BinaryIO, cast

import av
import soundfile
from av.error import FFmpegError

from manifests.clips import MAX_SECONDS
from manifests.decoders.files import AudioFile, open_audio
from manifests.decoders.headers import id3_size, is_mp3_or_ogg
from manifests.decoders.libsndfile import SEEKS_BADLY
from manifests.errors import AudioError


def estimate_seconds(uri: str) -> float | None:
    """Like `seconds`, for a path or an address; None if the file cannot be opened."""
    try:
        with open_audio(uri, whole=False, is_probe=True) as file:
            length = seconds(file)
            file.check(uri)
            return length
    except AudioError:
        return None


def seconds(file: AudioFile) -> float | None:
    """Reads the length in seconds from a file's header; None if no library can."""
    if tag := id3_size(file):
        file.shifted(tag)
    file.seek(0)
    # libsndfile would print "Warning: Xing stream size off" about a truncated MP3 file.
    if not is_mp3_or_ogg(file):
        try:
            with soundfile.SoundFile(cast(BinaryIO, file)) as sound:
                if sound.format not in SEEKS_BADLY:
                    return _sane(sound.frames / sound.samplerate)
        except (soundfile.SoundFileError, ValueError, ZeroDivisionError):
            pass
    file.seek(0)
    try:
        alone = {"protocol_whitelist": "none"}
        with av.open(file, mode="r", metadata_errors="ignore", options=alone) as container:
            if container.streams.audio and container.duration is not None:
                return _sane(container.duration / av.time_base)
    except (FFmpegError, ValueError):
        pass
    return None


def _sane(length: float) -> float | None:
    return length if 0 < length < MAX_SECONDS else None
