"""Tests for builds from corpus to cache, undisturbed and with teachers that fail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from manifests import audio
from manifests.cache.reader import CacheReader
from manifests.corpus import corpus as corpora
from manifests.corpus.corpus import Corpus
from manifests.errors import UserError
from pipeline.config import BuildConfig, TeacherConfig
from pipeline.job import BuildResult, build
from tests.pipeline.conftest import ENERGY, MakeCorpus
from tests.pipeline.fakes import Energy, EnergySettings

pytestmark = pytest.mark.usefixtures("cluster")


def run_build(
    corpus: Corpus,
    cache: Path,
    *,
    teachers: dict[str, TeacherConfig],
    retry_failures: bool = False,
    **options,
) -> BuildResult:
    config = BuildConfig(
        corpus=corpus.folder.uri, cache=str(cache), preset="none", teacher=teachers, **options
    )
    return build(config, Console(quiet=True), retry_failures=retry_failures)


def energy_teacher(*, settings: dict | None = None, **runtime) -> TeacherConfig:
    return TeacherConfig(family=ENERGY, settings=settings or {}, runtime=runtime)


def read_blobs(cache: Path, teacher: str = "energy") -> dict[str, bytes]:
    return {
        clip_id: bytes(frames.blob)
        for clip_id, frames in CacheReader(cache).stream(f"{teacher}.bands")
    }


def test_cache_contains_the_teachers_frames_of_every_clip(make_corpus: MakeCorpus, tmp_path: Path):
    corpus = make_corpus(11)
    cache = tmp_path / "cache"
    result = run_build(corpus, cache, teachers={"energy": energy_teacher()}, block_clips=3)

    assert result.clips == {"energy": 11}
    stream = CacheReader(cache).stream("energy.bands")
    teacher = Energy("energy", EnergySettings())
    for clip in corpus.clips():
        expected = teacher.extract([audio.load(clip, 16_000)])[0].frames["bands"]
        stored = stream[clip.clip_id].decode()
        assert stored.shape == expected.shape
        assert np.abs(stored - expected).max() <= np.abs(expected).max(0).max() / 254 + 1e-6


def test_building_a_complete_cache_changes_nothing(make_corpus: MakeCorpus, tmp_path: Path):
    corpus, cache = make_corpus(5), tmp_path / "cache"
    run_build(corpus, cache, teachers={"energy": energy_teacher()})
    before = sorted((path, path.stat().st_mtime_ns) for path in cache.rglob("*.*"))

    assert run_build(corpus, cache, teachers={"energy": energy_teacher()}).clips == {}
    assert sorted((path, path.stat().st_mtime_ns) for path in cache.rglob("*.*")) == before


def test_growing_corpus_computes_only_new_clips_and_teachers(
    make_corpus: MakeCorpus, tmp_path: Path
):
    cache = tmp_path / "cache"
    run_build(make_corpus(6), cache, teachers={"energy": energy_teacher()})
    first = read_blobs(cache)

    grown = run_build(make_corpus(9), cache, teachers={"energy": energy_teacher()})
    assert grown.clips == {"energy": 3}
    assert first.items() <= read_blobs(cache).items()

    second = {"energy": energy_teacher(), "other": energy_teacher(settings={"gain": 4.0})}
    assert run_build(make_corpus(9), cache, teachers=second).clips == {"other": 9}


def test_changed_setting_makes_a_new_version_beside_the_old_one(
    make_corpus: MakeCorpus, tmp_path: Path
):
    corpus, cache = make_corpus(4), tmp_path / "cache"
    run_build(corpus, cache, teachers={"energy": energy_teacher()})
    old = CacheReader(cache).teachers["energy"]
    run_build(corpus, cache, teachers={"energy": energy_teacher(settings={"gain": 9.0})})

    reader = CacheReader(cache)
    assert reader.teachers["energy"].fingerprint != old.fingerprint
    clip_id = next(corpus.clips()).clip_id
    louder = reader.stream("energy.bands")[clip_id].decode()
    quieter = reader.stream(f"{old.key}.bands")[clip_id].decode()
    assert (louder - quieter).mean() == pytest.approx(np.log(9.0), abs=0.1)


def test_file_without_audio_is_recorded_as_a_failure(make_corpus: MakeCorpus, tmp_path: Path):
    corpus, cache = make_corpus(5), tmp_path / "cache"
    Path(next(corpus.clips()).uri).write_text("this is text")
    result = run_build(corpus, cache, teachers={"energy": energy_teacher()})

    assert result.failures == {"energy": 1}
    (failure,) = CacheReader(cache).teacher("energy").failures()
    assert (failure.clip_id, failure.stage) == ("clip0000", "decode")
    assert set(read_blobs(cache)) == {f"clip{index:04d}" for index in range(1, 5)}

    again = run_build(corpus, cache, teachers={"energy": energy_teacher()})
    assert (again.clips, again.earlier_failures) == ({}, 1)


def test_exception_of_a_teacher_fails_one_clip(make_corpus: MakeCorpus, tmp_path: Path):
    corpus, cache = make_corpus(8, loud=[5]), tmp_path / "cache"
    run_build(corpus, cache, teachers={"energy": energy_teacher(raise_above=0.6)})

    (failure,) = CacheReader(cache).teacher("energy").failures()
    assert (failure.clip_id, failure.stage, failure.error) == (
        "clip0005",
        "extract",
        "RuntimeError",
    )
    assert len(read_blobs(cache)) == 7


def test_crash_of_a_teacher_fails_one_clip(make_corpus: MakeCorpus, tmp_path: Path):
    corpus, cache = make_corpus(8, loud=[5]), tmp_path / "cache"
    run_build(corpus, cache, teachers={"energy": energy_teacher(die_above=0.6)})

    (failure,) = CacheReader(cache).teacher("energy").failures()
    assert (failure.clip_id, failure.stage, failure.error) == ("clip0005", "extract", "worker-died")
    assert len(read_blobs(cache)) == 7


def test_crash_of_a_worker_loses_no_clip(make_corpus: MakeCorpus, tmp_path: Path):
    corpus = make_corpus(12)
    run_build(corpus, tmp_path / "undisturbed", teachers={"energy": energy_teacher()})
    killed = energy_teacher(die_once_file=str(tmp_path / "died"))
    result = run_build(corpus, tmp_path / "killed", teachers={"energy": killed})

    assert (tmp_path / "died").exists()
    assert result.failures == {"energy": 0}
    assert read_blobs(tmp_path / "killed") == read_blobs(tmp_path / "undisturbed")


def test_high_failure_rate_stops_the_build(make_corpus: MakeCorpus, tmp_path: Path):
    corpus = make_corpus(160, loud=range(0, 160, 2), shard=16)
    message = r"of the last \d+ clips have failed in teacher energy.*RuntimeError.*loud clips"
    with pytest.raises(UserError, match=message):
        run_build(corpus, tmp_path / "cache", teachers={"energy": energy_teacher(raise_above=0.6)})


def test_codec_with_a_high_loss_in_every_shard_raises_an_error(
    make_corpus: MakeCorpus, tmp_path: Path
):
    config = TeacherConfig(family=ENERGY, codecs={"bands": "uint8"})
    with pytest.raises(UserError, match=r"codec uint8 loses .* set teacher.energy.codecs.bands"):
        run_build(make_corpus(16), tmp_path / "cache", teachers={"energy": config})


def test_codec_with_a_high_loss_in_one_shard_only_gets_a_warning(
    make_corpus: MakeCorpus, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    config = TeacherConfig(family=ENERGY, codecs={"bands": "uint8"})
    run_build(make_corpus(4), tmp_path / "cache", teachers={"energy": config})
    assert "codec uint8 loses" in caplog.text
    assert len(read_blobs(tmp_path / "cache")) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teachers": "asr,none"}, "unknown teacher 'asr'.*energy"),
        ({"preset": "nosuch"}, "unknown preset 'nosuch'.*embedded"),
        ({"teacher": {"x": TeacherConfig(family="nosuch")}}, "unknown family 'nosuch'.*crepe"),
        (
            {"teacher": {"x": TeacherConfig(family="no.such:Thing")}},
            "cannot load no.such:Thing.*PYTHONPATH",
        ),
        ({"teacher": {"x": energy_teacher(sleeps=1)}}, "no setting 'sleeps'.*sleep_s"),
    ],
)
def test_invalid_options_raise_an_error(
    make_corpus: MakeCorpus, tmp_path: Path, options: dict, message: str
):
    fields = {"preset": "none", "teacher": {"energy": energy_teacher()}} | options
    config = BuildConfig(corpus=make_corpus(2).folder.uri, cache=str(tmp_path / "cache"), **fields)
    with pytest.raises(UserError, match=message):
        build(config, Console(quiet=True))


def test_build_announces_ids_that_two_corpora_of_the_cache_share(
    make_corpus: MakeCorpus, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    teachers = {"energy": energy_teacher()}
    first = make_corpus(3)
    run_build(first, tmp_path / "cache", teachers=teachers)
    assert "both have a clip" not in caplog.text
    second = corpora.build(first.clips(), tmp_path / "second")
    run_build(second, tmp_path / "cache", teachers=teachers)
    assert f"the corpora {first.name!r} and 'second' of this cache both have a clip" in caplog.text
    caplog.clear()
    run_build(second, tmp_path / "cache", teachers=teachers)
    assert not caplog.text
