"""Selects the packets of a track that are decoded; packets that no clip needs are skipped.

If the byte position of a time can be proven (`seeking`), skipped packets are not even read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import av
from av.container import InputContainer
from av.error import EOFError as EndOfFile
from av.error import FFmpegError, PatchWelcomeError

from manifests.decoders import ogg, seeking, tracks
from manifests.decoders.collect import Samples
from manifests.decoders.files import AudioFile
from manifests.decoders.timeline import Timeline

PREROLL_S = {"mp3float": 1.0, "vorbis": 1.0, "flac": 1.0, "alac": 1.0, "opus": 2.0}
"""Decoder -> seconds before a clip at which decoding must start to give bit-identical samples. AAC
(noise) and AC-3 (dither) never become identical, which would change a clip's digest, so they are
decoded from the start of the file. So is Opus where it uses SILK, whose decoder keeps differences
of about 1e-5."""
CUT_ANYWHERE = ("wav", "w64")
"""Containers that FFmpeg cuts into packets without regard to frames, e.g. of MP3, so that a frame's
beginning can be in a packet that was skipped."""
JUMP_S = 5.0
"""Seconds of audio that must be skipped for a seek to be worthwhile."""
JUMP_MARGIN_S = 0.5
"""Seconds before the first needed packet at which a seek aims."""


class CannotSkip(Exception):
    """Decoding after skipped packets gives other samples than decoding the whole file."""


def open_container(file: AudioFile, name: str | None = None) -> InputContainer:
    """Opens a file, whose format FFmpeg detects from the content."""
    # No protocol is allowed: a clip that is a playlist must not make FFmpeg open other files.
    alone = {"protocol_whitelist": "none"}
    return av.open(file, mode="r", format=name, metadata_errors="ignore", options=alone)


class Packets:
    """The packets of a file's track, in order.

    Args:
        file: The file.
        container: The same, open.
        stack: Closes the container at the end.
        may_skip: Skip packets that no clip needs.
    """

    def __init__(
        self, file: AudioFile, container: InputContainer, stack: ExitStack, *, may_skip: bool
    ) -> None:
        self.file, self._container, self._stack = file, container, stack
        self._track = tracks.default_track(container.streams.audio)
        self._may_skip = may_skip and container.format.name not in CUT_ANYWHERE
        self._may_jump = self._may_skip and self._track.codec_context.codec.name in PREROLL_S
        self._damaged: list[tuple[float | None, float]] = []
        """Position and length, in seconds, of packets that could not be decoded."""
        self._timeline: Timeline | None = None
        self._wanted: Sequence[Samples] = ()
        self._first_packet: tuple[int | None, int | None] | None = None
        """Byte and time stamp."""
        self._shift = 0
        """The byte that FFmpeg sees as the start of the file."""
        self._has_skipped = False
        """Whether any packets were skipped."""
        self._last_link = file.size
        """The byte of an Ogg file behind which no link begins, as far as that is known."""
        self._ticks = 0
        """Offset that is added to time stamps since a seek."""
        self._land_before: float | None = None
        """Time stamp in seconds at or before which a seek must land; None after it did."""
        self._is_first_landed = False
        """Whether the first packet since a seek was read; the time stamp of the next one is
        correct."""
        self._end: int | None = None
        """Sample, in time stamps since a seek, from which on the encoder's padding is dropped."""
        self._link = ogg.Link()

    def stop(self) -> None:
        """Stops reading, and goes back to the start of the file."""
        self._stack.close()
        self.file.shifted(-self._shift).seek(0)

    def close(self) -> None:
        """Stops reading, and closes the file."""
        self._stack.close()
        self.file.close(is_lent=True)

    def _packets(self) -> Iterator[av.Packet]:
        """Yields the track's packets and the flushing one; reading continues after damaged
        places."""
        for _ in range(100):
            try:
                for packet in self._container.demux(self._track):
                    if self._first_packet is None:
                        self._first_packet = packet.pos, packet.pts
                    if self._ticks and packet.pts is not None:
                        packet.pts += self._ticks
                    yield packet
                return
            except EndOfFile:
                return
            except PatchWelcomeError:
                if not self._open_next_link():
                    self._damaged.append((None, 0.0))
            except FFmpegError:
                self._damaged.append((None, 0.0))

    def _open_next_link(self, packet: av.Packet | None = None) -> bool:
        """Goes on with the next link of a chained Ogg file; with a packet, only if that belongs to
        a later link than the one opened."""
        if self._container.format.name != "ogg" or self._shift >= self._last_link:
            return False
        with self._whole_file():
            link = ogg.next_link(self.file, self._shift)
            if link is None:
                self._last_link = self._shift
            elif packet is not None:
                position = self._shift + (packet.pos or 0)
                while (later := ogg.next_link(self.file, link)) and later <= position:
                    link = later
                link = link if link <= position else None
        if link is None:
            return False
        if self._has_skipped:
            raise CannotSkip
        self._reopen(link, 0)
        self._link = ogg.Link()
        if self._timeline is not None:
            self._timeline.restarts_now = True
        return True

    def _note_damage(self, packet: av.Packet) -> None:
        """Notes a packet that could not be decoded."""
        length = float((packet.duration or 0) * (packet.time_base or 0))
        time, timeline = stamp_seconds(packet), self._timeline
        if time is not None:
            if timeline is None:
                time = 0.0
            elif timeline.restarts_now:
                time = timeline.next / timeline.rate
            else:
                time -= timeline.origin
        self._damaged.append((time, length))

    def _is_vorbis_page(self) -> bool:
        """Whether the link is Vorbis on a single page, whose end FFmpeg does not find."""
        return self._link.is_one_page and self._track.codec_context.codec.name == "vorbis"

    def _decode_packet(self, packet: av.Packet) -> list[tuple[av.AudioFrame, int]]:
        """Returns frames, and how many of their samples are not padding."""
        if not self._is_vorbis_page():
            return [(frame, frame.samples) for frame in packet.decode()]
        # The copy lacks the side data that state a wrong number of samples to omit.
        copy = av.Packet(bytes(packet))
        copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
        frames = self._track.codec_context.decode(copy)
        return [(frame, self._link.without_padding(frame.samples)) for frame in frames]

    def _begins_link(self, packet: av.Packet) -> bool:
        """Whether a packet belongs to the next link of a chained Ogg file, which was opened."""
        if self._container.format.name != "ogg" or packet.pos is None:
            return False
        with self._whole_file():
            if self._link.contains(self.file, self._shift + packet.pos):
                return False
        return self._open_next_link(packet)

    def _is_idle(self, packet: av.Packet, preroll: float) -> bool:
        """Whether no clip needs a packet, and its length is known."""
        time, timeline = stamp_seconds(packet), self._timeline
        if time is None or timeline is None or not self._samples(packet):
            return False
        if self._is_vorbis_page():
            return False  # Only decoding counts exactly.
        if self._track.codec_context.sample_rate != timeline.rate:
            return False  # Only decoding and resampling it counts exactly.
        if float(packet.time_base or 1) * timeline.rate > 1.0:
            return False  # Time stamps are coarser than samples: only decoding counts exactly.
        behind = (time - timeline.origin + preroll) * timeline.rate
        return all(s.end == s.start and behind < s.start for s in self._waiting())

    def _waiting(self) -> list[Samples]:
        return [samples for samples in self._wanted if not samples.is_done]

    def _jump(self, packet: av.Packet, preroll: float) -> bool:
        """Continues reading shortly before the next clip, if it is far away and its position is
        certain."""
        time, timeline = stamp_seconds(packet), self._timeline
        waiting = self._waiting()
        if time is None or timeline is None or not waiting:
            return False
        start = min(samples.start for samples in waiting) / timeline.rate
        needed = start + timeline.origin - preroll
        if needed - time < JUMP_S:
            return False
        with self._whole_file():
            place = self._place(needed - JUMP_MARGIN_S)
        if place is None:
            self._may_jump = False
            self._expect(time - timeline.origin)
            return False
        self._expect(start - preroll - JUMP_MARGIN_S)
        self._land_before, self._is_first_landed = needed, False
        if isinstance(place, tuple):
            self._reopen(*place)
        else:
            self._container.seek(
                round(place / float(self._track.time_base or 1)), stream=self._track
            )
        return True

    def _place(self, time: float) -> float | tuple[int, int] | None:
        """The time to seek to, or the byte to continue from and its time stamp; None if
        uncertain."""
        name, file = self._container.format.name, self.file
        if len(self._container.streams) != 1:
            return None
        if name == "ogg":
            return time
        if name.startswith("mov,") and seeking.table_is_even(self._track):
            return time
        if name == "mp3" and (frames := seeking.mp3_frames(file)):
            frame = int(time * frames.rate / frames.samples)
            byte = frames.find(file, frame)
            if byte is not None and self._first_packet == (frames.first, 0):
                base = self._track.time_base or 1
                self._end = frames.end
                return byte, round(frame * frames.samples / frames.rate / float(base))
        return None

    def _reopen(self, byte: int, ticks: int) -> None:
        """Continues with a new decoder from a byte whose time stamp is known."""
        name = self._container.format.name
        if self._shift:
            self._container.close()
        self.file.shifted(byte - self._shift)
        self._shift = byte
        self.file.seek(0)
        self._container = self._stack.enter_context(open_container(self.file, name))
        self._track, self._ticks = self._container.streams.audio[0], ticks

    def _has_landed(self, packet: av.Packet) -> bool:
        time = stamp_seconds(packet)
        if time is None or self._timeline is None:
            return False
        if not self._is_first_landed:
            # In Vorbis, FFmpeg does not know the length of the first block.
            self._is_first_landed = True
            return False
        if self._land_before is not None and time > self._land_before:
            raise CannotSkip
        self._land_before = None
        self._timeline.go_to(time)
        return True

    def _expect(self, start: float) -> None:
        """Prefetches, in few requests, the bytes that the clips after a time need."""
        length = float(self._container.duration or 0) / av.time_base
        timeline, end = self._timeline, start
        if not length or timeline is None:
            return
        for samples in sorted(self._waiting(), key=lambda each: each.start):
            if self._may_jump and samples.start / timeline.rate > end + JUMP_S:
                break
            end = length if samples.stop is None else max(end, samples.stop / timeline.rate)
        share = min((end - start) / length, 1.0)
        self.file.expect(round(share * self.file.size))

    def _samples(self, packet: av.Packet) -> int:
        rate = self._timeline.rate if self._timeline else 0
        return round(float((packet.duration or 0) * (packet.time_base or 0)) * rate)

    def _check_skippable(self) -> None:
        """Checks Ogg, whose links restart, and MP3, whose time stamps count frames and are wrong
        after joins and gaps."""
        name, is_alone = self._container.format.name, len(self._container.streams) == 1
        with self._whole_file():
            if name == "ogg" and not seeking.ogg_is_one_stream(self.file):
                raise CannotSkip
            if name == "mp3" and is_alone and seeking.mp3_frames(self.file) is None:
                raise CannotSkip

    @contextmanager
    def _whole_file(self) -> Iterator[None]:
        """Gives access to the file from its start, and then restores the position that FFmpeg
        left."""
        position = self.file.tell()
        self.file.shifted(-self._shift)
        try:
            yield
        finally:
            self.file.shifted(self._shift)
            self.file.seek(position)


def stamp_seconds(packet: av.Packet) -> float | None:
    """A packet's time stamp in seconds."""
    if packet.pts is None or packet.time_base is None:
        return None
    return float(packet.pts * packet.time_base)
