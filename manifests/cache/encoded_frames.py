"""One clip's frames of one stream as the cache stores them (codecs: `manifests.streams.codecs`)."""

from __future__ import annotations

from dataclasses import dataclass
from pickle import PickleBuffer
from typing import SupportsIndex

import numpy as np

from manifests.streams.codecs import CODECS, EncodingWatcher, NotFiniteError
from manifests.streams.specs import StreamSpec

# Legend: T frames, D columns.

SHARED_BYTES = 65_536
"""Bytes of a blob from which another process gets it through shared memory, without a copy."""


@dataclass(frozen=True, slots=True)
class EncodedFrames:
    """One clip's frames of one stream, as stored."""

    spec: StreamSpec
    blob: bytes | memoryview
    num_frames: int

    def decode(self) -> np.ndarray:
        """Decodes to frames_TD, float32.

        Raises:
            ValueError: the blob's size does not fit the number of frames.
        """
        return self._checked(CODECS[self.spec.codec].decode(self.blob, self.spec))

    def unscaled(self) -> tuple[np.ndarray, np.ndarray]:
        """Decodes to (values_TD, scale_D), whose product is the result of `decode`.

        A sum over frames needs the scale only once per sum, not per frame. int8 and uint8 values
        are views of the stored blob.

        Raises:
            ValueError: the blob's size does not fit the number of frames.
        """
        unscaled = CODECS[self.spec.codec].unscaled
        if unscaled is None:
            return self.decode(), np.ones(self.spec.dim, np.float32)
        values_TD, scale_D = unscaled(self.blob, self.spec)
        return self._checked(values_TD), scale_D

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple:
        """Pickles a large blob out of band (PEP 574), which Ray puts into shared memory."""
        is_shared = int(protocol) >= 5 and len(self.blob) >= SHARED_BYTES
        blob = PickleBuffer(self.blob) if is_shared else bytes(self.blob)
        return _unpickled, (self.spec, blob, self.num_frames)

    def _checked(self, frames_TD: np.ndarray) -> np.ndarray:
        if frames_TD.shape != (self.num_frames, self.spec.dim):
            raise ValueError(
                f"stream {self.spec.name}: the blob holds {frames_TD.shape} values, "
                f"its row says ({self.num_frames}, {self.spec.dim})"
            )
        return frames_TD


def _unpickled(spec: StreamSpec, blob: bytes | memoryview, num_frames: int) -> EncodedFrames:
    return EncodedFrames(spec, blob if isinstance(blob, bytes) else memoryview(blob), num_frames)


def encode(
    frames_TD: np.ndarray, spec: StreamSpec, watcher: EncodingWatcher | None = None
) -> EncodedFrames:
    """Encodes float32 frames with the stream's codec, and passes them to a watcher if the codec
    supports it.

    Raises:
        ValueError: there are no frames, they have the wrong width, or they are not all finite.
    """
    if frames_TD.ndim != 2 or frames_TD.shape[1] != spec.dim or not len(frames_TD):
        raise ValueError(
            f"stream {spec.name}: expected (T >= 1, {spec.dim}) frames, found {frames_TD.shape}"
        )
    frames_TD = np.ascontiguousarray(frames_TD, dtype=np.float32)
    codec = CODECS[spec.codec]
    try:
        if not (codec.checks_finite or _is_finite(frames_TD)):
            raise NotFiniteError
        if watcher is not None and codec.encode_watched is not None:
            blob = codec.encode_watched(frames_TD, spec, watcher)
        else:
            blob = codec.encode(frames_TD, spec)
        return EncodedFrames(spec, blob, len(frames_TD))
    except NotFiniteError:
        raise ValueError(
            f"stream {spec.name}: the expert returned values that are not finite"
        ) from None


def _is_finite(frames_TD: np.ndarray) -> bool:
    """Whether all values are finite. A finite sum of squares proves it quickly for most inputs."""
    values = frames_TD.ravel()
    return bool(np.isfinite(np.dot(values, values))) or bool(np.isfinite(values).all())
