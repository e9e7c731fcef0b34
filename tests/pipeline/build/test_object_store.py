"""Tests for corpora and caches in S3, served by moto in a separate process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from pyarrow import fs
from rich.console import Console

from manifests.cache.layout import Layout
from manifests.cache.reader import CacheReader
from manifests.clips import Clip
from manifests.corpus import corpus as corpora
from manifests.corpus.corpus import Corpus
from manifests.errors import UserError
from manifests.storage import Folder, filesystem
from pipeline.config import BuildConfig, TeacherConfig
from pipeline.job import BuildResult, build
from tests.pipeline.conftest import ENERGY, MakeCorpus
from tests.pipeline.nodes import cache_contents


@pytest.fixture(scope="module")
def workers(s3: fs.FileSystem) -> Iterator[None]:
    """A Ray cluster whose workers have the address of the server in their environment."""
    was_initialized = ray.is_initialized()
    ray.shutdown()
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init("local", num_cpus=2, **quiet)
    yield
    ray.shutdown()
    if was_initialized:
        ray.init("local", num_cpus=2, **quiet)


@pytest.fixture
def remote_corpus(s3: fs.FileSystem, make_corpus: MakeCorpus) -> Corpus:
    """Twelve clips whose files are in the bucket, and one whose file is missing."""
    clips = []
    for clip in make_corpus(12).clips():
        name = f"{clip.clip_id} ♪ 100%#1.wav"
        Folder("s3://data/audio").write_atomic(name, Path(clip.uri).read_bytes())
        clips.append(Clip(clip_id=clip.clip_id, uri=f"s3://data/audio/{name}"))
    clips.append(Clip(clip_id="vanished", uri="s3://data/audio/nothing.wav"))
    return corpora.build(clips, "s3://data/corpus", clips_per_shard=4)


def run_build(corpus: Corpus, cache: str | Path) -> BuildResult:
    config = BuildConfig(
        corpus=corpus.folder.uri,
        cache=str(cache),
        preset="none",
        teacher={"energy": TeacherConfig(family=ENERGY)},
    )
    return build(config, Console(quiet=True))


def test_cache_in_a_bucket_equals_a_cache_on_disk(
    workers: None, remote_corpus: Corpus, tmp_path: Path
):
    result = run_build(remote_corpus, "s3://data/cache")
    assert (result.clips, result.failures) == ({"energy": 13}, {"energy": 1})
    (failure,) = CacheReader("s3://data/cache").teacher("energy").failures()
    assert (failure.clip_id, failure.error) == ("vanished", "missing")

    run_build(remote_corpus, tmp_path / "cache")
    expected = cache_contents(tmp_path / "cache")
    assert cache_contents("s3://data/cache") == expected

    layout = Layout.open("s3://data/cache")
    shards = layout.shards(layout.teacher("energy"), "corpus")
    before = shards.child("data").stamps(unfinished=True)
    shards.delete("markers/0000001.json")
    assert run_build(remote_corpus, "s3://data/cache").clips == {"energy": 4}
    assert cache_contents("s3://data/cache") == expected

    start = time.monotonic()
    assert run_build(remote_corpus, "s3://data/cache").clips == {}
    assert time.monotonic() - start < 5
    assert shards.child("data").stamps(unfinished=True).keys() == before.keys()

    check_reads("s3://data/cache", tmp_path)


def check_reads(cache: str, tmp_path: Path) -> None:
    """Checks reads with and without local copies, and that the copies suffice afterwards."""
    plain = CacheReader(cache).stream("energy.bands")
    expected = {clip_id: bytes(plain[clip_id].blob) for clip_id in plain.ids}
    assert {clip_id: bytes(frames.blob) for clip_id, frames in plain} == expected

    copied = CacheReader(cache, local_copies=tmp_path / "copies").stream("energy.bands")
    next(iter(copied))
    assert {clip_id: bytes(frames.blob) for clip_id, frames in copied} == expected
    files = sorted((tmp_path / "copies").rglob("*.parquet"))
    assert [path.name[:7] for path in files] == ["0000000", "0000001", "0000002", "0000003"]

    was_initialized = CacheReader(cache, local_copies=tmp_path / "copies").stream("energy.bands")
    data = was_initialized.teacher.shards[0].folder
    kept = {name: data.read_bytes(f"data/{name}") for name in data.child("data").names()}
    for name in kept:
        data.delete(f"data/{name}")
    assert {
        clip_id: bytes(was_initialized[clip_id].blob) for clip_id in was_initialized.ids
    } == expected
    for name, content in kept.items():
        data.write_atomic(f"data/{name}", content)


def test_folder_operations_work_in_a_bucket(s3: fs.FileSystem):
    folder = Folder("s3://data/some/folder")
    assert folder.names() == []
    assert not folder.exists("a b#%41")
    folder.write_atomic("a b#%41", b"123")
    folder.child("inner").write_atomic("x", b"4567")
    assert folder.sizes() == {"a b#%41": 3}
    assert folder.folders() == ["inner"]
    assert (folder.size("a b#%41"), folder.size("inner"), folder.size("no")) == (3, None, None)
    folder.move("a b#%41", "inner/moved")
    assert folder.child("inner").sizes() == {"moved": 3, "x": 4}
    assert folder.read_bytes("inner/moved") == b"123"
    with pytest.raises(FileNotFoundError):
        folder.read_bytes("a b#%41")
    folder.delete("inner/moved")
    folder.delete_all()
    assert Folder("s3://data/some").folders() == []


def test_folders_of_one_store_share_a_file_system(s3: fs.FileSystem):
    first, second = filesystem("s3://data/a"), filesystem("s3://data/b/c")
    assert first[0] is second[0]
    assert (first[1], second[1]) == ("data/a", "data/b/c")


def test_missing_bucket_raises_an_error(s3: fs.FileSystem, make_corpus: MakeCorpus):
    with pytest.raises(UserError, match=r"there is no bucket nosuchbucket; create it"):
        run_build(make_corpus(2), "s3://nosuchbucket/cache")
    assert s3.get_file_info("nosuchbucket").type == fs.FileType.NotFound
