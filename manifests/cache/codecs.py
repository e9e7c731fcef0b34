"""How frames become bytes and back.

A blob is one clip's frames of one stream: plain little-endian numpy, no header, so that two lines
of numpy decode it anywhere (docs/cache_format.md). What each codec keeps:

    fp16    T x D half precision
    int8    D float32 scales, then T x D int8; a scale per clip and channel
    uint8   T x D bytes of value * 255, for values in [0, 1]
    topk16  per frame the 16 largest values with their columns, and the mean of the rest
    pitch   per frame voicing and 25 bins of salience around the peak (+-240 cents)

int8 keeps its scales in float32: half-precision scales underflow on small posteriors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from manifests.streams.specs import Codec, StreamSpec

# Legend: T frames, D columns.

TOP = 16
PITCH_SPAN = 25

TOPK16 = np.dtype([("index", "<u2", TOP), ("value", "<f2", TOP), ("rest", "<f2")])
PITCH = np.dtype([("voicing", "<f2"), ("first", "<u2"), ("salience", "u1", PITCH_SPAN)])


@dataclass(frozen=True, slots=True)
class EncodedFrames:
    """One clip's frames of one stream, as stored."""

    spec: StreamSpec
    blob: bytes | memoryview
    num_frames: int

    def decode(self) -> np.ndarray:
        """frames_TD, float32.

        Raises:
            ValueError: the blob's size does not fit the number of frames.
        """
        frames_TD = _DECODE[self.spec.codec](self.blob, self.spec.dim)
        if frames_TD.shape != (self.num_frames, self.spec.dim):
            raise ValueError(
                f"stream {self.spec.name}: the blob holds {frames_TD.shape} values, "
                f"its row says ({self.num_frames}, {self.spec.dim})"
            )
        return frames_TD

    def unscaled(self) -> tuple[np.ndarray, np.ndarray]:
        """(values_TD, scale_D), whose product is what `decode` gives.

        Sums over frames need the scale once for each sum, not for each frame; int8 and uint8 values
        come as stored, as views of the blob.

        Raises:
            ValueError: the blob's size does not fit the number of frames.
        """
        shape, num_values = (self.num_frames, self.spec.dim), self.num_frames * self.spec.dim
        if self.spec.codec == "int8" and len(self.blob) == num_values + 4 * self.spec.dim:
            scale_D = np.frombuffer(self.blob, "<f4", self.spec.dim)
            return np.frombuffer(self.blob, np.int8, offset=scale_D.nbytes).reshape(shape), scale_D
        if self.spec.codec == "uint8" and len(self.blob) == num_values:
            scale_D = np.full(self.spec.dim, 1 / 255, np.float32)
            return np.frombuffer(self.blob, np.uint8).reshape(shape), scale_D
        return self.decode(), np.ones(self.spec.dim, np.float32)


def encode(frames_TD: np.ndarray, spec: StreamSpec) -> EncodedFrames:
    """Packs float32 frames by the stream's codec.

    Raises:
        ValueError: the frames have the wrong width, are none, or are not all finite.
    """
    if frames_TD.ndim != 2 or frames_TD.shape[1] != spec.dim or not len(frames_TD):
        raise ValueError(
            f"stream {spec.name}: expected (T >= 1, {spec.dim}) frames, found {frames_TD.shape}"
        )
    if not np.isfinite(frames_TD).all():
        raise ValueError(f"stream {spec.name}: the expert gave values that are not finite")
    blob = _ENCODE[spec.codec](np.ascontiguousarray(frames_TD, dtype=np.float32))
    return EncodedFrames(spec, blob, len(frames_TD))


def _encode_fp16(frames_TD: np.ndarray) -> bytes:
    limit = float(np.finfo(np.float16).max)
    return frames_TD.clip(-limit, limit).astype("<f2").tobytes()


def _decode_fp16(blob: bytes | memoryview, dim: int) -> np.ndarray:
    return np.frombuffer(blob, "<f2").reshape(-1, dim).astype(np.float32)


def _encode_int8(frames_TD: np.ndarray) -> bytes:
    scale_D = (np.abs(frames_TD).max(0) / 127).astype("<f4")
    divisor_D = np.where(scale_D > 0, scale_D, 1)
    levels_TD = np.rint(frames_TD / divisor_D).astype(np.int8)
    return scale_D.tobytes() + levels_TD.tobytes()


def _decode_int8(blob: bytes | memoryview, dim: int) -> np.ndarray:
    scale_D = np.frombuffer(blob, "<f4", dim)
    return np.frombuffer(blob, np.int8, offset=4 * dim).reshape(-1, dim) * scale_D


def _encode_uint8(frames_TD: np.ndarray) -> bytes:
    return np.rint(frames_TD.clip(0, 1) * 255).astype(np.uint8).tobytes()


def _decode_uint8(blob: bytes | memoryview, dim: int) -> np.ndarray:
    return np.frombuffer(blob, np.uint8).reshape(-1, dim) * np.float32(1 / 255)


def _encode_topk16(frames_TD: np.ndarray) -> bytes:
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


def _decode_topk16(blob: bytes | memoryview, dim: int) -> np.ndarray:
    records = np.frombuffer(blob, TOPK16)
    frames_TD = np.repeat(records["rest"].astype(np.float32)[:, None], dim, axis=1)
    np.put_along_axis(frames_TD, records["index"].astype(np.intp), records["value"], axis=1)
    return frames_TD


def _encode_pitch(frames_TD: np.ndarray) -> bytes:
    salience_TB, voicing_T = frames_TD[:, :-1], frames_TD[:, -1]
    num_bins = salience_TB.shape[1]
    first_T = (salience_TB.argmax(1) - PITCH_SPAN // 2).clip(0, num_bins - PITCH_SPAN)
    index_TS = first_T[:, None] + np.arange(PITCH_SPAN)
    records = np.empty(len(frames_TD), PITCH)
    records["voicing"] = voicing_T
    records["first"] = first_T
    records["salience"] = np.rint(
        np.take_along_axis(salience_TB, index_TS, 1).clip(0, 1) * 255
    ).astype(np.uint8)
    return records.tobytes()


def _decode_pitch(blob: bytes | memoryview, dim: int) -> np.ndarray:
    records = np.frombuffer(blob, PITCH)
    frames_TD = np.zeros((len(records), dim), np.float32)
    index_TS = records["first"].astype(np.intp)[:, None] + np.arange(PITCH_SPAN)
    np.put_along_axis(frames_TD, index_TS, records["salience"] * np.float32(1 / 255), axis=1)
    frames_TD[:, -1] = records["voicing"]
    return frames_TD


_ENCODE: dict[Codec, Callable[[np.ndarray], bytes]] = {
    "fp16": _encode_fp16,
    "int8": _encode_int8,
    "uint8": _encode_uint8,
    "topk16": _encode_topk16,
    "pitch": _encode_pitch,
}
_DECODE: dict[Codec, Callable[[bytes | memoryview, int], np.ndarray]] = {
    "fp16": _decode_fp16,
    "int8": _decode_int8,
    "uint8": _decode_uint8,
    "topk16": _decode_topk16,
    "pitch": _decode_pitch,
}
