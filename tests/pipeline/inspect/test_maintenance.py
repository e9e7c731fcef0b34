"""Tests for the maintenance of a cache: damage, retried failures, old versions, audits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from manifests.cache import shards, stored_rows
from manifests.cache.layout import Layout
from manifests.cache.reader import CacheReader
from manifests.corpus.corpus import Corpus
from pipeline import cli
from pipeline.config import BuildConfig
from pipeline.inspect import maintenance, verify
from pipeline.inspect.audit import audit
from pipeline.inspect.cli import audit_cache
from tests.pipeline.build.test_job import energy_teacher, read_blobs, run_build
from tests.pipeline.conftest import MakeCorpus

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture
def built(make_corpus: MakeCorpus, tmp_path: Path) -> tuple[Corpus, Layout]:
    """A cache of 12 clips in three shards."""
    corpus = make_corpus(12)
    run_build(corpus, tmp_path / "cache", teachers={"energy": energy_teacher()})
    return corpus, Layout.open(tmp_path / "cache")


def find_file(layout: Layout, part: str, shard: int) -> Path:
    spec = layout.current()["energy"]
    (path,) = Path(layout.shards(spec, "corpus").path(part)).glob(f"{shard:07d}*")
    return path


def flip_bit(path: Path, index: int) -> None:
    data = bytearray(path.read_bytes())
    data[index] ^= 1
    path.write_bytes(data)


def test_intact_cache_has_no_damage(built: tuple[Corpus, Layout]):
    assert list(verify.verify(built[1], deep=True)) == []


@pytest.mark.parametrize("kind", ["flipped bit", "truncated", "missing", "no marker", "mixed up"])
def test_damage_is_detected_and_rebuilt(built: tuple[Corpus, Layout], kind: str):
    corpus, layout = built
    before = read_blobs(Path(layout.root.uri))
    data, marker = find_file(layout, "data", 1), find_file(layout, "markers", 1)
    if kind == "flipped bit":
        flip_bit(data, data.stat().st_size // 2)
    elif kind == "truncated":
        data.write_bytes(data.read_bytes()[:-10])
    elif kind == "missing":
        data.unlink()
    elif kind == "no marker":
        marker.write_text("{")
    else:
        marker.write_bytes(find_file(layout, "markers", 2).read_bytes())

    quick = list(verify.verify(layout))
    deep = list(verify.verify(layout, deep=True))
    assert {damage.shard for damage in deep} == {1}
    assert bool(quick) == (kind not in ("flipped bit", "mixed up"))
    verify.quarantine(layout, deep[0].place, "corpus", 1)
    assert list(verify.verify(layout, deep=True)) == []

    result = run_build(corpus, Path(layout.root.uri), teachers={"energy": energy_teacher()})
    assert result.clips == {"energy": 4}
    assert read_blobs(Path(layout.root.uri)) == before


def test_flipped_bit_is_detected_by_the_reader(built: tuple[Corpus, Layout]):
    _, layout = built
    data = find_file(layout, "data", 0)
    flip_bit(data, data.stat().st_size // 3)
    with pytest.raises(OSError, match=r"(?i)crc|checksum"):
        read_blobs(Path(layout.root.uri))


def test_retry_failures_computes_only_failed_clips(make_corpus: MakeCorpus, tmp_path: Path):
    corpus, cache = make_corpus(8), tmp_path / "cache"
    run_build(make_corpus(8), tmp_path / "undisturbed", teachers={"energy": energy_teacher()})
    broken = Path(corpus.shard(1)[2].uri)
    content = broken.read_bytes()
    broken.unlink()
    run_build(corpus, cache, teachers={"energy": energy_teacher()})
    assert "clip0006" not in read_blobs(cache)

    broken.write_bytes(content)
    result = run_build(corpus, cache, teachers={"energy": energy_teacher()}, retry_failures=True)
    assert result.clips == {"energy": 1}
    assert list(read_blobs(cache).items()) == list(read_blobs(tmp_path / "undisturbed").items())
    assert list(verify.verify(Layout.open(cache), deep=True)) == []
    assert (
        run_build(corpus, cache, teachers={"energy": energy_teacher()}, retry_failures=True).clips
        == {}
    )

    stored = CacheReader(cache).stream("energy.bands").statistics()
    undisturbed = CacheReader(tmp_path / "undisturbed").stream("energy.bands").statistics()
    assert stored.num_frames == undisturbed.num_frames
    assert np.allclose(stored.mean_D, undisturbed.mean_D)
    assert maintenance.compact(Layout.open(cache), older_than_hours=0).files == 1
    assert len(read_blobs(cache)) == 8


def test_failures_of_teachers_that_cannot_run_are_not_retried_and_said_so(
    make_corpus: MakeCorpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command said that there are no failures, with exit code 0."""
    corpus, cache = make_corpus(8), tmp_path / "cache"
    Path(corpus.shard(1)[2].uri).unlink()
    run_build(corpus, cache, teachers={"energy": energy_teacher()})
    options = BuildConfig(corpus=corpus.folder.uri, cache=str(cache))
    assert cli.retry_failures(options) == 1
    printed = capsys.readouterr().out
    assert "1 clip was not retried, because the teachers left out" in printed
    assert "no failures" not in printed


def test_changed_audio_is_detected_and_rebuilt(built: tuple[Corpus, Layout]):
    corpus, layout = built
    spec = layout.current()["energy"]
    assert {
        f.verdict
        for f in audit(layout, spec, sample=5, content_only=False, seed=0, trust_remote_code=True)
    } == {"same"}

    clip = corpus.shard(2)[1]
    samples, rate = soundfile.read(clip.uri)
    soundfile.write(clip.uri, samples * 0.5, rate)
    result = list(audit(layout, spec, sample=0, content_only=True, seed=0))
    assert len(result) == 12
    changed = [finding for finding in result if finding.verdict == "content changed"]
    assert [(finding.clip_id, finding.shard) for finding in changed] == [(clip.clip_id, 2)]

    verify.quarantine(layout, spec.key, "corpus", 2)
    run_build(corpus, Path(layout.root.uri), teachers={"energy": energy_teacher()})
    assert {
        f.verdict
        for f in audit(layout, spec, sample=0, content_only=False, seed=0, trust_remote_code=True)
    } == {"same"}


def test_audit_detects_targets_that_differ_from_the_teachers(built: tuple[Corpus, Layout]):
    _, layout = built
    spec = layout.current()["energy"]
    folder = layout.shards(spec, "corpus")
    marker = shards.read_marker(folder, 0)
    first, second, *others = stored_rows.read_rows(folder, marker, spec)
    swapped = [
        shards.Row(**{**row_fields(first), "frames": second.frames}),
        shards.Row(**{**row_fields(second), "frames": first.frames}),
    ]
    shards.write(
        folder, spec, shard=0, clip_ids=[row.clip_id for row in [first, second, *others]],
        rows=[*swapped, *others], failures=[], sums=read_sums(marker), extract_seconds=0.0,
        finished="",
    )  # fmt: skip
    verdicts = [
        f.verdict
        for f in audit(layout, spec, sample=0, content_only=False, seed=0, trust_remote_code=True)
    ]
    assert verdicts[:2] == ["targets differ"] * 2
    assert set(verdicts[2:]) == {"same"}


def audit_verdicts(layout: Layout, *, sample: int) -> list[str]:
    spec = layout.current()["energy"]
    rows = audit(layout, spec, sample=sample, content_only=False, seed=0, trust_remote_code=True)
    return [finding.verdict for finding in rows]


def row_fields(row: shards.Row) -> dict:
    return {name: getattr(row, name) for name in shards.Row.__dataclass_fields__}


def read_sums(marker: shards.Marker) -> dict[str, shards.Sums]:
    return {name: shards.Sums.from_json(fields) for name, fields in marker.sums.items()}


def test_versions_and_coverage_list_used_versions_and_failures(
    make_corpus: MakeCorpus, tmp_path: Path
):
    corpus, cache = make_corpus(6), tmp_path / "cache"
    Path(corpus.shard(0)[3].uri).write_text("no audio")
    run_build(corpus, cache, teachers={"energy": energy_teacher()})
    run_build(
        corpus,
        cache,
        teachers={"energy": energy_teacher(settings={"gain": 2.0}), "loud": energy_teacher()},
    )
    layout = Layout.open(cache)

    old, *newer = maintenance.versions(layout)
    assert old.teacher.startswith("energy@")
    assert not old.newest
    assert not old.used
    assert all(version.newest and version.used and version.clips == 5 for version in newer)
    lines = {line.teachers: (line.clips, line.holes) for line in maintenance.coverage(layout)}
    assert lines == {
        ("energy", "loud"): (5, {}),
        (): (1, {"energy: decode unreadable": 1, "loud: decode unreadable": 1}),
    }
    shown = maintenance.coverage_table(maintenance.coverage(layout))
    assert list(shown.columns[-1].cells) == ["-", "all: decode unreadable (1)"]

    kept = read_blobs(cache, "loud")
    maintenance.remove(layout, layout.teacher(old.teacher))
    assert [version.teacher for version in maintenance.versions(layout)] == [
        v.teacher for v in newer
    ]
    assert read_blobs(cache, "loud") == kept


def test_content_of_every_version_is_audited(
    make_corpus: MakeCorpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Only default versions used to be compared, so `verify` went on to find the older one."""
    corpus, cache = make_corpus(3), tmp_path / "cache"
    for settings in ({}, {"gain": 2.0}):
        run_build(corpus, cache, teachers={"energy": energy_teacher(settings=settings)})
    shutil.copy(corpus.shard(0)[1].uri, corpus.shard(0)[0].uri)
    assert audit_cache(str(cache), sample=0, content_only=True, repair=True, json=True) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    changed = [line for line in lines if line["verdict"] != "same"]
    assert {line["teacher"] for line in changed} == set(Layout.open(cache).teachers())
    assert [line["clip_id"] for line in changed] == [corpus.shard(0)[0].clip_id] * 2
