"""Decodes with FFmpeg, through PyAV, all formats in which libsndfile cannot seek exactly.

The position of a sample is its presentation time, as players show it: time 0 is where the file
starts to play, a gap between time stamps is filled with silence, and audio may start later than the
video. Rate and channels come from the decoded frames. A packet that cannot be decoded loses only
its own samples.

Which packets are decoded is decided in `manifests.decoders.packets`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import av
import numpy as np
from av.container import InputContainer
from av.error import EOFError as EndOfFile
from av.error import FFmpegError
from av.stream import Disposition, Stream

from manifests.clips import Clip
from manifests.decoders import kept, seeking, tracks
from manifests.decoders.collect import Samples, mix
from manifests.decoders.files import AudioFile
from manifests.decoders.packets import PREROLL_S, CannotSkip, Packets, open_container, stamp_seconds
from manifests.decoders.timeline import Timeline

RESTARTING = {"mpegts", "ogg"}
"""Containers whose time stamps may restart anywhere."""
LONGEST_JUMP_S = {"mpegts": 10.0}
"""Container -> seconds. A longer jump ahead counts as a restart, too, as in the ffmpeg command."""
FIRST_CELT = 16
"""First configuration of Opus packets that use only CELT (RFC 6716, section 3.1). The measured
difference after a seek vanishes within 0.7 s."""
RECENT = 64
"""Number of blocks kept for clips that begin before the previous ones ended: at least 0.3 s of
Opus. The blocks have no gaps between them."""


def read(file: AudioFile, clips: Sequence[Clip], max_seconds: float) -> list[Samples]:
    """Decodes clips of one file in one pass; a clip that fails carries its error.

    Raises:
        FFmpegError: FFmpeg does not know the format.
        ValueError: the file has no audio, or most of it is damaged.
    """
    decoder = _take_kept(file, clips)
    try:
        if decoder is None:
            decoder = _start(file, may_skip=not seeking.is_forbidden(file))
        samples = _read_or_close(decoder, clips, max_seconds)
    except CannotSkip:
        seeking.forbid(file)
        if decoder is not None:
            decoder.stop() if decoder.file is file else decoder.close()
        decoder = _start(file, may_skip=False)
        samples = _read_or_close(decoder, clips, max_seconds)
    file.failure = file.failure or decoder.file.failure
    if file.stamp is None or decoder.is_over or file.failure:
        decoder.close()
    else:
        kept.keep(file.stamp, decoder)
    return samples


def _read_or_close(decoder: _Pass, clips: Sequence[Clip], max_seconds: float) -> list[Samples]:
    try:
        return decoder.read(clips, max_seconds)
    except (FFmpegError, ValueError):
        decoder.close()
        raise


def _take_kept(file: AudioFile, clips: Sequence[Clip]) -> _Pass | None:
    """Returns the decoder that read earlier clips of this file, if these clips follow them."""
    decoder = None if file.stamp is None else kept.take(file.stamp)
    if decoder is None:
        return None
    assert isinstance(decoder, _Pass)
    if decoder.reaches(min(clip.offset for clip in clips)):
        return decoder
    decoder.close()
    return None


def _start(file: AudioFile, *, may_skip: bool) -> _Pass:
    """A decoder at the start of a file; it owns the file."""
    is_counted = tracks.states_frames(file)
    with ExitStack() as stack:
        container = stack.enter_context(open_container(file))
        if not container.streams.audio:
            raise ValueError("the file has no audio")
        stated_seconds = tracks.stated_seconds(container, is_counted=is_counted)
        file.lend()
        return _Pass(file, container, stack.pop_all(), stated_seconds, may_skip=may_skip)


class _Pass(Packets):
    """One pass through a track, from its first packet to the last that a clip needs.

    Args:
        file: The file.
        container: The same, open.
        stack: Closes the container at the end.
        stated_seconds: The track's length according to its header, if that is reliable.
        may_skip: Skip packets that no clip needs.
    """

    def __init__(
        self,
        file: AudioFile,
        container: InputContainer,
        stack: ExitStack,
        stated_seconds: float | None,
        *,
        may_skip: bool,
    ) -> None:
        super().__init__(file, container, stack, may_skip=may_skip)
        self._stated_seconds = stated_seconds
        self._before: av.AudioFrame | None = None
        """The last frame since packets were skipped."""
        self._rates: set[int] = set()
        self._frames = tracks.even_frames(self._decode())
        self._recent: deque[tuple[int, np.ndarray, tuple[int, float, float]]] = deque(maxlen=RECENT)
        """The last blocks, as arguments of `Samples.add`."""
        self.is_over = False
        """Whether the end of the file was reached."""

    def reaches(self, offset: float) -> bool:
        """Whether a clip that begins at this offset in seconds can still be read."""
        if self._timeline is None or not self._recent:
            return False
        return round(offset * self._timeline.rate) >= self._recent[0][0]

    def read(self, clips: Sequence[Clip], max_seconds: float) -> list[Samples]:
        """Decodes clips, none of which begins before those of the last call ended.

        Args:
            clips: Clips of this file.
            max_seconds: Maximum length of a clip.
        """
        if self._timeline is not None:
            self._want(clips, max_seconds)
            for block in self._recent:
                for samples in self._wanted:
                    samples.add(*block)
        while self._timeline is None or self._waiting():
            following = next(self._frames, None)
            if following is None:
                self.is_over = True
                break
            time, block_CN, rate = following
            if self._timeline is None:
                self._timeline = self._begin(time, rate)
                self._want(clips, max_seconds)
            if rate != self._timeline.rate:
                block_CN = tracks.resample(block_CN, rate, self._timeline.rate)
            if self._end is not None and time is not None:
                block_CN = block_CN[:, : max(0, self._end - round(time * rate))]
            position = self._timeline.place(time, block_CN.shape[1])
            if self._recent and position != self._recent[-1][0] + len(self._recent[-1][1]):
                self._recent.clear()
            self._recent.append((position, *mix(block_CN)))
            for samples in self._wanted:
                samples.add(*self._recent[-1])
        if self._timeline is None:
            self._wanted = [
                Samples(clip, self._track.codec_context.sample_rate or 0, 1) for clip in clips
            ]
            if self._damaged:
                raise ValueError(f"all of its {len(self._damaged)} packets are damaged")
        self._finish(self._wanted)
        return list(self._wanted)

    def _want(self, clips: Sequence[Clip], max_seconds: float) -> None:
        timeline = self._timeline
        assert timeline is not None
        self._wanted = [Samples(clip, timeline.rate, max_seconds) for clip in clips]
        self._expect(timeline.next / timeline.rate)

    def _begin(self, time: float | None, rate: int) -> Timeline:
        start = self._container.start_time
        alone = len(self._container.streams) - len(self._pictures()) == 1
        if time is None or start is None or alone:
            origin = time or 0.0
        else:
            origin = min(max(start / av.time_base, 0.0), time)
        names = set(self._container.format.name.split(","))
        longest_jump = min(LONGEST_JUMP_S.get(name, float("inf")) for name in names)
        timeline = Timeline(rate, origin, bool(names & RESTARTING), longest_jump)
        if time is not None:
            # The first sample is placed exactly, even if its delay is tiny.
            timeline.next = round((time - origin) * rate)
        return timeline

    def _pictures(self) -> list[Stream]:
        cover = Disposition.attached_pic
        return [s for s in self._container.streams if s.type != "audio" and s.disposition & cover]

    def _finish(self, sounds: Sequence[Samples]) -> None:
        stated_seconds = self._stated_seconds
        length = self._timeline.next if self._timeline else 0
        damaged = sum(seconds for _, seconds in self._damaged)
        for samples in sounds:
            rate = samples.sample_rate
            missing = 0.0 if stated_seconds is None or not rate else stated_seconds - length / rate
            samples.finish(length, missing)
            if samples.error:
                continue
            first, last = samples.start / rate, samples.end / rate
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

    def _decode(self) -> Iterator[tuple[av.AudioFrame, int]]:
        """Yields decoded frames and how many of their samples are audio, not padding; packets that
        no clip needs are skipped."""
        codec = self._track.codec_context.codec.name
        preroll = PREROLL_S.get(codec) if self._may_skip else None
        skipped = False
        packets = self._packets()
        while (packet := next(packets, None)) is not None:
            timeline = self._timeline
            if self._begins_link(packet):
                packets = self._packets()
                continue
            if self._land_before is not None and not self._has_landed(packet):
                continue
            if preroll is not None and timeline is not None and self._is_idle(packet, preroll):
                if not self._has_skipped:
                    self._check_skippable()
                timeline.skip(stamp_seconds(packet), self._samples(packet))
                skipped = self._has_skipped = True
                if self._may_jump and self._jump(packet, preroll):
                    packets = self._packets()
                continue
            if skipped:
                if self._track.codec_context.is_open:
                    self._track.codec_context.flush_buffers()
                skipped, self._before = False, None
                if timeline is not None:
                    timeline.resumes = True
            if self._has_skipped and codec == "opus" and _uses_silk(packet):
                raise CannotSkip
            try:
                frames = self._decode_packet(packet)
            except FFmpegError as error:
                if isinstance(error, EndOfFile):
                    continue
                if self._open_next_link(packet):
                    packets = self._packets()
                else:
                    self._note_damage(packet)
                continue
            for frame, count in frames:
                if count and self._has_resumed(frame):
                    self._rates.add(frame.sample_rate)
                    yield frame, count

    def _has_resumed(self, frame: av.AudioFrame) -> bool:
        """Whether a frame's time stamp is reliable after packets were skipped.

        FFmpeg does not know how long a block of Vorbis is at the start of some pages, so a frame
        must begin where the one before it ends.
        """
        timeline = self._timeline
        if timeline is None or not timeline.resumes:
            return True
        before, self._before = self._before, frame
        if before is None or frame.time is None or before.time is None:
            return False
        if abs((frame.time - before.time) * frame.sample_rate - before.samples) < 0.5:
            return True
        position = (frame.time - timeline.origin) * timeline.rate
        if any(samples.start < position for samples in self._waiting()):
            raise CannotSkip
        return False


def _uses_silk(packet: av.Packet) -> bool:
    return packet.size > 0 and bytes(packet)[0] >> 3 < FIRST_CELT
