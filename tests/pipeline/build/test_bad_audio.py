"""Tests that a build processes unusual audio correctly and records bad audio with a reason.

Processed clips must give the frames of the same sound in a plain file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from rich.console import Console

from manifests.cache.reader import CacheReader
from manifests.cache.shards import Failure
from manifests.clips import Clip
from manifests.corpus.corpus import build as build_corpus
from pipeline.config import BuildConfig, TeacherConfig
from pipeline.inspect.status import status
from pipeline.job import build
from tests.pipeline.conftest import ENERGY

RATE = 16_000
SECONDS = 1.5
GOOD = {
    "plain": SECONDS,
    "silence": SECONDS,
    "wrong extension": SECONDS,
    "no extension": SECONDS,
    "eight channels": SECONDS,
    "24 bit": SECONDS,
    "32 bit": SECONDS,
    "8 bit": SECONDS,
    "float": SECONDS,
    "double": SECONDS,
    "384 kHz": SECONDS,
    "declared too long": SECONDS,
    "declared too short": 0.5,
    "offset": 1.0,
    "loud": SECONDS,
    "mp3": SECONDS,
    "ogg": SECONDS,
    "ñandú 音声 🎵 %41 #?&": SECONDS,
    "truncated": 0.75,
    "one sample": 1 / RATE,
    "ten seconds of six hours": 10.0,
}
"""Clip -> seconds that its targets cover."""
BAD = {
    "zero length": "unreadable",
    "header alone": "empty",
    "text": "unreadable",
    "noise bytes": "unreadable",
    "truncated header": "unreadable",
    "nan": "not-finite",
    "infinite": "not-finite",
    "1 Hz": "bad-rate",
    "offset beyond the end": "beyond-end",
    "six hours": "too-long",
    "vanished": "missing",
    "folder": "unreadable",
    "picture": "unreadable",
}
"""Clip -> error code."""


def sound(seconds: float, rate: int) -> np.ndarray:
    times = np.arange(round(seconds * rate)) / rate
    return 0.4 * np.sin(2 * np.pi * 440 * times) + 0.2 * np.sin(2 * np.pi * 1000 * times)


def make_files(folder: Path) -> dict[str, Clip]:
    """Writes the files above, and returns name -> clip."""
    clips: dict[str, Clip] = {}

    def add(name: str, extension: str = ".wav", **where) -> Path:
        path = folder / f"{name}{extension}"
        clips[name] = Clip(clip_id=name, uri=str(path), **where)
        return path

    def write(name: str, *, extension: str = ".wav", rate: int = RATE, where: dict | None = None,
              samples: np.ndarray | None = None, **options) -> Path:  # fmt: skip
        path = add(name, extension, **(where or {}))
        samples = sound(SECONDS, rate) if samples is None else samples
        soundfile.write(path, samples, rate, **{"format": "WAV", **options})
        return path

    tone = sound(SECONDS, RATE)
    write("plain")
    write("silence", samples=np.zeros_like(tone))
    write("wrong extension", extension=".mp3", format="FLAC")
    write("no extension", extension="")
    write("eight channels", samples=np.repeat(tone[:, None], 8, axis=1))
    write("24 bit", subtype="PCM_24")
    write("32 bit", subtype="PCM_32")
    write("8 bit", subtype="PCM_U8")
    write("float", subtype="FLOAT")
    write("double", subtype="DOUBLE")
    write("loud", samples=3 * tone, subtype="FLOAT")
    write("384 kHz", rate=384_000)
    write("mp3", extension=".mp3", format="MP3")
    write("ogg", extension=".ogg", format="OGG", subtype="VORBIS")
    write("ñandú 音声 🎵 %41 #?&")
    write("declared too long", where={"duration": 60.0})
    write("declared too short", where={"duration": 0.5})
    write("offset", where={"offset": 0.5})
    write("offset beyond the end", where={"offset": 2.0})
    write("one sample", samples=tone[:1])
    write("header alone", samples=tone[:0])
    write("nan", samples=np.where(np.arange(len(tone)) == 77, np.nan, tone), subtype="FLOAT")
    write("infinite", samples=np.where(np.arange(len(tone)) == 77, np.inf, tone), subtype="DOUBLE")
    write("1 Hz", rate=1, samples=tone[:100])

    whole = write("truncated", subtype="PCM_16").read_bytes()
    Path(clips["truncated"].uri).write_bytes(whole[: 44 + len(tone)])
    add("truncated header").write_bytes(whole[:20])
    add("zero length").touch()
    add("text").write_text("this is no audio\n" * 100)
    add("noise bytes").write_bytes(np.random.default_rng(0).bytes(50_000))
    add("picture", ".flac").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(1000))
    add("vanished").write_bytes(whole)
    add("folder").mkdir()
    long_wav = write(
        "six hours", rate=2000, samples=np.tile(sound(60, 2000), 360), subtype="PCM_U8"
    )
    cut = {"offset": 3 * 3600.0, "duration": 10.0}
    clips["ten seconds of six hours"] = Clip(
        clip_id="ten seconds of six hours", uri=str(long_wav), **cut
    )
    return clips


@pytest.mark.usefixtures("cluster")
def test_every_clip_is_processed_or_fails_with_its_reason(tmp_path: Path):
    clips = make_files(tmp_path)
    assert clips.keys() == GOOD.keys() | BAD.keys()
    corpus = build_corpus(clips.values(), tmp_path / "corpus", clips_per_shard=7)
    Path(clips["vanished"].uri).unlink()
    config = BuildConfig(
        corpus=corpus.folder.uri,
        cache=str(tmp_path / "cache"),
        preset="none",
        teacher={"energy": TeacherConfig(family=ENERGY)},
        max_failure_rate=1.0,
        block_clips=4,
    )
    outcome = build(config, Console(quiet=True))
    assert outcome.failures == {"energy": len(BAD)}

    reader = CacheReader(tmp_path / "cache")
    failures: dict[str, Failure] = {
        failure.clip_id: failure for failure in reader.teacher("energy").failures()
    }
    assert {name: failure.error for name, failure in failures.items()} == BAD
    assert all(failure.stage == "decode" for failure in failures.values())
    for name, failure in failures.items():
        assert clips[name].uri in failure.message

    stream = reader.stream("energy.bands")
    assert set(stream.ids) == GOOD.keys()
    assert {name: stream.duration(name) for name in GOOD} == pytest.approx(GOOD, abs=0.03)
    plain_TD = stream["plain"].decode()
    same_sound = ("wrong extension", "no extension", "eight channels", "24 bit", "32 bit", "float",
             "double", "declared too long", "ñandú 音声 🎵 %41 #?&")  # fmt: skip
    for name in same_sound:
        np.testing.assert_allclose(stream[name].decode(), plain_TD, atol=0.3, err_msg=name)
    loudest = plain_TD.mean(0).argmax()
    for name in ("8 bit", "384 kHz", "mp3", "ogg", "offset", "declared too short", "truncated"):
        frames_TD = stream[name].decode()
        assert frames_TD.mean(0).argmax() == loudest, name
        assert frames_TD[2:-3, loudest].mean() == pytest.approx(
            plain_TD[:, loudest].mean(), abs=0.1
        )

    (line,) = status(reader.layout)
    assert line.complete
    counted = {error: list(BAD.values()).count(error) for error in BAD.values()}
    assert line.failures == counted
    # The clip with one sample has the value 0, and is therefore "silent", too.
    assert line.warnings == {"silent": 2, "short": 1, "truncated": 1, "clipped": 1}
