"""Decoding by FFmpeg, through PyAV: every format that libsndfile cannot seek in to the sample.

A sample's place is its presentation time, as players show it: time 0 is where the file starts to
play, a gap between time stamps is silence, and audio that starts after the picture starts late.
Rate and channels come from the decoded frames. A packet that cannot be decoded costs its own
samples alone.

Packets are always read from the file's start, which is cheap and gives exact times; those before a
clip are not decoded where the codec needs little of the past (`PREROLL_S`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import av
import numpy as np
import soxr
from av.container import InputContainer
from av.error import EOFError as EndOfFile
from av.error import FFmpegError
from av.stream import Disposition, Stream

from manifests.clips import Clip
from manifests.decoders.collect import Samples, mix
from manifests.decoders.files import AudioFile

JITTER_S = 0.04
"""Time stamps that differ by less from the samples counted so far are rounding or jitter."""
OVERLAP_S = 1.0
"""Time stamps that go back by more begin anew (files put one behind the other)."""
RESTARTING = {"mpegts", "ogg"}
"""Containers whose time stamps may begin anew at any place."""
LONGEST_JUMP_S = {"mpegts": 10.0}
"""Container -> seconds; a longer jump ahead is a new beginning too, as for the ffmpeg command."""
PREROLL_S = {"mp3float": 1.0, "vorbis": 1.0, "flac": 1.0,
             "alac": 1.0}  # fmt: skip
"""Decoder -> seconds before a clip from which decoding gives, bit for bit, what decoding from the
file's start gives. Opus, AAC and AC-3 differ by about 1e-5 for ever, which would change a clip's
digest, so they are decoded from the start."""
HEADER_LENGTH = ("mov,", "matroska,", "asf", "avi", "wav", "aiff", "flac", "caf", "w64", "au")
"""Containers whose stated length was written, not guessed from the bit rate or the last packet."""


@dataclass(slots=True)
class _Timeline:
    """Position of the next samples, counted from the time at which the file starts to play."""

    rate: int
    origin: float
    """Time stamp in seconds of position 0."""
    restarts: bool
    longest_jump: float
    next: int = 0
    resumes: bool = False
    """Whether packets were passed over, so that the next time stamp counts to the sample: a decoder
    may give nothing for the first packet that it gets."""
    _shift: float = 0.0
    """Samples from the last time stamp's place to where its samples went."""

    def place(self, time: float | None, count: int) -> int:
        """Position of `count` samples with a time stamp; the next ones follow them."""
        position = self.next
        if time is not None:
            stamped = (time - self.origin) * self.rate
            jump = (stamped - self.next) / self.rate
            back = 0.0 if self.restarts else OVERLAP_S
            if self.resumes:
                position = round(stamped + self._shift)
            elif jump < -max(back, JITTER_S) or jump > self.longest_jump:
                self.origin = time - self.next / self.rate
            elif abs(jump) > JITTER_S:
                position = round(stamped)
            self._shift = position - (time - self.origin) * self.rate
        self.resumes = False
        self.next = max(self.next, position + count)
        return position


def read(file: AudioFile, clips: Sequence[Clip], max_seconds: float) -> list[Samples]:
    """Decodes clips of one file in one pass; one that cannot be had carries its error.

    Raises:
        FFmpegError: FFmpeg does not know the format.
        ValueError: the file holds no audio, or most of it is damaged.
    """
    states_frames = _states_frames(file)
    # No protocol: a playlist in the guise of a clip must not make FFmpeg open other files.
    alone = {"protocol_whitelist": "none"}
    with av.open(file, mode="r", metadata_errors="ignore", options=alone) as container:
        if not container.streams.audio:
            raise ValueError("there is no audio in it")
        return _Pass(container, default_track(container.streams.audio)).read(
            clips, max_seconds, _stated_seconds(container, states_frames)
        )


def default_track(tracks: Iterable[av.AudioStream]) -> av.AudioStream:
    """The track that the ffmpeg command takes: flagged default, then most channels, then first."""
    return max(
        tracks,
        key=lambda track: (
            bool(track.disposition & Disposition.default),
            track.codec_context.channels,
        ),
    )


class _Pass:
    """One pass through a track, from its first packet to the last that a clip needs."""

    def __init__(self, container: InputContainer, track: av.AudioStream) -> None:
        self._container, self._track = container, track
        self._damaged: list[tuple[float | None, float]] = []
        """Time stamp and seconds of packets that could not be decoded."""
        self._timeline: _Timeline | None = None
        self._wanted: list[Samples] = []
        self._rates: set[int] = set()

    def read(
        self, clips: Sequence[Clip], max_seconds: float, stated_seconds: float | None
    ) -> list[Samples]:
        """Decodes clips.

        Args:
            clips: Clips of this file.
            max_seconds: The most that one clip may have.
            stated_seconds: The track's length by the header, where that can be trusted.
        """
        for time, block_CN, rate in _even(self._frames()):
            if self._timeline is None:
                self._timeline = self._begin(time, rate)
                self._wanted = [Samples(clip, rate, max_seconds) for clip in clips]
            if rate != self._timeline.rate:
                block_CN = _resample(block_CN, rate, self._timeline.rate)
            position = self._timeline.place(time, block_CN.shape[1])
            mono, power = mix(block_CN)
            for samples in self._wanted:
                samples.add(position, mono, power)
            if all(samples.is_done for samples in self._wanted):
                break
        if self._timeline is None:
            sounds = [
                Samples(clip, self._track.codec_context.sample_rate or 0, 1) for clip in clips
            ]
            if self._damaged:
                raise ValueError(f"all of its {len(self._damaged)} packets are damaged")
        else:
            sounds = self._wanted
        self._finish(sounds, stated_seconds)
        return sounds

    def _begin(self, time: float | None, rate: int) -> _Timeline:
        start = self._container.start_time
        alone = len(self._container.streams) - len(self._pictures()) == 1
        if time is None or start is None or alone:
            origin = time or 0.0
        else:
            origin = min(max(start / av.time_base, 0.0), time)
        names = set(self._container.format.name.split(","))
        longest_jump = min(LONGEST_JUMP_S.get(name, float("inf")) for name in names)
        timeline = _Timeline(rate, origin, bool(names & RESTARTING), longest_jump)
        if time is not None:
            # The very first sample is placed exactly, however small its delay.
            timeline.next = round((time - origin) * rate)
        return timeline

    def _pictures(self) -> list[Stream]:
        cover = Disposition.attached_pic
        return [s for s in self._container.streams if s.type != "audio" and s.disposition & cover]

    def _finish(self, sounds: Sequence[Samples], stated_seconds: float | None) -> None:
        length = self._timeline.next if self._timeline else 0
        damaged = sum(seconds for _, seconds in self._damaged)
        for samples in sounds:
            rate = samples.sample_rate
            missing = 0.0 if stated_seconds is None or not rate else stated_seconds - length / rate
            samples.finish(length, missing)
            if samples.error:
                continue
            first, last = (
                position / rate + self._origin for position in (samples.start, samples.end)
            )
            within = [s for t, s in self._damaged if t is None or first - s < t < last + s]
            if within:
                samples.warn(
                    "damaged",
                    f"has {len(within)} damaged packets; {sum(within):.3f} s of audio are lost",
                )
            if len(self._rates) > 1:
                rates = ", ".join(map(str, sorted(self._rates)))
                samples.warn("changing-rate", f"changes its sample rate ({rates} Hz)")
        if sounds and length < damaged * sounds[0].sample_rate:
            raise ValueError(f"{damaged:.1f} s of it are damaged")

    @property
    def _origin(self) -> float:
        return self._timeline.origin if self._timeline else 0.0

    def _frames(self) -> Iterator[av.AudioFrame]:
        """Decoded frames; packets that no clip needs are passed over."""
        context = self._track.codec_context
        preroll = PREROLL_S.get(context.codec.name)
        skipped = False
        for packet in self._packets():
            timeline = self._timeline
            if preroll is not None and timeline is not None and self._is_idle(packet, preroll):
                timeline.place(_seconds(packet), self._samples(packet))
                skipped = True
                continue
            if skipped:
                context.flush_buffers()
                skipped = False
                if timeline is not None:
                    timeline.resumes = True
            try:
                frames = packet.decode()
            except FFmpegError as error:
                if not isinstance(error, EndOfFile):
                    length = float((packet.duration or 0) * (packet.time_base or 0))
                    self._damaged.append((_seconds(packet), length))
                continue
            for frame in frames:
                if frame.samples:
                    self._rates.add(frame.sample_rate)
                    yield frame

    def _packets(self) -> Iterator[av.Packet]:
        """The track's packets and the one that flushes; reading goes on behind a damaged place."""
        for _ in range(100):
            try:
                yield from self._container.demux(self._track)
                return
            except EndOfFile:
                return
            except FFmpegError:
                self._damaged.append((None, 0.0))

    def _is_idle(self, packet: av.Packet, preroll: float) -> bool:
        """Whether a packet lies before what any clip needs, and its length is known."""
        time, timeline = _seconds(packet), self._timeline
        if time is None or timeline is None or not self._samples(packet):
            return False
        if float(packet.time_base or 1) * timeline.rate > 1.0:
            return False  # Time stamps are coarser than samples: only decoding counts exactly.
        waiting = [s for s in self._wanted if not s.is_done]
        behind = (time - timeline.origin + preroll) * timeline.rate
        return all(s.end == s.start and behind < s.start for s in waiting)

    def _samples(self, packet: av.Packet) -> int:
        rate = self._timeline.rate if self._timeline else 0
        return round(float((packet.duration or 0) * (packet.time_base or 0)) * rate)


def _seconds(packet: av.Packet) -> float | None:
    if packet.pts is None or packet.time_base is None:
        return None
    return float(packet.pts * packet.time_base)


def _even(
    frames: Iterable[av.AudioFrame],
) -> Iterator[tuple[float | None, np.ndarray, int]]:
    """Time, samples (channels, N) and rate of each frame.

    Frames of another rate than the first are joined as long as it lasts, to be resampled as one.
    """
    first, run, began = 0, [], None
    for frame in frames:
        first = first or frame.sample_rate
        block_CN = _to_float(frame)
        if run and (frame.sample_rate, len(block_CN)) != (run[0][1], len(run[0][0])):
            yield began, np.concatenate([part for part, _ in run], 1), run[0][1]
            run = []
        if frame.sample_rate == first:
            yield frame.time, block_CN, first
            continue
        began = began if run else frame.time
        run.append((block_CN, frame.sample_rate))
    if run:
        yield began, np.concatenate([part for part, _ in run], 1), run[0][1]


def _to_float(frame: av.AudioFrame) -> np.ndarray:
    """The frame's samples as float32 in [-1, 1], (channels, N); what FFmpeg's own swr gives."""
    values = frame.to_ndarray()
    if not frame.format.is_planar:
        values = np.ascontiguousarray(values.reshape(frame.samples, -1).T)
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - 128) / 128
    if values.dtype.kind == "i":
        return values.astype(np.float32) / np.float32(2 ** (8 * values.dtype.itemsize - 1))
    return values.astype(np.float32, copy=False)


def _resample(block_CN: np.ndarray, rate: int, length: int) -> np.ndarray:
    resampled = soxr.resample(np.ascontiguousarray(block_CN.T), rate, length, quality="HQ")
    return np.ascontiguousarray(resampled.T)


def _stated_seconds(container: InputContainer, states_frames: bool) -> float | None:
    """The track's length by the header; None where it is only a guess."""
    track = default_track(container.streams.audio)
    name = container.format.name
    if name != "mp3" and not name.startswith(HEADER_LENGTH):
        return None
    if name == "mp3" and not states_frames:
        return None
    if track.duration is not None and track.time_base is not None:
        return float(track.duration * track.time_base)
    if container.duration is None or container.streams.video:
        return None
    return container.duration / av.time_base


def _states_frames(file: AudioFile) -> bool:
    """Whether an MP3 file's first frame says how many follow; leaves the file at its start."""
    head, tag = file.peek(0, 10), 0
    if head[:3] == b"ID3" and len(head) == 10:
        tag = 10 + sum(byte << s for byte, s in zip(head[6:], (21, 14, 7, 0), strict=True))
    return any(mark in file.peek(tag, 1024) for mark in (b"Xing", b"Info", b"VBRI"))
