"""A build from corpus to cache, undisturbed and disturbed, with experts that misbehave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from manifests import audio
from manifests.cache.reader import CacheReader
from manifests.corpus.corpus import Corpus
from manifests.errors import UserError
from pipeline.config import BuildConfig, TeacherConfig
from pipeline.job import BuildResult, build
from tests.pipeline.conftest import ENERGY, MakeCorpus
from tests.pipeline.fakes import Energy, EnergySettings

pytestmark = pytest.mark.usefixtures("cluster")


def run(
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


def energy(*, settings: dict | None = None, **runtime) -> TeacherConfig:
    return TeacherConfig(family=ENERGY, settings=settings or {}, runtime=runtime)


def rows(cache: Path, teacher: str = "energy") -> dict[str, bytes]:
    return {
        clip_id: bytes(frames.blob)
        for clip_id, frames in CacheReader(cache).stream(f"{teacher}.bands")
    }


def test_every_clip_has_the_frames_that_its_expert_gives(make_corpus: MakeCorpus, tmp_path: Path):
    corpus = make_corpus(11)
    cache = tmp_path / "cache"
    outcome = run(corpus, cache, teachers={"energy": energy()}, block_clips=3)

    assert outcome.clips == {"energy": 11}
    stream = CacheReader(cache).stream("energy.bands")
    expert = Energy("energy", EnergySettings())
    for clip in corpus.clips():
        expected = expert.extract([audio.load(clip, 16_000)])[0].frames["bands"]
        stored = stream[clip.clip_id].decode()
        assert stored.shape == expected.shape
        assert np.abs(stored - expected).max() <= np.abs(expected).max(0).max() / 254 + 1e-6


def test_a_finished_cache_computes_nothing(make_corpus: MakeCorpus, tmp_path: Path):
    corpus, cache = make_corpus(5), tmp_path / "cache"
    run(corpus, cache, teachers={"energy": energy()})
    before = sorted((path, path.stat().st_mtime_ns) for path in cache.rglob("*.*"))

    assert run(corpus, cache, teachers={"energy": energy()}).clips == {}
    assert sorted((path, path.stat().st_mtime_ns) for path in cache.rglob("*.*")) == before


def test_growth_runs_only_what_is_new(make_corpus: MakeCorpus, tmp_path: Path):
    cache = tmp_path / "cache"
    run(make_corpus(6), cache, teachers={"energy": energy()})
    first = rows(cache)

    grown = run(make_corpus(9), cache, teachers={"energy": energy()})
    assert grown.clips == {"energy": 3}
    assert first.items() <= rows(cache).items()

    second = {"energy": energy(), "other": energy(settings={"gain": 4.0})}
    assert run(make_corpus(9), cache, teachers=second).clips == {"other": 9}


def test_a_changed_setting_makes_a_new_version_beside_the_old(
    make_corpus: MakeCorpus, tmp_path: Path
):
    corpus, cache = make_corpus(4), tmp_path / "cache"
    run(corpus, cache, teachers={"energy": energy()})
    old = CacheReader(cache).teachers["energy"]
    run(corpus, cache, teachers={"energy": energy(settings={"gain": 9.0})})

    reader = CacheReader(cache)
    assert reader.teachers["energy"].fingerprint != old.fingerprint
    clip_id = next(corpus.clips()).clip_id
    louder = reader.stream("energy.bands")[clip_id].decode()
    quieter = reader.stream(f"{old.key}.bands")[clip_id].decode()
    assert (louder - quieter).mean() == pytest.approx(np.log(9.0), abs=0.1)


def test_a_file_that_is_no_audio_is_recorded(make_corpus: MakeCorpus, tmp_path: Path):
    corpus, cache = make_corpus(5), tmp_path / "cache"
    Path(next(corpus.clips()).uri).write_text("this is text")
    outcome = run(corpus, cache, teachers={"energy": energy()})

    assert outcome.failures == {"energy": 1}
    (failure,) = CacheReader(cache).teacher("energy").failures()
    assert (failure.clip_id, failure.stage) == ("clip0000", "decode")
    assert set(rows(cache)) == {f"clip{index:04d}" for index in range(1, 5)}


def test_an_expert_that_raises_fails_one_clip(make_corpus: MakeCorpus, tmp_path: Path):
    corpus, cache = make_corpus(8, loud=[5]), tmp_path / "cache"
    run(corpus, cache, teachers={"energy": energy(raise_above=0.6)})

    (failure,) = CacheReader(cache).teacher("energy").failures()
    assert (failure.clip_id, failure.stage, failure.error) == (
        "clip0005",
        "extract",
        "RuntimeError",
    )
    assert len(rows(cache)) == 7


def test_an_expert_that_dies_fails_one_clip(make_corpus: MakeCorpus, tmp_path: Path):
    corpus, cache = make_corpus(8, loud=[5]), tmp_path / "cache"
    run(corpus, cache, teachers={"energy": energy(die_above=0.6)})

    (failure,) = CacheReader(cache).teacher("energy").failures()
    assert (failure.clip_id, failure.stage, failure.error) == ("clip0005", "extract", "worker-died")
    assert len(rows(cache)) == 7


def test_a_dying_worker_loses_nothing(make_corpus: MakeCorpus, tmp_path: Path):
    corpus = make_corpus(12)
    run(corpus, tmp_path / "calm", teachers={"energy": energy()})
    killed = energy(die_once_file=str(tmp_path / "died"))
    outcome = run(corpus, tmp_path / "killed", teachers={"energy": killed})

    assert (tmp_path / "died").exists()
    assert outcome.failures == {"energy": 0}
    assert rows(tmp_path / "killed") == rows(tmp_path / "calm")


def test_a_rising_failure_rate_stops_the_build(make_corpus: MakeCorpus, tmp_path: Path):
    corpus = make_corpus(160, loud=range(0, 160, 2), shard=16)
    message = r"of the last \d+ clips have failed in teacher energy.*RuntimeError.*loud clips"
    with pytest.raises(UserError, match=message):
        run(corpus, tmp_path / "cache", teachers={"energy": energy(raise_above=0.6)})


def test_a_codec_that_loses_too_much_of_every_shard_is_refused(
    make_corpus: MakeCorpus, tmp_path: Path
):
    config = TeacherConfig(family=ENERGY, codecs={"bands": "uint8"})
    with pytest.raises(UserError, match=r"codec uint8 loses .* set teacher.energy.codecs.bands"):
        run(make_corpus(16), tmp_path / "cache", teachers={"energy": config})


def test_one_shard_never_ends_a_build(
    make_corpus: MakeCorpus, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    config = TeacherConfig(family=ENERGY, codecs={"bands": "uint8"})
    run(make_corpus(4), tmp_path / "cache", teachers={"energy": config})
    assert "codec uint8 loses" in caplog.text
    assert len(rows(tmp_path / "cache")) == 4


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
        ({"teacher": {"x": energy(sleeps=1)}}, "no setting 'sleeps'.*sleep_s"),
    ],
)
def test_mistakes_are_reported(
    make_corpus: MakeCorpus, tmp_path: Path, options: dict, message: str
):
    fields = {"preset": "none", "teacher": {"energy": energy()}} | options
    config = BuildConfig(corpus=make_corpus(2).folder.uri, cache=str(tmp_path / "cache"), **fields)
    with pytest.raises(UserError, match=message):
        build(config, Console(quiet=True))
