"""Tests that repair sets aside only damaged shards."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from manifests import audio as audio_files
from manifests.cache import audio_digests, marker_index, shards
from manifests.cache.layout import Layout
from manifests.cache.reader import CacheReader
from manifests.clips import Clip
from manifests.corpus.corpus import Corpus, build
from manifests.errors import UserError
from manifests.streams.specs import TeacherSpec
from pipeline import cli
from pipeline.inspect import audit as audits
from pipeline.inspect import maintenance, verify
from tests.pipeline.conftest import MakeCorpus
from tests.pipeline.fakes import Energy, EnergySettings
from tests.pipeline.here import commit, fill


@pytest.fixture
def corpus(make_corpus: MakeCorpus) -> Corpus:
    return make_corpus(12)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.create(tmp_path / "cache")


@pytest.fixture
def spec(layout: Layout, corpus: Corpus) -> TeacherSpec:
    return fill(layout, corpus)


def markers(layout: Layout, spec: TeacherSpec) -> list[int]:
    return shards.committed(layout.shards(spec, "corpus"))


def audit(layout: Layout, **options: bool) -> int:
    return cli.audit_cache(layout.root.uri, content_only=True, sample=0, **options)


def data_file(layout: Layout, spec: TeacherSpec, number: int) -> Path:
    folder = layout.shards(spec, "corpus")
    return Path(folder.path(f"data/{shards.read_marker(folder, number).data}"))


def test_audit_never_sets_aside_what_it_could_not_reach(
    layout: Layout, corpus: Corpus, spec: TeacherSpec, capsys: pytest.CaptureFixture
):
    audio = Path(corpus.shard(0)[0].uri).parent
    audio.rename(audio.with_name("elsewhere"))
    assert audit(layout, repair=True) == 1
    assert "missing 12" in capsys.readouterr().out
    assert markers(layout, spec) == [0, 1, 2]


def test_audit_sets_aside_the_shard_of_changed_audio(
    layout: Layout, corpus: Corpus, spec: TeacherSpec
):
    for index, change in ((1, "changed"), (9, "gone")):
        path = Path(corpus.shard(index // 4)[index % 4].uri)
        samples, rate = soundfile.read(path)
        path.unlink()
        if change == "changed":
            soundfile.write(path, samples / 2, rate)
    assert audit(layout, repair=True) == 1
    assert markers(layout, spec) == [1, 2]


def test_audit_knows_audio_that_has_grown_and_needs_no_limit_of_the_build(
    layout: Layout, make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch
):
    """A clip has the length in its row; if it is stated longer than its file, it ends with the
    file."""
    known = list(make_corpus(4).clips())
    clips = [dataclasses.replace(clip, duration=None) for clip in known[:3]]
    clips.append(dataclasses.replace(known[3], duration=30.0))
    corpus = build(clips, Path(known[0].uri).parent / "grown", name="corpus", clips_per_shard=4)
    spec = fill(layout, corpus)
    assert audit(layout) == 0
    samples, rate = soundfile.read(clips[0].uri)
    soundfile.write(clips[0].uri, np.tile(samples, 40), rate)
    decode, asked = audio_files.decode, []

    def watched(clip: Clip, *, max_seconds: float) -> audio_files.Waveform:
        asked.append(max_seconds)
        return decode(clip, max_seconds=max_seconds)

    monkeypatch.setattr("pipeline.inspect.audit.audio.decode", watched)
    verdicts = {
        finding.clip_id: finding.verdict
        for finding in audits.audit(layout, spec, sample=0, content_only=True, seed=0)
    }
    assert verdicts == {clips[0].clip_id: "content changed"} | {
        clip.clip_id: "same" for clip in clips[1:]
    }
    assert max(asked) == 31.0, "more was decoded than the clip can have"


def marker(layout: Layout, spec: TeacherSpec, number: int) -> shards.Marker:
    return shards.read_marker(layout.shards(spec, "corpus"), number)


def test_a_shard_committed_while_verify_looks_is_no_damage(
    layout: Layout, make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch
):
    corpus = make_corpus(12)
    spec = fill(layout, corpus, numbers=[0])
    real = shards.committed

    def committed(folder) -> list[int]:
        # A build commits right before and right after the markers are listed.
        teacher = Energy("energy", EnergySettings())
        commit(layout, corpus, spec, teacher, 1)
        numbers = real(folder)
        commit(layout, corpus, spec, teacher, 2)
        return numbers

    monkeypatch.setattr("pipeline.inspect.verify.shards.committed", committed)
    assert list(verify.verify(layout)) == []
    assert list(verify.verify(layout, deep=True)) == []


@pytest.mark.parametrize("deep", [False, True])
def test_a_shard_repaired_meanwhile_is_not_moved(
    layout: Layout, corpus: Corpus, spec: TeacherSpec, deep: bool
):
    paths = [data_file(layout, spec, number) for number in (0, 1)]
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content[:-5])
    result = list(verify.verify(layout, deep=deep))
    assert {damage.shard for damage in result} == {0, 1}
    paths[0].write_bytes(contents[0])
    assert verify.repair(layout, result, deep=deep) == (1, 1)
    assert markers(layout, spec) == [0, 2]
    assert list(verify.verify(layout, deep=True)) == []


def test_repair_moves_only_what_the_damaged_marker_names(
    layout: Layout, corpus: Corpus, spec: TeacherSpec
):
    """The new files of a retry lie beside the damaged ones before its marker is written."""
    folder = layout.shards(spec, "corpus")
    retried = Path(folder.path("data/0000001-00000000.parquet"))
    retried.write_bytes(b"written by a retry, not yet committed")
    other = Path(folder.path("data")) / data_file(layout, spec, 2).name
    Path(folder.path("markers/0000001.json")).write_bytes(
        Path(folder.path("markers/0000002.json")).read_bytes()
    )
    result = list(verify.verify(layout, deep=True))
    assert verify.repair(layout, result, deep=True) == (1, 0)
    assert retried.exists()
    assert other.exists(), "it belongs to shard 2"
    assert markers(layout, spec) == [0, 2]


def test_a_marker_replaced_after_the_check_is_not_moved(
    layout: Layout, corpus: Corpus, spec: TeacherSpec
):
    assert not verify.quarantine(layout, spec.key, "corpus", 1, b"another marker")
    assert markers(layout, spec) == [0, 1, 2]


def change(corpus: Corpus, index: int) -> str:
    clip = corpus.shard(index // 4)[index % 4]
    samples, rate = soundfile.read(clip.uri)
    soundfile.write(clip.uri, samples[::-1], rate)
    return clip.clip_id


def forget_digests(layout: Layout) -> None:
    """Makes markers as format 1 had them."""
    for spec in layout.teachers().values():
        folder = layout.shards(spec, "corpus")
        for number in shards.committed(folder):
            old = shards.read_marker(folder, number)
            fields = {name: getattr(old, name) for name in shards.Marker.__dataclass_fields__}
            name = f"markers/{shards.marker_name(number)}"
            folder.write_atomic(name, shards.Marker(**{**fields, "digests": ""}).to_bytes())


@pytest.mark.parametrize("is_old", [False, True])
def test_teachers_that_processed_different_audio_are_detected(
    layout: Layout, corpus: Corpus, spec: TeacherSpec, is_old: bool
):
    clip_id = change(corpus, 6)
    other = fill(layout, corpus, name="second")
    if is_old:
        forget_digests(layout)
    result = list(verify.verify(layout, deep=is_old))
    assert [(damage.place, damage.shard, damage.can_repair) for damage in result] == [
        (other.key, 1, False)
    ]
    assert f"clip {clip_id}: {spec.key} processed different audio" in result[0].what
    assert verify.repair(layout, result, deep=is_old) == (0, 0)

    reader = CacheReader(layout.root.uri)
    first, second = reader.stream("energy.bands"), reader.stream("second.bands")
    assert second.teacher.row("clip0005", "bands")
    with pytest.raises(UserError, match=r"processed different audio.*'clip0006'.*audit"):
        second.teacher.row(clip_id, "bands")
    with pytest.raises(UserError, match="processed different audio"):
        dict(first)
    # Alone, each can be read.
    assert clip_id in dict(CacheReader(layout.root.uri).stream("second.bands"))


def test_digests_are_compared_by_clip_where_teachers_failed_on_others(
    layout: Layout, corpus: Corpus
):
    broken = Path(corpus.shard(0)[1].uri)
    content = broken.read_bytes()
    broken.write_text("no audio")
    fill(layout, corpus)
    broken.write_bytes(content)
    fill(layout, corpus, name="second")
    assert list(verify.verify(layout)) == []
    assert audio_digests.differing_rows(
        (np.array([0, 2]), np.array([1, 2])), {"b": (np.array([1, 2]), np.array([9, 3]))}
    ) == {1: "b"}


def test_compact_keeps_what_a_reader_that_is_open_needs(
    layout: Layout, corpus: Corpus, spec: TeacherSpec
):
    reader = CacheReader(layout.root.uri).stream("energy.bands")
    replaced = data_file(layout, spec, 1)
    a_month_ago = time.time() - 30 * 86400
    for path in Path(layout.root.uri).rglob("*"):
        os.utime(path, (a_month_ago, a_month_ago))
    change(corpus, 5)
    commit(layout, corpus, spec, Energy("energy", EnergySettings()), 1)
    set_aside = data_file(layout, spec, 2)
    assert verify.quarantine(layout, spec.key, "corpus", 2)

    done = maintenance.compact(layout, older_than_hours=24)
    assert (done.files, done.young_files) == (0, 3)  # The old data; a marker and its data.
    assert replaced.exists()
    assert len(reader["clip0005"].blob) > 0

    done = maintenance.compact(layout, older_than_hours=-1)
    assert (done.files, done.young_files) == (3, 0)
    assert not replaced.exists()
    assert not set_aside.exists()
    assert list(verify.verify(layout, deep=True)) == []


def test_compact_leaves_what_a_running_build_has_just_written(
    layout: Layout, corpus: Corpus, spec: TeacherSpec
):
    folder = Path(layout.shards(spec, "corpus").path("data"))
    (folder / "0000007-01234567.parquet").write_bytes(b"before its marker")
    (folder / ".tmp-0000008-01234567.parquet-9").write_bytes(b"half")
    (folder / "notes.txt").write_text("not ours")
    assert maintenance.compact(layout, older_than_hours=24).files == 0
    assert maintenance.compact(layout, older_than_hours=-1).files == 2
    assert (folder / "notes.txt").exists()


@pytest.mark.parametrize("why", ["adapter", "model"])
def test_audit_runs_no_code_that_a_cache_names(
    tmp_path: Path, layout: Layout, corpus: Corpus, spec: TeacherSpec, why: str
):
    """The cache's `spec.json` names a module that would be imported, or a model's Python files."""
    if why == "model":
        fields = {name: getattr(spec, name) for name in TeacherSpec.__dataclass_fields__}
        layout.add_teacher(
            TeacherSpec(
                **{
                    **fields,
                    "name": "given",
                    "family": "teachers.adapters.encoder:Encoder",
                    "settings": {"model": str(tmp_path / "evil"), "trust_remote_code": True},
                }
            )
        )
        name = "given"
    else:
        name = "energy"
    with pytest.raises(UserError, match=r"would run code.*--trust-remote-code.*--content-only"):
        cli.audit_cache(layout.root.uri, teacher=name)


def test_the_index_is_no_part_of_what_is_verified(
    layout: Layout, corpus: Corpus, spec: TeacherSpec
):
    folder = layout.shards(spec, "corpus")
    assert marker_index.refresh(folder) == 1
    Path(folder.path("index/0000000.parquet")).write_bytes(b"not Parquet")
    assert [result.shard for result in marker_index.read_markers(folder)] == [0, 1, 2]
    assert list(verify.verify(layout, deep=True)) == []
