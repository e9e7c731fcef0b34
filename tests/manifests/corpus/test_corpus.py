"""Tests for `Corpus` and `build`: round trip, growth, errors, memory, and sizes of shards."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from manifests.clips import Clip
from manifests.corpus import corpus as corpus_module
from manifests.corpus.corpus import Corpus, build
from manifests.errors import UserError


def make_clips(count: int, prefix: str = "clip") -> list[Clip]:
    return [
        Clip(
            clip_id=f"{prefix}-{index}",
            uri=f"/audio/{prefix}/{index}.wav",
            offset=index / 4,
            duration=None if index % 10 == 9 else 1.5 + index,
            text=f"naïve 語 {index}" if index % 3 else None,
            labels={"speaker": index % 7, "tags": ["a", {"b": None}]},
        )
        for index in range(count)
    ]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_module, "CLIPS_PER_PART", 100)
    monkeypatch.setattr(corpus_module, "BATCH", 7)


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_corpus_returns_the_clips_it_was_built_from(tmp_path: Path) -> None:
    clips = make_clips(150)
    built = build(iter(clips), tmp_path / "speech", clips_per_shard=32)
    read = Corpus(tmp_path / "speech")
    assert read.name == "speech"
    assert list(read.clips()) == clips
    assert (read.num_clips, read.num_shards) == (150, 5)
    assert read.shard_sizes() == [32, 32, 32, 32, 22] == [len(read.shard(n)) for n in range(5)]
    assert read.shard(4) == clips[128:]
    assert read.shard_ids(1) == [clip.clip_id for clip in clips[32:64]]
    assert read.clip(149) == clips[149]
    assert read.seconds == pytest.approx(sum(clip.duration or 0 for clip in clips))
    assert read.digest == built.digest


def test_each_shard_is_a_row_group(tmp_path: Path) -> None:
    build(make_clips(150), tmp_path, name="x", clips_per_shard=32)
    stored = pq.ParquetFile(tmp_path / "clips-00000.parquet")
    assert stored.num_row_groups == 5
    assert stored.read_row_group(2)["clip_id"].to_pylist() == Corpus(tmp_path).shard_ids(2)


@pytest.mark.usefixtures("small_parts")
def test_parts_contain_whole_shards(tmp_path: Path) -> None:
    clips = make_clips(250)
    read = build(clips, tmp_path / "c", clips_per_shard=32)
    assert [(part.clips, part.first_shard, part.shards) for part in read.parts] == [
        (96, 0, 3),
        (96, 3, 3),
        (58, 6, 2),
    ]
    assert list(read.clips()) == clips
    assert [len(read.shard(n)) for n in range(read.num_shards)] == read.shard_sizes()
    assert [read.clip(row) for row in (0, 95, 96, 249)] == [
        clips[index] for index in (0, 95, 96, 249)
    ]
    for beyond in (8, -1):
        with pytest.raises(IndexError):
            read.shard(beyond)


def test_rebuilding_from_the_same_source_changes_no_file(tmp_path: Path) -> None:
    build(make_clips(50), tmp_path / "c", clips_per_shard=8)
    before = read_files(tmp_path / "c")
    build(make_clips(50), tmp_path / "c")
    assert read_files(tmp_path / "c") == before


@pytest.mark.usefixtures("small_parts")
def test_growing_a_corpus_adds_parts_and_keeps_existing_files(tmp_path: Path) -> None:
    old, new = make_clips(120, "old"), make_clips(30, "new")
    first = build(old, tmp_path / "c", clips_per_shard=50)
    before = read_files(tmp_path / "c")
    # New clips may come anywhere in the source, old ones may be gone from it.
    grown = build([*new[:10], *old[5:], *new[10:]], tmp_path / "c")
    after = read_files(tmp_path / "c")
    assert list(grown.clips()) == old + new
    assert grown.shard_sizes() == [50, 50, 20, 30]
    assert grown.digest != first.digest
    del before["corpus.json"]
    assert before.items() <= after.items()


def test_interrupted_build_leaves_the_corpus_unchanged(tmp_path: Path) -> None:
    def interrupted() -> Iterator[Clip]:
        yield from make_clips(10, "new")
        raise KeyboardInterrupt

    build(make_clips(10), tmp_path / "c")
    before = read_files(tmp_path / "c")
    with pytest.raises(KeyboardInterrupt):
        build(interrupted(), tmp_path / "c")
    assert before == read_files(tmp_path / "c")


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("distance", [1, 150], ids=["same part", "another part"])
def test_duplicate_clip_id_error_names_both_clips(tmp_path: Path, distance: int) -> None:
    clips = make_clips(200)
    duplicate = replace(clips[20], uri="s3://bucket/other.wav", offset=9.0)
    clips.insert(20 + distance, duplicate)
    with pytest.raises(UserError) as error:
        build(clips, tmp_path / "c", clips_per_shard=10)
    message = str(error.value)
    assert "'clip-20' occurs twice" in message
    assert "clip 21 of the source (/audio/clip/20.wav from 5 s" in message
    assert f"clip {21 + distance} (s3://bucket/other.wav from 9 s" in message
    with pytest.raises(UserError, match="is not a complete corpus"):
        Corpus(tmp_path / "c")


def test_duplicate_of_a_stored_clip_raises_an_error(tmp_path: Path) -> None:
    build(make_clips(5), tmp_path / "c")
    duplicate = replace(make_clips(5)[2], uri="/elsewhere/2.wav")
    both = r"clip 3 of the source \(/audio/clip/2.wav .* and clip 6 \(/elsewhere/2.wav"
    with pytest.raises(UserError, match=rf"occurs twice, in {both}"):
        build([*make_clips(5), duplicate], tmp_path / "c")


@pytest.mark.parametrize(
    "change", [{"uri": "/b.wav"}, {"offset": 0.1}, {"duration": 7.0}, {"duration": None}]
)
def test_changed_audio_under_a_known_id_raises_an_error(tmp_path: Path, change: dict) -> None:
    clips = make_clips(5)
    build(clips, tmp_path / "c")
    before = read_files(tmp_path / "c")
    changed = replace(clips[3], **change)
    with pytest.raises(UserError, match=r"'clip-3' has changed: the corpus has /audio/clip/3.wav"):
        build([*clips[:3], changed, clips[4]], tmp_path / "c")
    assert read_files(tmp_path / "c") == before


def test_changed_labels_are_kept_and_the_clips_are_listed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clips = make_clips(9)
    build(clips, tmp_path / "c")
    with caplog.at_level(logging.WARNING):
        build([replace(clip, text="other") for clip in clips[:7]] + clips[7:], tmp_path / "c")
    assert "7 clips have another text or other labels in the source: clip-0, clip-1" in caplog.text
    assert "and 2 more; the corpus keeps the old ones" in caplog.text
    assert "--update-labels" in caplog.text
    assert list(Corpus(tmp_path / "c").clips()) == clips


@pytest.mark.usefixtures("small_parts")
def test_update_labels_takes_new_texts_and_labels(tmp_path: Path) -> None:
    clips = make_clips(230)
    before = build(clips, tmp_path / "c", clips_per_shard=32)
    changed = [replace(clips[150], text="corrected"), replace(clips[151], labels={"k": "neu"})]
    requested = [*clips[:150], *changed, *clips[152:], *make_clips(3, "new")]
    after = build(iter(requested), tmp_path / "c", update_labels=True)
    assert list(Corpus(tmp_path / "c").clips()) == requested
    assert after.relabelled == ("clip-150", "clip-151")
    assert after.shard_sizes()[: before.num_shards] == before.shard_sizes()
    # One part of three was written anew, the file that it replaces is still there for open readers.
    kept = [part.file for part in before.parts if part in after.parts]
    assert kept == ["clips-00000.parquet", "clips-00002.parquet"]
    assert list(before.clips()) == clips
    assert after.digest != before.digest

    again = [replace(requested[0], text="also corrected"), *requested[1:]]
    build(again, tmp_path / "c", update_labels=True)
    assert list(Corpus(tmp_path / "c").clips()) == again
    assert list(after.clips()) == requested
    assert not (tmp_path / "c" / "clips-00001.parquet").exists()
    assert build(again, tmp_path / "c", update_labels=True).relabelled == ()


def test_update_labels_rejects_changed_audio(tmp_path: Path) -> None:
    clips = make_clips(5)
    build(clips, tmp_path / "c")
    with pytest.raises(UserError, match="'clip-3' has changed"):
        build([replace(clips[3], text="new", uri="/b.wav")], tmp_path / "c", update_labels=True)


def test_build_rejects_invalid_input(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no clips"):
        build([], tmp_path / "empty")
    with pytest.raises(UserError, match="--name"):
        build(make_clips(1), tmp_path / "c", name="a/b")
    with pytest.raises(UserError, match="clips_per_shard must be 1 to 65536, found 0"):
        build(make_clips(1), tmp_path / "c", clips_per_shard=0)
    with pytest.raises(UserError, match="not Unicode"):
        build([Clip(clip_id="a", uri="/caf\udce9.wav")], tmp_path / "c")
    assert not list(tmp_path.glob("*/corpus.json"))
    build(make_clips(1), tmp_path / "c", name="one", clips_per_shard=4)
    with pytest.raises(UserError, match="has name 'one', asked for 'two'"):
        build(make_clips(1), tmp_path / "c", name="two")
    with pytest.raises(UserError, match="has clips_per_shard 4, asked for 5"):
        build(make_clips(1), tmp_path / "c", clips_per_shard=5)


def test_corpus_rejects_damaged_or_newer_files(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    with pytest.raises(UserError, match="coat-corpus build SOURCE"):
        Corpus(folder)
    build(make_clips(20), folder)
    head = json.loads((folder / "corpus.json").read_text())
    part = folder / "clips-00000.parquet"

    (folder / "corpus.json").write_text(json.dumps(head | {"format": 4}))
    with pytest.raises(UserError, match="format 4, this version reads up to 3; upgrade"):
        Corpus(folder)
    for damaged in ("{", "[]", "{}", json.dumps(head | {"unknown": 1})):
        (folder / "corpus.json").write_text(damaged)
        with pytest.raises(UserError, match="restore it"):
            Corpus(folder)
    (folder / "corpus.json").write_text(json.dumps(head))
    data = part.read_bytes()
    part.write_bytes(data[:-1])
    with pytest.raises(UserError, match=f"should have {len(data)} bytes, found {len(data) - 1}"):
        Corpus(folder)
    part.unlink()
    with pytest.raises(UserError, match="found no such file"):
        Corpus(folder)


def test_building_200_000_clips_uses_little_memory(tmp_path: Path) -> None:
    script = """
import resource, sys
from manifests.clips import Clip
from manifests.corpus.corpus import build
def clips(count):
    for number in range(count):
        yield Clip(clip_id=f"c{number}", uri=f"/{number}.wav", duration=3.5, text="some words " * 5)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
build(clips(70_000), sys.argv[1] + "/small")
before = peak()
print(build(clips(200_000), sys.argv[1] + "/large").num_clips, peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    clips, growth_mib = done.stdout.split()
    assert int(clips) == 200_000
    # 130,000 clips more: at most 24 bytes each for the index, its sort, and what malloc keeps.
    assert float(growth_mib) < 30


@pytest.mark.parametrize(
    ("seconds", "expected"), [(10.0, 256), (600.0, 24), (3600.0, 4), (9000.0, 4), (None, 256)]
)
def test_shards_of_long_clips_contain_fewer_clips(
    tmp_path: Path, seconds: float | None, expected: int
):
    """Otherwise 256 clips of an hour would be extracted and committed together."""
    clips = [
        Clip(clip_id=f"{index}", uri=f"/{index}.wav", duration=seconds) for index in range(300)
    ]
    made = build(clips, tmp_path / "corpus")
    assert made.shard_sizes()[0] == max(made.shard_sizes()) == expected
    grown = build([*clips, Clip(clip_id="x", uri="/x.wav", duration=1.0)], tmp_path / "corpus")
    assert grown.shard_sizes()[:-1] == made.shard_sizes()


def test_clips_inserted_between_others_do_not_count_as_reordering(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Folders are read in sorted order, so new files come between known ones."""
    clips = make_clips(20)
    build([clip for n, clip in enumerate(clips) if n % 5], tmp_path / "c", clips_per_shard=4)
    for _ in range(2):
        assert build(clips, tmp_path / "c").num_clips == 20
        assert "reordered" not in caplog.text
    build([*clips[10:], *clips[:10]], tmp_path / "c")
    assert "the source was reordered" in caplog.text
