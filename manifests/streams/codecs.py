"""One record per codec: encoding and decoding of a clip's frames, size, and maximum loss.

A blob is plain little-endian numpy without a header, so that two lines of numpy decode it anywhere
(docs/cache_format.md). A new codec is a record in `CODECS` and a paragraph in that document.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from manifests.streams.pitch_bins import PitchBins

# Legend: T frames, D columns, K largest values, B pitch bins, S bins around a peak.

Blob = bytes | memoryview

TOP = 16
TOPK16 = np.dtype([("index", "<u2", TOP), ("value", "<f2", TOP), ("rest", "<f2")])
PITCH_REACH_CENTS = 240.0
"""The pitch codec keeps salience up to this far on each side of the peak: 25 bins of 20 cents."""


class CodedStream(Protocol):
    """The fields of a stream that codecs use (`manifests.streams.specs.StreamSpec` has them)."""

    @property
    def dim(self) -> int:
        """Width D of a frame."""
        ...

    @property
    def pitch_bins(self) -> PitchBins:
        """The grid of a pitch stream."""
        ...


class EncodingWatcher(Protocol):
    """Receives the frames of a clip while they are encoded, and thus in the processor's cache."""

    def add_frames(self, part_TD: np.ndarray) -> None:
        """Receives some rows, in order."""
        ...

    def add_lost(self, rest_TD: np.ndarray) -> None:
        """Receives the rounding errors of the same rows, in steps of the codec; overwritable."""
        ...

    def end(self, scale_D: np.ndarray) -> None:
        """Receives the size of a step in each column, after the last rows."""
        ...


class NotFiniteError(ValueError):
    """Frames contain values that are not finite."""


@dataclass(frozen=True, slots=True)
class PitchWindows:
    """Frames of the pitch codec as they are stored."""

    first_T: np.ndarray
    """First bin of the stored salience."""
    salience_TS: np.ndarray
    """uint8, 255 times the salience."""
    voicing_T: np.ndarray
    """float32, the last column of the frames."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """One way to store frames."""

    name: str
    encode: Callable[[np.ndarray, CodedStream], Blob]
    """(frames_TD as float32, stream) -> blob."""
    decode: Callable[[Blob, CodedStream], np.ndarray]
    """(blob, stream) -> frames_TD as float32."""
    bytes_per_frame: Callable[[CodedStream], int]
    bytes_per_clip: Callable[[CodedStream], int] = lambda stream: 0
    """Bytes of a blob in addition to its frames."""
    max_loss: float
    """Maximum loss. A build warns about a shard with more, and stops if this repeats
    (`pipeline.build.codec_gate`)."""
    compressed_share: float
    """Expected size in the Parquet file relative to the blobs, as measured on the demo's cache."""
    is_compressed: bool
    """Whether Parquet compresses the column. int8 and fp16 contain noise: compression saves only a
    twentieth at a fifth of the speed, so they are stored uncompressed. The others shrink to a half
    or less."""

    checks_finite: bool = False
    """Whether `encode` itself raises `NotFiniteError`, which saves reading the frames once more."""
    encode_watched: Callable[[np.ndarray, CodedStream, EncodingWatcher], Blob] | None = None
    """Like `encode`, but also passes the frames to a watcher; None for codecs that do not process
    frames in blocks."""
    unscaled: Callable[[Blob, CodedStream], tuple[np.ndarray, np.ndarray]] | None = None
    """(blob, stream) -> values_TD as a view of the blob and scale_D, whose product is the result of
    `decode`; None for codecs with another layout."""
    pitch_windows: Callable[[Blob, CodedStream], PitchWindows] | None = None
    """(blob, stream) -> the stored bins, for sums without decoding; None for other codecs."""

    def blob_bytes(self, stream: CodedStream, num_frames: int) -> int:
        """Bytes of the blob of one clip, before compression."""
        return self.bytes_per_clip(stream) + num_frames * self.bytes_per_frame(stream)


CACHED_VALUES = 65_536
"""Number of values that are encoded at once."""


def _encode_fp16(frames_TD: np.ndarray, stream: CodedStream) -> bytes:
    limit = float(np.finfo(np.float16).max)
    return frames_TD.clip(-limit, limit).astype("<f2").tobytes()


def _decode_fp16(blob: Blob, stream: CodedStream) -> np.ndarray:
    return np.frombuffer(blob, "<f2").reshape(-1, stream.dim).astype(np.float32)


def _encode_int8(
    frames_TD: np.ndarray, stream: CodedStream, watcher: EncodingWatcher | None = None
) -> Blob:
    # Scales are float32: in half precision they underflow on small posteriors.
    # A few rows at a time, so that intermediate results stay in the processor's cache.
    rows = max(8, CACHED_VALUES // stream.dim)
    largest_D, smallest_D = frames_TD[0].copy(), frames_TD[0].copy()
    for first in range(0, len(frames_TD), rows):
        block_RD = frames_TD[first : first + rows]
        np.maximum(largest_D, block_RD.max(0), out=largest_D)
        np.minimum(smallest_D, block_RD.min(0), out=smallest_D)
        if watcher is not None:
            watcher.add_frames(block_RD)
    largest_D = np.abs(np.maximum(largest_D, -smallest_D))
    if not np.isfinite(largest_D).all():
        raise NotFiniteError
    scale_D = (largest_D / 127).astype("<f4")
    divisor_D = np.where(scale_D > 0, scale_D, np.float32(1))
    # The blob: the scales, then the levels.
    blob = np.empty(scale_D.nbytes + frames_TD.size, np.uint8)
    blob[: scale_D.nbytes] = scale_D.view(np.uint8)
    levels_TD = blob[scale_D.nbytes :].view(np.int8).reshape(frames_TD.shape)
    ratio_RD = np.empty((min(rows, len(frames_TD)), stream.dim), np.float32)
    level_RD = np.empty_like(ratio_RD)
    for first in range(0, len(frames_TD), rows):
        block_RD = frames_TD[first : first + rows]
        ratios_RD, part_RD = ratio_RD[: len(block_RD)], level_RD[: len(block_RD)]
        np.divide(block_RD, divisor_D, out=ratios_RD)
        np.rint(ratios_RD, out=part_RD)
        np.copyto(levels_TD[first : first + rows], part_RD, casting="unsafe")
        if watcher is not None:
            np.subtract(ratios_RD, part_RD, out=ratios_RD)
            watcher.add_lost(ratios_RD)
    if watcher is not None:
        watcher.end(scale_D)
    return blob.data


def _decode_int8(blob: Blob, stream: CodedStream) -> np.ndarray:
    levels_TD, scale_D = _unscaled_int8(blob, stream)
    return levels_TD * scale_D


def _unscaled_int8(blob: Blob, stream: CodedStream) -> tuple[np.ndarray, np.ndarray]:
    scale_D = np.frombuffer(blob, "<f4", stream.dim)
    return np.frombuffer(blob, np.int8, offset=scale_D.nbytes).reshape(-1, stream.dim), scale_D


def _encode_uint8(frames_TD: np.ndarray, stream: CodedStream) -> bytes:
    return np.rint(frames_TD.clip(0, 1) * 255).astype(np.uint8).tobytes()


def _decode_uint8(blob: Blob, stream: CodedStream) -> np.ndarray:
    levels_TD, scale_D = _unscaled_uint8(blob, stream)
    return levels_TD * scale_D


def _unscaled_uint8(blob: Blob, stream: CodedStream) -> tuple[np.ndarray, np.ndarray]:
    scale_D = np.full(stream.dim, 1 / 255, np.float32)
    return np.frombuffer(blob, np.uint8).reshape(-1, stream.dim), scale_D


def _encode_topk16(frames_TD: np.ndarray, stream: CodedStream) -> bytes:
    num_frames, dim = frames_TD.shape
    if dim <= TOP:
        raise ValueError(f"codec topk16 is for more than {TOP} columns, found {dim}; use uint8")
    index_TK = np.argpartition(-frames_TD, TOP - 1, axis=1)[:, :TOP]
    index_TK.sort(axis=1)
    records = np.empty(num_frames, TOPK16)
    records["index"] = index_TK
    records["value"] = value_TK = np.take_along_axis(frames_TD, index_TK, 1)
    records["rest"] = (frames_TD.sum(1) - value_TK.sum(1)) / (dim - TOP)
    return records.tobytes()


def _decode_topk16(blob: Blob, stream: CodedStream) -> np.ndarray:
    records = np.frombuffer(blob, TOPK16)
    frames_TD = np.repeat(records["rest"].astype(np.float32)[:, None], stream.dim, axis=1)
    np.put_along_axis(frames_TD, records["index"].astype(np.intp), records["value"], axis=1)
    return frames_TD


def pitch_record(bins: PitchBins) -> np.dtype:
    """The dtype of one frame of the pitch codec; the number of stored bins depends on the grid."""
    return np.dtype(
        [("voicing", "<f2"), ("first", "<u2"), ("salience", "u1", (_pitch_span(bins),))]
    )


def _pitch_span(bins: PitchBins) -> int:
    return 2 * bins.bins_within(PITCH_REACH_CENTS) + 1


def _encode_pitch(frames_TD: np.ndarray, stream: CodedStream) -> bytes:
    salience_TB, voicing_T = frames_TD[:, :-1], frames_TD[:, -1]
    records = np.empty(len(frames_TD), pitch_record(stream.pitch_bins))
    num_bins, span = salience_TB.shape[1], _pitch_span(stream.pitch_bins)
    if num_bins < span:
        raise ValueError(f"codec pitch keeps {span} bins, the stream has {num_bins}; use uint8")
    first_T = (salience_TB.argmax(1) - span // 2).clip(0, num_bins - span)
    index_TS = first_T[:, None] + np.arange(span)
    records["voicing"] = voicing_T
    records["first"] = first_T
    records["salience"] = np.rint(
        np.take_along_axis(salience_TB, index_TS, 1).clip(0, 1) * 255
    ).astype(np.uint8)
    return records.tobytes()


def _decode_pitch(blob: Blob, stream: CodedStream) -> np.ndarray:
    windows = _pitch_windows(blob, stream)
    frames_TD = np.zeros((len(windows.first_T), stream.dim), np.float32)
    index_TS = windows.first_T[:, None] + np.arange(_pitch_span(stream.pitch_bins))
    np.put_along_axis(frames_TD, index_TS, windows.salience_TS * np.float32(1 / 255), axis=1)
    frames_TD[:, -1] = windows.voicing_T
    return frames_TD


def _pitch_windows(blob: Blob, stream: CodedStream) -> PitchWindows:
    records = np.frombuffer(blob, pitch_record(stream.pitch_bins))
    voicing_T = records["voicing"].astype(np.float32)
    return PitchWindows(records["first"].astype(np.intp), records["salience"], voicing_T)


CODECS: dict[str, Codec] = {
    codec.name: codec
    for codec in (
        # T x D half precision.
        Codec(
            name="fp16",
            encode=_encode_fp16,
            decode=_decode_fp16,
            bytes_per_frame=lambda stream: 2 * stream.dim,
            max_loss=0.05,
            compressed_share=1.0,
            is_compressed=False,
        ),
        # D float32 scales, one per clip and column, then T x D int8. Measured loss 0.006 to 0.011.
        Codec(
            name="int8",
            encode=_encode_int8,
            encode_watched=_encode_int8,
            decode=_decode_int8,
            checks_finite=True,
            unscaled=_unscaled_int8,
            bytes_per_frame=lambda stream: stream.dim,
            bytes_per_clip=lambda stream: 4 * stream.dim,
            max_loss=0.05,
            compressed_share=1.0,
            is_compressed=False,
        ),
        # T x D bytes of value * 255, for values in [0, 1]. Measured loss 0.010.
        Codec(
            name="uint8",
            encode=_encode_uint8,
            decode=_decode_uint8,
            unscaled=_unscaled_uint8,
            bytes_per_frame=lambda stream: stream.dim,
            max_loss=0.05,
            compressed_share=0.4,
            is_compressed=True,
        ),
        # Per frame the 16 largest values with their columns, and the mean of the rest. Measured
        # loss up to 0.05.
        Codec(
            name="topk16",
            encode=_encode_topk16,
            decode=_decode_topk16,
            bytes_per_frame=lambda stream: TOPK16.itemsize,
            max_loss=0.15,
            compressed_share=0.5,
            is_compressed=True,
        ),
        # Per frame voicing and the salience within 240 cents of its peak. Measured loss 0.04 to
        # 0.08: it drops all but the strongest pitch on purpose.
        Codec(
            name="pitch",
            encode=_encode_pitch,
            decode=_decode_pitch,
            pitch_windows=_pitch_windows,
            bytes_per_frame=lambda stream: pitch_record(stream.pitch_bins).itemsize,
            max_loss=0.3,
            compressed_share=0.5,
            is_compressed=True,
        ),
    )
}
"""Codec -> its record. `StreamSpec.codec` is one of these names."""

SAFEST_CODEC = "fp16"
"""The codec to use for a stream on which another codec loses too much."""
