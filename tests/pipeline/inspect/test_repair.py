"""Tests that verify, audit and compact set aside or delete only what is damaged or unused."""

from __future__ import annotations

import dataclasses
import errno
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
from manifests.cache.shard_files import marker_file
from manifests.clips import Clip
from manifests.corpus.corpus import Corpus, build
from manifests.errors import UserError
from manifests.storage import Folder
from manifests.streams.specs import TeacherSpec
from pipeline import cli
from pipeline.inspect import audit as audits
from pipeline.inspect import maintenance, verify
from tests.pipeline.conftest import MakeCorpus
from tests.pipeline.fakes import Energy, EnergySettings
from tests.pipeline.local_cache import commit, fill


@pytest.fixture
def corpus(make_corpus: MakeCorpus) -> Corpus:
    return make_corpus(12)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.create(tmp_path / "cache")


@pytest.fixture
def spec(layout: Layout, corpus: Corpus) -> TeacherSpec:
    return fill(layout, corpus)


def committed_shards(layout: Layout, spec: TeacherSpec) -> list[int]:
    return shards.committed(layout.shards(spec, "corpus"))


def run_audit(layout: Layout, **options: bool) -> int:
    return cli.audit_cache(layout.root.uri, content_only=True, sample=0, **options)


def data_file(layout: Layout, spec: TeacherSpec, number: int) -> Path:
    folder = layout.shards(spec, "corpus")
    return Path(folder.path(f"data/{shards.read_marker(folder, number).data}"))


def test_audit_keeps_shards_with_unreachable_audio(
    layout: Layout, corpus: Corpus, spec: TeacherSpec, capsys: pytest.CaptureFixture
):
    audio = Path(corpus.shard(0)[0].uri).parent
    audio.rename(audio.with_name("elsewhere"))
    assert run_audit(layout, repair=True) == 1
    assert "missing 12" in capsys.readouterr().out
    assert committed_shards(layout, spec) == [0, 1, 2]


def test_audit_sets_aside_shards_with_changed_audio(
    layout: Layout, corpus: Corpus, spec: TeacherSpec
):
    for index, reverse_audio in ((1, "changed"), (9, "gone")):
        path = Path(corpus.shard(index // 4)[index % 4].uri)
        samples, rate = soundfile.read(path)
        path.unlink()
        if reverse_audio == "changed":
            soundfile.write(path, samples / 2, rate)
    assert run_audit(layout, repair=True) == 1
    assert committed_shards(layout, spec) == [1, 2]


def test_audit_decodes_only_as_much_as_the_row_states(
    layout: Layout, make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch
):
    """The row gives the clip's duration; a stated duration may exceed the file."""
    known = list(make_corpus(4).clips())
    clips = [dataclasses.replace(clip, duration=None) for clip in known[:3]]
    clips.append(dataclasses.replace(known[3], duration=30.0))
    corpus = build(clips, Path(known[0].uri).parent / "grown", name="corpus", clips_per_shard=4)
    spec = fill(layout, corpus)
    assert run_audit(layout) == 0
    samples, rate = soundfile.read(clips[0].uri)
    soundfile.write(clips[0].uri, np.tile(samples, 40), rate)
    decode, limits = audio_files.decode, []

    def decode_and_record(clip: Clip, *, max_seconds: float) -> audio_files.Waveform:
        limits.append(max_seconds)
        return decode(clip, max_seconds=max_seconds)

    monkeypatch.setattr("pipeline.inspect.audit.audio.decode", decode_and_record)
    verdicts = {
        finding.clip_id: finding.verdict
        for finding in audits.audit(layout, spec, sample=0, content_only=True, seed=0)
    }
    assert verdicts == {clips[0].clip_id: "content changed"} | {
        clip.clip_id: "same" for clip in clips[1:]
    }
    assert max(limits) == 31.0, "more audio was decoded than the clip can have"


def read_marker(layout: Layout, spec: TeacherSpec, number: int) -> shards.Marker:
    return shards.read_marker(layout.shards(spec, "corpus"), number)


def test_shard_committed_during_verify_is_not_damage(
    layout: Layout, make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch
):
    corpus = make_corpus(12)
    spec = fill(layout, corpus, numbers=[0])
    original = shards.committed

    def committed(folder) -> list[int]:
        # A build commits right before and right after verify lists the markers.
        teacher = Energy("energy", EnergySettings())
        commit(layout, corpus, spec, teacher, 1)
        numbers = original(folder)
        commit(layout, corpus, spec, teacher, 2)
        return numbers

    monkeypatch.setattr("pipeline.inspect.verify.shards.committed", committed)
    assert list(verify.verify(layout)) == []
    assert list(verify.verify(layout, deep=True)) == []


@pytest.mark.parametrize("deep", [False, True])
def test_shard_repaired_after_verify_is_not_moved(
    layout: Layout, corpus: Corpus, spec: TeacherSpec, deep: bool
):
    paths = [data_file(layout, spec, number) for number in (0, 1)]
    cache_contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, cache_contents, strict=True):
        path.write_bytes(content[:-5])
    result = list(verify.verify(layout, deep=deep))
    assert {damage.shard for damage in result} == {0, 1}
    paths[0].write_bytes(cache_contents[0])
    assert verify.repair(layout, result, deep=deep) == (1, 1)
    assert committed_shards(layout, spec) == [0, 2]
    assert list(verify.verify(layout, deep=True)) == []


def test_repair_moves_only_files_of_the_damaged_marker(
    layout: Layout, corpus: Corpus, spec: TeacherSpec
):
    """A retry writes its files next to the damaged ones before it writes its marker."""
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
    assert committed_shards(layout, spec) == [0, 2]


def test_marker_replaced_after_verify_is_not_moved(
    layout: Layout, corpus: Corpus, spec: TeacherSpec
):
    assert not verify.quarantine(layout, spec.key, "corpus", 1, b"another marker")
    assert committed_shards(layout, spec) == [0, 1, 2]


def reverse_audio(corpus: Corpus, index: int) -> str:
    clip = corpus.shard(index // 4)[index % 4]
    samples, rate = soundfile.read(clip.uri)
    soundfile.write(clip.uri, samples[::-1], rate)
    return clip.clip_id


def forget_digests(layout: Layout) -> None:
    """Removes the digests from all markers, as in format 1."""
    for spec in layout.teachers().values():
        folder = layout.shards(spec, "corpus")
        for number in shards.committed(folder):
            old = shards.read_marker(folder, number)
            fields = {name: getattr(old, name) for name in shards.Marker.__dataclass_fields__}
            name = marker_file(number)
            folder.write_atomic(name, shards.Marker(**{**fields, "digests": ""}).to_bytes())


@pytest.mark.parametrize("is_old", [False, True])
def test_teachers_with_different_audio_are_detected(
    layout: Layout, corpus: Corpus, spec: TeacherSpec, is_old: bool
):
    clip_id = reverse_audio(corpus, 6)
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
    # Each teacher can be read separately.
    assert clip_id in dict(CacheReader(layout.root.uri).stream("second.bands"))


def test_digests_are_compared_for_clips_that_both_teachers_have(layout: Layout, corpus: Corpus):
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


def test_compact_keeps_recently_replaced_files_for_open_readers(
    layout: Layout, corpus: Corpus, spec: TeacherSpec
):
    reader = CacheReader(layout.root.uri).stream("energy.bands")
    replaced = data_file(layout, spec, 1)
    month_ago = time.time() - 30 * 86400
    for path in Path(layout.root.uri).rglob("*"):
        os.utime(path, (month_ago, month_ago))
    reverse_audio(corpus, 5)
    commit(layout, corpus, spec, Energy("energy", EnergySettings()), 1)
    set_aside = data_file(layout, spec, 2)
    assert verify.quarantine(layout, spec.key, "corpus", 2)

    done = maintenance.compact(layout, older_than_hours=24)
    assert (done.files, done.young_files) == (
        0,
        3,
    )  # The replaced data, and a marker with its data.
    assert replaced.exists()
    assert len(reader["clip0005"].blob) > 0

    done = maintenance.compact(layout, older_than_hours=-1)
    assert (done.files, done.young_files) == (3, 0)
    assert not replaced.exists()
    assert not set_aside.exists()
    assert list(verify.verify(layout, deep=True)) == []


def test_compact_keeps_new_files_of_a_running_build(
    layout: Layout, corpus: Corpus, spec: TeacherSpec
):
    folder = Path(layout.shards(spec, "corpus").path("data"))
    (folder / "0000007-01234567.parquet").write_bytes(b"data without a marker")
    (folder / ".tmp-0000008-01234567.parquet-9").write_bytes(b"half")
    (folder / "notes.txt").write_text("not ours")
    assert maintenance.compact(layout, older_than_hours=24).files == 0
    assert maintenance.compact(layout, older_than_hours=-1).files == 2
    assert (folder / "notes.txt").exists()


def test_audit_passes_over_a_shard_that_is_set_aside_meanwhile(
    layout: Layout, corpus: Corpus, spec: TeacherSpec
):
    findings = audits.audit(layout, spec, sample=0, content_only=True, seed=0)
    first = next(findings)
    assert verify.quarantine(layout, spec.key, "corpus", 2)
    assert {finding.shard for finding in (first, *findings)} == {0, 1}


def test_compact_frees_a_full_disk_before_it_writes_the_index(
    layout: Layout, corpus: Corpus, spec: TeacherSpec, monkeypatch: pytest.MonkeyPatch
):
    later = dataclasses.replace(spec, name="later")
    layout.add_teacher(later)
    folder = Path(layout.shards(later, "corpus").path("data"))
    folder.mkdir(parents=True)
    unneeded = folder / "0000000-01234567.parquet"
    unneeded.write_bytes(b"what fills the disk")
    refresh = marker_index.refresh

    def refresh_on_disk(place: Folder) -> int:
        if unneeded.exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        return refresh(place)

    monkeypatch.setattr(marker_index, "refresh", refresh_on_disk)
    done = maintenance.compact(layout, older_than_hours=-1)
    assert (done.files, done.indexes) == (1, 1)


def test_compact_without_room_for_the_index_still_reports_what_it_freed(
    layout: Layout, spec: TeacherSpec, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):  # fmt: skip
    def refuse(place: Folder) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    Path(layout.shards(spec, "corpus").path("data/0000007-01234567.parquet")).write_bytes(b"half")
    monkeypatch.setattr(marker_index, "refresh", refuse)
    done = maintenance.compact(layout, older_than_hours=-1)
    assert (done.files, done.indexes) == (1, 0)
    assert "the marker index of" in caplog.text
    assert "No space left" in caplog.text


@pytest.mark.parametrize("why", ["adapter", "model"])
def test_audit_does_not_run_code_named_in_a_cache(
    tmp_path: Path, layout: Layout, corpus: Corpus, spec: TeacherSpec, why: str
):
    """A `spec.json` could name any module, or a model with Python files."""
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


def test_verify_ignores_a_damaged_index(layout: Layout, corpus: Corpus, spec: TeacherSpec):
    folder = layout.shards(spec, "corpus")
    assert marker_index.refresh(folder) == 1
    Path(folder.path("index/0000000.parquet")).write_bytes(b"not Parquet")
    assert [result.shard for result in marker_index.read_markers(folder)] == [0, 1, 2]
    assert list(verify.verify(layout, deep=True)) == []
