"""Tests that audio decodes to the same samples in every format and from every place.

The places are a path, a URL, a row of a data set, and an object store; whole files and clips.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from manifests import audio
from manifests.clips import Clip
from manifests.corpus.sources import detect
from manifests.storage import Folder
from tests.manifests.reference_audio import RATE, ffmpeg, locate, noise, write_reference

LOSSLESS = {
    "wav-u8": ("wav", "-c:a pcm_u8"),
    "wav-16": ("wav", "-c:a pcm_s16le"),
    "wav-24": ("wav", "-c:a pcm_s24le"),
    "wav-32": ("wav", "-c:a pcm_s32le"),
    "wav-float": ("wav", "-c:a pcm_f32le"),
    "wav-double": ("wav", "-c:a pcm_f64le"),
    "wav-piped": ("wav", "-f wav -"),
    "rf64": ("wav", "-rf64 always"),
    "w64": ("w64", ""),
    "aiff": ("aiff", ""),
    "aiff-piped": ("aiff", "-f aiff -"),
    "au": ("au", ""),
    "au-piped": ("au", "-f au -"),
    "caf": ("caf", ""),
    "flac": ("flac", ""),
    "flac-piped": ("flac", "-f flac -"),
    "ogg-flac": ("oga", "-c:a flac"),
    "alac": ("m4a", "-c:a alac"),
    "mka-flac": ("mka", "-c:a flac"),
    "mkv-pcm": ("mkv", "-c:a pcm_s16le"),
    "mov-pcm": ("mov", "-c:a pcm_s24le"),
    "wavpack": ("wv", ""),
    "tta": ("tta", ""),
}
LOSSY = {
    "wav-mulaw": ("wav", "-c:a pcm_mulaw"),
    "wav-adpcm": ("wav", "-c:a adpcm_ms"),
    "ogg-vorbis": ("ogg", "-c:a libvorbis"),
    "opus": ("opus", "-c:a libopus -b:a 64k"),
    "webm-opus": ("webm", "-c:a libopus -b:a 64k"),
    "webm-vorbis": ("webm", "-c:a libvorbis"),
    "mp3": ("mp3", "-c:a libmp3lame -b:a 64k"),
    "mp3-vbr": ("mp3", "-c:a libmp3lame -q:a 5"),
    "mp3-piped": ("mp3", "-c:a libmp3lame -q:a 5 -f mp3 -"),
    "mp2": ("mp2", "-c:a mp2"),
    "m4a": ("m4a", "-c:a aac"),
    "mp4": ("mp4", "-c:a aac"),
    "aac-adts": ("aac", "-c:a aac"),
    "mka-aac": ("mka", "-c:a aac"),
    "ts-aac": ("ts", "-c:a aac"),
    "ac3": ("ac3", "-c:a ac3 -ar 48000"),
    "wma": ("wma", "-c:a wmav2"),
    "flv": ("flv", "-c:a aac -ar 44100"),
    "avi-mp3": ("avi", "-c:a libmp3lame"),
}
CUTS = ((0.0, 0.5), (1.2345, 0.75), (2.5, None))
ENCODER_DELAY_S = 0.12
"""Largest shift of containers that cannot state the encoder's delay, such as AAC in TS."""


@pytest.mark.parametrize("kind", [*LOSSLESS, *LOSSY])
def test_samples_are_the_same_from_every_place(tmp_path: Path, kind: str, s3: fs.FileSystem):
    suffix, options = (LOSSLESS | LOSSY)[kind]
    reference = write_reference(tmp_path / "reference.wav", 4.0)
    path = tmp_path / f"x.{suffix}"
    arguments = options.split()
    if options.endswith("-"):
        ffmpeg("-i", reference, *arguments, stdout=path)
    else:
        ffmpeg("-i", reference, *arguments, path)
    data = path.read_bytes()
    whole = audio.decode(Clip(clip_id="x", uri=str(path)))
    check_sound(whole, exact=kind in LOSSLESS and kind != "wav-u8")

    column = pa.array([{"bytes": data}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    (tmp_path / "set").mkdir()
    pq.write_table(pa.table({"audio": column}), tmp_path / "set" / "train.parquet")
    (from_dataset,) = detect.clips(f"hf:{tmp_path / 'set'}", Folder(tmp_path / "stored"))
    with s3.open_output_stream(f"data/matrix/{kind}") as stored:
        stored.write(data)
    nameless = tmp_path / "nameless"
    nameless.write_bytes(data)
    places = (from_dataset.uri, path.as_uri(), f"s3://data/matrix/{kind}", str(nameless))
    for uri in places:
        assert audio.decode(Clip(clip_id="x", uri=uri)).digest == whole.digest
    for offset, duration in CUTS:
        cut = {"clip_id": "x", "offset": offset, "duration": duration}
        start = round(offset * whole.sample_rate)
        stop = None if duration is None else start + round(duration * whole.sample_rate)
        for uri in (str(path), *places):
            wave = audio.decode(Clip(uri=uri, **cut))
            assert np.array_equal(wave.samples, whole.samples[start:stop])


def check_sound(wave: audio.Waveform, *, exact: bool) -> None:
    """Checks the samples or, for lossy formats, the position of a part in the reference."""
    assert not {w.kind for w in wave.warnings} - {"gap"}
    samples = audio.resample(wave, RATE)
    if exact:
        expected = np.rint(noise(4.0) * 32768) / 32768
        assert len(samples) == len(expected)
        assert np.abs(samples - expected).max() <= 1 / 32768
        return
    assert wave.seconds == pytest.approx(4.0, abs=ENCODER_DELAY_S)
    place, correlation = locate(samples[RATE : 3 * RATE], noise(4.0))
    assert correlation > 0.8
    assert place == pytest.approx(1.0, abs=ENCODER_DELAY_S)
