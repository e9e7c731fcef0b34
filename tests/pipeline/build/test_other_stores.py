"""Tests that a cache in the object stores of Google and Azure is built, resumed and read."""

from __future__ import annotations

from pathlib import Path

from manifests.cache.layout import Layout
from manifests.cache.reader import CacheReader
from manifests.clips import Clip
from manifests.corpus import corpus as corpora
from manifests.storage import Folder
from tests.pipeline.build.test_scheduler import InProcessBuild
from tests.pipeline.conftest import MakeCorpus
from tests.pipeline.nodes import cache_contents


def test_cache_in_an_object_store_equals_a_cache_on_disk(
    store: str, make_corpus: MakeCorpus, tmp_path: Path
):
    clips = []
    for clip in make_corpus(8).clips():
        Folder(f"{store}/audio").write_atomic(f"{clip.clip_id}.wav", Path(clip.uri).read_bytes())
        clips.append(Clip(clip_id=clip.clip_id, uri=f"{store}/audio/{clip.clip_id}.wav"))
    corpus = corpora.build(clips, f"{store}/corpus", clips_per_shard=4)
    InProcessBuild(corpus, tmp_path / "cache").go()
    expected = cache_contents(tmp_path / "cache")

    cache = f"{store}/cache"
    InProcessBuild(corpus, cache).go()
    assert cache_contents(cache) == expected
    layout = Layout.open(cache)
    shards = layout.shards(layout.teacher("energy"), "corpus")
    shards.delete("markers/0000001.json")
    InProcessBuild(corpus, cache).go()
    assert cache_contents(cache) == expected
    stream = CacheReader(cache).stream("energy.bands")
    assert [clip_id for clip_id, _ in stream] == [clip.clip_id for clip in clips]
